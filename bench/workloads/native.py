"""The workloads that bench/c measures: which subjects, which parameters, how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rounds import Samples, Watch, ask
from subjects import Subject, Subjects

LIVE_PATTERNS = ("pair", "random", "fill")
LIVE = (100, 1_000, 10_000, 100_000, 1_000_000)
LIVE_SMALL = (100, 1_000)
CACHE_PATTERNS = ("robin", "burst", "one")
CACHES = (1, 10, 100, 1_000)
CACHES_SMALL = (1, 10)
SIZES = (8, 16, 64, 256, 1024, 4096, 65536, 1920 * 1080 * 3)
FRAME = SIZES[-1]


def measure(
    samples: Samples,
    workload: str,
    params: dict[str, Any],
    subjects: Sequence[Subject],
    options: dict[str, Any],
    program: str | None = None,
) -> None:
    """One turn for each subject; `program`: what the C program calls the workload."""
    words = [f"{key}={value}" for key, value in options.items()]
    for subject in subjects:
        command = [subject.program, subject.kind, program or workload, *words]
        answer = ask(command, subject.preload)
        for metric, values in answer.items():
            if isinstance(values, list):
                samples.add(workload, params, subject.name, metric, values)


def pair(samples: Samples, subjects: Subjects, small: bool) -> None:
    """64 bytes: allocate, touch, free; one thread, with an idle one, two at once."""
    everybody = (*subjects.with_mallocs, subjects.uslub_static, subjects.locked)
    with Watch(samples, "pair"):
        for _ in range(3 if small else 41):
            for threads in (0, 1, 2):
                options = {"threads": threads, "batches": 10 if small else 20}
                measure(samples, "pair", {"threads": threads}, everybody, options)


def live(samples: Samples, subjects: Subjects, small: bool) -> None:
    """Cost with n objects in use, by pattern."""
    with Watch(samples, "live"):
        for _ in range(1 if small else 9):
            for n in LIVE_SMALL if small else LIVE:
                for pattern in LIVE_PATTERNS:
                    batches = 4 if pattern == "fill" and n > 100_000 else 10
                    options = {"n": n, "pattern": pattern, "batches": batches}
                    params = {"n": n, "pattern": pattern}
                    measure(samples, "live", params, subjects.with_mallocs, options)
                # The misses alone, in memory laid out by uslub.
                options = {"n": n, "pattern": "walk", "batches": 10}
                params = {"n": n, "pattern": "walk"}
                measure(samples, "live", params, [subjects.uslub], options)


def caches(samples: Samples, subjects: Subjects, small: bool) -> None:
    """Cost with n caches, by pattern."""
    everybody = (subjects.uslub, subjects.locked, *subjects.heaps)
    with Watch(samples, "caches"):
        for _ in range(1 if small else 15):
            for n in CACHES_SMALL if small else CACHES:
                for pattern in CACHE_PATTERNS:
                    options = {"n": n, "pattern": pattern, "batches": 15}
                    options["burst"] = 16 if pattern == "burst" else 1
                    params = {"n": n, "pattern": pattern}
                    measure(samples, "caches", params, everybody, options)


def large(samples: Samples, subjects: Subjects, small: bool) -> None:
    """A 6.2 MB object, new each time, written in full."""
    with Watch(samples, "large"):
        for _ in range(1 if small else 15):
            for depth, moving in ((1, 1), (4, 1), (1, 0)):
                params = {"depth": depth, "moving": moving}
                options = {**params, "batches": 10 if small else 61}
                measure(samples, "large", params, subjects.with_mallocs, options)


def memory(samples: Samples, subjects: Subjects, small: bool) -> None:
    """Bytes that the arena's file occupies, or by which the resident set grew."""
    budget = (4 << 20) if small else (64 << 20)
    with Watch(samples, "memory"):
        for size in SIZES:
            n = max(8, min(1_000_000, budget // size))
            for subject in subjects.with_mallocs:
                command = [subject.program, subject.kind, "memory"]
                answer = ask([*command, f"size={size}", f"n={n}"], subject.preload)
                params = {"size": size, "n": n}
                for key, value in answer.items():
                    samples.add("memory", params, subject.name, key, [value])


def handoff(samples: Samples, subjects: Subjects, small: bool) -> None:
    """64 bytes: allocated in one process (thread, for malloc), freed in another."""
    everybody = (*subjects.with_mallocs, subjects.locked)
    with Watch(samples, "handoff"):
        for _ in range(1 if small else 25):
            for mode in ("turns", "stream"):
                options = {"mode": mode, "batches": 20 if small else 60}
                measure(samples, "handoff", {"mode": mode}, everybody, options)


ALL = (pair, live, caches, large, memory, handoff)
