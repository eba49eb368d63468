"""Traces to measure with, all made of one that comes with uslub.

Here: `long_trace` (the same life again and again, each time freed to the last object,
so that no more lives at its end than at its beginning) and `text` (as ftrace prints
it); perf_data.py does it for perf. Relies on uslub.lab.trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from perf_data import Addresses

from uslub.lab.trace import Chunk, Kind, Trace
from uslub.lab.trace.rows import COLUMNS, Rows
from uslub.lab.trace.store import Writer

STARTS = (Kind.ALLOC, Kind.FREE_UNKNOWN, Kind.LARGE_ALLOC)
ALLOCS = (Kind.ALLOC, Kind.LARGE_ALLOC)
FREES = (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE)
PLAIN = ("kmalloc", "kfree")
NAMED = ("kmem_cache_alloc", "kmem_cache_free")
GAP_NS = 1_000_000


class Life:
    """A trace's allocations and frees, and the frees of what lives at its end."""

    def __init__(self, trace: Trace) -> None:
        chunks = [self.columns(chunk) for chunk in trace.chunks()]
        self.rows = {
            name: np.concatenate([chunk[name] for chunk in chunks]) for name in COLUMNS
        }
        self.objects = int(self.rows["object"].max()) + 1
        self.end = int(self.rows["time"][-1]) + GAP_NS
        live = self.survivors()
        for name, column in self.rows.items():
            self.rows[name] = np.concatenate([column, live[name]])

    @staticmethod
    def columns(chunk: Chunk) -> dict[str, np.ndarray]:
        """The rows that are about objects."""
        keep = np.asarray(chunk.kind) <= Kind.LARGE_FREE
        return {name: np.asarray(getattr(chunk, name))[keep] for name in COLUMNS}

    def survivors(self) -> dict[str, np.ndarray]:
        """A free for everything that was never freed, by the CPU that allocated it."""
        kind, thing = self.rows["kind"], self.rows["object"]
        alive = np.zeros(self.objects, bool)
        alive[thing[np.isin(kind, ALLOCS)]] = True
        alive[thing[np.isin(kind, FREES)]] = False
        rows = np.flatnonzero(np.isin(kind, ALLOCS) & alive[thing])
        found = {name: column[rows] for name, column in self.rows.items()}
        large = found["kind"] == Kind.LARGE_ALLOC
        found["kind"] = np.where(large, Kind.LARGE_FREE, Kind.FREE).astype(kind.dtype)
        found["time"] = np.full(len(rows), self.end - GAP_NS // 2)
        return found

    def again(self, turn: int, size: int) -> Iterator[Rows]:
        """The whole of it, as life number `turn`, in blocks of rows."""
        for start in range(0, len(self.rows["kind"]), size):
            cut = {
                name: column[start : start + size] for name, column in self.rows.items()
            }
            cut["time"] = cut["time"] + turn * self.end
            cut["object"] = cut["object"] + turn * self.objects
            yield Rows(cut)


def long_trace(trace: Trace, path: Path, events: int) -> int:
    """Write a trace of at least so many events; returns how many.

    Args:
        trace: The life to repeat.
        path: Compact file to write.
        events: Of the new trace, at least.
    """
    life = Life(trace)
    turns = -(-events // len(life.rows["kind"]))
    with Writer(path, time_unit_ns=1000, pointers=False, level=1) as writer:
        for turn in range(turns):
            for rows in life.again(turn, 1 << 16):
                writer.add(rows)
        header = replace(
            trace.header,
            events=turns * len(life.rows["kind"]),
            span_ns=turns * life.end - trace.header.start_ns,
            pointers=False,
        )
        writer.finish(header, [])
    return header.events


def text(trace: Trace, path: Path, lines: int) -> int:
    """Write a trace's first events as ftrace prints them; returns how many."""
    header, addresses, written = trace.header, Addresses(), 0
    names = [cache.name for cache in header.caches]
    with path.open("w", encoding="ascii") as file:
        file.write(
            f"# tracer: nop\n#\n# entries-in-buffer/entries-written: {lines}/{lines}"
        )
        file.write(f"   #P:{header.cpus}\n#\n")
        for chunk in trace.chunks():
            for line in printed(chunk, names, header.sites, addresses):
                file.write(line)
                written += 1
                if written == lines:
                    return written
    return written


def printed(
    chunk: Chunk, names: list[str], sites: tuple[str, ...], addresses: Addresses
) -> Iterator[str]:
    """The lines of one chunk; frees that no event showed have none."""
    columns = [getattr(chunk, name).tolist() for name in COLUMNS]
    for values in zip(*columns, strict=True):
        row = dict(zip(COLUMNS, values, strict=True))
        kind, cache = row["kind"], row["cache"]
        if kind > Kind.LARGE_FREE:
            continue
        if kind in ALLOCS:
            pointer = addresses.take(row["object"], row["allocated"])
        else:
            pointer = addresses.give(row["object"])
            if kind == Kind.IMPLIED_FREE:
                continue
        name = names[cache] if cache >= 0 else "kmalloc-"
        plain = name.startswith("kmalloc-")
        event = (
            ("kmalloc", "kfree") if plain else ("kmem_cache_alloc", "kmem_cache_free")
        )
        seconds, micros = divmod(row["time"] // 1000, 1_000_000)
        said = f"{event[kind not in ALLOCS]}: call_site={sites[row['site']]}"
        said += f" ptr={pointer:016x}" + ("" if plain else f" name={name}")
        if kind in ALLOCS:
            said += f" bytes_req={row['requested']} bytes_alloc={row['allocated']}"
            said += f" gfp_flags=GFP_KERNEL node={row['node']} accounted=false"
        task = f"task-{max(row['pid'], 0)}"
        yield f"{task:>20} [{row['cpu']:03}] ..... {seconds:5}.{micros:06}: {said}\n"
