"""The workloads that bench/python measures, each round in a fresh interpreter."""

from __future__ import annotations

import sys

from rounds import Samples, Watch, ask
from subjects import ROOT


def turn(samples: Samples, workload: str, script: str, *words: int) -> None:
    """One process; every subject is in it."""
    path = str(ROOT / "bench" / "python" / script)
    answer = ask([sys.executable, path, *map(str, words)])
    for subject, values in answer.items():
        samples.add(workload, {}, subject, "ns", values)


def micro(samples: Samples, small: bool) -> None:
    """alloc and drop, beside bytearray and SharedMemory."""
    with Watch(samples, "python micro"):
        for _ in range(2 if small else 15):
            turn(samples, "python micro", "micro.py", 7 if small else 25)


def large(samples: Samples, small: bool) -> None:
    """A 6.2 MB object, new each time, written in full."""
    with Watch(samples, "python large"):
        for _ in range(1 if small else 9):
            turn(samples, "python large", "large.py", 5 if small else 61)


def handoff(samples: Samples, small: bool) -> None:
    """64 bytes made here, freed in another process."""
    with Watch(samples, "python handoff"):
        for _ in range(1 if small else 9):
            words = (3, 512) if small else (9, 2048)
            turn(samples, "python handoff", "handoff.py", *words)


def model(samples: Samples, small: bool) -> None:
    """Decisions of the executable specification."""
    with Watch(samples, "model"):
        for _ in range(1 if small else 5):
            words = (3, 20_000) if small else (10, 200_000)
            turn(samples, "model", "model.py", *words)


ALL = (micro, large, handoff, model)
