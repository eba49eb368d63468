"""Rows of a trace as the model takes them: lists, in order, with what counts.

A `Feed` goes over the chunks of a trace and prepares each: it keeps allocations and
frees, maps CPUs and nodes, leaves out the allocator's own objects where the parameters
differ from the traced ones (the model then makes them itself, see `own`), and puts the
frees that no event shows where they belong. Everything here is by column; the loop
over events is in `run`.

Frees that no event shows: at the next allocation of the same address (`reuse`), or some
seconds after the allocation, whichever comes first, for objects of silent call sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uslub.lab.replay.settings import BadSetting
from uslub.lab.replay.survey import SECTION, Survey
from uslub.lab.replay.topology import Topology
from uslub.lab.trace import Kind
from uslub.lab.trace.kinds import FLAG_ACCOUNTED, FLAG_OWN

Column = npt.NDArray[Any]

ALLOC, FREE = 0, 1
RCU_DELAYS = ("0", "5s", "reuse")


def parse_delay(text: str) -> int | None:
    """Nanoseconds of a delay such as `0`, `5s` or `20ms`; None for `reuse`.

    Raises:
        BadSetting: None of these.
    """
    if text == "reuse":
        return None
    for unit, scale in (("ms", 1e6), ("us", 1e3), ("s", 1e9), ("", 1e9)):
        number = text.removesuffix(unit) if unit else text
        if number.replace(".", "", 1).isdigit() and text.endswith(unit):
            return int(float(number) * scale)
    raise BadSetting(f"rcu delay {text!r}: give seconds as in 0, 5s, 20ms, or reuse")


@dataclass
class Prepared:
    """A chunk, ready for the model. `rows` are trace rows, one per list item."""

    start: int  #: trace row of the chunk's beginning
    end: int
    time: Column  #: of every row of the chunk
    rows: Column
    is_alloc: Column  #: of each item, as are the lists
    of_cache: Column
    kind: list[int]
    cpu: list[int]
    cache: list[int]
    object: list[int]
    node: list[int]
    size: list[int]  #: bytes asked for; only where the design needs them
    large: list[tuple[int, bool, int, int]]  #: row, allocated?, object, bytes


@dataclass
class Shares:
    """What the feed has met, for the result's header."""

    allocs: int = 0
    frees: int = 0
    implied: int = 0
    unknown: int = 0
    delayed: int = 0
    own: int = 0
    no_cache: int = 0
    node_hints: int = 0
    interleaved: int = 0
    large: int = 0
    requested: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    allocated: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    allocations: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    implied_by_cache: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    silent_by_cache: Column = field(default_factory=lambda: np.zeros(0, np.int64))
    accounted: Column = field(default_factory=lambda: np.zeros(0, bool))


