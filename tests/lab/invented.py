"""Outcomes that no replay made: for tests of what is done with outcomes.

Every number is different where a mix-up could hide: by point, cache and node.
"""

from __future__ import annotations

from collections.abc import Sequence

from uslub.lab.compare import Comparison, Outcome, Point
from uslub.lab.compare.grid import points

#: A name that would run if the page took it for HTML.
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
NAMES = ("dentry", "kmalloc-96", HOSTILE)


def outcome(point: Point, place: int = 0, names: Sequence[str] = NAMES) -> Outcome:
    """The outcome of the point at this place in the grid."""
    caches = [
        {
            "cache": name,
            "node": node,
            "live": 100 * cache + 10 * node + place,
            "slabs": 10 * (cache + 1) + node + place,
            "partial": cache + node,
            "slab_bytes": 4096 << cache % 3,
            "slot_bytes": 192,
            "memory_bytes": (10 * (cache + 1) + node + place) * (4096 << cache % 3),
            "object_bytes": 180,
            "list_lock": 7 * cache + node,
        }
        for cache, name in enumerate(names)
        for node in (0, 1)
    ]
    memory = sum(one["memory_bytes"] for one in caches)
    series = {
        "time_ns": [5_000_000_000 + 500_000_000 * step for step in range(4)],
        "memory_bytes": [memory // 2, memory + 4096, memory, memory],
        "live_bytes": [memory // 4] * 4,
        "slabs": [10, 12, 11, 11],
    }
    return Outcome(
        point=point,
        seconds=0.25,
        header={"kernel": "6.18.15", "events": 1_485_542, "shares": {"unknown": 0.001}},
        totals={
            "memory_bytes": memory,
            "peak_memory_bytes": memory + 4096,
            "live_bytes": memory // 4,
            "slabs": sum(one["slabs"] for one in caches),
            "partial": sum(one["partial"] for one in caches),
            "list_lock": 1000 - 100 * place,
        },
        series=series,
        caches=caches,
    )


def comparison(*grid: str, names: Sequence[str] = NAMES) -> Comparison:
    """The outcomes of a whole grid."""
    found = [outcome(point, at, names) for at, point in enumerate(points(grid))]
    return Comparison("boot.uslt", tuple(found))
