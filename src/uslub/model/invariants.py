"""What always holds between two operations: named predicates over snapshots.

Here: one function per claim, each giving the sentences that contradict it, for
the snapshot of any implementation. `violations` asks them all. Not here: what a
single transition must do (that is the model itself), and anything that repairs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from uslub.snapshot import ArenaSnapshot, CacheSnapshot

Finding = str
Predicate = Callable[[CacheSnapshot], Iterator[Finding]]


def inuse_and_freelist_add_up(cache: CacheSnapshot) -> Iterator[Finding]:
    """objects - inuse is the length of the slab's own freelist."""
    for slab in cache.slabs:
        if slab.inuse + len(slab.freelist) != slab.objects:
            yield (
                f"slab {slab.slab}: inuse {slab.inuse} + {len(slab.freelist)} free"
                f" != {slab.objects} objects"
            )


def freelists_name_objects_once(cache: CacheSnapshot) -> Iterator[Finding]:
    """Freelists hold indexes of the slab, each at most once."""
    on_cpu = {c.slab: c.freelist for c in cache.cpus if c.slab is not None}
    for slab in cache.slabs:
        free = slab.freelist + on_cpu.get(slab.slab, ())
        if len(set(free)) != len(free):
            yield f"slab {slab.slab}: an object is free twice: {free}"
        if any(not 0 <= index < slab.objects for index in free):
            yield f"slab {slab.slab}: an index outside 0..{slab.objects - 1}: {free}"


def cpu_freelist_needs_a_slab(cache: CacheSnapshot) -> Iterator[Finding]:
    """Without a CPU slab the CPU freelist is empty."""
    for c in cache.cpus:
        if c.slab is None and c.freelist:
            yield f"cpu {c.cpu}: freelist {c.freelist} but no slab"


def slabs_are_in_one_place(cache: CacheSnapshot) -> Iterator[Finding]:
    """Every slab is in one place, and the lists say the same as the slabs."""
    listed: list[tuple[int, str]] = []
    for c in cache.cpus:
        if c.slab is not None:
            listed.append((c.slab, f"cpu {c.cpu}"))
        listed += [(slab, f"chain {c.cpu}") for slab in c.partial]
    for node in cache.nodes:
        listed += [(slab, f"node {node.node}") for slab in node.partial]
    for number, times in Counter(slab for slab, _ in listed).items():
        if times > 1:
            yield f"slab {number} is in {times} places"
    places = dict(listed)
    for slab in cache.slabs:
        if places.pop(slab.slab, "full") != slab.place:
            yield f"slab {slab.slab} says {slab.place}, the lists do not"
    if places:
        yield f"lists name slabs that do not exist: {sorted(places)}"


def listed_slabs_have_a_free_object(cache: CacheSnapshot) -> Iterator[Finding]:
    """A slab on a node list or a chain has a free object; a full one has none."""
    for slab in cache.slabs:
        listed = slab.place.startswith(("node", "chain"))
        if listed and not slab.freelist:
            yield f"slab {slab.slab} is on {slab.place} without a free object"
        if slab.place == "full" and slab.freelist:
            yield f"slab {slab.slab} has {len(slab.freelist)} free and is on no list"


def nodes_count_their_slabs(cache: CacheSnapshot) -> Iterator[Finding]:
    """nr_slabs and total_objects are what the node's slabs add up to."""
    for node in cache.nodes:
        slabs = [slab for slab in cache.slabs if slab.node == node.node]
        objects = sum(slab.objects for slab in slabs)
        if (node.slabs, node.objects) != (len(slabs), objects):
            yield (
                f"node {node.node} counts {node.slabs} slabs, {node.objects} objects;"
                f" there are {len(slabs)}, {objects}"
            )
        foreign = set(node.partial) - {slab.slab for slab in slabs}
        if foreign:
            yield f"node {node.node} lists slabs of other nodes: {sorted(foreign)}"


