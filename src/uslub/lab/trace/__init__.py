"""Traces of real kernels: read from what recorded them, kept as columns.

    >>> from uslub.lab.trace import open_trace
    >>> trace = open_trace("boot.txt.zst")                          # doctest: +SKIP
    >>> for chunk in trace.chunks():                                # doctest: +SKIP
    ...     print(chunk.time[0], len(chunk), chunk.kind[:3])

Knows kernels and files; knows nothing of allocators.
Design: docs/design/06-lab.md. File format: docs/reference/trace-format.md.
"""

from uslub.lab.trace.cutting import cut
from uslub.lab.trace.errors import (
    ClockError,
    EventsLost,
    GroundMismatch,
    NotATrace,
    PointersHashed,
    ToolMissing,
    TraceError,
    TraceTruncated,
    UnknownFields,
)
from uslub.lab.trace.ground import Ground, load_ground
from uslub.lab.trace.header import CacheInfo, CacheTruth, Checkpoint, Header
from uslub.lab.trace.importing import convert, open_trace, sample
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.kmem_stat import Group, Stat, stat
from uslub.lab.trace.matching import check_ground
from uslub.lab.trace.store import Chunk, Trace
from uslub.lab.trace.summary import cache_records
from uslub.lab.trace.truth import PageTruth, page_truth

__all__ = [
    "CacheInfo",
    "CacheTruth",
    "Checkpoint",
    "Chunk",
    "ClockError",
    "EventsLost",
    "Ground",
    "GroundMismatch",
    "Group",
    "Header",
    "Kind",
    "NotATrace",
    "PageTruth",
    "PointersHashed",
    "Stat",
    "ToolMissing",
    "Trace",
    "TraceError",
    "TraceTruncated",
    "UnknownFields",
    "cache_records",
    "check_ground",
    "convert",
    "cut",
    "load_ground",
    "open_trace",
    "page_truth",
    "sample",
    "stat",
]
