"""`uslub demo`, on a few small frames: what it says must be true, and it cleans up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uslub._engine", reason="the extension is not built")
Image = pytest.importorskip("PIL.Image", reason="requirements/demo.txt")

from uslub.tools.demo import pictures, work  # noqa: E402
from uslub.tools.demo.course import Plan  # noqa: E402

WAYS = ["uslub", "multiprocessing.Queue", "SharedMemory each"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of our own, so that scikit-image is not needed."""
    place = tmp_path_factory.mktemp("pictures")
    for name, seed in (("one.png", 1), ("two.jpg", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (90, 160, 3), np.uint8)
        Image.fromarray(noise).save(place / name)
    return place


def command(folder: Path, *words: str) -> list[str]:
    start = [sys.executable, "-m", "uslub", "demo", "--pictures", str(folder)]
    return [*start, "--size", "320x184", *words]


def ours(pid: int) -> list[str]:
    """What the demo with this process number has in /dev/shm."""
    return [p.name for p in Path("/dev/shm").glob(f"*demo-{pid}*")]


@pytest.fixture
def endless(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo in the middle of its work."""
    words = command(folder, "--frames", "1000000", "--seconds", "600")
    # A test run in the background may have inherited "ignore SIGINT".
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        signal.signal(signal.SIGINT, before)
        assert demo.stdout is not None
        demo.stdout.readline()  # the first frames have come back
        assert ours(demo.pid)
        yield demo
        demo.kill()


def workers_of(pid: int) -> list[int]:
    """Process numbers of its workers, oldest first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(c): Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
    return sorted(child for child, line in lines.items() if b"spawn_main" in line)


def gone(pid: int) -> bool:
    """Has the process ended? (A zombie has.)"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_the_same_frames_give_the_same_sums_all_three_ways(folder: Path) -> None:
    done = subprocess.run(
        command(folder, "--frames", "30", "--json"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [way["name"] for way in answer["ways"]] == WAYS
    assert [way["frames"] for way in answer["ways"]] == [30, 30, 30]
    assert answer["frames_compared"] == 30
    assert answer["sums_equal"] and answer["accounted"] and answer["sound"]
    assert answer["ways"][0]["objects"]["thumb"] == [30, 30]
    assert answer["findings"] == answer["left_behind"] == []


def test_without_a_terminal_it_prints_plain_lines(folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = command(folder, "--frames", "12", "--workers", "1", "--save", str(sheet))
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert all(way in done.stdout for way in WAYS)
    assert "left in /dev/shm: nothing" in done.stdout
    with Image.open(sheet) as picture:
        assert picture.size == (6 * 40, 2 * 23)


def test_a_worker_that_is_killed_ends_the_demo_with_a_reason(
    endless: subprocess.Popen[str],
) -> None:
    workers = workers_of(endless.pid)
    os.kill(workers[0], signal.SIGKILL)
    _, errors = endless.communicate(timeout=30)
    assert endless.returncode == 1
    assert f"process {workers[0]}) was killed by SIGKILL" in errors
    assert ours(endless.pid) == []
    assert all(gone(worker) for worker in workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_its_arena_and_workers_along(
    endless: subprocess.Popen[str], number: signal.Signals
) -> None:
    workers = workers_of(endless.pid)
    endless.send_signal(number)
    _, errors = endless.communicate(timeout=30)
    assert endless.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert ours(endless.pid) == []
    assert all(gone(worker) for worker in workers)


def test_workers_go_when_the_demo_is_killed(endless: subprocess.Popen[str]) -> None:
    workers = workers_of(endless.pid)
    endless.kill()
    endless.wait()
    deadline = time.monotonic() + 20
    while not all(gone(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the demo"
        os.sched_yield()
    for name in ours(endless.pid):  # nobody could: the name stays until unlinked
        Path("/dev/shm", name).unlink()


@pytest.mark.parametrize("words", [["--size", "333x184"], ["--frames", "0"]])
def test_what_cannot_be_asked_is_refused(folder: Path, words: list[str]) -> None:
    done = subprocess.run(command(folder, *words), capture_output=True, text=True)
    assert done.returncode == 2
    assert words[1] in done.stderr


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr


def test_a_sum_tells_any_changed_byte_and_any_moved_band() -> None:
    rng = np.random.default_rng(3)
    frame = rng.integers(128, 256, (80, 64, 3), np.uint8)
    bench = work.Bench(64)
    first = bench.process(frame.copy())
    assert bench.process(frame.copy()) == first
    changed = frame.copy()
    changed[79, 63, 2] ^= 2
    assert bench.process(changed) != first
    assert bench.process(np.concatenate([frame[40:], frame[:40]])) != first


def test_work_is_done_in_place() -> None:
    frame = np.full((16, 64, 3), 200, np.uint8)
    frame[0] = 100
    work.Bench(64).process(frame)
    assert (frame[0] == 150).all() and (frame[1:] == 200).all()


def test_windows_stay_on_their_plates() -> None:
    plan = Plan(1, 1.0, 1, 320, 184)
    for position in range(2000):
        for room in (0, 1, plan.plate_width - plan.width):
            assert 0 <= pictures.swing(position, room) <= room
