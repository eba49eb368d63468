"""What the lab costs: bench/python/lab.py, each round in a fresh interpreter.

The peer is perf, which reads the same events from a perf.data file; where there is no
perf, its line is left out and env.json says so.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from rounds import Samples, Watch, ask
from subjects import ROOT

SCRIPT = str(ROOT / "bench" / "python" / "lab.py")
LONG = (1_000_000, 20_000_000)
LONG_SMALL = (100_000, 2_000_000)
TIMEOUT_SECONDS = 600


def turn(words: Sequence[object]) -> dict[str, list[float]]:
    """One process."""
    command = [sys.executable, SCRIPT, *map(str, words)]
    return ask(command, timeout=TIMEOUT_SECONDS)


def replaying(samples: Samples, small: bool) -> None:
    """Events of the compact file through each design, on one core."""
    with Watch(samples, "lab replay"):
        for _ in range(1 if small else 5):
            for design, values in turn(["replay", 1]).items():
                samples.add("lab replay", {}, design, "ns", values)


def importing(samples: Samples, small: bool) -> None:
    """Text of ftrace into a compact file."""
    with Watch(samples, "lab import"):
        for _ in range(1 if small else 5):
            answer = turn(["import", 1 if small else 3, 50_000 if small else 500_000])
            samples.add("lab import", {}, "text", "ns", answer["text"])


def peer(samples: Samples, small: bool) -> None:
    """Whole processes on the same events: two commands of uslub, `perf kmem stat`."""
    if shutil.which("perf") is None:
        return
    with Watch(samples, "lab peer"):
        for _ in range(1 if small else 3):
            for subject, values in turn(["peer", 1 if small else 3]).items():
                samples.add("lab peer", {}, subject, "ns", values)


def memory(samples: Samples, small: bool) -> None:
    """Peak resident size, by length of the trace."""
    with Watch(samples, "lab memory"):
        for events in LONG_SMALL if small else LONG:
            answer = turn(["memory", events])
            params = {"asked": events}
            samples.add("lab memory", params, "events", "count", answer["events"])
            samples.add("lab memory", params, "uslub", "bytes", answer["peak"])


ALL = (replaying, importing, peer, memory)
