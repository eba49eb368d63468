"""Many replays: in turn, over processes, on a Dask cluster, killed and resumed.

The same grid gives the same outcomes whoever replays it. The trace is a cut of a
shipped one, small enough to be replayed in a fraction of a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uslub.errors import BadArgument
from uslub.lab.compare import BadGrid, Comparison, Outcome, SweepFailed, compare, run
from uslub.lab.trace import Trace, cut

DATA = Path(__file__).resolve().parents[1] / "data" / "lab"
GRID = ["cpu_partial=0,default", "design=default,slab"]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "short.trace.parquet"
    source = Trace(DATA / "caches-6.18.trace.parquet")
    # One with a real load, and the one that holds the tracer's own objects.
    cut(source, path, caches=["dentry", "kmalloc-64"], level=1)
    return path


@pytest.fixture(scope="module")
def alone(trace: Path) -> Comparison:
    """The grid, replayed one point after another in this process."""
    return compare(trace, GRID, jobs=1, store=None)


def untimed(found: Comparison) -> list[Outcome]:
    """What does not depend on how fast the machine was."""
    return [replace(outcome, seconds=0.0) for outcome in found.outcomes]


class Counting(Executor):
    """Threads that count what they were given."""

    def __init__(self) -> None:
        self.pool, self.given = ThreadPoolExecutor(2), 0

    def submit(self, function: Any, /, *args: Any, **more: Any) -> Future[Any]:
        self.given += 1
        return self.pool.submit(function, *args, **more)


@pytest.fixture
def threads() -> Iterator[Counting]:
    executor = Counting()
    yield executor
    executor.pool.shutdown()


def test_every_point_is_replayed_with_its_parameters(alone: Comparison) -> None:
    assert [one.point.label for one in alone.outcomes] == [
        "cpu_partial=0 design=default",
        "design=slab",
        "cpu_partial=default design=default",
    ]
    headers = [one.header for one in alone.outcomes]
    assert [one["design"] for one in headers] == ["6.18", "slab", "6.18"]
    assert headers[0]["settings"] == {"cpu_partial": 0}
    locks = [one.totals["list_lock"] for one in alone.outcomes]
    assert locks[0] > locks[2] > 0  # what the chains are there for
    assert all(one.series["memory_bytes"] for one in alone.outcomes)


def test_all_points_are_fed_the_same_objects(alone: Comparison) -> None:
    assert len({one.header["allocations"] for one in alone.outcomes}) == 1
    assert len({one.totals["allocations"] for one in alone.outcomes}) == 1


def test_processes_find_the_same(trace: Path, alone: Comparison) -> None:
    assert untimed(compare(trace, GRID, jobs=2, store=None)) == untimed(alone)


def test_any_executor_will_do_and_is_left_open(
    trace: Path, alone: Comparison, threads: Counting
) -> None:
    found = compare(trace, GRID, executor=threads, store=None)
    assert threads.given == 3
    assert untimed(found) == untimed(alone)
    assert threads.submit(int, "7").result() == 7


@pytest.mark.parametrize(
    "processes", [False, pytest.param(True, marks=pytest.mark.check)]
)
def test_a_dask_cluster_takes_a_sweep(
    trace: Path, alone: Comparison, processes: bool
) -> None:
    distributed = pytest.importorskip("distributed", reason="requirements/test.txt")
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": processes}
    with (
        distributed.LocalCluster(**workers, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = compare(trace, GRID, executor=client.get_executor(), store=None)
    assert untimed(found) == untimed(alone)


def test_what_is_stored_is_not_replayed_again(
    trace: Path, alone: Comparison, threads: Counting, tmp_path: Path
) -> None:
    first = compare(trace, GRID[:1], executor=threads, store=tmp_path)
    assert (first.reused, threads.given) == (0, 2)
    again = compare(trace, GRID, executor=threads, store=tmp_path)
    assert (again.reused, threads.given) == (2, 3)  # design=slab is new
    assert untimed(again) == untimed(alone)
    fresh = compare(trace, GRID, executor=threads, store=tmp_path, fresh=True)
    assert (fresh.reused, threads.given) == (0, 6)


def test_another_trace_is_another_question(trace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.trace.parquet"
    cut(Trace(trace), other, stop=5_000, level=1)
    store = tmp_path / "store"
    compare(trace, jobs=1, store=store)
    assert compare(other, jobs=1, store=store).reused == 0
    assert compare(trace, jobs=1, store=store).reused == 1


def test_progress_ends_with_all_points(trace: Path, tmp_path: Path) -> None:
    told: list[tuple[float, int]] = []

    def tell(done: float, total: int) -> None:
        told.append((done, total))

    compare(trace, GRID[:1], jobs=1, store=tmp_path, progress=tell)
    assert told[0] == (0, 2) and told[-1] == (2, 2)
    assert told == sorted(told)
    told.clear()
    compare(trace, GRID, jobs=1, store=tmp_path, progress=tell)
    assert told[0] == (2, 3) and told[-1] == (3, 3)


def test_a_refused_point_is_named_and_the_others_are_kept(
    trace: Path, threads: Counting, tmp_path: Path
) -> None:
    grid = ["cpus=4,5000"]
    with pytest.raises(SweepFailed, match=r"grid point cpus=5000: .*4096"):
        compare(trace, grid, jobs=1, store=tmp_path)
    assert compare(trace, ["cpus=4"], executor=threads, store=tmp_path).reused == 1


def test_a_dead_worker_is_an_error_with_advice(trace: Path, tmp_path: Path) -> None:
    from concurrent.futures.process import BrokenProcessPool

    class Dying(Executor):
        def submit(self, function: Any, /, *args: Any, **more: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

    with pytest.raises(SweepFailed, match=r"worker process died.*fewer --jobs"):
        compare(trace, GRID, executor=Dying(), store=tmp_path)


def test_bad_questions_are_refused_before_anything_runs(trace: Path) -> None:
    with pytest.raises(BadArgument, match="0 jobs"):
        compare(trace, GRID, jobs=0)
    with pytest.raises(BadGrid, match="no design of this grid has it"):
        compare(trace, ["design=slob", "min_partial=1,2"])


def children(pid: int) -> set[int]:
    """Processes below this one."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for word in task.read_text().split():
            found |= {int(word)} | children(int(word))
    return found


