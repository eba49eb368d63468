"""One point of a grid, replayed: what travels to the workers.

The only module of `compare` that calls the replay. A worker opens the trace for itself,
which for the compact format means to map a file, and sends back an `Outcome`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from uslub.lab.compare.grid import Point
from uslub.lab.compare.outcome import Outcome
from uslub.lab.replay import SETTINGS, Settings, replay
from uslub.lab.trace import open_trace

#: Called with the rows done so far and their number.
Rows = Callable[[int, int], None]


def replay_point(
    path: Path,
    point: Point,
    options: Mapping[str, object] | None = None,
    progress: Rows | None = None,
) -> Outcome:
    """Replay a trace with the parameters of one point.

    Args:
        path: The trace.
        point: What differs from the trace.
        options: More keyword arguments of `replay`, the same for every point.
        progress: See `Rows`.

    Raises:
        TraceError: The trace cannot be used.
        BadArgument: The replay refuses a parameter.
    """
    values: dict[str, Any] = {k: v for k, v in point.values if v is not None}
    settings = Settings(
        **{name: values.pop(name) for name in SETTINGS if name in values}
    )
    start = time.perf_counter()
    more: dict[str, Any] = dict(options or {})
    trace = open_trace(path, allow_loss=bool(more.get("allow_loss")))
    result = replay(trace, settings=settings, progress=progress, **values, **more)
    return Outcome(
        point=point,
        seconds=round(time.perf_counter() - start, 3),
        header=result.header,
        totals=result.totals,
        series=result.series,
        caches=result.caches,
    )
