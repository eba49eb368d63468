"""Memory of a replay does not grow with the number of events."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from uslub.lab.replay import prepare
from uslub.lab.trace import CacheInfo, Header, Kind

ROWS = 1 << 14
LIVE = 64


class Endless:
    """A trace of one cache in which LIVE objects live, made as it is read."""

    checkpoints = ()

    def __init__(self, chunks: int) -> None:
        self.count = chunks
        cache = CacheInfo("thing", 192, 192, 8, 0, 21, 120, 5, 0, ())
        self.header = Header(
            kernel="6.18.0",
            cpus=2,
            cpu_node=(0, 0),
            clock="global",
            whole_life=True,
            nomerge=True,
            caches=(cache,),
            sites=("here+0x1",),
            events=chunks * ROWS,
            start_ns=0,
            span_ns=chunks * ROWS * 1000,
            lost=0,
            pointers=False,
        )

    def table(self, name: str) -> None:
        return None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        assert start == 0
        for number in range(self.count):
            row = np.arange(number * ROWS, (number + 1) * ROWS)
            turn = row // 2
            frees = (row % 2 == 1) & (turn >= LIVE)
            kind = np.where(row % 2 == 0, int(Kind.ALLOC), int(Kind.LARGE_FREE))
            kind = np.where(frees, int(Kind.FREE), kind)
            zero = np.zeros(ROWS, np.int64)
            yield SimpleNamespace(
                start=row[0],
                time=row * 1000,
                kind=kind.astype(np.uint8),
                cpu=(row // 7 % 2).astype(np.uint16),
                cache=zero.astype(np.int32),
                object=np.where(frees, turn - LIVE, turn),
                pointer=zero.astype(np.uint64),
                requested=zero + 192,
                allocated=zero + 192,
                node=zero - 1,
                site=zero.astype(np.int32),
                pid=zero.astype(np.int32),
                flags=zero.astype(np.uint32),
            )


def peak_of(chunks: int) -> tuple[int, int]:
    """Most bytes held while that many chunks are replayed; live objects at the end."""
    tracemalloc.start()
    ready = prepare(Endless(chunks))  # type: ignore[arg-type]
    ready.replayer.run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ready.replayer.row == chunks * ROWS
    return peak, len(ready.replayer.held)


def test_six_times_the_events_take_no_more_memory() -> None:
    short, long = peak_of(1), peak_of(6)
    assert short[1] == long[1] == LIVE
    # 4 bytes per object are kept of call sites, up to a bound.
    assert long[0] < short[0] * 1.5 + 6 * ROWS / 2 * 4
