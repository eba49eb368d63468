"""kmalloc: requests by size, from one cache per size class and kind.

Here: which class and kind a request gets, requests above 8192 bytes straight
from the page allocator, `krealloc`, `ksize`. Not here: random and private copies
of the size classes.
"""

from __future__ import annotations

from typing import NamedTuple

from uslub.model.geometry import Flags
from uslub.model.state import KmemCache, Position

#: What kfree, ksize and krealloc take: an object of a size class or a large block.


class KmallocObject(NamedTuple):
    """An object of a kmalloc cache."""

    cache: str
    position: Position


class LargeObject(NamedTuple):
    """A request above 8192 bytes: a page run of its own."""

    node: int
    page: int
    order: int


class ZeroSize(NamedTuple):
    """What kmalloc(0) returns: no object, but something to pass to kfree."""


ZERO_SIZE_PTR = ZeroSize()
Pointer = KmallocObject | LargeObject | ZeroSize

KIND_FLAGS = {
    "normal": Flags.NO_MERGE,
    "dma": Flags.CACHE_DMA,
    "rcl": Flags.RECLAIM_ACCOUNT,
    "cg": Flags.ACCOUNT,
}


def kmalloc_kind(*, dma: bool, reclaimable: bool, account: bool) -> str:
    """Which family of size classes: DMA before RECLAIMABLE before ACCOUNT."""
    if dma:
        return "dma"
    if reclaimable:
        return "rcl"
    return "cg" if account else "normal"


def slab_ksize(cache: KmemCache) -> int:
    """Bytes that the owner of an object may use."""
    layout = cache.layout
    if cache.flags & (Flags.RED_ZONE | Flags.POISON):
        return layout.object_size
    if cache.flags & (Flags.TYPESAFE_BY_RCU | Flags.STORE_USER):
        return layout.inuse
    return layout.size
