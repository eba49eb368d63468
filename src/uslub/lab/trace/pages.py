"""Page truth: which slabs a cache had, from the page events and object addresses.

A page that was allocated and then held objects of a cache was a slab of that cache from
its allocation until it was freed. Nothing of an allocator's rules goes into this, so it
witnesses a replay, and the kernel's counters, independently.

Works on blocks; carries the live pages. Needs the address of page frame 0, which is a
constant of the boot (`find_base`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uslub.lab.trace.batch import (
    CACHE_ALLOC,
    CACHE_FREE,
    KMALLOC,
    PAGE_ALLOC,
    PAGE_FREE,
    Array,
    Batch,
)
from uslub.lab.trace.identity import LARGE
from uslub.lab.trace.kinds import PAGE_BYTES, PAGE_SHIFT
from uslub.lab.trace.live import Live

#: Slabs are not larger: slab_max_order is 3, more only with debugging of large objects.
ORDER_MAX = 5
#: The direct map starts at a multiple of this, with and without KASLR (x86-64).
BASE_STEP = 1 << 30
ROW_BITS = 22
#: log2 of the page frames that surely lie on one node: 128 MiB.
SECTION_BITS = 15


@dataclass
class Slabs:
    """Every slab that was seen, one array per column."""

    cache: Array
    pfn: Array
    order: Array
    birth: Array  # row of its page allocation; -1: before tracing
    death: Array  # row of its page free; -1: not before the end


class Pages:
    """Collects the slabs of one trace."""

    def __init__(self, base: int | None) -> None:
        self.base = base
        self.live = Live(order=np.int8, cache=np.int32, birth=np.int64)
        self.finished: list[Slabs] = []
        self.conflicts = 0
        #: Objects known by number only, and the cache of the page they lie on.
        self.told: tuple[Array, Array] = (np.zeros(0, np.int32), np.zeros(0, np.int32))
        self._learned: Array = np.zeros(0, np.int64)
        self.cpu_votes: dict[tuple[int, int], int] = {}  # (section, CPU that took it)
        self.node_votes: dict[tuple[int, int], int] = {}  # (section, node asked for)

    def freed(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Rows that free pages, and the addresses each frees: start, stop."""
        if self.base is None:
            nothing = np.zeros(0, np.uint64)
            return np.zeros(0, np.int64), nothing, nothing
        rows = np.flatnonzero(
            (batch.event == PAGE_FREE) & (batch.requested <= ORDER_MAX)
        )
        start = (batch.pointer[rows] << np.uint64(PAGE_SHIFT)) + np.uint64(self.base)
        size = np.uint64(PAGE_BYTES) << batch.requested[rows].astype(np.uint64)
        return rows, start, start + size

    def block(
        self,
        batch: Batch,
        alloc: Array,
        cache: Array,
        rows: Array,
        cache_orders: Array,
    ) -> None:
        """Take in one block.

        Args:
            batch: Raw rows.
            alloc: Which of them allocate an object, as bools.
            cache: Of each row; negative where unknown.
            rows: The row of the trace that each becomes.
            cache_orders: Page order of each cache's slabs, -1 where nobody said.
        """
        if self.base is None:
            return
        events = np.flatnonzero(
            ((batch.event == PAGE_ALLOC) | (batch.event == PAGE_FREE))
            & (batch.requested <= ORDER_MAX)
        )
        born = batch.event[events] == PAGE_ALLOC
        self._vote_nodes(batch, events[born], alloc)
        spans = self._spans(batch, events, born)
        under = self._objects(batch, alloc, cache, spans)
        spans = self._older(batch, events, cache, cache_orders, spans, under)
        self._finish(spans, rows)

    # Every life of a page that overlaps this block: head, order, first and last row.
    def _spans(self, batch: Batch, events: Array, born: Array) -> dict[str, Array]:
        pfn = batch.pointer[events]
        by_pfn = np.argsort(pfn, kind="stable")
        pfn, born, at = pfn[by_pfn], born[by_pfn], events[by_pfn]
        first = np.ones(len(pfn), bool)
        first[1:] = pfn[1:] != pfn[:-1]
        until = np.full(
            len(pfn), -1, np.int64
        )  # the next event of the page ends a life
        until[:-1] = np.where(first[1:], -1, at[1:])
        place, carried = self.live.find(pfn)
        ends = carried & first  # a carried page ends at its first event here
        dies = np.full(len(self.live), -1, np.int64)
        dies[place[ends]] = at[ends]
        order = batch.requested[at].astype(np.int8)
        held = self.live.columns
        return {
            "pfn": np.concatenate([self.live.keys, pfn[born]]),
            "order": np.concatenate([held["order"], order[born]]),
            "cache": np.concatenate([held["cache"], np.full(born.sum(), -1, np.int32)]),
            "birth": np.concatenate([held["birth"], np.full(born.sum(), -1, np.int64)]),
            "from": np.concatenate([np.full(len(self.live), -1, np.int64), at[born]]),
            "until": np.concatenate([dies, until[born]]),
        }

    # Give each object to the page that was alive under it; the first one allocated
    # there names it. Returns the rows that no page is known for.
    def _objects(
        self, batch: Batch, alloc: Array, cache: Array, spans: dict[str, Array]
    ) -> Array:
        rows = np.flatnonzero(
            (batch.event <= CACHE_FREE) & (cache != -1) & (cache != LARGE)
        )
        frame = self._frames(batch, rows)
        found = np.full(len(rows), -1, np.int64)
        for order in np.unique(spans["order"]):
            of_order = np.flatnonzero(spans["order"] == order)
            key = _key(spans["pfn"][of_order], spans["from"][of_order])
            sort = np.argsort(key)
            of_order, key = of_order[sort], key[sort]
            head = frame & ~np.uint64((1 << int(order)) - 1)
            place = np.searchsorted(key, _key(head, rows), "right") - 1
            span = of_order[np.maximum(place, 0)]
            until = spans["until"][span]
            inside = (place >= 0) & (spans["pfn"][span] == head)
            inside &= (until < 0) | (rows < until)
            found[inside] = span[inside]
        nowhere = rows[(found < 0) & (cache[rows] >= 0)]
        held = (found >= 0) & (alloc[rows] | (cache[rows] >= 0))
        rows, found = rows[held], found[held]
        named = cache[rows]
        # First by objects whose own cache is still unknown, then by names, which count.
        for known in (named < 0, named >= 0):
            fresh, one = np.unique(found[known], return_index=True)
            unnamed = spans["cache"][fresh] < 0
            spans["cache"][fresh[unnamed]] = named[known][one[unnamed]]
        of_page = spans["cache"][found]
        self.conflicts += int(((of_page != named) & (named >= 0)).sum())
        by_object = (named < -2) & (of_page >= 0)
        self.told = named[by_object], of_page[by_object]
        return nowhere

    def _frames(self, batch: Batch, rows: Array) -> Array:
        return (batch.pointer[rows] - np.uint64(self.base or 0)) >> np.uint64(
            PAGE_SHIFT
        )

    # Objects on pages whose allocation was not seen stand on slabs that are older than
    # the trace; such a slab starts at a multiple of its size.
    def _older(
        self,
        batch: Batch,
        events: Array,
        cache: Array,
        cache_orders: Array,
        spans: dict[str, Array],
        rows: Array,
    ) -> dict[str, Array]:
        order = self._orders(cache_orders, spans)[cache[rows]]
        rows, order = rows[order >= 0], order[order >= 0]
        size = np.uint64(1) << order.astype(np.uint64)
        head = self._frames(batch, rows) & ~(size - np.uint64(1))
        head, one = np.unique(head, return_index=True)
        rows, order = rows[one], order[one]
        by_page = events[np.argsort(batch.pointer[events], kind="stable")]
        key = _key(batch.pointer[by_page], by_page)
        place = np.searchsorted(key, _key(head, rows), "right")
        until = np.full(len(rows), -1, np.int64)
        if len(key):
            ends = by_page[np.minimum(place, len(key) - 1)]
            until = np.where(
                (place < len(key)) & (batch.pointer[ends] == head), ends, -1
            )
        minus = np.full(len(rows), -1, np.int64)
        older = {
            "pfn": head,
            "order": order.astype(np.int8),
            "cache": cache[rows].astype(np.int32),
            "birth": minus,
            "from": minus,
            "until": until,
        }
        return {name: np.concatenate([spans[name], older[name]]) for name in spans}

    # Page order of each cache: as the kernel said, or as its slabs in the trace show.
    def _orders(self, told: Array, spans: dict[str, Array]) -> Array:
        if len(self._learned) < len(told):
            more = np.full(len(told) - len(self._learned), -1, np.int64)
            self._learned = np.concatenate([self._learned, more])
        named = (spans["cache"] >= 0) & (spans["birth"] >= 0) | (spans["from"] >= 0)
        named &= spans["cache"] >= 0
        self._learned[spans["cache"][named]] = spans["order"][named]
        return np.where(told >= 0, told, self._learned[: len(told)])

    # Lives that ended become slabs if they held objects; the others are carried.
    def _finish(self, spans: dict[str, Array], rows: Array) -> None:
        fresh = spans["from"] >= 0
        spans["birth"][fresh] = rows[spans["from"][fresh]]
        ended = spans["until"] >= 0
        slab = ended & (spans["cache"] != -1)
        self.finished.append(
            Slabs(
                cache=spans["cache"][slab],
                pfn=spans["pfn"][slab],
                order=spans["order"][slab],
                birth=spans["birth"][slab],
                death=rows[spans["until"][slab]],
            )
        )
        stays = np.flatnonzero(~ended)
        stays = stays[np.argsort(spans["pfn"][stays], kind="stable")]
        self.live.keys = spans["pfn"][stays]
        for name in self.live.columns:
            self.live.columns[name] = spans[name][stays]

    # Whose memory is a section of 128 MiB? Objects that were asked for on a node say so
    # best; else memory is mostly taken from the node of the CPU that asks.
    def _vote_nodes(self, batch: Batch, pages: Array, alloc: Array) -> None:
        asked = np.flatnonzero(alloc & (batch.node >= 0))
        frame = self._frames(batch, asked)
        for votes, frames, voters in (
            (self.cpu_votes, batch.pointer[pages], batch.cpu[pages]),
            (self.node_votes, frame, batch.node[asked]),
        ):
            key = (frames >> np.uint64(SECTION_BITS)).astype(np.int64) * 4096 + voters
            for value, count in zip(*np.unique(key, return_counts=True), strict=True):
                pair = (int(value) // 4096, int(value) % 4096)
                votes[pair] = votes.get(pair, 0) + int(count)

    def slabs(self) -> Slabs:
        """All slabs: those that ended, then those alive at the end."""
        alive = self.live.columns["cache"] != -1
        still = Slabs(
            cache=self.live.columns["cache"][alive],
            pfn=self.live.keys[alive],
            order=self.live.columns["order"][alive],
            birth=self.live.columns["birth"][alive],
            death=np.full(int(alive.sum()), -1, np.int64),
        )
        every = [*self.finished, still]
        columns = {
            name: np.concatenate([getattr(each, name) for each in every])
            for name in ("cache", "pfn", "order", "birth", "death")
        }
        return Slabs(**columns)

    def nodes(self, slabs: Slabs, cpu_node: tuple[int, ...]) -> Array:
        """The node of each slab, by the votes of its section."""
        by_cpu: dict[tuple[int, int], int] = {}
        for (section, cpu), count in self.cpu_votes.items():
            pair = (section, cpu_node[cpu] if cpu < len(cpu_node) else 0)
            by_cpu[pair] = by_cpu.get(pair, 0) + count
        best = _winners(by_cpu) | _winners(self.node_votes)
        sections = (slabs.pfn >> np.uint64(SECTION_BITS)).astype(np.int64)
        return np.array([best.get(int(s), 0) for s in sections], np.int16)


def _winners(votes: dict[tuple[int, int], int]) -> dict[int, int]:
    best: dict[int, tuple[int, int]] = {}
    for (section, node), count in votes.items():
        best[section] = max(best.get(section, (0, 0)), (count, node))
    return {section: node for section, (_, node) in best.items()}


def _key(pfn: Array, row: Array) -> Array:
    return (pfn << np.uint64(ROW_BITS)) | (row + 1).astype(np.uint64)


#: A new slab's first object follows the page allocation of the same task this soon.
ROWS_APART = 8
VOTES_MIN = 8


def find_base(batch: Batch) -> int | None:
    """The address of page frame 0, a multiple of 1 GiB; None where too few rows tell.

    When an allocation needs a new slab, its page event comes just before its own event.
    Each such pair votes for the base that puts the object on that page.
    """
    step = BASE_STEP >> PAGE_SHIFT
    page = (batch.event == PAGE_ALLOC) & (batch.requested <= ORDER_MAX)
    born = (batch.event == KMALLOC) | (batch.event == CACHE_ALLOC)
    votes: dict[int, int] = {}
    for apart in range(1, min(ROWS_APART, len(batch))):
        rows = np.flatnonzero(
            page[:-apart]
            & born[apart:]
            & (batch.pid[:-apart] == batch.pid[apart:])
            & (batch.cpu[:-apart] == batch.cpu[apart:])
        )
        order = batch.requested[rows]
        frame = (batch.pointer[rows + apart] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        base = (frame >> order << order) - batch.pointer[rows].astype(np.int64)
        base = base[(base > 0) & (base % step == 0)]
        for value, count in zip(*np.unique(base, return_counts=True), strict=True):
            votes[int(value)] = votes.get(int(value), 0) + int(count)
    if not votes:
        return None
    found = max(votes, key=lambda value: votes[value])
    return found << PAGE_SHIFT if votes[found] >= VOTES_MIN else None
