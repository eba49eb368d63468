"""Allocations that no event names: `kmem_cache_alloc` before Linux 6.18.

Such a trace is read twice. The first time its allocations stay without a cache while
frees, which carry names since 5.12, tell whose object they free; the second time each
allocation gets the cache that, in this order, the free of that object or of another on
its page told, the call site mostly allocates from, or is the only one of that size.
What is left goes to a cache called `unnamed-SIZE` per size, as merging would have it,
and is counted.

Holds eight bytes for each object of the trace while it converts one of these.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uslub.lab.trace.batch import CACHE_ALLOC, Array, Batch, Origin
from uslub.lab.trace.header import CacheInfo
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.naming import Caches
from uslub.lab.trace.rows import COLUMNS, Rows
from uslub.lab.trace.store import Trace, Writer

#: A page's cache while it is only known to be that of an object: -10 - object.
BY_OBJECT = -10


class Unnamed:
    """Finds the caches of unnamed allocations."""

    def __init__(self, caches: Caches, origin: Origin) -> None:
        self.caches, self.origin = caches, origin
        self.of_object: Array = np.full(1 << 16, -1, np.int32)
        self._site_of: Array = np.full(1 << 16, -2, np.int32)  # -2: it has a name
        self.sites: dict[tuple[int, int], int] = {}  # (site, cache): how often
        self.rows = 0
        self._of_site: Array = np.zeros(0, np.int32)
        self._of_size: dict[int, int] = {}

    def learn(self, batch: Batch, kind: Array, objects: Array, cache: Array) -> None:
        """Take in one block: which allocations lack a name, and what frees tell."""
        lacks = (batch.event == CACHE_ALLOC) & (cache == -1)
        if not self.rows and not lacks.any():
            return
        self.rows += int(lacks.sum())
        self._grow(int(objects.max(initial=0)) + 1)
        tells = (kind == Kind.FREE) & (cache >= 0)
        born = objects[lacks]
        # The site of each unnamed object, so that frees can tell about sites too.
        self._site_of[born] = batch.site[lacks]
        told = objects[tells]
        waiting = self._site_of[told] > -2
        told, named = told[waiting], cache[tells][waiting]
        self.of_object[told] = named
        pair = self._site_of[told].astype(np.int64) << 32 | named
        for value, count in zip(*np.unique(pair, return_counts=True), strict=True):
            key = (int(value) >> 32, int(value) & 0xFFFFFFFF)
            self.sites[key] = self.sites.get(key, 0) + int(count)

    def learn_pages(self, by_object: Array, cache: Array) -> None:
        """Take in what pages tell: all objects of one slab are of one cache.

        Args:
            by_object: `BY_OBJECT - object` of each.
            cache: That of the page it lies on.
        """
        objects = BY_OBJECT - by_object
        unknown = self.of_object[objects] < 0
        self.of_object[objects[unknown]] = cache[unknown]

    def _grow(self, size: int) -> None:
        while size > len(self.of_object):
            self.of_object = np.concatenate(
                [self.of_object, np.full(len(self.of_object), -1, np.int32)]
            )
            self._site_of = np.concatenate(
                [self._site_of, np.full(len(self._site_of), -2, np.int32)]
            )

    def rewrite(self, first: Path, writer: Writer) -> None:
        """Copy the file of the first reading, with caches where they were missing."""
        self._decide()
        with Trace(first) as trace:
            for chunk in trace.chunks():
                columns = {name: getattr(chunk, name).copy() for name in COLUMNS}
                self._fill(columns)
                writer.add(Rows(columns))

    # What each call site mostly allocates from; sizes that only one cache has.
    def _decide(self) -> None:
        best: dict[int, tuple[int, int]] = {}
        for (site, cache), count in self.sites.items():
            best[site] = max(best.get(site, (0, -1)), (count, cache))
        self._of_site = np.full(max(best, default=0) + 2, -1, np.int32)
        for site, (_, cache) in best.items():
            if site >= 0:
                self._of_site[site] = cache
        for index, info in enumerate(self.caches.infos):
            if info.size and info.object_size and "kmalloc" not in info.name:
                key = info.object_size << 32 | info.size
                self._of_size[key] = -1 if key in self._of_size else index

    def _fill(self, columns: dict[str, Array]) -> None:
        kind, cache, objects = columns["kind"], columns["cache"], columns["object"]
        mine = (kind <= Kind.IMPLIED_FREE) & (cache < 0) & (kind != Kind.FREE_UNKNOWN)
        born = np.flatnonzero(mine & (kind == Kind.ALLOC))
        found = self.of_object[objects[born]]
        self.origin.note(
            "unnamed allocations: by their free or their page", int((found >= 0).sum())
        )
        site = columns["site"][born]
        inside = (site >= 0) & (site < len(self._of_site)) & (found < 0)
        found[inside] = self._of_site[site[inside]]
        by_site = int((inside & (found >= 0)).sum())
        self.origin.note("unnamed allocations: by call site", by_site)
        rest = np.flatnonzero(found < 0)
        if len(rest):
            rows = born[rest]
            key = (
                columns["requested"][rows].astype(np.int64) << 32
                | columns["allocated"][rows]
            )
            different, inverse = np.unique(key, return_inverse=True)
            sized = np.array([self._by_size(int(each)) for each in different], np.int32)
            found[rest] = sized[inverse]
        cache[born] = found
        self.of_object[objects[born]] = found
        ended = np.flatnonzero(mine & (kind != Kind.ALLOC))
        cache[ended] = self.of_object[objects[ended]]

    def _by_size(self, key: int) -> int:
        index = self._of_size.get(key, -1)
        if index >= 0:
            self.origin.note("sizes resolved to the only cache that has them")
            return index
        requested, allocated = key >> 32, key & 0xFFFFFFFF
        name = f"unnamed-{allocated}"
        self.origin.note("sizes without a name")
        known = [each.name for each in self.caches.infos]
        if name in known:
            index = known.index(name)
        else:
            index = self.caches.add(
                CacheInfo(name=name, object_size=requested, size=allocated)
            )
        self._of_size[key] = index
        return index

    def of_pages(self, cache: Array) -> Array:
        """Caches of slabs, where they are known by an object only."""
        by_object = cache <= BY_OBJECT
        if not by_object.any():
            return cache
        found = cache.copy()
        found[by_object] = self.of_object[BY_OBJECT - cache[by_object]]
        return found