class Feed:
    """Prepares the chunks of one trace for one replay."""

    def __init__(
        self,
        trace: Any,
        topology: Topology,
        survey: Survey,
        *,
        delay_ns: int | None,
        drop_own: bool,
        sizes: bool,
    ) -> None:
        self.trace = trace
        self.topology = topology
        self.delay_ns = delay_ns
        self.drop_own = drop_own
        self.sizes = sizes
        self.interleaved = survey.interleaved
        self.section_nodes = survey.section_nodes
        self.last_node: dict[int, int] = {}  # of the last page of each such task
        self.silent = np.append(survey.silent_sites, False)  # site -1: not silent
        self.caches = len(trace.header.caches)
        self.shares = Shares(
            requested=np.zeros(self.caches + 1, np.int64),
            allocated=np.zeros(self.caches + 1, np.int64),
            allocations=np.zeros(self.caches + 1, np.int64),
            implied_by_cache=np.zeros(self.caches + 1, np.int64),
            silent_by_cache=np.zeros(self.caches + 1, np.int64),
            accounted=np.zeros(self.caches + 1, bool),
        )
        # Delayed frees that are still to come: due, object, cache, CPU.
        self.pending = np.zeros((4, 0), np.int64)

    def prepared(self, start: int, stop: int | None) -> Iterator[Prepared]:
        """Every chunk of the rows `start` to `stop`."""
        row = start
        for chunk in self.trace.chunks(start, stop):
            yield self.prepare(chunk, row)
            row += len(chunk.kind)

    def prepare(self, chunk: Any, row: int) -> Prepared:
        """One chunk whose first row has the number `row`."""
        kind = np.asarray(chunk.kind)
        keep = (kind <= Kind.IMPLIED_FREE) & (chunk.cache >= 0)
        nameless = (kind <= Kind.IMPLIED_FREE) & (chunk.cache < 0)
        self.shares.no_cache += int(np.count_nonzero(nameless & (kind == Kind.ALLOC)))
        if self.drop_own:
            own = (chunk.flags & FLAG_OWN) != 0
            self.shares.own += int(np.count_nonzero(keep & own & (kind == Kind.ALLOC)))
            keep &= ~own
        at = np.flatnonzero(keep)
        cpu = self.topology.map_cpus(np.asarray(chunk.cpu), np.asarray(chunk.pid))[at]
        node = self.topology.map_nodes(np.asarray(chunk.node))[at]
        kinds = (kind[at] != Kind.ALLOC).astype(np.int64)
        cache, objects = np.asarray(chunk.cache)[at], np.asarray(chunk.object)[at]
        size = np.asarray(chunk.requested)[at]
        self.count(chunk, kind, at, kinds)
        rows = at + row
        policy = self.by_policy(chunk, kind, at, row)
        policy[(kinds != ALLOC) | (node >= 0)] = 0
        # An index beyond the caches stands for the same cache under that policy.
        cache = cache + self.caches * policy
        if self.delay_ns is not None:
            silent = (kinds == ALLOC) & self.silent[np.asarray(chunk.site)[at]]
            time = np.asarray(chunk.time)[at]
            which = cache[silent] % self.caches
            self.shares.silent_by_cache += np.bincount(which, minlength=self.caches + 1)
            begun = time[silent] + self.delay_ns
            new = np.stack([begun, objects[silent], which, cpu[silent]]).astype(
                np.int64
            )
            place, due = self.take_due(time, new)
            if len(place):
                kinds = np.insert(kinds, place, FREE)
                cpu = np.insert(cpu, place, due[3])
                cache = np.insert(cache, place, due[2])
                objects = np.insert(objects, place, due[1])
                node = np.insert(node, place, -1)
                size = np.insert(size, place, 0)
                last = rows[-1] if len(rows) else row
                rows = np.insert(rows, place, np.append(rows, last + 1)[place])
        return Prepared(
            start=row,
            end=row + len(kind),
            time=np.asarray(chunk.time),
            rows=rows,
            is_alloc=kinds == ALLOC,
            of_cache=cache % self.caches,
            kind=kinds.tolist(),
            cpu=cpu.tolist(),
            cache=cache.tolist(),
            object=objects.tolist(),
            node=node.tolist(),
            size=size.tolist() if self.sizes else [],
            large=self.large(chunk, kind, row),
        )

    def count(self, chunk: Any, kind: Column, at: Column, kinds: Column) -> None:
        """Shares and sums of the kept rows."""
        shares, width = self.shares, self.caches + 1
        allocs = at[kinds == ALLOC]
        cache = np.asarray(chunk.cache)[allocs]
        shares.allocs += len(allocs)
        shares.frees += len(at) - len(allocs)
        shares.implied += int(np.count_nonzero(kind[at] == Kind.IMPLIED_FREE))
        shares.unknown += int(np.count_nonzero(kind[at] == Kind.FREE_UNKNOWN))
        shares.node_hints += int(np.count_nonzero(np.asarray(chunk.node)[allocs] >= 0))
        shares.allocations += np.bincount(cache, minlength=width)
        for name in ("requested", "allocated"):
            weights = np.asarray(getattr(chunk, name))[allocs]
            total = np.bincount(cache, weights=weights, minlength=width)
            getattr(shares, name)[:] += total.astype(np.int64)
        implied = np.asarray(chunk.cache)[at[kind[at] == Kind.IMPLIED_FREE]]
        shares.implied_by_cache += np.bincount(implied, minlength=width)
        flags = np.asarray(chunk.flags)[allocs]
        shares.accounted[cache[(flags & FLAG_ACCOUNTED) != 0]] = True

    def by_policy(self, chunk: Any, kind: Column, at: Column, row: int) -> Column:
        """Rows of tasks whose memory policy spreads pages: 1 + the node of the last
        page that the task got; 0 elsewhere."""
        found = np.zeros(len(at), np.int64)
        if self.topology.nodes == 1:
            return found
        pid = np.asarray(chunk.pid)
        for task, first, last in self.interleaved:
            if last < row or first >= row + len(kind):
                continue
            mine = np.flatnonzero((pid == task) & (kind == Kind.PAGE_ALLOC))
            page = chunk.pointer[mine].astype(np.int64) >> SECTION
            node = self.section_nodes[np.minimum(page, len(self.section_nodes) - 1)]
            nodes = np.append(self.last_node.get(task, 0), node)
            rows = np.flatnonzero((pid[at] == task) & (at + row <= last))
            found[rows] = 1 + nodes[np.searchsorted(mine, at[rows], side="right")]
            self.last_node[task] = int(nodes[-1])
        self.shares.interleaved += int(np.count_nonzero(found))
        return np.minimum(found, self.topology.nodes)

    def take_due(self, time: Column, new: Column) -> tuple[Column, Column]:
        """Delayed frees that fall into this chunk, and before which item each goes."""
        pending = np.concatenate([self.pending, new], axis=1)
        end = time[-1] if len(time) else -1
        due = pending[0] <= end
        taken, self.pending = pending[:, due], pending[:, ~due]
        taken = taken[:, np.argsort(taken[0], kind="stable")]
        self.shares.delayed += taken.shape[1]
        return np.searchsorted(time, taken[0], side="right"), taken

    def large(
        self, chunk: Any, kind: Column, row: int
    ) -> list[tuple[int, bool, int, int]]:
        """Requests beyond the largest size class; they are pages, not slabs."""
        found = []
        which = (kind == Kind.LARGE_ALLOC) | (kind == Kind.LARGE_FREE)
        for at in np.flatnonzero(which).tolist():
            allocated = int(kind[at]) == Kind.LARGE_ALLOC
            self.shares.large += allocated
            size = int(chunk.allocated[at]) or int(chunk.requested[at])
            found.append((at + row, allocated, int(chunk.object[at]), size))
        return found
