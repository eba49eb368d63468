"""Which cache an event is about.

`kmem_cache_alloc` names it since 6.18, `kmem_cache_free` since 5.12, kmalloc and kfree
never. What no event names is found by what the kernel would have chosen: kmalloc by
size and gfp bits; an unnamed allocation, once the trace has been read, by the name its
free told, by what its call site allocated otherwise, or by the only cache of that size.

Knows nothing of files; gets names and sizes, gives indexes into one list of caches.
Linux: kmalloc_type(), kmalloc_info[], v6.18.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from uslub.lab.trace import kinds
from uslub.lab.trace.batch import CACHE_ALLOC, CACHE_FREE, KMALLOC, Array, Batch, Names
from uslub.lab.trace.header import CacheInfo
from uslub.lab.trace.identity import LARGE

PREFIXES = ("kmalloc-", "kmalloc-cg-", "kmalloc-rcl-", "dma-kmalloc-")
NORMAL, ACCOUNT, RECLAIMABLE, DMA = range(4)


def kmalloc_types(flags: Array) -> Array:
    """Which kmalloc caches these flags choose: DMA, RECLAIMABLE, ACCOUNT first."""
    chosen = np.where(flags & kinds.FLAG_ACCOUNT != 0, ACCOUNT, NORMAL)
    chosen = np.where(flags & kinds.FLAG_RECLAIMABLE != 0, RECLAIMABLE, chosen)
    return np.where(flags & kinds.FLAG_DMA != 0, DMA, chosen)


def size_text(size: int) -> str:
    """2048 as the kernel writes it in a cache's name: 2k."""
    return f"{size // 1024}k" if size >= 1024 and size % 1024 == 0 else str(size)


class Caches:
    """The caches of one trace, by index, growing as they are seen."""

    def __init__(self, known: Iterable[CacheInfo] = ()) -> None:
        self.infos: list[CacheInfo] = []
        self._index: dict[str, int] = {}
        self._of_name = np.zeros(0, np.int32)  # event name number to index
        self._of_class: dict[tuple[int, int], int] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self.given = False
        for info in known:
            self.given = True
            self.add(info)

    def add(self, info: CacheInfo) -> int:
        """Take a cache in, under its name and its aliases."""
        index = len(self.infos)
        self.infos.append(info)
        self._index[info.name] = index
        for alias in info.aliases:
            self._index.setdefault(alias, index)
        return index

    def index(self, name: str) -> int:
        """Of a cache by name; a new one where it was not known."""
        found = self._index.get(name)
        return self.add(CacheInfo(name=name)) if found is None else found

    def of_rows(self, batch: Batch, names: Names) -> Array:
        """The cache each row names: an index, -1 where it names none, or LARGE."""
        cache = np.full(len(batch), -1, np.int32)
        self._grow(names)
        slab = (batch.event == CACHE_ALLOC) | (batch.event == CACHE_FREE)
        named = slab & (batch.name >= 0)
        cache[named] = self._of_name[batch.name[named]]
        self._learn_sizes(batch, named & (batch.event == CACHE_ALLOC), cache)
        kmalloc = np.flatnonzero(batch.event == KMALLOC)
        if len(kmalloc):
            cache[kmalloc] = self._of_kmalloc(batch, kmalloc)
        return cache

    def _grow(self, names: Names) -> None:
        new = [self.index(text) for text in names.texts[len(self._of_name) :]]
        self._of_name = np.concatenate([self._of_name, np.array(new, np.int32)])

    def _of_kmalloc(self, batch: Batch, rows: Array) -> Array:
        cache = np.full(len(rows), LARGE, np.int32)
        small = np.flatnonzero(batch.requested[rows] <= kinds.KMALLOC_CACHE_BYTES_MAX)
        rows = rows[small]
        key = batch.allocated[rows] * 4 + kmalloc_types(batch.flags[rows])
        different, inverse = np.unique(key, return_inverse=True)
        found = [self._kmalloc_class(int(k) // 4, int(k) % 4) for k in different]
        cache[small] = np.array(found, np.int32)[inverse]
        return cache

    # The cache of a size class; the plain one where this kernel has no such kind.
    def _kmalloc_class(self, size: int, kind: int) -> int:
        found = self._of_class.get((size, kind))
        if found is not None:
            return found
        named = PREFIXES[kind] + size_text(size)
        index = self._index.get(named)
        if self.given and (index is None or self.infos[index].size not in (None, size)):
            index = self._by_slot(PREFIXES[kind], size)
        if index is None and self.given and kind != NORMAL:
            index = self._kmalloc_class(size, NORMAL)
        if index is None:
            index = self.add(CacheInfo(name=named, object_size=size, size=size))
        self._of_class[size, kind] = index
        return index

    # With red zones the slot is larger than the name says: kmalloc-64 of 128 bytes.
    def _by_slot(self, prefix: str, size: int) -> int | None:
        for index, info in enumerate(self.infos):
            if info.size == size and info.name.startswith(prefix):
                rest = info.name.removeprefix(prefix)
                if rest.rstrip("k").isdigit():
                    return index
        return None

    # bytes_req of kmem_cache_alloc is the cache's object size, bytes_alloc its slot.
    def _learn_sizes(self, batch: Batch, rows: Array, cache: Array) -> None:
        fresh = np.unique(cache[rows], return_index=True)
        where = np.flatnonzero(rows)
        for index, first in zip(*fresh, strict=True):
            info = self.infos[int(index)]
            if info.size is None:
                row = where[first]
                self.infos[int(index)] = replace(
                    info,
                    object_size=int(batch.requested[row]),
                    size=int(batch.allocated[row]),
                )
