"""Slabs over time, as the pages tell: `page_truth(trace)`.

A second witness beside the kernel's counters: made from page events and addresses while
a trace is imported (`pages`), and kept in the file as a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uslub.lab.trace.batch import Array
from uslub.lab.trace.errors import TraceError
from uslub.lab.trace.store import Trace


@dataclass(frozen=True)
class PageTruth:
    """Every slab whose page was seen, one array per column, ordered by birth."""

    cache: Array  # index in header.caches
    node: Array
    order: Array
    birth: Array  # row of the page's allocation; -1: before tracing
    death: Array  # row of the page's free; -1: not before the end
    caches: int
    nodes: int

    def __len__(self) -> int:
        return len(self.cache)

    def slabs(self, row: int) -> Array:
        """Slabs alive just before `row`, as an array [cache, node].

        Slabs that existed before tracing began and whose pages never came up are not
        in it: compare growth between two rows, or add the first checkpoint.
        """
        alive = (self.birth < row) & ((self.death < 0) | (self.death >= row))
        place = self.cache[alive] * self.nodes + self.node[alive]
        counts = np.bincount(place, minlength=self.caches * self.nodes)
        return counts.reshape(self.caches, self.nodes)

    def changes(self, cache: int) -> tuple[Array, Array]:
        """Rows where the number of slabs of a cache changed, and the number after."""
        of = self.cache == cache
        born, died = self.birth[of], self.death[of & (self.death >= 0)]
        rows = np.concatenate([born, died])
        step = np.concatenate([np.ones(len(born), int), np.full(len(died), -1)])
        order = np.argsort(rows, kind="stable")
        return rows[order], np.cumsum(step[order])


def page_truth(trace: Trace) -> PageTruth:
    """The slabs of a trace by its page events.

    Raises:
        TraceError: The trace has no page events, or no addresses to match them.
    """
    table = trace.table("slabs")
    if table is None:
        raise TraceError(
            f"{trace.path}: no page truth; expected mm_page_alloc and mm_page_free"
            " events"
            " beside those of objects: record them too"
        )
    columns = {name: np.array(values, np.int64) for name, values in table.items()}
    birth = np.cumsum(columns["birth_step"]) - 1
    life = columns["life"]
    return PageTruth(
        cache=columns["cache"],
        node=columns["node"],
        order=columns["order"],
        birth=birth,
        death=np.where(life < 0, -1, birth + life),
        caches=len(trace.header.caches),
        nodes=trace.header.nodes,
    )


def table_of(
    cache: Array, node: Array, order: Array, birth: Array, death: Array
) -> dict[str, list[int]]:
    """The slabs as the table that a trace file keeps."""
    sort = np.argsort(birth, kind="stable")
    cache, node, order = cache[sort], node[sort], order[sort]
    birth, death = birth[sort], death[sort]
    return {
        "cache": cache.tolist(),
        "node": node.tolist(),
        "order": order.tolist(),
        "birth_step": np.diff(birth + 1, prepend=0).tolist(),
        "life": np.where(death < 0, -1, death - birth).tolist(),
    }
