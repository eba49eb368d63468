"""Recording this very kernel, where that is allowed; what it refuses, everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from uslub.lab.record import CannotRecord, record
from uslub.lab.record import tracefs as tracefs_module
from uslub.lab.record.sysfs import Counters, caches, cpu_nodes
from uslub.lab.record.tracefs import Instance, find_tracefs, mounted, remove_stale
from uslub.lab.trace import EventsLost, Kind, Trace, open_trace, page_truth
from uslub.tools.cli import main

WAIT_S = 30


def why_not() -> str:
    """Why this kernel cannot be recorded here; "" where it can."""
    try:
        with mounted() as root:
            if not (root / "events" / "kmem" / "kmalloc").is_dir():
                return "this kernel has no kmem trace events"
            probe = root / "instances" / f"uslub-test-{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
    except (CannotRecord, OSError) as error:
        return f"no tracefs for this user here: {error}"
    return ""


@pytest.fixture(scope="module")
def tracefs() -> Iterator[Path]:
    """tracefs, mounted for these tests; they are skipped where it cannot be."""
    if reason := why_not():
        pytest.skip(reason)
    with mounted() as root:
        yield root


def left_behind(root: Path, folder: Path) -> list[str]:
    """Instances of this process and its children, and folders of raw pages."""
    found = [path.name for path in (root / "instances").glob("uslub-*")]
    return found + [path.name for path in folder.glob(".*")]


def test_a_command_is_recorded_with_the_kernels_counters_before_and_after(
    tracefs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "t.trace.parquet"
    code = "import os; [os.stat('/proc/self/status') for _ in range(3000)]"
    done = record(target, command=[sys.executable, "-c", code])
    assert (done.status, done.lost) == (0, {})
    trace = open_trace(target)
    header = trace.header
    assert header.kernel == os.uname().release
    assert header.cpus == len(cpu_nodes())
    assert header.events > 5000
    assert not header.whole_life
    assert [each.name for each in trace.checkpoints] == ["before", "after"]
    known = caches()
    for each in trace.checkpoints:
        assert len(each.caches) >= len(known) - 2
    assert 0 < header.notes["events of the recorder itself"] < 0.5 * header.events
    # Addresses are raw, and most frees find their allocation.
    kinds = header.notes["rows by kind"]
    assert kinds["FREE"] > kinds["FREE_UNKNOWN"]
    assert (header.page_base or 0) % (1 << 30) == 0
    chunk = next(trace.chunks())
    assert (chunk.pointer[chunk.kind == Kind.ALLOC] >> np.uint64(47)).all()
    assert not left_behind(tracefs, tmp_path)


@pytest.mark.check
def test_page_truth_of_a_recording_agrees_with_sysfs(
    tracefs: Path, tmp_path: Path
) -> None:
    """Growth of each cache between the two checkpoints, by two witnesses."""
    target = tmp_path / "t.trace.parquet"
    record(target, command=["find", "/usr/lib", "-maxdepth", "3"], told=None)
    trace = open_trace(target)
    truth = page_truth(trace)
    before, after = trace.checkpoints
    same = 0
    for cache, told in after.caches.items():
        grown = sum(told.slabs) - sum(before.caches[cache].slabs)
        seen = (
            truth.slabs(told.row)[cache] - truth.slabs(before.caches[cache].row)[cache]
        )
        same += grown == int(seen.sum())
    assert same >= 0.9 * len(after.caches)


@pytest.mark.check
def test_a_recording_of_one_cache_holds_that_cache_only(
    tracefs: Path, tmp_path: Path
) -> None:
    target = tmp_path / "t.trace.parquet"
    done = record(target, command=["ls", "/proc"], only=["dentry", "kmalloc-64"])
    names = {info.name for info in done.header.caches}
    wanted = {
        info.name
        for info in caches()
        if {"dentry", "kmalloc-64"} & {info.name, *info.aliases}
    }
    assert names == wanted
    assert done.header.notes["rows by kind"]["ALLOC"] > 0
    with pytest.raises(CannotRecord, match="no cache 'unicorn'"):
        record(target, command=["true"], only=["unicorn"])


@pytest.mark.check
def test_time_and_further_checkpoints_are_kept(tracefs: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.trace.parquet"
    done = record(target, duration_s=0.9, every_s=0.4)
    assert done.seconds >= 0.9
    named = [each.name for each in Trace(target).checkpoints]
    assert named == ["before", "0.4s", "0.8s", "after"]


def test_events_that_did_not_fit_are_counted(tracefs: Path, tmp_path: Path) -> None:
    """A buffer of 4 KiB, emptied ten times a second, cannot hold a busy process."""
    target = tmp_path / "t.trace.parquet"
    busy = "import os; [os.stat('/proc/self/status') for _ in range(8000)]"
    done = record(target, command=[sys.executable, "-c", busy], buffer_kib=4)
    assert sum(done.lost.values()) > 0
    assert done.header.lost >= sum(done.lost.values())
    with pytest.raises(EventsLost, match="the kernel dropped"):
        open_trace(target)
    assert open_trace(target, allow_loss=True).header.events > 0


def until(what: Callable[[], bool]) -> None:
    """Wait for the thing itself, with a bound."""
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()


def started(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "uslub", "record", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)


LATER = [
    pytest.param(number, marks=pytest.mark.check)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
]


@pytest.mark.parametrize("number", [signal.SIGTERM, *LATER])
def test_a_signal_ends_the_recording_and_keeps_it(
    number: signal.Signals, tracefs: Path, tmp_path: Path
) -> None:
    process = started(tmp_path, "-o", "t.trace.parquet", "--", "sleep", "1000")
    assert process.stderr is not None
    assert "recording: sleep 1000" in process.stderr.readline()
    instance = tracefs / "instances" / f"uslub-{process.pid}"
    assert instance.is_dir()
    process.send_signal(number)
    process.communicate(timeout=WAIT_S)
    assert not instance.exists()
    assert not left_behind(tracefs, tmp_path)
    named = [each.name for each in Trace(tmp_path / "t.trace.parquet").checkpoints]
    assert named == ["before", "after"]


def test_what_a_killed_recording_left_is_removed_by_the_next(
    tracefs: Path, tmp_path: Path
) -> None:
    process = started(tmp_path, "-o", "t.trace.parquet", "--duration", "1000")
    assert process.stderr is not None
    assert "recording" in process.stderr.readline()
    instance = tracefs / "instances" / f"uslub-{process.pid}"
    assert instance.is_dir()
    process.kill()
    process.communicate(timeout=WAIT_S)
    until(lambda: not Path("/proc", str(process.pid)).exists())
    assert instance.is_dir()
    until(lambda: instance.name in remove_stale(tracefs))
    assert not instance.exists()


def test_an_error_inside_leaves_nothing(tracefs: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRecord, match="expected a program to run"):
        record(tmp_path / "t.trace.parquet", command=["/no/such/program"])
    assert not list(tmp_path.iterdir())
    assert not left_behind(tracefs, tmp_path)


def test_the_command_line_gives_the_status_of_the_command(
    tracefs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "t.trace.parquet")
    assert main(["record", "-o", target, "--", "sh", "-c", "exit 3"]) == 3
    said = capsys.readouterr()
    assert said.out.startswith(f"{target}: ")
    assert "recording: sh -c exit 3" in said.err


# -- without root ----------------------------------------------------------------------


def test_it_needs_root_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    target = str(tmp_path / "t.trace.parquet")
    assert main(["record", "-o", target, "--duration", "1"]) == 2
    said = capsys.readouterr().err
    assert "needs root and this is user 1000" in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "no/such/folder/t.trace.parquet", "--duration", "1"],
        ["-o", "t.trace.parquet", "--duration", "-1"],
        ["-o", "t.trace.parquet", "--buffer", "0"],
    ],
)
def test_options_that_cannot_be_are_refused(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def tree(root: Path, *events: str) -> Path:
    (root / "instances").mkdir(parents=True)
    for event in events:
        folder = root / "events" / "kmem" / event
        folder.mkdir(parents=True)
        (folder / "format").write_text(f"name: {event}\nID: 1\n")
    return root


def test_what_a_kernel_lacks_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "kmalloc", "kfree")
    with (
        pytest.raises(CannotRecord, match="no event kmem_cache_alloc, kmem_cache_free"),
        Instance(root, buffer_kib=64),
    ):
        pass
    (tmp_path / "b").mkdir()
    with (
        pytest.raises(CannotRecord, match="no instances of the trace buffer"),
        Instance(tmp_path / "b", buffer_kib=64),
    ):
        pass
    assert not list((root / "instances").iterdir())


def test_a_system_that_hides_tracefs_is_told_apart_from_one_without_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tracefs_module, "find_tracefs", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))  # no mount(8), as good as no right to it
    with (
        pytest.raises(CannotRecord, match=r"not mounted and cannot be .*CONFIG_FTRACE"),
        mounted(),
    ):
        pass


def test_tracefs_is_found_by_the_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\ntracefs /my\\040place tracefs rw 0 0\n")
    assert find_tracefs(mounts) == Path("/my place")


def test_merged_caches_are_one_with_all_their_names(tmp_path: Path) -> None:
    for name in (":0000192", "dentry"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slab_size").write_text("192\n")
        (tmp_path / name / "slabs").write_text("3 N0=2 N1=1\n")
        (tmp_path / name / "cache_dma").write_text("0\n")
    for alias in ("filp", "pid"):
        (tmp_path / alias).symlink_to(":0000192")
    found = {info.name: info for info in caches(tmp_path)}
    assert set(found) == {"dentry", "filp"}
    assert found["filp"].aliases == ("pid",)
    assert found["filp"].size == 192
    assert found["filp"].order is None
    counters, lines = Counters(tuple(found.values()), tmp_path), []
    counters.checkpoint("x", lines.append)
    counters.close()
    assert lines == [
        "SNAPBEGIN x n=2",
        "SNAP dentry slabs=3,N0=2,N1=1",
        "SNAP filp slabs=3,N0=2,N1=1",
        "SNAPEND x",
    ]
    assert caches(tmp_path / "nothing") == ()
