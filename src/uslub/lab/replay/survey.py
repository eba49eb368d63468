"""The first look at a trace: what was there before it, and what it cannot show.

One pass over the columns finds, without the model:

- *initial blocks*: slabs that existed before the first row, told by addresses: a page
  that holds objects although no page allocation of it was seen. Of the objects in
  them, one first freed was live, one first allocated was free, one never touched is
  unknown, unless its page was given back, which makes it free;
- *silent sites*: call sites whose objects are never freed by any event (kfree_rcu,
  bulk frees), so that only a later allocation at the same address shows the free;
- the node of each stretch of memory, by a vote of local allocations;
- tasks that spread their pages over the nodes (the kernel does while it boots);
- sizes of caches of which the header knows none.

Memory: proportional to the machine's memory that slabs ever used, not to the rows.
Relies on the columns of `uslub.lab.trace`; knows nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uslub.lab.trace import Kind, page_truth
from uslub.lab.trace.kinds import PAGE_SHIFT

Column = npt.NDArray[Any]

SECTION = 15  # pages per stretch of memory that has one node: 2**15, 128 MiB
SITE_ROWS_MAX = 4_000_000  # rows that call sites are judged by
SITE_ALLOCATIONS_MIN = 16  # fewer prove nothing
INTERLEAVED_MIN = 8  # pages from afar that make a memory policy likely
INTERLEAVED_SHARE = 5  # one in so many, at least
FREES = (Kind.FREE, Kind.FREE_UNKNOWN, Kind.IMPLIED_FREE)
NEVER = np.iinfo(np.int64).max


@dataclass(slots=True)
class Block:
    """A slab that was there before the first row."""

    cache: int
    page: int  #: number of its first page
    node: int
    live: dict[int, int] = field(default_factory=dict)  #: offset: object id of its free
    free: list[tuple[int, int, int]] = field(default_factory=list)
    """First allocated in the trace: row, CPU, offset."""
    first_alloc: int = NEVER  #: row of the first allocation from it
    cpu: int = 0  #: that allocated first
    returned: bool = False  #: its pages were given back later


@dataclass
class Survey:
    """What one pass over a trace has found."""

    rows: int = 0
    blocks: list[Block] = field(default_factory=list)
    silent_sites: Column = field(default_factory=lambda: np.zeros(0, bool))
    first_rows: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of each cache the row of its first allocation."""
    slot_sizes: dict[int, int] = field(
        default_factory=dict
    )  #: cache: largest slot seen
    interleaved: list[tuple[int, int, int]] = field(default_factory=list)
    """Tasks whose pages come from all nodes by turns: pid, first and last row."""
    section_nodes: Column = field(default_factory=lambda: np.zeros(1, np.int64))
    unknown_frees: int = 0  #: of objects that no initial block explains
    counts: dict[str, int] = field(default_factory=dict)


def survey(
    trace: Any,
    orders: list[int],
    *,
    start: int = 0,
    stop: int | None = None,
    seed: bool = True,
) -> Survey:
    """Look at the rows `start` to `stop` of a trace.

    Args:
        trace: From `open_trace`.
        orders: The slab order of each cache of the header.
        start: First row.
        stop: Row after the last one; None: the end.
        seed: Look for initial blocks (needs pointers and page events).

    Returns:
        What was found.
    """
    header = trace.header
    found = Survey()
    sites = Sites(len(header.sites))
    seeds = Seeds(trace, np.array([*orders, 0])) if seed else None
    sizes = np.zeros(len(header.caches) + 1, np.int64)
    kinds = np.zeros(len(Kind), np.int64)
    found.first_rows = np.full(len(header.caches) + 1, NEVER, np.int64)
    row = start
    for chunk in trace.chunks(start, stop):
        kind = np.asarray(chunk.kind)
        kinds += np.bincount(kind, minlength=len(Kind))
        allocs = kind == Kind.ALLOC
        np.maximum.at(sizes, chunk.cache[allocs], chunk.allocated[allocs])
        rows = np.flatnonzero(allocs) + row
        np.minimum.at(found.first_rows, chunk.cache[allocs], rows)
        if row - start < SITE_ROWS_MAX:
            sites.look(chunk, kind)
        if seeds is not None:
            seeds.look(chunk, kind, row)
        row += len(kind)
    found.rows = row - start
    found.counts = {each.name: int(kinds[each]) for each in Kind}
    found.silent_sites = sites.silent()
    found.slot_sizes = {at: int(size) for at, size in enumerate(sizes[:-1]) if size}
    if seeds is not None:
        found.blocks = seeds.finish()
        found.interleaved = seeds.interleaved()
        found.section_nodes = seeds.votes.argmax(axis=1)
    explained = sum(len(block.live) for block in found.blocks)
    found.unknown_frees = max(0, int(kinds[Kind.FREE_UNKNOWN]) - explained)
    return found


def can_seed(header: Any) -> bool:
    """Do addresses tell pages?"""
    return bool(header.pointers) and header.page_base is not None


