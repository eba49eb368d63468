"""The small numbers of a trace: kinds of rows, bits of flags, constants of the machine.

Relies on nothing.
"""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What a row of a trace is. Values are part of the file format: append only."""

    ALLOC = 0
    FREE = 1
    FREE_UNKNOWN = 2  # of an object whose allocation was not seen
    IMPLIED_FREE = (
        3  # freed unseen: its address was handed out again, or its page freed
    )
    LARGE_ALLOC = 4  # kmalloc beyond the largest class: whole pages
    LARGE_FREE = 5
    PAGE_ALLOC = 6  # pfn in `pointer`, order in `requested`
    PAGE_FREE = 7
    CHECKPOINT = 8  # the kernel's own counters of one cache were read here


#: Bits of the column `flags`.
FLAG_ACCOUNT = 1  # __GFP_ACCOUNT
FLAG_RECLAIMABLE = 2  # __GFP_RECLAIMABLE
FLAG_DMA = 4  # __GFP_DMA
FLAG_THISNODE = 8  # __GFP_THISNODE
FLAG_ACCOUNTED = 16  # the event says accounted=true
FLAG_OWN = 32  # made by the allocator or the tracer for itself
FLAG_SOFTIRQ = 64
FLAG_HARDIRQ = 128

#: Linux: KMALLOC_MAX_CACHE_SIZE, two pages; more comes from the page allocator.
KMALLOC_CACHE_BYTES_MAX = 8192
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT

#: kmalloc(0) and kfree(NULL): nothing is allocated, nothing freed.
POINTER_ZERO_SIZE = 16
