"""A part of a trace as a trace of its own: a window of rows, or some of the caches.

Objects are numbered anew. What was alive when the window opens is unknown to the new
trace, as it is to a recording that begins in mid-life: its frees become FREE_UNKNOWN,
with the address that the object had.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from uslub.lab.trace.batch import Array
from uslub.lab.trace.errors import TraceError
from uslub.lab.trace.files import not_onto_itself
from uslub.lab.trace.header import CacheTruth, Checkpoint, Header
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.live import Live
from uslub.lab.trace.rows import COLUMNS, Rows
from uslub.lab.trace.store import ENDS, LEVEL_BEST, STARTS, Chunk, Trace, Writer
from uslub.lab.trace.truth import page_truth, table_of


def cut(
    trace: Trace,
    target: str | Path,
    *,
    start: int = 0,
    stop: int | None = None,
    caches: Iterable[str] | None = None,
    pointers: bool | None = None,
    level: int = LEVEL_BEST,
) -> Header:
    """Write rows `start` to `stop` of a trace, of some caches or all, as a new trace.

    Args:
        trace: Where from.
        target: Compact file to write.
        start, stop: Rows, half open; `trace.row_at()` finds them by time.
        caches: Names or aliases; None keeps all, page events and large objects too.
        pointers: Keep addresses; None: as the source has it.
        level: zstd level of the columns.

    Returns:
        The header of the new trace.

    Raises:
        TraceError: An unknown cache, a window without rows, addresses that the source
            does not have.
    """
    not_onto_itself(Path(trace.path), Path(target))
    stop = trace.header.events if stop is None else min(stop, trace.header.events)
    if not 0 <= start < stop:
        raise TraceError(
            f"{trace.path}: no row from {start} to {stop}; expected a window within its"
            f" {trace.header.events} rows"
        )
    if pointers and not trace.header.pointers:
        raise TraceError(
            f"{trace.path}: has no addresses to keep; cut from the trace it was made of"
        )
    keeps = trace.header.pointers if pointers is None else pointers
    knife = _Knife(trace, start, stop, _chosen(trace, caches))
    knife.skip()
    with Writer(
        target, time_unit_ns=trace.header.time_unit_ns, pointers=keeps, level=level
    ) as writer:
        for chunk in trace.chunks(start, stop):
            writer.add(knife.rows(chunk))
        header = knife.header(keeps)
        tables = {"slabs": knife.slabs()} if trace.table("slabs") is not None else {}
        writer.finish(header, knife.checkpoints(), **tables)
    return header


# New index of each cache, -1 for those left out; None where all stay.
def _chosen(trace: Trace, caches: Iterable[str] | None) -> Array | None:
    if caches is None:
        return None
    index = np.full(len(trace.header.caches), -1, np.int32)
    for number, name in enumerate(dict.fromkeys(caches)):
        try:
            index[trace.header.cache_index(name)] = number
        except KeyError:
            raise TraceError(
                f"{trace.path}: has no cache {name!r}; `uslub trace info` lists those"
                " it has"
            ) from None
    return index


class _Knife:
    """Carries what a cut must know from chunk to chunk."""

    def __init__(
        self, trace: Trace, start: int, stop: int, index: Array | None
    ) -> None:
        self.trace, self.start, self.stop, self.index = trace, start, stop, index
        self.before = Live(pointer=np.uint64, cache=np.int32)  # by old number
        self.old: Array = np.zeros(
            0, np.int64
        )  # old numbers of the new objects still live
        self.new: Array = np.zeros(0, np.int64)
        self.objects = 0
        self.written = 0
        self.unknown = 0
        self.dropped = 0
        self.counts = np.zeros(len(Kind), np.int64)
        self.times: list[int] = []
        self.sites = np.full(len(trace.header.sites) + 1, -1, np.int32)
        self.site_names: list[str] = []
        self.at: dict[int, int] = {}  # old row to new row, of rows asked for
        wanted = [t.row for c in trace.checkpoints for t in c.caches.values()]
        wanted += [c.row for c in trace.checkpoints]
        self.truth = page_truth(trace) if trace.table("slabs") is not None else None
        if self.truth is not None:
            wanted += [*self.truth.birth.tolist(), *self.truth.death.tolist()]
        self.wanted = np.unique(np.array(wanted or [0], np.int64))

    def skip(self) -> None:
        """Read what precedes the window: which objects are alive, and where."""
        for chunk in self.trace.chunks(0, self.start):
            starts = np.isin(chunk.kind, (Kind.ALLOC, Kind.LARGE_ALLOC))
            ended = chunk.object[np.isin(chunk.kind, ENDS)]
            place, there = self.before.find(ended)
            born = chunk.object[starts]
            stays = ~np.isin(born, ended)
            self.before.change(
                place[there],
                born[stays],
                pointer=chunk.pointer[starts][stays],
                cache=chunk.cache[starts][stays],
            )

    def rows(self, chunk: Chunk) -> Rows:
        """What is kept of a chunk, numbered anew."""
        columns = {name: getattr(chunk, name).copy() for name in COLUMNS}
        kind, objects = columns["kind"], columns["object"]
        place, older = self.before.find(objects)
        older &= np.isin(kind, ENDS)
        implied = older & (kind != Kind.FREE)
        freed = older & (kind == Kind.FREE)
        columns["pointer"][freed] = self.before.columns["pointer"][place[freed]]
        kind[freed] = Kind.FREE_UNKNOWN
        keep = ~implied
        self.dropped += int(implied.sum())
        if self.index is not None:
            cache = np.where(columns["cache"] >= 0, self.index[columns["cache"]], -1)
            columns["cache"] = cache
            keep &= cache >= 0
        self._mark(chunk.start, keep)
        columns = {name: each[keep] for name, each in columns.items()}
        self._number(columns)
        self._sites(columns)
        if len(columns["time"]):
            self.times += [int(columns["time"][0]), int(columns["time"][-1])]
        self.counts += np.bincount(columns["kind"], minlength=len(Kind))
        self.written += len(columns["time"])
        return Rows(columns)

    # New numbers in the order of starting rows; ends look up that of their object.
    def _number(self, columns: dict[str, Array]) -> None:
        kind, objects = columns["kind"], columns["object"]
        starts = np.isin(kind, STARTS)
        fresh = self.objects + np.arange(int(starts.sum()))
        old = np.concatenate([self.old, objects[starts]])
        new = np.concatenate([self.new, fresh])
        sort = np.argsort(old, kind="stable")
        # An old number of a FREE_UNKNOWN made here is less than all others and unique.
        old, new = old[sort], new[sort]
        ends = np.isin(kind, ENDS)
        ended = np.searchsorted(old, objects[ends])
        objects[ends] = new[ended]
        objects[starts] = fresh
        keep = np.ones(len(old), bool)
        keep[ended] = False
        self.old, self.new = old[keep], new[keep]
        self.objects += len(fresh)
        columns["object"] = objects

    def _sites(self, columns: dict[str, Array]) -> None:
        site = columns["site"]
        for number in np.unique(site[site >= 0]):
            if self.sites[number] < 0:
                self.sites[number] = len(self.site_names)
                self.site_names.append(self.trace.header.sites[int(number)])
        columns["site"] = self.sites[site]

    # Where the rows asked for come to stand: the number of kept rows before each.
    def _mark(self, first: int, keep: Array) -> None:
        low = np.searchsorted(self.wanted, first)
        high = np.searchsorted(self.wanted, first + len(keep))
        before = np.concatenate([[0], np.cumsum(keep)])
        for row in self.wanted[low:high]:
            self.at[int(row)] = self.written + int(before[row - first])

    def checkpoints(self) -> list[Checkpoint]:
        """Those that lie in the window, of the caches that are kept."""
        kept = []
        for checkpoint in self.trace.checkpoints:
            caches: dict[int, CacheTruth] = {}
            for cache, truth in checkpoint.caches.items():
                index = cache if self.index is None else int(self.index[cache])
                if index >= 0 and truth.row in self.at:
                    caches[index] = replace(truth, row=self.at[truth.row])
            row = self.at.get(checkpoint.row, 0)
            kept.append(replace(checkpoint, row=row, caches=caches))
        return kept

    def slabs(self) -> dict[str, list[int]]:
        """The page truth of the window: what existed before has birth -1."""
        truth = self.truth
        assert truth is not None
        cache = truth.cache if self.index is None else self.index[truth.cache]
        alive = (cache >= 0) & (truth.birth < self.stop)
        alive &= (truth.death < 0) | (truth.death >= self.start)
        birth = [self.at.get(int(row), -1) for row in truth.birth[alive]]
        death = [self.at.get(int(row), -1) for row in truth.death[alive]]
        return table_of(
            cache[alive],
            truth.node[alive],
            truth.order[alive],
            np.array(birth, np.int64),
            np.array(death, np.int64),
        )

    def header(self, pointers: bool) -> Header:
        """What changes in the header; the notes say where the cut came from."""
        old = self.trace.header
        notes: dict[str, Any] = {
            "cut from": str(self.trace.path.name),
            "rows of it": [self.start, self.stop],
            "rows by kind": {kind.name: int(self.counts[kind]) for kind in Kind},
            "notes of it": {k: v for k, v in old.notes.items() if k != "rows by kind"},
        }
        if self.dropped:
            notes["implied frees of objects from before the cut"] = self.dropped
        infos = list(old.caches)
        if self.index is not None:
            order = np.argsort(self.index, kind="stable")
            infos = [infos[int(i)] for i in order if self.index[i] >= 0]
        start = self.times[0] if self.times else 0
        return replace(
            old,
            whole_life=old.whole_life and self.start == 0,
            caches=tuple(infos),
            sites=tuple(self.site_names),
            events=self.written,
            start_ns=start,
            span_ns=(self.times[-1] - start) if self.times else 0,
            pointers=pointers,
            notes=notes,
        )