def known_births(trace: Any) -> tuple[Column, Column]:
    """Rows of page allocations that became slabs, ascending, and the node of each.

    From the import's table of slabs; for traces whose addresses were left out.
    """
    if trace.table("slabs") is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    truth = page_truth(trace)
    order = np.argsort(truth.birth, kind="stable")
    order = order[truth.birth[order] >= 0]
    return truth.birth[order], truth.node[order].astype(np.int64)


class Sites:
    """Which call sites' objects are freed by events, and which only by implication."""

    def __init__(self, count: int) -> None:
        self.count = max(count, 1)
        self.allocated = np.zeros(self.count, np.int64)
        self.freed = np.zeros(self.count, np.int64)
        self.implied = np.zeros(self.count, np.int64)
        self.site_of = np.full(1 << 16, -1, np.int32)  # by object id

    def look(self, chunk: Any, kind: Column) -> None:
        """Count the rows of one chunk."""
        allocs = kind == Kind.ALLOC
        ids, site = chunk.object[allocs], chunk.site[allocs]
        if len(ids) and ids.max() >= len(self.site_of):
            grown = np.full(
                max(int(ids.max()) + 1, 2 * len(self.site_of)), -1, np.int32
            )
            grown[: len(self.site_of)] = self.site_of
            self.site_of = grown
        self.site_of[ids] = site
        self.allocated += self.counted(site)
        for which, into in (
            (Kind.FREE, self.freed),
            (Kind.IMPLIED_FREE, self.implied),
        ):
            ids = chunk.object[kind == which]
            into += self.counted(self.site_of[ids[ids < len(self.site_of)]])

    def counted(self, site: Column) -> Column:
        """How often each site occurs."""
        return np.bincount(site[site >= 0], minlength=self.count)[: self.count]

    def silent(self) -> Column:
        """Sites whose objects are hardly freed in sight, but some by implication."""
        enough = self.allocated >= SITE_ALLOCATIONS_MIN
        unseen = self.freed * 20 <= self.allocated
        return enough & unseen & (self.implied > 0)


