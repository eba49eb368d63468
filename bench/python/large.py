"""Child: a 6.2 MB object, new each time, written in full.

    large.py SAMPLES

"mapped" copies the same bytes into shared memory that stays where it is; "mapped, huge
pages" into a NumPy array, for which NumPy asks for pages of 2 MiB. The source moves by
some pages each time (see bench/c/large.c for why), and the order is shuffled each
time: whoever comes after SharedMemory finds cold caches. Prints one JSON object:
nanoseconds by subject.
"""

from __future__ import annotations

import json
import mmap
import random
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

import numpy as np

import uslub

SIZE = 1920 * 1080 * 3
SHIFTS = 61


def main(samples: int) -> None:
    arena = uslub.Arena.create(None, "256MiB")
    cache = arena.cache("frame", SIZE)
    sources = np.ones(SIZE + SHIFTS * 4096, np.uint8)
    private = np.ones(SIZE, np.uint8)
    mapped = np.frombuffer(mmap.mmap(-1, SIZE), np.uint8)
    mapped[:] = 1

    def alloc(source: np.ndarray) -> None:
        np.copyto(np.frombuffer(cache.alloc(), np.uint8), source)

    def ndarray(source: np.ndarray) -> None:
        np.copyto(arena.ndarray(SIZE, np.uint8), source)

    def copy(source: np.ndarray) -> None:
        np.copyto(mapped, source)

    def copy_private(source: np.ndarray) -> None:
        np.copyto(private, source)

    def segment(source: np.ndarray) -> None:
        memory = SharedMemory(create=True, size=SIZE)
        array = np.frombuffer(memory.buf, np.uint8, SIZE)
        np.copyto(array, source)
        del array
        memory.close()
        memory.unlink()

    subjects: dict[str, Callable[[np.ndarray], None]] = {
        "cache.alloc()": alloc,
        "arena.ndarray()": ndarray,
        "mapped": copy,
        "mapped, huge pages": copy_private,
        "SharedMemory": segment,
    }
    found: dict[str, list[int]] = {name: [] for name in subjects}
    order = list(subjects)
    chance = random.Random(1)
    for i in range(-3, samples):  # the first ones meet cold pages
        chance.shuffle(order)
        for name in order:
            start = i * 7 % SHIFTS * 4096
            source = sources[start : start + SIZE]
            begin = time.perf_counter_ns()
            subjects[name](source)
            spent = time.perf_counter_ns() - begin
            if i >= 0:
                found[name].append(spent)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
