"""Child: what the lab costs, one question per call. Prints one JSON object.

    lab.py replay ROUNDS         nanoseconds per event, by design, from the compact file
    lab.py import ROUNDS LINES   nanoseconds per line of ftrace text
    lab.py peer ROUNDS           nanoseconds per event: `uslub replay`, `uslub trace
                                 stat`, `perf kmem stat`
    lab.py memory EVENTS         peak resident bytes after a trace of so many events

The trace is the one that comes with uslub, `sample:linux-6.18`. A replay keeps to one
core. `peer` times whole processes, from start to exit, on the same events: perf reads
them from a perf.data file that perf_data.py made, uslub from its compact file.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lab_traces
import perf_data

from uslub.lab.replay import replay
from uslub.lab.trace import convert, open_trace, sample

DESIGNS = ("6.18", "classic", "7.1", "slab", "slob")


def replaying(rounds: int) -> dict[str, list[float]]:
    """Opening the file included."""
    found: dict[str, list[float]] = {design: [] for design in DESIGNS}
    for _ in range(rounds):
        for design in DESIGNS:
            begin = time.perf_counter()
            trace = open_trace(sample("linux-6.18"))
            replay(trace, design=design)
            seconds = time.perf_counter() - begin
            found[design].append(seconds / trace.header.events * 1e9)
    return found


def importing(rounds: int, lines: int) -> dict[str, list[float]]:
    """Text to a compact file."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        lines = lab_traces.text(open_trace(sample("linux-6.18")), path, lines)
        for _ in range(rounds):
            begin = time.perf_counter()
            header = convert(path, Path(folder) / "out.trace.parquet")
            found.append((time.perf_counter() - begin) / lines * 1e9)
            assert header.events >= lines, "lines were passed over"
    return {"text": found}


def peers(rounds: int) -> dict[str, list[float]]:
    """Programs on the same events, in turn; the last two answer the same question."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        events = perf_data.write(open_trace(sample("linux-6.18")).chunks(), data)
        uslub, trace = [sys.executable, "-m", "uslub"], "sample:linux-6.18"
        perf = ["perf", "kmem", "-i", str(data), "--slab", "--caller", "--raw-ip"]
        commands = {
            "uslub replay": [*uslub, "replay", trace],
            "uslub trace stat": [*uslub, "trace", "stat", trace, "--caller", "-l", "0"],
            "perf kmem stat": [*perf, "stat"],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                found.setdefault(name, []).append(timed(command) / events * 1e9)
    return found


def timed(command: list[str]) -> float:
    """Seconds that a process takes.

    Raises:
        RuntimeError: It failed.
    """
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return seconds


def memory(events: int) -> dict[str, list[float]]:
    """In a process that has done nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.trace.parquet"
        pid = os.fork()  # what is needed to make the trace is not ours
        if pid == 0:
            lab_traces.long_trace(open_trace(sample("linux-6.18")), path, events)
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError("the long trace could not be made")
        trace = open_trace(path)
        replay(trace)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"events": [trace.header.events], "peak": [peak]}


def main(words: list[str]) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    job, *numbers = words
    jobs = {"replay": replaying, "import": importing, "peer": peers, "memory": memory}
    print(json.dumps(jobs[job](*map(int, numbers))))


if __name__ == "__main__":
    main(sys.argv[1:])
