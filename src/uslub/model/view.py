"""The model described in the words that the engine uses too.

Here: `snapshot`, which builds frozen views on demand. Not here: anything that
could change the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from uslub.model.state import STAT_NAMES, CpuSlot, KmemCache, Machine, Node, Slab
from uslub.snapshot import (
    ArenaSnapshot,
    CacheSnapshot,
    CpuSnapshot,
    NodeSnapshot,
    PagesSnapshot,
    SlabSnapshot,
)


def take_snapshot(machine: Machine, caches: Iterable[KmemCache]) -> ArenaSnapshot:
    """The whole arena at this moment."""
    pages = tuple(
        PagesSnapshot(node.node, node.pages, tuple(len(f) for f in node.free))
        for node in machine.pages
    )
    views = tuple(view_cache(cache) for cache in caches)
    return ArenaSnapshot(len(machine.cpu_node), pages, views)


def view_cache(cache: KmemCache) -> CacheSnapshot:
    """One cache with everything it owns."""
    layout = cache.layout
    places = find_places(cache)
    return CacheSnapshot(
        name=cache.name,
        aliases=tuple(cache.aliases),
        object_size=layout.object_size,
        size=layout.size,
        align=layout.align,
        offset=layout.offset,
        inuse=layout.inuse,
        order=cache.order,
        objects=cache.objects,
        min_order=cache.min_order,
        min_objects=cache.min_objects,
        min_partial=cache.min_partial,
        cpu_partial=cache.cpu_partial,
        cpu_partial_slabs=cache.cpu_partial_slabs,
        refcount=cache.refcount,
        cpus=tuple(view_cpu(c) for c in cache.cpus),
        nodes=tuple(view_node(node) for node in cache.nodes),
        slabs=tuple(
            view_slab(slab, places.get(number, "full"))
            for number, slab in sorted(cache.slabs.items())
        ),
        stats=view_stats(cache),
    )


def find_places(cache: KmemCache) -> dict[int, str]:
    """Where each slab is, by its number; a slab that is nowhere is full."""
    places = {}
    for c in cache.cpus:
        if c.slab is not None:
            places[c.slab.number] = f"cpu {c.number}"
        for slab in c.partial:
            places[slab.number] = f"chain {c.number}"
    for node in cache.nodes:
        for slab in node.partial:
            places[slab.number] = f"node {node.number}"
    return places


def view_cpu(c: CpuSlot) -> CpuSnapshot:
    """One CPU slot, lists head first."""
    slab = None if c.slab is None else c.slab.number
    chain = tuple(slab.number for slab in reversed(c.partial))
    return CpuSnapshot(c.number, slab, tuple(reversed(c.freelist)), chain)


def view_node(node: Node) -> NodeSnapshot:
    """One node, list head first."""
    partial = tuple(slab.number for slab in node.partial)
    return NodeSnapshot(node.number, partial, node.nr_slabs, node.total_objects)


def view_slab(slab: Slab, place: str) -> SlabSnapshot:
    """One slab, freelist head first."""
    return SlabSnapshot(
        slab=slab.number,
        page=slab.page,
        node=slab.node,
        order=slab.order,
        objects=slab.objects,
        inuse=slab.inuse,
        frozen=slab.frozen,
        pfmemalloc=slab.pfmemalloc,
        place=place,
        freelist=tuple(reversed(slab.freelist)),
    )


def view_stats(cache: KmemCache) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Every counter that has moved on some CPU."""
    rows = (
        (name, tuple(getattr(c.stat, name) for c in cache.cpus)) for name in STAT_NAMES
    )
    return tuple((name, values) for name, values in rows if any(values))
