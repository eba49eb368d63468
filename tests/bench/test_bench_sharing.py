"""The sharing workloads of `make bench`: all transports carry, words fit figures.

Figures decide nothing here; what is tested is that a wrong message is noticed, that
whoever is missing is named, and that a line says what its samples say.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

np = pytest.importorskip("numpy", reason="requirements/test.txt")

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
NAMES = ("ratios", "rounds", "verdicts_sharing", "workloads.sharing", "transfer")
SIZE = 4096
FRAME = 1920 * 1080 * 3


@pytest.fixture
def bench() -> Iterator[SimpleNamespace]:
    """The modules of bench/, which is no package."""
    folders = [str(BENCH), str(BENCH / "python")]
    before = set(sys.modules)
    sys.path[:0] = folders
    try:
        modules = {name: importlib.import_module(name) for name in NAMES}
        yield SimpleNamespace(
            **{name.split(".")[-1]: module for name, module in modules.items()}
        )
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("python", "transports", "workloads", "rounds"):
                del sys.modules[name]


def carry(name: str, size: int) -> dict[str, list[float]]:
    """What bench/python/transfer.py says of one transport."""
    script = str(BENCH / "python" / "transfer.py")
    run = [sys.executable, script, name, "8", "5", str(size)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def check_carries(name: str, size: int) -> None:
    found = carry(name, size)
    questions = ("copied latency_ns", "copied ns", "made latency_ns", "made ns")
    assert set(found) == {f"{size} {question}" for question in questions}
    assert all(value > 0 for values in found.values() for value in values)
    assert not list(Path("/dev/shm").glob("ub*"))  # iceoryx2 leaves files otherwise


@pytest.mark.parametrize(
    "name", ["multiprocessing.Queue", "ring, semaphores", "uslub Channel"]
)
def test_a_transport_carries_messages_of_both_kinds(name: str) -> None:
    check_carries(name, SIZE)


@pytest.mark.check
@pytest.mark.timeout(300)
def test_every_transport_carries_frames_of_both_kinds(bench: SimpleNamespace) -> None:
    for one in bench.sharing.present():
        check_carries(one.name, FRAME)


class Fake:
    """A transport whose one message is what the test says."""

    def __init__(self, number: int, nbytes: int) -> None:
        self.size = SIZE
        self.array = np.zeros(nbytes, np.uint8)
        self.array[:8].view(np.int64)[0] = number

    def receive(self) -> np.ndarray:
        return self.array


def test_the_receiver_notices_what_is_not_the_next_message(
    bench: SimpleNamespace,
) -> None:
    look, last = bench.transfer.look, bench.transfer.LAST
    assert look(Fake(3, SIZE), 3) is False
    assert look(Fake(3 | last, SIZE), 3) is True
    for wrong in (Fake(4, SIZE), Fake(2 | last, SIZE), Fake(3, SIZE - 8)):
        with pytest.raises(RuntimeError, match="message 3 of 4096 bytes: got"):
            look(wrong, 3)


def test_the_crowd_adds_up() -> None:
    """Two processes, some milliseconds: each object arrived as it was sent."""
    run = [sys.executable, str(BENCH / "python" / "crowd.py"), "2", "50"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ns"][0] > 0 and found["cpu_ns"][0] > 0
    odd = subprocess.run([*run[:2], "3", "50"], capture_output=True, text=True)
    assert odd.returncode != 0 and "no pairs" in odd.stderr


def test_whoever_is_missing_is_named(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing = bench.sharing
    gone = {"iceoryx2", "torch"}
    monkeypatch.setattr(sharing, "has", lambda module: module not in gone)
    monkeypatch.setattr(sharing, "two_cpus", lambda: False)
    names = sharing.absent()
    assert [name.split(" (")[0] for name in names] == [
        "iceoryx2",
        "torch",
        "a second CPU",
    ]
    assert "torch queue, DataLoader" in names[1]
    assert "ring, polled" in names[2]
    assert not any(one.polls for one in sharing.present())


def test_the_peers_that_are_asked_for_are_those_of_the_requirements(
    bench: SimpleNamespace,
) -> None:
    lines = (ROOT / "requirements" / "peers.txt").read_text().splitlines()
    named = [line for line in lines if not line.startswith(("#", "-c"))]
    assert named == sorted(bench.sharing.WANTED)
    pins = (ROOT / "requirements" / "pins.txt").read_text()
    assert all(f"\n{name}==" in pins for name in named)
    wanted = {module for module, _ in bench.sharing.WANTED.values()}
    assert {one.module for one in bench.sharing.ENTRIES if one.module} <= wanted


def made(bench: SimpleNamespace, rates: dict[str, float]) -> object:
    """Samples of one 1080p cell: nanoseconds per message by transport."""
    samples = bench.rounds.Samples()
    params = {"size": FRAME, "way": "made"}
    for subject, ns in rates.items():
        for metric in ("ns", "latency_ns"):
            samples.add("transfer", params, subject, metric, [ns, ns])
    return samples


def lines(module: ModuleType, samples: object) -> dict[str, tuple[float, str]]:
    """Ratio and verdict by what the line says it beside whom."""
    return {
        f"{line.what} | {line.beside.rsplit(' ', 2)[0]}": (line.typical, line.verdict)
        for line in module.sharing_lines(samples)
    }


RATES = {
    "uslub Channel": 20_000.0,
    "uslub Channel, polled": 5_000.0,
    "uslub array, multiprocessing.Queue": 100_000.0,
    "multiprocessing.Queue": 2_400_000.0,
    "SharedMemory per message": 500_000.0,
    "ring, semaphores": 21_000.0,
    "iceoryx2, event": 30_000.0,
    "iceoryx2, polled": 10_000.0,
}


def test_a_line_says_what_its_samples_say(bench: SimpleNamespace) -> None:
    found = lines(bench.verdicts_sharing, made(bench, RATES))
    frame = "Sharing: 1080p frame, made in place"
    assert found[f"{frame}, rate | multiprocessing.Queue"] == (120.0, "met")
    assert found[f"{frame}, rate | SharedMemory per message"] == (25.0, "missed")
    assert found[f"{frame}, rate | ring, semaphores"] == (1.05, "met")
    # The sleeping Channel's rate must beat those that poll as well; latency need not.
    assert found[f"{frame}, rate, sleeping | iceoryx2, polled"] == (0.5, "missed")
    assert found[f"{frame}, latency, sleeping | iceoryx2, event"] == (1.5, "met")
    assert found[f"{frame}, latency, polling | iceoryx2, polled"] == (2.0, "met")
    handle = f"{frame}, as a handle through multiprocessing.Queue, latency"
    assert found[f"{handle} | multiprocessing.Queue"] == (24.0, "met")


def test_without_a_peer_a_line_has_no_verdict(bench: SimpleNamespace) -> None:
    rates = {name: ns for name, ns in RATES.items() if "iceoryx2" not in name}
    found = lines(bench.verdicts_sharing, made(bench, rates))
    alone = [key for key in found if key.startswith("Sharing: 1080p") and "poll" in key]
    assert alone and all(found[key][1] == "" for key in alone)


def test_a_crowd_is_measured_against_two(bench: SimpleNamespace) -> None:
    samples = bench.rounds.Samples()
    for count, ns in ((1, 900.0), (2, 1000.0), (48, 1600.0)):
        samples.add("crowd", {"n": count}, "uslub", "ns", [ns])
    what = "Sharing: allocate here, free there, 64 B, {} | two processes"
    found = lines(bench.verdicts_sharing, samples)
    assert found[what.format("1 process")] == (0.9, "met")
    assert found[what.format("48 processes")] == (1.6, "missed")


def test_a_percentile_is_of_all_samples_together(bench: SimpleNamespace) -> None:
    rounds = [[float(i) for i in range(start, 100, 2)] for start in (1, 2)]
    series = bench.rounds.Series("w", {}, "s", "latency_ns", [*rounds, [100.0]])
    assert bench.ratios.percentile(series, 50) == 50.5
    assert 99 < bench.ratios.percentile(series, 99) <= 100
    one = bench.rounds.Series("w", {}, "s", "latency_ns", [[7.0]])
    assert bench.ratios.percentile(one, 99) == 7.0