def counters_agree_with_slabs(cache: CacheSnapshot) -> Iterator[Finding]:
    """Slabs that exist were allocated, and no more were freed than allocated."""
    made, freed = cache.stat("alloc_slab"), cache.stat("free_slab")
    refilled_from_nothing = len(cache.slabs) > made - freed
    if refilled_from_nothing:
        yield f"{len(cache.slabs)} slabs, but {made} made and {freed} freed"


PREDICATES: tuple[Predicate, ...] = (
    inuse_and_freelist_add_up,
    freelists_name_objects_once,
    cpu_freelist_needs_a_slab,
    slabs_are_in_one_place,
    listed_slabs_have_a_free_object,
    nodes_count_their_slabs,
    counters_agree_with_slabs,
)


def frozen_means_owned(
    cache: CacheSnapshot, *, chain_frozen: bool
) -> Iterator[Finding]:
    """A slab is frozen iff a CPU owns it: as its slab, or (to 6.7) on its chain."""
    owned = ("cpu", "chain") if chain_frozen else ("cpu",)
    for slab in cache.slabs:
        if slab.frozen != slab.place.startswith(owned):
            yield f"slab {slab.slab} at {slab.place}: frozen is {slab.frozen}"


def chains_are_bounded(cache: CacheSnapshot) -> Iterator[Finding]:
    """No chain is longer than cpu_partial_slabs; one slab is always allowed."""
    limit = max(cache.cpu_partial_slabs, 1)
    for c in cache.cpus:
        if len(c.partial) > limit:
            yield f"cpu {c.cpu}: chain of {len(c.partial)} slabs, limit {limit}"


def nothing_lost(
    cache: CacheSnapshot, held: Collection[tuple[int, int]]
) -> Iterator[Finding]:
    """Each object is held or on one freelist; `held` is (slab, index) by users.

    For caches without sheaves.
    """
    on_cpu = {c.slab: c.freelist for c in cache.cpus if c.slab is not None}
    by_slab: dict[int, set[int]] = {slab.slab: set() for slab in cache.slabs}
    for number, index in held:
        if number not in by_slab:
            yield f"object {index} of slab {number} is held, the slab is gone"
        else:
            by_slab[number].add(index)
    for slab in cache.slabs:
        free = set(slab.freelist + on_cpu.get(slab.slab, ()))
        both = free & by_slab[slab.slab]
        lost = set(range(slab.objects)) - free - by_slab[slab.slab]
        if both:
            yield f"slab {slab.slab}: held and free at once: {sorted(both)}"
        if lost:
            yield f"slab {slab.slab}: neither held nor free: {sorted(lost)}"


def pages_add_up(arena: ArenaSnapshot, *, large_pages: int = 0) -> Iterator[Finding]:
    """Page runs do not overlap, and free pages and runs are all pages."""
    runs = sorted(
        (slab.page, slab.page + (1 << slab.order))
        for cache in arena.caches
        for slab in cache.slabs
    )
    for (_, end), (start, _) in itertools.pairwise(runs):
        if start < end:
            yield f"page {start} belongs to two slabs"
    used = sum(end - start for start, end in runs) + large_pages
    free = sum(pages.free_pages for pages in arena.pages)
    total = sum(pages.pages for pages in arena.pages)
    if used + free != total:
        yield f"{used} pages in use + {free} free != {total}"


def violations(cache: CacheSnapshot, *, chain_frozen: bool = True) -> list[str]:
    """Every finding of every predicate, named; empty when all is well.

    Args:
        chain_frozen: True for 5.10 and classic, False for 6.8 and later.
    """
    found = [
        f"{predicate.__name__}: {finding}"
        for predicate in PREDICATES
        for finding in predicate(cache)
    ]
    found += [
        f"frozen_means_owned: {finding}"
        for finding in frozen_means_owned(cache, chain_frozen=chain_frozen)
    ]
    return found
