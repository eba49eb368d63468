"""Child: `cache.alloc()` and drop, beside what a Python user would do otherwise.

    micro.py SAMPLES

timeit; the statement stands ten times in a turn of the loop, so that a tenth of the
loop is in a figure, on all sides. One sample is some milliseconds, and the subjects
take turns. Prints one JSON object: nanoseconds per operation by subject.
"""

from __future__ import annotations

import json
import mmap
import sys
import timeit
from multiprocessing.shared_memory import SharedMemory

import uslub

UNROLLED = 10


def segment() -> None:
    """Create, close, unlink: the life of one SharedMemory."""
    memory = SharedMemory(create=True, size=64)
    memory.close()
    memory.unlink()


def main(samples: int) -> None:
    arena = uslub.Arena.create(None, "64MiB")
    cache = arena.cache("micro", 64)
    names = {"cache": cache, "arena": arena, "segment": segment, "mmap": mmap.mmap}
    subjects = {
        "cache.alloc()": ("cache.alloc()", 20_000),
        "with cache.alloc()": ("with cache.alloc(): pass", 20_000),
        "arena.kmalloc(64)": ("arena.kmalloc(64)", 20_000),
        "bytearray(64)": ("bytearray(64)", 20_000),
        "bytes(64)": ("bytes(64)", 20_000),
        "SharedMemory": ("segment()", 50),
        "mmap": ("mmap(-1, 64).close()", 200),
        "empty loop": ("pass", 20_000),
    }
    timers = {
        name: (timeit.Timer("\n".join([code] * UNROLLED), globals=names), count)
        for name, (code, count) in subjects.items()
    }
    found: dict[str, list[float]] = {name: [] for name in timers}
    for timer, count in timers.values():
        timer.timeit(max(1, count // UNROLLED // 10))
    for _ in range(samples):
        for name, (timer, count) in timers.items():
            seconds = timer.timeit(count // UNROLLED)
            found[name].append(round(seconds / count * 1e9, 3))
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
