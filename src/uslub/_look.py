"""From the plain tuples of binding/picture.c to the records of `uslub.snapshot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uslub.snapshot import (
    ArenaSnapshot,
    CacheSnapshot,
    CpuSnapshot,
    NodeSnapshot,
    PagesSnapshot,
    SlabSnapshot,
)

if TYPE_CHECKING:
    from uslub._engine import Arena, Cache

CpuTuple = tuple[int, tuple[int, ...], tuple[int, ...]]
NodeTuple = tuple[tuple[int, ...], int, int]
SlabTuple = tuple[int, int, int, int, int, int, bool, bool, str, tuple[int, ...]]
Picture = tuple[list[CpuTuple], list[NodeTuple], list[SlabTuple]]


def cache_snapshot(cache: Cache, picture: Picture) -> CacheSnapshot:
    cpus, nodes, slabs = picture
    info = cache.info()
    stats = cache.stats(per_cpu=True)
    return CacheSnapshot(
        name=info.name,
        aliases=info.aliases,
        object_size=info.object_size,
        size=info.size,
        align=info.align,
        offset=info.offset,
        inuse=info.inuse,
        order=info.order,
        objects=info.objects,
        min_order=info.min_order,
        min_objects=info.min_objects,
        min_partial=info.min_partial,
        cpu_partial=info.cpu_partial,
        cpu_partial_slabs=info.cpu_partial_slabs,
        refcount=info.refcount,
        cpus=tuple(
            CpuSnapshot(cpu, slab if slab >= 0 else None, freelist, chain)
            for cpu, (slab, freelist, chain) in enumerate(cpus)
        ),
        nodes=tuple(NodeSnapshot(node, *facts) for node, facts in enumerate(nodes)),
        slabs=tuple(SlabSnapshot(*facts) for facts in slabs),
        stats=tuple((name, counts) for name, counts in stats.items() if any(counts)),
    )


def arena_snapshot(
    arena: Arena, nodes: list[tuple[int, tuple[int, ...]]]
) -> ArenaSnapshot:
    return ArenaSnapshot(
        cpus=arena.cpus,
        pages=tuple(PagesSnapshot(node, *facts) for node, facts in enumerate(nodes)),
        caches=tuple(cache.snapshot() for cache in arena.caches()),
    )


def arena_stats(arena: Arena) -> dict[str, int]:
    totals: dict[str, int] = {}
    for cache in arena.caches():
        for name, count in cache.stats().items():
            totals[name] = totals.get(name, 0) + count
    return totals
