"""Taking everything back from CPUs: flush, shrink, a CPU's end, destroy.

Here: what the kernel does by interrupt on each CPU (`flush_slab`, `flush_cpu`,
`flush_all`), on hotplug (`cpu_dead`), on memory pressure (`shrink`) and at a
cache's end (`shutdown`). Not here: the decision when to do it; page reclaim.
"""

from __future__ import annotations

from uslub.model.errors import CacheBusy
from uslub.model.partial import (
    deactivate_slab,
    discard_slab,
    flush_chain,
    remove_partial,
    sort_partial,
)
from uslub.model.sheaf import empty_barn, flush_sheaves
from uslub.model.state import CpuSlot, KmemCache, note


def flush_slab(cache: KmemCache, c: CpuSlot) -> None:
    """Deactivate one CPU's slab, if it has one."""
    slab = c.slab
    if slab is not None:
        note(cache, c, "flush_slab", slab, "the CPU slot is being emptied")
        freelist, c.freelist, c.slab = c.freelist, [], None
        deactivate_slab(cache, c, slab, freelist)
        c.stat.cpuslab_flush += 1


def flush_cpu(cache: KmemCache, c: CpuSlot) -> None:
    """Empty one CPU's slot: its sheaves, its slab, then its chain."""
    if cache.sheaf_capacity:
        flush_sheaves(cache, c)
    flush_slab(cache, c)
    flush_chain(cache, c)


def flush_all(cache: KmemCache) -> None:
    """`flush_cpu` on every CPU, in ascending order."""
    for c in cache.cpus:
        flush_cpu(cache, c)


def shrink_nodes(cache: KmemCache) -> bool:
    """The node half of a shrink; True if a slab remains on any node.

    6.18 empties the barn after the flush: slabs that were full of barn objects end
    up on a chain again, so a cache with sheaves may need a second shrink.
    """
    for node in cache.nodes:
        if cache.sheaf_capacity:
            empty_barn(cache, node)
        sort_partial(cache, node)
    return any(node.nr_slabs for node in cache.nodes)


def shrink(cache: KmemCache) -> bool:
    """Flush all CPUs, give every empty slab back, sort the others fullest first."""
    flush_all(cache)
    return shrink_nodes(cache)


def cpu_dead(caches: list[KmemCache], cpu: int) -> None:
    """A CPU has gone: whoever handles it empties the CPU's slot of every cache."""
    for cache in caches:
        flush_cpu(cache, cache.cpus[cpu])


def release_empty(cache: KmemCache) -> None:
    """Flush all CPUs and give every empty slab back; the others stay as they are."""
    flush_all(cache)
    for node in cache.nodes:
        for slab in list(node.partial):
            if slab.inuse == 0:
                remove_partial(node, slab)
                discard_slab(cache, slab)


def objects_taken(cache: KmemCache) -> int:
    """Objects in users' hands."""
    return sum(sum(slab.taken) for slab in cache.slabs.values())


def shutdown(cache: KmemCache) -> int:
    """The end of a cache: flush, discard what is empty; slabs that remain.

    Divergence: barns are emptied before the CPUs (6.18: after), because the slabs
    of their objects would otherwise be left on a chain.

    Raises:
        CacheBusy: (classic) objects are in use; the cache lives on, flushed.
    """
    if cache.sheaf_capacity:
        for node in cache.nodes:
            empty_barn(cache, node)
    release_empty(cache)
    remain = sum(node.nr_slabs for node in cache.nodes)
    if remain and cache.design.destroy_refuses:
        raise CacheBusy(
            f"cache {cache.name!r} still has {objects_taken(cache)} objects in use:"
            " free them first"
        )
    return remain
