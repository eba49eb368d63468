"""A trace in numbers: what each cache allocated and freed."""

from __future__ import annotations

from typing import Any

import numpy as np

from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.store import Trace

#: Kinds that are counted for each cache, and what the count is called.
COUNTED = {
    Kind.ALLOC: "allocs",
    Kind.FREE: "frees",
    Kind.IMPLIED_FREE: "implied_frees",
    Kind.FREE_UNKNOWN: "unknown_frees",
}


def cache_records(trace: Trace) -> list[dict[str, Any]]:
    """One record for each cache, in the order of `trace.header.caches`.

    Returns:
        Mappings of `cache`, `object_size` and `size` (bytes), `order` (None where
        nobody told), `allocs`, `frees`, `implied_frees`, `unknown_frees`, and `live`:
        objects allocated and not freed by the end. `pandas.DataFrame()` takes them as
        they are.
    """
    caches = trace.header.caches
    counts = {name: np.zeros(len(caches), np.int64) for name in COUNTED.values()}
    for chunk in trace.chunks():
        for kind, name in COUNTED.items():
            rows = (chunk.kind == kind) & (chunk.cache >= 0)
            counts[name] += np.bincount(chunk.cache[rows], minlength=len(caches))
    records = []
    for index, info in enumerate(caches):
        record: dict[str, Any] = {
            "cache": info.name,
            "object_size": info.object_size,
            "size": info.size,
            "order": info.order,
        }
        record |= {name: int(count[index]) for name, count in counts.items()}
        gone = record["frees"] + record["implied_frees"]
        records.append(record | {"live": record["allocs"] - gone})
    return records
