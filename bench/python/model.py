"""Child: how many decisions a second the executable model makes, and does it grow?

    model.py SAMPLES DECISIONS

A cache of 192-byte objects on two CPUs, 4000 live: allocations and frees by turns, on a
random CPU, of an object chosen at random. The plan is drawn beforehand; a sample is
DECISIONS of them, one after another on the same model. Prints one JSON object:
nanoseconds per decision by design, and under "memory" the resident size after the last
sample by that after the first.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from uslub.model import Arena

DESIGNS = ("classic", "5.10", "6.8", "6.18", "7.1")
LIVE = 4000


def resident_pages() -> int:
    """Pages of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def run(cache, live, plan) -> float:  # type: ignore[no-untyped-def]
    """Seconds that the planned decisions take."""
    alloc, free = cache.alloc, cache.free
    begin = time.perf_counter()
    for cpu, where in plan:
        if where < 0:
            live.append(alloc(cpu))
        else:
            place = where % len(live)
            position, live[place] = live[place], live[-1]
            live.pop()
            free(position, cpu)
    return time.perf_counter() - begin


def draw(count: int) -> list[tuple[int, int]]:
    """Allocations (-1) and frees by turns, on random CPUs, of random objects."""
    rng = random.Random(count)
    return [
        (rng.randrange(2), -1 if i % 2 == 0 else rng.randrange(1 << 30))
        for i in range(count)
    ]


def main(samples: int, decisions: int) -> None:
    plan = draw(decisions)
    found: dict[str, list[float]] = {}
    sizes: list[int] = []
    for design in DESIGNS:
        cache = Arena(cpus=2, pages_per_node=4096, design=design).cache("bench", 192)
        live = [cache.alloc(0) for _ in range(LIVE)]
        found[design] = []
        for _ in range(samples):
            seconds = run(cache, live, plan)
            found[design].append(round(seconds / decisions * 1e9, 1))
            if design == "classic":
                sizes.append(resident_pages())
    found["memory"] = [sizes[-1] / sizes[0]]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
