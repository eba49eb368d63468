"""The machine and the caches that a trace is replayed on.

Here: `build`, which makes one cache of the model per cache of the trace. In the design
of the traced kernel the header's own numbers are used (order, limits, capacities); in
another design that design's formulae compute them from object size, alignment and
flags, as that kernel would have. `Settings` come last. With `merge` caches that would
have been one are one. Not here: events, seeds, rules of any allocator.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from uslub.lab.replay.settings import BadSetting, Settings
from uslub.lab.replay.topology import Topology
from uslub.lab.trace import CacheInfo, Header
from uslub.model import Arena, Boot, Cache, Flags, geometry
from uslub.model.queues import KMALLOC_MIN, QueueCache, make_queue_cache
from uslub.model.slob import Slob, SlobCache

AnyCache = Cache | QueueCache | SlobCache

NODE_PAGES = 1 << 22  # of each node: 16 GiB, so that no replay runs out
FLAG_BITS = {
    "reclaim_account": Flags.RECLAIM_ACCOUNT,
    "hwcache_align": Flags.HWCACHE_ALIGN,
    "destroy_by_rcu": Flags.TYPESAFE_BY_RCU,
    "cache_dma": Flags.CACHE_DMA,
    "poison": Flags.POISON,
    "red_zone": Flags.RED_ZONE,
    "sanity_checks": Flags.CONSISTENCY_CHECKS,
    "store_user": Flags.STORE_USER,
    "trace": Flags.TRACE,
}
DEBUG = ("poison", "red_zone", "sanity_checks", "store_user", "trace")
#: Caches that exist before there can be sheaves (Linux: SLAB_NO_OBJ_EXT).
NO_SHEAVES = ("kmem_cache", "kmem_cache_node")


@dataclass
class Machine:
    """What the events run on.

    Attributes:
        design: Name of the design.
        arena: The machine of the model (SLAB and SLOB use its pages only).
        caches: One per cache of the trace; merged ones are the same object.
        slob: The allocator behind all caches, where the design is SLOB.
        guessed: Caches whose sizes the header did not know.
    """

    design: str
    arena: Arena
    caches: list[AnyCache]
    slob: Slob | None = None
    guessed: list[str] = field(default_factory=list)
    base: bool = True  #: the traced kernel's own design, untouched

    def distinct(self) -> list[tuple[int, AnyCache]]:
        """Each cache once, with the lowest index that it has."""
        seen: set[int] = set()
        found = []
        for index, cache in enumerate(self.caches):
            if id(cache) not in seen:
                seen.add(id(cache))
                found.append((index, cache))
        return found


def build(
    header: Header,
    design: str,
    traced: str,
    settings: Settings,
    topology: Topology,
    *,
    merge: bool = False,
    slot_sizes: dict[int, int] | None = None,
) -> Machine:
    """Machine and caches.

    Args:
        header: Of the trace.
        design: What to replay on.
        traced: The design of the traced kernel.
        settings: Tunables that differ.
        topology: CPUs and nodes.
        merge: Merge caches as a kernel without `slab_nomerge` would.
        slot_sizes: Largest slot seen of each cache, for those of unknown size.

    Raises:
        BadSetting: A setting that the design does not have, or no cache can have.
    """
    refuse_foreign(design, settings)
    # The kernel tries other nodes in all but about 2 of 100 cases; so does this clock.
    clock = itertools.count(0, 389)
    arena = Arena(
        cpus=topology.cpus,
        nodes=topology.nodes,
        pages_per_node=NODE_PAGES,
        design=design if design not in ("slab", "slob") else "6.18",
        boot=Boot(cpus_present=topology.cpus),
        merge=merge,
        cycles=lambda: next(clock),
    )
    arena.machine.cpu_node[:] = topology.cpu_node
    same = design == traced and topology.kind == "as traced"
    machine = Machine(design, arena, [])
    machine.base = same and not settings.named() and not merge
    if design == "slob":
        machine.slob = Slob(arena.machine)
    by_name: dict[str, AnyCache] = {}
    for index, info in enumerate(header.caches):
        known = complete(info, (slot_sizes or {}).get(index, 0))
        if info.size is None:
            machine.guessed.append(info.name)
        name = info.name
        if design == "slab":
            name = slab_class(name)
        if name in by_name:
            machine.caches.append(by_name[name])
            continue
        if design == "slab":
            cache: AnyCache = queue_cache(arena, name, known)
        elif machine.slob is not None:
            kmalloc = is_kmalloc(name)
            size, align = known.object_size or 8, known.align or 8
            cache = SlobCache(machine.slob, name, size, align, kmalloc)
        else:
            cache = slub_cache(arena, known, traced, settings, same, merge)
        by_name[name] = cache
        machine.caches.append(cache)
    return machine


def refuse_foreign(design: str, settings: Settings) -> None:
    """Settings that mean nothing to a design are refused, not ignored."""
    has: tuple[str, ...] = ("cpu_partial", "min_partial", "order")
    if design == "7.1":
        has = ("min_partial", "order", "sheaf_capacity")
    elif design == "6.18":
        has = (*has, "sheaf_capacity")
    elif design in ("slab", "slob"):
        has = ()
    for name in settings.named():
        if name not in has:
            known = f"it has {', '.join(has)}" if has else "it has none of them"
            raise BadSetting(f"design {design} has no {name}: {known}")


def is_kmalloc(name: str) -> bool:
    """Is this a size class, of which each request has a size of its own?"""
    return name.startswith(("kmalloc-", "dma-kmalloc-", "memdup_user-", "msg_msg-"))


def complete(info: CacheInfo, slot: int) -> CacheInfo:
    """The same with sizes, where the header has none: the largest slot seen."""
    size = info.size or slot or info.object_size or 8
    return replace(
        info,
        size=size,
        object_size=info.object_size or size,
        align=info.align or geometry.WORD,
        flags=info.flags or (),
    )


def flag_bits(info: CacheInfo) -> int:
    """SLAB_* flags of the model, from sysfs' names and the cache's own."""
    bits = 0
    for name in info.flags or ():
        bits |= FLAG_BITS.get(name, 0)
    if is_kmalloc(info.name):
        bits |= Flags.KMALLOC
        if "-rcl-" in info.name:
            bits |= Flags.RECLAIM_ACCOUNT
        if "-cg-" in info.name:
            bits |= Flags.ACCOUNT
    return bits


def slub_cache(
    arena: Arena,
    info: CacheInfo,
    traced: str,
    settings: Settings,
    same: bool,
    merge: bool,
) -> Cache:
    """One cache of a SLUB design; slots keep the size that the traced kernel chose."""
    known = settings.named()
    order = known.get("order", info.order if same else None)
    if order is not None:
        order = max(order, geometry.get_order(info.size or 8))
    limits: dict[str, Any] = {
        "min_partial": known.get("min_partial", info.min_partial),
        "cpu_partial": known.get("cpu_partial", info.cpu_partial if same else None),
    }
    if same and info.cpu_partial == 0 and "cpu_partial" not in known:
        limits["cpu_partial"] = 0
    asked = asked_capacity(info, traced, arena.machine.boot)
    debug = any(flag in DEBUG for flag in info.flags or ())
    cache = arena.cache(
        info.name,
        info.size or 8,
        align=geometry.WORD,
        flags=flag_bits(info) & ~(Flags.RED_ZONE | Flags.POISON | Flags.STORE_USER),
        order=order,
        sheaf_capacity=asked,
        merge=merge and not is_kmalloc(info.name) and not asked and not debug,
        **limits,
    )
    cache.debug = cache.debug or debug
    cache.singly = cache.singly or debug
    if debug:
        cache.has_cpu_partial = False
    if order is None and not same and info.size:
        order = geometry.calculate_order(
            info.size, arena.machine.boot, cache.design.era
        )
    fit(cache, info, order)
    choose_sheaves(cache, info, settings, same)
    return cache


def fit(cache: Cache, info: CacheInfo, order: int | None) -> None:
    """Slot size as traced; objects, and what follows from them, to match."""
    size = info.size or cache.layout.size
    if cache.layout.size != size and not cache.aliases:
        cache.layout = replace(cache.layout, size=size)
    if order is not None:
        cache.order = order
    cache.objects = geometry.order_objects(cache.order, cache.layout.size)
    if info.objects_per_slab and info.order == cache.order:
        cache.objects = info.objects_per_slab
    cache.min_order = min(cache.order, geometry.get_order(cache.layout.size))
    cache.min_objects = geometry.order_objects(cache.min_order, cache.layout.size)
    cache.cpu_partial_slabs = geometry.cpu_partial_slabs(
        cache.cpu_partial, cache.objects
    )


def asked_capacity(info: CacheInfo, traced: str, boot: Boot) -> int:
    """The sheaf capacity that the cache's maker asked for, as far as one can tell."""
    capacity = info.sheaf_capacity or 0
    if traced != "7.1" or not capacity:
        return capacity
    formula = geometry.sheaf_capacity(info.size or 8, 0, boot)
    return capacity if capacity > formula else 0


def choose_sheaves(
    cache: Cache, info: CacheInfo, settings: Settings, same: bool
) -> None:
    """Capacity as traced, by the design's formula, or as set."""
    if same and info.sheaf_capacity is not None:
        cache.sheaf_capacity = info.sheaf_capacity
    elif info.name in NO_SHEAVES:
        cache.sheaf_capacity = 0
    wished = settings.sheaf_capacity
    if wished is not None and (cache.sheaf_capacity or cache.design.sheaves == "asked"):
        cache.sheaf_capacity = wished


def slab_class(name: str) -> str:
    """SLAB has no size class below 32 bytes: smaller ones are that one."""
    head, dash, size = name.rpartition("-")
    if is_kmalloc(name) and size.isdigit() and int(size) < KMALLOC_MIN:
        return f"{head}{dash}{KMALLOC_MIN}"
    return name


def queue_cache(arena: Arena, name: str, info: CacheInfo) -> QueueCache:
    """One SLAB cache."""
    size = info.object_size or 8
    if is_kmalloc(name):
        size = max(size, KMALLOC_MIN)
    return make_queue_cache(
        arena.machine, name, size, align=info.align or 8, flags=flag_bits(info)
    )
