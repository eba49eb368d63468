"""Raw rows to the rows of a trace: names, identities, implied frees, checkpoints.

    importer -> Batch (raw) -> Assembler.block() -> Rows -> store

The assembler carries what is alive and nothing else from block to block, so memory does
not grow with the length of a trace. What it cannot show in a row it counts; the counts
go into `header.notes`.
Design: docs/design/06-lab.md, "Trace".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from uslub.lab.trace import kinds
from uslub.lab.trace.batch import (
    CACHE_ALLOC,
    CACHE_FREE,
    KFREE,
    KMALLOC,
    MARK,
    PAGE_ALLOC,
    PAGE_FREE,
    Array,
    Batch,
    Names,
    Origin,
)
from uslub.lab.trace.counters import snap_fields, truth
from uslub.lab.trace.errors import ClockError
from uslub.lab.trace.header import CacheInfo, CacheTruth, Checkpoint
from uslub.lab.trace.identity import LARGE, Identified, Identity
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.naming import Caches
from uslub.lab.trace.pages import Pages
from uslub.lab.trace.rows import COLUMNS, Rows
from uslub.lab.trace.unnamed import BY_OBJECT, Unnamed
from uslub.lab.trace.vocabulary import is_own

#: The largest step back in time that rounding and clocks between CPUs explain.
BACKWARDS_NS_MAX = 1_000_000


class Assembler:
    """Makes the rows of one trace; blocks must come in the order of time."""

    def __init__(
        self,
        names: Names,
        sites: Names,
        origin: Origin,
        *,
        caches: Iterable[CacheInfo] = (),
        nodes: int = 1,
        page_base: int | None = None,
    ) -> None:
        self.names, self.sites, self.origin = names, sites, origin
        self.caches = Caches(caches)
        self.unnamed = Unnamed(self.caches, origin)
        self.identity = Identity(origin)
        self.pages = Pages(page_base)
        self.nodes = nodes
        self.rows = 0
        self.start_ns = 0
        self.last_ns: int | None = None
        self.counts = np.zeros(len(Kind), np.int64)
        self.checkpoints: list[Checkpoint] = []
        self._own = np.zeros(0, bool)

    def block(self, batch: Batch) -> Rows:
        """The rows of a block of raw rows.

        Raises:
            ClockError: Time goes back further than clocks differ.
        """
        batch = self._in_time(self._real(batch))
        cache = self.caches.of_rows(batch, self.names)
        alloc = (batch.event == KMALLOC) | (batch.event == CACHE_ALLOC)
        free = (batch.event == KFREE) | (batch.event == CACHE_FREE)
        page_rows, start, stop = self.pages.freed(batch)
        found = self.identity.block(batch, alloc, free, cache, page_rows, start, stop)
        kind = self._kinds(batch, alloc, free, cache, found)
        self.unnamed.learn(batch, kind, found.object, found.cache)
        self._mark_flags(batch)
        inserted = self._implied_order(found)
        position = np.arange(len(batch)) + np.searchsorted(
            found.implied_before[inserted], np.arange(len(batch)), "right"
        )
        self._checkpoints(batch, position)
        orders = [-1 if i.order is None else i.order for i in self.caches.infos]
        of_page = np.where(
            alloc & (found.cache == -1), BY_OBJECT - found.object, found.cache
        )
        self.pages.block(
            batch, alloc, of_page, self.rows + position, np.array(orders, np.int64)
        )
        self.unnamed.learn_pages(*self.pages.told)
        rows = self._rows(batch, kind, found, inserted, position)
        self.rows += len(rows)
        self.counts += np.bincount(rows.columns["kind"], minlength=len(Kind))
        return rows

    # Drop what is no event of an object: NULL, and failed or empty allocations.
    def _real(self, batch: Batch) -> Batch:
        about = batch.event <= CACHE_FREE
        null = about & (batch.pointer <= kinds.POINTER_ZERO_SIZE)
        if not null.any():
            return batch
        freed = (batch.event == KFREE) | (batch.event == CACHE_FREE)
        self.origin.note("frees of NULL", int((null & freed).sum()))
        self.origin.note("allocations that failed", int((null & ~freed).sum()))
        return batch.take(np.flatnonzero(~null))

    # Time may step back a little between CPUs; the rows are put in order, stably.
    def _in_time(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        if self.last_ns is None:
            self.last_ns = self.start_ns = int(batch.time.min())
        step = np.diff(batch.time, prepend=self.last_ns)
        back = step < 0
        if back.any():
            worst = int(-step.min())
            if worst > BACKWARDS_NS_MAX:
                raise ClockError(
                    f"time goes back by {worst / 1e6:.3f} ms at row"
                    f" {self.rows + int(step.argmin())}; expected one clock for all"
                    " CPUs: record with trace_clock mono or global"
                )
            self.origin.note("rows out of order in time", int(back.sum()))
            batch = batch.take(np.argsort(batch.time, kind="stable"))
            np.maximum(batch.time, self.last_ns, out=batch.time)
        self.last_ns = int(batch.time[-1])
        return batch

    def _kinds(
        self, batch: Batch, alloc: Array, free: Array, cache: Array, found: Identified
    ) -> Array:
        kind = np.zeros(len(batch), np.uint8)
        kind[free] = Kind.FREE_UNKNOWN
        kind[found.known] = Kind.FREE
        large = found.cache == LARGE
        kind[large & alloc] = Kind.LARGE_ALLOC
        kind[large & free] = Kind.LARGE_FREE
        kind[batch.event == PAGE_ALLOC] = Kind.PAGE_ALLOC
        kind[batch.event == PAGE_FREE] = Kind.PAGE_FREE
        kind[batch.event == MARK] = Kind.CHECKPOINT
        return kind

    # kmalloc events print `accounted` from the gfp bit; only text has it as a field.
    def _mark_flags(self, batch: Batch) -> None:
        charged = (batch.event == KMALLOC) & (batch.flags & kinds.FLAG_ACCOUNT != 0)
        batch.flags[charged] |= kinds.FLAG_ACCOUNTED
        new = [is_own(text) for text in self.sites.texts[len(self._own) :]]
        self._own = np.concatenate([self._own, np.array(new, bool)])
        if len(self._own):
            own = self._own[batch.site] & (batch.site >= 0)
            batch.flags[own] |= kinds.FLAG_OWN
            self.origin.note("objects of the allocator and the tracer", int(own.sum()))
        if self.origin.recorder:
            mine = batch.pid == self.origin.recorder
            self.origin.note("events of the recorder itself", int(mine.sum()))

    # Implied frees in the order of the rows they stand before.
    def _implied_order(self, found: Identified) -> Array:
        self.origin.note(
            "implied frees: address handed out again",
            int((~found.implied_by_page).sum()),
        )
        self.origin.note(
            "implied frees: page given back", int(found.implied_by_page.sum())
        )
        return np.argsort(found.implied_before, kind="stable")

    # Marks that are checkpoints; position: the row each raw row becomes.
    def _checkpoints(self, batch: Batch, position: Array) -> None:
        for at, text in sorted(batch.marks.items()):
            row, time = self.rows + int(position[at]), int(batch.time[at])
            batch.pointer[at] = 0
            batch.requested[at] = batch.allocated[at] = 0
            batch.name[at] = batch.site[at] = -1
            if match := re.match(r"SNAPBEGIN (\S+)", text):
                self.checkpoints.append(Checkpoint(match[1], time, row, {}))
                continue
            snap = snap_fields(text)
            if snap is None or not self.checkpoints:
                if not text.startswith("SNAPEND"):
                    self.origin.note("marks that are no checkpoints")
                continue
            cache = self.caches.index(snap[0])
            of_cache: dict[int, CacheTruth] = self.checkpoints[-1].caches
            of_cache[cache] = truth(snap[1], self.nodes, time=time, row=row)
            batch.name[at] = cache

    def _rows(
        self,
        batch: Batch,
        kind: Array,
        found: Identified,
        inserted: Array,
        position: Array,
    ) -> Rows:
        total = len(batch) + len(inserted)
        at = found.implied_before[inserted]
        where = at + np.arange(len(inserted))
        columns = {name: np.zeros(total, each) for name, each in COLUMNS.items()}
        mark = batch.event == MARK
        cache = np.where(mark, batch.name, np.maximum(found.cache, -1))
        objects = np.where(mark, len(self.checkpoints) - 1, found.object)
        for row in batch.marks:  # more than one checkpoint may begin in a block
            objects[row] = self._checkpoint_at(self.rows + int(position[row]))
        plain = {
            "time": batch.time,
            "kind": kind,
            "cpu": batch.cpu,
            "cache": cache,
            "object": objects,
            "pointer": batch.pointer,
            "requested": np.minimum(batch.requested, 2**31 - 1),
            "allocated": np.minimum(batch.allocated, 2**31 - 1),
            "node": batch.node,
            "site": batch.site,
            "pid": batch.pid,
            "flags": batch.flags,
        }
        implied_kind = np.where(
            found.implied_cache[inserted] == LARGE, Kind.LARGE_FREE, Kind.IMPLIED_FREE
        )
        implied = {
            "time": batch.time[at],
            "kind": implied_kind,
            "cpu": batch.cpu[at],
            "cache": np.maximum(found.implied_cache[inserted], -1),
            "object": found.implied_object[inserted],
            "pointer": found.implied_pointer[inserted],
            "node": -1,
            "site": -1,
            "pid": batch.pid[at],
        }
        for name, column in columns.items():
            column[position] = plain[name]
            column[where] = implied.get(name, 0)
        return Rows(columns)

    def _checkpoint_at(self, row: int) -> int:
        index = len(self.checkpoints) - 1
        while index >= 0 and self.checkpoints[index].row > row:
            index -= 1
        return index
