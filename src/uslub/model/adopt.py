"""Slabs that existed before the first event: how a replay begins in the middle.

Here: `adopt_slab`, which puts a slab with given objects in users' hands where SLUB
would have it: under a CPU, on its node's list, or nowhere; `park_objects`, which moves
free objects into a CPU's sheaves. Not here: how one knows
which objects were live (`uslub.lab.replay.seeds`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from uslub.model.errors import OutOfMemory
from uslub.model.pages import get_pages
from uslub.model.partial import add_partial, remove_partial
from uslub.model.state import CpuSlot, KmemCache, Position, Slab


def adopt_slab(
    cache: KmemCache, node: int, live: Iterable[int], c: CpuSlot | None = None
) -> Slab:
    """A slab of `node` whose objects `live` are in users' hands.

    Args:
        cache: Whose slab.
        node: Where its memory lies.
        live: Indexes of objects; the others are free.
        c: The CPU that owns it, with all of its free objects; None: it is on the
            tail of its node's list, or on no list if nothing is free.

    Raises:
        OutOfMemory: The node has no pages left.
    """
    pages = get_pages(cache.machine.pages, [node], cache.order, True)
    if pages is None:
        raise OutOfMemory(
            f"cache {cache.name!r}: node {node} has no pages for a slab that was there"
            " before the trace; give the machine more pages"
        )
    taken = bytearray(cache.objects)
    for index in live:
        taken[index] = 1
    free = [index for index in range(cache.objects - 1, -1, -1) if not taken[index]]
    slab = Slab(
        number=cache.next_slab,
        node=node,
        page=pages.page,
        order=cache.order,
        objects=cache.objects,
        pfmemalloc=False,
        freelist=free,
        inuse=cache.objects - len(free),
        taken=taken,
        last=array("H", (0,)) * cache.objects,
        writer=0 if c is None else c.number,
    )
    cache.next_slab += 1
    cache.slabs[slab.number] = slab
    home = cache.nodes[node]
    home.nr_slabs += 1
    home.peak_slabs = max(home.peak_slabs, home.nr_slabs)
    home.total_objects += cache.objects
    if c is not None:
        slab.freelist, slab.inuse, slab.frozen = [], cache.objects, True
        c.slab, c.freelist = slab, free
    elif free:
        add_partial(home, slab)
    return slab


def park_objects(cache: KmemCache, c: CpuSlot, positions: list[Position]) -> int:
    """Move free objects of adopted slabs into the sheaves of one CPU; how many.

    Args:
        cache: With sheaves, of which `c` has filled none yet.
        c: The CPU.
        positions: Free objects, the one to be handed out first in front. Those of
            another node or under a CPU stay there, as do those beyond two sheaves.
    """
    slabs = cache.slabs
    local = [
        p
        for p in positions
        if slabs[p.slab].node == c.node and p.index in slabs[p.slab].freelist
    ]
    parked = local[: 2 * cache.sheaf_capacity]
    for number, index in parked:
        slab = cache.slabs[number]
        slab.freelist.remove(index)
        slab.inuse += 1
        if slab.freelist:
            continue
        if slab.on_partial:
            remove_partial(cache.nodes[slab.node], slab)
        for other in cache.cpus:
            if slab in other.partial:
                other.partial.remove(slab)
                slab.frozen = False
    c.main = parked[: cache.sheaf_capacity][::-1]
    rest = parked[cache.sheaf_capacity :]
    c.spare = rest[::-1] if rest else None
    return len(parked)
