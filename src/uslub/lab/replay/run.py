"""The loop: rows in, model calls out, and a look at the model at chosen moments.

`Replayer` holds one replay: machine, feed, what the trace's objects are in the model. A
chunk is cut at its *stops* (checkpoints, points of the series, the reaper's ticks, the
moment asked for); between two stops runs `replay_rows`, which is one dispatch and one
call of the model per event. Nothing here decides anything about slabs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from uslub.lab.replay.build import AnyCache, Machine
from uslub.lab.replay.feed import ALLOC, Feed, Prepared
from uslub.lab.replay.measure import cheap_totals, truth_like
from uslub.lab.replay.own import OwnObjects
from uslub.lab.replay.result import Prediction
from uslub.lab.replay.seeds import Held
from uslub.lab.trace import Checkpoint, TraceError
from uslub.model import ModelError
from uslub.model.queues import REAP_NS, QueueCache, reap_cpu
from uslub.model.slob import SlobCache

SERIES_POINTS = 300
Stop = tuple[int, int, Callable[[], None]]  #: row, order among equals, what to do
Progress = Callable[[int, int], None]


def replay_rows(
    kinds: Sequence[int],
    cpus: Sequence[int],
    caches: Sequence[int],
    objects: Sequence[int],
    nodes: Sequence[int],
    held: Held,
    allocs: list[Callable[[int, int | None], Any]],
    frees: list[Callable[[Any, int], None]],
    node_of: list[int | None],
    strays: list[int],
) -> None:
    """Every event is one call of the model; `strays` gets the cache of each free that
    found nothing to free."""
    for kind, cpu, cache, object_id, node in zip(
        kinds, cpus, caches, objects, nodes, strict=True
    ):
        if kind == ALLOC:
            held[object_id] = allocs[cache](cpu, node_of[node])
        else:
            position = held.pop(object_id, None)
            if position is None:
                strays.append(cache)
            else:
                frees[cache](position, cpu)


def replay_sized_rows(
    kinds: Sequence[int],
    cpus: Sequence[int],
    caches: Sequence[int],
    objects: Sequence[int],
    nodes: Sequence[int],
    sizes: Sequence[int],
    held: Held,
    allocs: list[Callable[..., Any]],
    frees: list[Callable[[Any, int], None]],
    node_of: list[int | None],
    strays: list[int],
) -> None:
    """The same for SLOB, where the size of each request matters."""
    for kind, cpu, cache, object_id, node, size in zip(
        kinds, cpus, caches, objects, nodes, sizes, strict=True
    ):
        if kind == ALLOC:
            held[object_id] = allocs[cache](cpu, node_of[node], size)
        else:
            position = held.pop(object_id, None)
            if position is None:
                strays.append(cache)
            else:
                frees[cache](position, cpu)


class Replayer:
    """One replay.

    Args:
        trace: From `open_trace`.
        machine: From `build`, perhaps with initial slabs planted.
        feed: Over the same trace.
        held: Objects that live at the start, by id.
        start: First row.
        stop: Row after the last; None: the end.
        checkpoints: Where to note what the kernel counted (cache indexes as in the
            trace's header).
        own: Makes the allocator's own objects; None: they are in the trace.
        progress: Called with rows done and rows in all, now and then.
    """

    def __init__(
        self,
        trace: Any,
        machine: Machine,
        feed: Feed,
        held: Held,
        *,
        start: int = 0,
        stop: int | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        own: OwnObjects | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.machine, self.feed, self.held, self.own = machine, feed, held, own
        self.start, self.row = start, start
        self.stop = trace.header.events if stop is None else stop
        self.time_ns = trace.header.start_ns
        self.progress = progress
        plain: list[Callable[..., Any]] = [cache.alloc for cache in machine.caches]
        self.allocs = list(plain)
        for node in range(len(machine.arena.machine.pages)):
            self.allocs += [by_policy(machine, node, alloc) for alloc in plain]
        self.frees: list[Callable[..., None]] = [c.free for c in machine.caches]
        self.node_of: list[int | None] = [
            *range(len(machine.arena.machine.pages)),
            None,  # index -1: any node
        ]
        self.distinct = machine.distinct()
        self.strays = 0
        self.source = feed.prepared(start, self.stop)
        self.chunk: Prepared | None = None  # in hand, done up to item `at`
        self.at = 0
        self.left: list[Stop] = []
        self.large: dict[int, int] = {}
        self.large_bytes = self.large_peak = 0
        self.predictions: list[Prediction] = []
        self.series: dict[str, list[int]] = {
            name: []
            for name in (
                "time_ns",
                "memory_bytes",
                "live_bytes",
                "live",
                "slabs",
                "partial",
                "list_lock",
                "large_bytes",
            )
        }
        self.by_cache: list[list[int]] = [[] for _ in self.distinct]
        self.slots = np.array([slot_of(cache) for cache in machine.caches] + [0])
        self.net = np.zeros(len(machine.caches) + 1, np.int64)  # live, by cache
        self.every = max(1, (self.stop - start) // SERIES_POINTS)
        self.next_point = start
        self.next_reap = self.time_ns + REAP_NS
        self.reaps = any(isinstance(cache, QueueCache) for _, cache in self.distinct)
        self.marks = self.plan(checkpoints)

    # stops ------------------------------------------------------------------------

    def plan(
        self, checkpoints: Sequence[Checkpoint]
    ) -> list[tuple[int, int, int, int]]:
        """(row or -1, time, checkpoint, cache) of every counter the kernel read."""
        marks = []
        for number, checkpoint in enumerate(checkpoints):
            for cache, truth in checkpoint.caches.items():
                marks.append((truth.row, truth.time, number, cache))
        return sorted(marks, key=lambda mark: mark[1])

    def stops(self, chunk: Prepared) -> list[Stop]:
        """What is to be done inside a chunk, by row."""
        found: list[Stop] = []
        end_time = int(chunk.time[-1]) if len(chunk.time) else self.time_ns
        while self.marks:
            row, time, number, cache = self.marks[0]
            if row >= 0:
                if row >= chunk.end:
                    break
            elif time > end_time:
                break
            else:
                row = chunk.start + int(np.searchsorted(chunk.time, time, side="right"))
            self.marks.pop(0)
            if row >= chunk.start:
                found.append((row, 0, self.predictor(number, cache, row)))
        while self.next_point < chunk.end:
            at = self.next_point
            when = int(chunk.time[at - chunk.start])
            found.append((at, 1, self.pointer(when)))
            self.next_point += self.every
        while self.reaps and self.next_reap <= end_time:
            row = chunk.start + int(np.searchsorted(chunk.time, self.next_reap))
            found.append((row, 2, self.reaper(self.next_reap)))
            self.next_reap += REAP_NS
        return sorted(found, key=lambda stop: stop[:2])

    def predictor(self, number: int, cache: int, row: int) -> Callable[[], None]:
        """Note what the model has where the kernel's counters were read."""

        def note() -> None:
            slabs, partial, cpu_slabs = truth_like(self.machine.caches[cache])
            self.predictions.append(
                Prediction(
                    number, cache, row, tuple(slabs), tuple(partial), tuple(cpu_slabs)
                )
            )

        return note

    def pointer(self, time_ns: int) -> Callable[[], None]:
        """One point of the series."""
        return lambda: self.add_point(time_ns)

    def add_point(self, time_ns: int) -> None:
        """Totals of this moment; live bytes by the events that have passed."""
        slabs, memory, partial, locked, each = cheap_totals(self.machine, self.distinct)
        series = self.series
        series["time_ns"].append(time_ns)
        series["memory_bytes"].append(memory)
        series["live"].append(len(self.held))
        series["live_bytes"].append(int(self.net @ self.slots))
        series["slabs"].append(slabs)
        series["partial"].append(partial)
        series["list_lock"].append(locked)
        series["large_bytes"].append(self.large_bytes)
        for column, count in zip(self.by_cache, each, strict=True):
            column.append(count)

    def reaper(self, now_ns: int) -> Callable[[], None]:
        """SLAB: what runs every two seconds."""

        def reap() -> None:
            for _, cache in self.distinct:
                if isinstance(cache, QueueCache):
                    for cpu in range(len(cache.cpus)):
                        reap_cpu(cache, cpu, now_ns)

        return reap

    # running ----------------------------------------------------------------------

    def run(self, until_ns: int | None = None, until_row: int | None = None) -> None:
        """Replay up to a time, a row, or the end; may be called again and again.

        Collection of garbage is off meanwhile: the model makes no cycles, and looking
        for some takes a third of the time.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            while self.row < self.stop and self.run_chunk(until_ns, until_row):
                if self.progress is not None:
                    self.progress(self.row - self.start, self.stop - self.start)
        finally:
            if collecting:
                gc.enable()

    def run_chunk(self, until_ns: int | None, until_row: int | None) -> bool:
        """One chunk, or what is left of it; False: what was asked for is reached."""
        if self.chunk is None:
            self.chunk = next(self.source)
            self.left = self.stops(self.chunk)
            self.at = 0
        chunk = self.chunk
        end, reached = chunk.end, False
        if until_ns is not None and len(chunk.time) and int(chunk.time[-1]) > until_ns:
            end = chunk.start + int(np.searchsorted(chunk.time, until_ns, side="right"))
            reached = True
        if until_row is not None and until_row < end:
            end, reached = max(until_row, self.row), True
        while self.left and self.left[0][0] <= end:
            row, _, action = self.left.pop(0)
            self.advance(chunk, row)
            action()
        self.advance(chunk, end)
        if end == chunk.end:
            if self.own is not None and chunk.cpu:
                self.own.settle(chunk.cpu[-1])
            self.chunk = None
        self.row = end
        if end > chunk.start:
            self.time_ns = int(chunk.time[end - chunk.start - 1])
        return not reached

    def advance(self, chunk: Prepared, row: int) -> None:
        """Everything before a row of the chunk in hand."""
        to = int(np.searchsorted(chunk.rows, row, side="left"))
        self.run_items(chunk, self.at, to)
        self.at = max(self.at, to)
        self.count_large(chunk, row)

    def run_items(self, chunk: Prepared, at: int, to: int) -> None:
        """Items `at` to `to` of a chunk."""
        if at >= to:
            return
        kinds, cpus, caches, objects, nodes = (
            column[at:to]
            for column in (chunk.kind, chunk.cpu, chunk.cache, chunk.object, chunk.node)
        )
        sizes, strays = chunk.size[at:to], list[int]()
        try:
            self.call_model(kinds, cpus, caches, objects, nodes, sizes, strays)
        except ModelError as error:
            raise TraceError(
                f"the model refused an event between rows {chunk.rows[at]:,} and"
                f" {chunk.rows[to - 1]:,}: {error}; the trace contradicts itself"
            ) from error
        width, cache, born = len(self.net), chunk.of_cache[at:to], chunk.is_alloc[at:to]
        self.net += np.bincount(cache[born], minlength=width)
        self.net -= np.bincount(cache[~born], minlength=width)
        self.net += np.bincount(np.array(strays, int), minlength=width)
        self.strays += len(strays)

    def call_model(
        self,
        kinds: Sequence[int],
        cpus: Sequence[int],
        caches: Sequence[int],
        objects: Sequence[int],
        nodes: Sequence[int],
        sizes: Sequence[int],
        strays: list[int],
    ) -> None:
        """The loop that the design needs."""
        if self.machine.slob is not None:
            replay_sized_rows(
                kinds,
                cpus,
                caches,
                objects,
                nodes,
                sizes,
                self.held,
                self.allocs,
                self.frees,
                self.node_of,
                strays,
            )
        else:
            replay_rows(
                kinds,
                cpus,
                caches,
                objects,
                nodes,
                self.held,
                self.allocs,
                self.frees,
                self.node_of,
                strays,
            )

    def count_large(self, chunk: Prepared, end: int) -> None:
        """Whole pages for large requests."""
        while chunk.large and chunk.large[0][0] < end:
            _, allocated, object_id, size = chunk.large.pop(0)
            if allocated:
                self.large[object_id] = size
                self.large_bytes += size
                self.large_peak = max(self.large_peak, self.large_bytes)
            else:
                self.large_bytes -= self.large.pop(object_id, 0)

    def items(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """Row, time, kind, CPU, cache, object, node of each event that is left; it has
        been taken off, so that whoever asks does it."""
        while self.chunk is not None or self.row < self.stop:
            if self.chunk is None:
                self.chunk, self.at = next(self.source), 0
                self.left = []
            chunk = self.chunk
            while self.at < len(chunk.kind):
                at, self.at = self.at, self.at + 1
                row = int(chunk.rows[at])
                inside = min(row - chunk.start, len(chunk.time) - 1)
                yield (
                    row,
                    int(chunk.time[inside]),
                    chunk.kind[at],
                    chunk.cpu[at],
                    chunk.cache[at],
                    chunk.object[at],
                    chunk.node[at],
                )
            self.row, self.chunk = chunk.end, None

    def do(self, kind: int, cpu: int, cache: int, object_id: int, node: int) -> None:
        """One event; for those who step."""
        replay_rows(
            [kind],
            [cpu],
            [cache],
            [object_id],
            [node],
            self.held,
            self.allocs,
            self.frees,
            self.node_of,
            [],
        )


def by_policy(
    machine: Machine, node: int, alloc: Callable[..., Any]
) -> Callable[..., Any]:
    """The same call by a task whose memory policy puts new pages on `node`."""
    model = machine.arena.machine

    def alloc_by_policy(*words: Any) -> Any:
        model.policy_node = node
        try:
            return alloc(*words)
        finally:
            model.policy_node = None

    return alloc_by_policy


def slot_of(cache: AnyCache) -> int:
    """Bytes of a slot."""
    if isinstance(cache, SlobCache):
        return cache.object_size
    return cache.size if isinstance(cache, QueueCache) else cache.layout.size