def gone(pid: int) -> bool:
    """No such process, or one that nobody has buried yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(what: Any, seconds: float = 60.0) -> bool:
    """Is it true in the end?"""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.check
def test_a_killed_sweep_goes_on_where_it_was(trace: Path, tmp_path: Path) -> None:
    axis = f"cpu_partial={','.join(map(str, range(0, 80, 2)))}"
    store = tmp_path / "store"
    command = [sys.executable, "-m", "uslub", "compare", str(trace), "--grid", axis]
    command += ["--jobs", "2", "--store", str(store)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: len(list(store.glob("*.json.gz"))) >= 3)
        workers = children(running.pid)
        running.send_signal(signal.SIGKILL)
    finally:
        running.kill()
        running.wait()
    assert len(workers) >= 2
    assert wait_for(lambda: all(map(gone, workers))), "a worker outlived its parent"
    kept = len(list(store.glob("*.json.gz")))
    assert 3 <= kept < 40, "it was killed in the middle"
    resumed = compare(trace, [axis], jobs=2, store=store)
    assert resumed.reused == kept and len(resumed) == 40
    fresh = compare(trace, ["cpu_partial=0"], jobs=1, store=None)
    assert untimed(fresh) == untimed(resumed)[:1]


@pytest.mark.check
def test_control_c_leaves_no_process_and_no_traceback(
    trace: Path, tmp_path: Path
) -> None:
    axis = f"cpu_partial={','.join(map(str, range(0, 80, 2)))}"
    store = tmp_path / "store"
    command = [sys.executable, "-m", "uslub", "compare", str(trace), "--grid", axis]
    command += ["--jobs", "2", "--store", str(store)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert wait_for(lambda: len(list(store.glob("*.json.gz"))) >= 2)
    workers = children(running.pid)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert wait_for(lambda: all(map(gone, workers)))


def test_designs_begin_a_mid_life_capture_alike(tmp_path: Path) -> None:
    path = tmp_path / "mid.trace.parquet"
    cut(Trace(DATA / "mid-6.18.trace.parquet"), path, stop=20_000, level=1)
    found = compare(path, ["design=default,slab"], jobs=1, store=None)
    first, other = (one.series["memory_bytes"][0] for one in found.outcomes)
    assert 0.5 < first / other < 2, "slabs that one design was given and the other not"


def test_little_is_replayed_in_this_process(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = run.sweep
    monkeypatch.setattr(
        run, "sweep", lambda *a, **k: (asked.append(k["jobs"]), real(*a, **k))[1]
    )
    compare(trace, ["cpu_partial=0"], store=None)
    monkeypatch.setattr(run, "SMALL_EVENTS", 10)
    compare(trace, ["cpu_partial=0"], store=None)
    assert asked == [1, None]