class Seeds:
    """Finds the initial blocks and what they held."""

    def __init__(self, trace: Any, orders: Column) -> None:
        header = self.header = trace.header
        self.addresses_known = can_seed(header)
        self.birth_rows, self.birth_nodes = known_births(trace)
        self.orders = orders
        self.birth = np.full(1 << 16, NEVER, np.int64)  # row of a page's allocation
        self.death = np.full(1 << 16, NEVER, np.int64)  # row of its first free
        self.seen = np.zeros(1 << 16, bool)  # an object of this page was met
        self.initial = np.zeros(1 << 16, bool)
        self.votes = np.zeros((1, header.nodes), np.int64)
        self.addresses: set[int] = set()
        self.blocks: dict[tuple[int, int], Block] = {}
        self.cpu_node = np.array(header.cpu_node or (0,))
        self.page_allocs: list[Column] = []  # pid, page, CPU, row of page allocations

    def look(self, chunk: Any, kind: Column, row: int) -> None:
        """One chunk, whose first row has the number `row`."""
        self.look_at_pages(chunk, kind, row)
        if not self.addresses_known:
            return
        about = (kind <= Kind.IMPLIED_FREE) & (chunk.cache >= 0) & (chunk.pointer != 0)
        at = np.flatnonzero(about)
        if not len(at):
            return
        offset = chunk.pointer[at] - np.uint64(self.header.page_base)
        page = (offset >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        sane = page < 1 << 36
        at, page = at[sane], page[sane]
        self.reach(int(page.max(initial=0)) + 1)
        self.vote(chunk, kind, at, page)
        pages, first = np.unique(page, return_index=True)
        new = ~self.seen[pages]
        begun = pages[new]
        self.initial[begun] = self.birth[begun] > at[first[new]] + row
        self.seen[begun] = True
        hits = self.initial[page] & (at + row <= self.death[page])
        hits &= kind[at] != Kind.IMPLIED_FREE
        self.remember(chunk, kind, at[hits], row)

    def reach(self, pages: int) -> None:
        """Grow the arrays by page."""
        size = len(self.birth)
        if pages <= size:
            return
        more = max(pages, 2 * size) - size
        self.birth = np.concatenate([self.birth, np.full(more, NEVER, np.int64)])
        self.death = np.concatenate([self.death, np.full(more, NEVER, np.int64)])
        self.seen = np.concatenate([self.seen, np.zeros(more, bool)])
        self.initial = np.concatenate([self.initial, np.zeros(more, bool)])

    def look_at_pages(self, chunk: Any, kind: Column, row: int) -> None:
        """When each page was first allocated and first given back."""
        for which in (Kind.PAGE_ALLOC, Kind.PAGE_FREE):
            at = np.flatnonzero(kind == which)
            if not len(at):
                continue
            first = chunk.pointer[at].astype(np.int64)
            order = chunk.requested[at]
            self.reach(int((first + (1 << order.astype(np.int64))).max()))
            rows = self.birth if which == Kind.PAGE_ALLOC else self.death
            if which == Kind.PAGE_ALLOC and self.header.nodes > 1:
                self.count_pages(chunk, at, first, row)
            for each in np.unique(order):
                same = order == each
                for add in range(1 << int(each)):
                    np.minimum.at(rows, first[same] + add, at[same] + row)

    def vote(self, chunk: Any, kind: Column, at: Column, page: Column) -> None:
        """Memory is where the CPUs that allocate from it are."""
        local = (kind[at] == Kind.ALLOC) & (chunk.node[at] < 0)
        section = page[local] >> SECTION
        node = self.cpu_node[np.minimum(chunk.cpu[at[local]], len(self.cpu_node) - 1)]
        self.add_votes(section, node)

    def add_votes(self, section: Column, node: Column) -> None:
        """Count one vote per item."""
        if not len(section):
            return
        if section.max() >= len(self.votes):
            grown = np.zeros((int(section.max()) + 1, self.votes.shape[1]), np.int64)
            grown[: len(self.votes)] = self.votes
            self.votes = grown
        np.add.at(self.votes, (section, node), 1)

    def remember(self, chunk: Any, kind: Column, at: Column, row: int) -> None:
        """The first event of each address in an initial block."""
        pointers, first = np.unique(chunk.pointer[at], return_index=True)
        for pointer, index in zip(pointers.tolist(), at[first].tolist(), strict=True):
            if pointer in self.addresses:
                continue
            self.addresses.add(pointer)
            cache = int(chunk.cache[index])
            order = int(self.orders[cache])
            page = (pointer - self.header.page_base) >> PAGE_SHIFT >> order << order
            block = self.blocks.get((cache, page))
            if block is None:
                block = self.blocks[cache, page] = Block(cache, page, -1)
            offset = pointer - self.header.page_base - (page << PAGE_SHIFT)
            if kind[index] != Kind.ALLOC:
                block.live[offset] = int(chunk.object[index])
                continue
            block.free.append((index + row, int(chunk.cpu[index]), offset))
            if index + row < block.first_alloc:
                block.first_alloc = index + row
                block.cpu = int(chunk.cpu[index])

    def finish(self) -> list[Block]:
        """The blocks by page, each with its node and whether it was given back."""
        for block in self.blocks.values():
            section = block.page >> SECTION
            known = section < len(self.votes) and self.votes[section].any()
            block.node = int(self.votes[section].argmax()) if known else 0
            block.returned = bool(self.death[block.page] != NEVER)
        return sorted(self.blocks.values(), key=lambda block: (block.cache, block.page))

    def count_pages(self, chunk: Any, at: Column, page: Column, row: int) -> None:
        """By task and stretch of memory: pages from there, and the rows between."""
        if not self.addresses_known:
            place = np.searchsorted(self.birth_rows, at + row)
            place = np.minimum(place, max(len(self.birth_rows) - 1, 0))
            hits = np.zeros(len(at), bool)
            if len(self.birth_rows):
                hits = self.birth_rows[place] == at + row
            self.add_votes(page[hits] >> SECTION, self.birth_nodes[place[hits]])
        keys = np.stack([chunk.pid[at], page >> SECTION, chunk.cpu[at], at + row])
        self.page_allocs.append(summed(keys.astype(np.int64)))
        if len(self.page_allocs) >= 64:
            self.page_allocs = [joined(self.page_allocs)]

    def interleaved(self) -> list[tuple[int, int, int]]:
        """Tasks of which many pages come from another node than the CPU's."""
        if not self.page_allocs:
            return []
        pid, section, cpu, count, first, last = joined(self.page_allocs)
        home = self.cpu_node[np.minimum(cpu, len(self.cpu_node) - 1)]
        votes = self.votes[np.minimum(section, len(self.votes) - 1)]
        known = (section < len(self.votes)) & votes.any(axis=1)
        afar = known & (votes.argmax(axis=1) != home)
        found = []
        for task in np.unique(pid[afar]).tolist():
            mine = afar & (pid == task)
            pages, window = (
                int(count[mine].sum()),
                (int(first[mine].min()), int(last[mine].max())),
            )
            every = int(count[(pid == task) & known].sum())
            if pages >= INTERLEAVED_MIN and pages * INTERLEAVED_SHARE >= every:
                found.append((task, *window))
        return found


def summed(keys: Column) -> Column:
    """Rows (pid, section, CPU, row) as (pid, section, CPU, count, first, last row)."""
    ones = np.ones(keys.shape[1], np.int64)
    return joined([np.stack([*keys[:3], ones, keys[3], keys[3]])])


def joined(parts: list[Column]) -> Column:
    """The same task, stretch and CPU once: counts added, rows from first to last."""
    whole = np.concatenate(parts, axis=1)
    keys, inverse = np.unique(whole[:3], axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    count = np.bincount(inverse, weights=whole[3], minlength=keys.shape[1])
    first = np.full(keys.shape[1], NEVER, np.int64)
    last = np.full(keys.shape[1], -1, np.int64)
    np.minimum.at(first, inverse, whole[4])
    np.maximum.at(last, inverse, whole[5])
    return np.stack([*keys, count.astype(np.int64), first, last])
