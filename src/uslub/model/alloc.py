"""Allocation: the fast path, then the five sources of the slow path, in order.

    1 the CPU's freelist            slab_alloc            (fast)
    2 the CPU slab's own freelist   get_freelist          objects freed by others
    3 the CPU's chain               pop_chain
    4 the nodes' partial lists      get_partial_node, get_any_partial
    5 the page allocator            new_slab

Here: these. Debug caches take one object at a time and never own a slab; in 7.x
all caches do so, behind their sheaves. Not here: bulk (`bulk`), sheaves (`sheaf`,
`refill`). The caller has checked that the CPU and the node exist.
"""

from __future__ import annotations

from uslub.model.errors import OutOfMemory
from uslub.model.geometry import Flags
from uslub.model.lines import lock_list, write_object, write_word
from uslub.model.partial import (
    add_partial,
    deactivate_slab,
    freeze_slab,
    get_freelist,
    new_slab,
    page_home,
    put_cpu_partial,
    put_partials,
    remove_partial,
    take_freelist,
)
from uslub.model.state import CpuSlot, KmemCache, Node, Position, Slab, note


def slab_alloc(
    cache: KmemCache,
    c: CpuSlot,
    node: int | None = None,
    thisnode: bool = False,
    emergency: bool = False,
) -> Position:
    """One object for CPU `c`; `node` asks for, `thisnode` insists on, a node.

    Raises:
        OutOfMemory: None of the five sources has one.
    """
    slab = c.slab
    if c.freelist and slab is not None and (node is None or slab.node == node):
        index = c.freelist.pop()
        c.stat.alloc_fastpath += 1
        if cache.machine.watch is not None:
            note(cache, c, "slab_alloc", slab, "the CPU freelist has an object")
    else:
        try:
            slab, index = slab_alloc_slow(cache, c, node, thisnode, emergency)
        except OutOfMemory:
            if cache.machine.reclaim is None:
                raise
            cache.machine.reclaim()
            slab, index = slab_alloc_slow(cache, c, node, thisnode, emergency)
    slab.taken[index] = 1
    if slab.last[index] != c.number:
        write_object(c, slab, index)
    return Position(slab.number, index)


def slab_alloc_slow(
    cache: KmemCache, c: CpuSlot, node: int | None, thisnode: bool, emergency: bool
) -> tuple[Slab, int]:
    """Sources two to five; whatever gives an object also refills the CPU slot."""
    c.stat.alloc_slowpath += 1
    found = own_slab(cache, c, node, emergency)
    if found is None:
        found = pop_chain(cache, c, node, emergency)
    if found is None and thisnode_first(cache, node, thisnode):
        may_dip = emergency and cache.design.thisnode_may_dip
        found = get_slab(cache, c, node, True, may_dip)
    if found is None:
        found = get_slab(cache, c, node, thisnode, emergency)
    if found is None:
        where = "any node" if node is None else f"node {node}"
        raise OutOfMemory(
            f"cache {cache.name!r}, cpu {c.number}: no free object and no pages for a"
            f" slab of order {cache.min_order} on {where}; free objects, shrink, or"
            " ask for another node"
        )
    return found


def thisnode_first(cache: KmemCache, node: int | None, thisnode: bool) -> bool:
    """Is a named node first tried alone, before other nodes are considered?"""
    return cache.design.thisnode_first and node is not None and not thisnode


def load_freelist(
    cache: KmemCache, c: CpuSlot, slab: Slab, freelist: list[int]
) -> tuple[Slab, int]:
    """Make `slab` the CPU slab with this freelist, and take the first object."""
    index = freelist.pop()
    if slab.pfmemalloc and cache.design.shields_reserve:
        note(cache, c, "load_freelist", slab, "reserve: not left to ordinary requests")
        c.slab, c.freelist = None, []
        deactivate_slab(cache, c, slab, freelist)
    else:
        c.slab, c.freelist = slab, freelist
    return slab, index


def pfmemalloc_match(slab: Slab, emergency: bool) -> bool:
    """May this request use objects of this slab?"""
    return emergency or not slab.pfmemalloc


# source 2: what others freed into the CPU's own slab --------------------------


def own_slab(
    cache: KmemCache, c: CpuSlot, node: int | None, emergency: bool
) -> tuple[Slab, int] | None:
    """The CPU slab, if it suits and has objects; otherwise it is given up."""
    slab = c.slab
    if slab is None:
        return None
    if node is not None and slab.node != node:
        note(cache, c, "slab_alloc_slow", slab, "wrong node: deactivate")
        c.stat.alloc_node_mismatch += 1
        detach_slab(cache, c, slab)
        return None
    if not pfmemalloc_match(slab, emergency):
        note(cache, c, "slab_alloc_slow", slab, "from the reserve: deactivate")
        detach_slab(cache, c, slab)
        return None
    freelist = get_freelist(cache, c, slab)
    if not freelist:
        c.slab = None
        c.stat.deactivate_bypass += 1
        return None
    c.stat.alloc_refill += 1
    return load_freelist(cache, c, slab, freelist)


def detach_slab(cache: KmemCache, c: CpuSlot, slab: Slab) -> None:
    """Take the slab out of the CPU slot, and deactivate it."""
    freelist, c.freelist, c.slab = c.freelist, [], None
    deactivate_slab(cache, c, slab, freelist)


# source 3: the CPU's chain ----------------------------------------------------


def pop_chain(
    cache: KmemCache, c: CpuSlot, node: int | None, emergency: bool
) -> tuple[Slab, int] | None:
    """The first slab of the chain that suits; unsuitable ones go to their nodes."""
    while c.partial:
        slab = c.partial.pop()
        note(cache, c, "pop_chain", slab, "newest slab of the chain")
        if cache.design.pop_counts_all:
            c.stat.cpu_partial_alloc += 1
        if cache.design.pop_rechecks:
            c.slab = slab
            found = own_slab(cache, c, node, emergency)
            if found is not None:
                return found
        elif node in (None, slab.node) and pfmemalloc_match(slab, emergency):
            if not cache.design.pop_counts_all:
                c.stat.cpu_partial_alloc += 1
            return load_freelist(cache, c, slab, freeze_slab(cache, c, slab))
        else:
            put_partials(cache, c, [slab])
    return None


# sources 4 and 5: node lists, then the page allocator --------------------------


def get_slab(
    cache: KmemCache, c: CpuSlot, node: int | None, thisnode: bool, emergency: bool
) -> tuple[Slab, int] | None:
    """A partial slab of some node, else a new one; its first object is taken."""
    found = get_partial(cache, c, node, thisnode, emergency)
    if found is not None:
        return found
    home = page_home(cache.machine, c.node) if node is None else node
    only = thisnode and node is not None
    zonelist = [home] if only else cache.machine.zonelists[home]
    slab = new_slab(cache, c, zonelist, emergency)
    if slab is None:
        return None
    c.stat.alloc_slab += 1
    if cache.singly:
        return alloc_single_from_new_slab(cache, c, slab)
    freelist = take_freelist(slab, frozen=True)
    return load_freelist(cache, c, slab, freelist)


def get_partial(
    cache: KmemCache, c: CpuSlot, node: int | None, thisnode: bool, emergency: bool
) -> tuple[Slab, int] | None:
    """From the node asked for (or the CPU's own), then from any node."""
    home = cache.nodes[c.node if node is None else node]
    found = get_partial_node(cache, c, home, emergency)
    if found is not None:
        return found
    if node is not None and (thisnode or cache.design.named_node_ends_search):
        return None
    return get_any_partial(cache, c, emergency)


def get_any_partial(
    cache: KmemCache, c: CpuSlot, emergency: bool
) -> tuple[Slab, int] | None:
    """From the nearest node that has more than `min_partial` partial slabs.

    `remote_node_defrag_ratio` gates it: never at 0, and otherwise unless the
    cycle counter, modulo 1024, is above the ratio.
    """
    ratio = cache.defrag_ratio
    if not ratio or cache.machine.cycles() % 1024 > ratio:
        return None
    for number in cache.machine.zonelists[c.node]:
        node = cache.nodes[number]
        if len(node.partial) > cache.min_partial:
            found = get_partial_node(cache, c, node, emergency)
            if found is not None:
                return found
    return None


def get_partial_node(
    cache: KmemCache, c: CpuSlot, node: Node, emergency: bool
) -> tuple[Slab, int] | None:
    """The first suitable slab of a node's list, and a few more for the chain."""
    if not node.partial:
        return None  # seen without the lock
    lock_list(c, node)
    if cache.singly:
        return alloc_single_from_partial(cache, c, node, emergency)
    taken = choose_partial(cache, node, emergency)
    if not taken:
        return None
    freelist: list[int] = []
    for slab in taken:
        remove_partial(node, slab)
        if slab is taken[0]:
            c.stat.alloc_from_partial += 1
            note(cache, c, "get_partial_node", slab, f"head of node {node.number}")
            freelist = freeze_slab(cache, c, slab)
        else:
            slab.frozen = cache.design.chain_frozen
            put_cpu_partial(cache, c, slab, drain=False)
            c.stat.cpu_partial_node += 1
    return load_freelist(cache, c, taken[0], freelist)


def choose_partial(cache: KmemCache, node: Node, emergency: bool) -> list[Slab]:
    """Which slabs leave the list: one to use, then enough to half fill the chain."""
    taken: list[Slab] = []
    available = 0
    for slab in node.partial:
        if not pfmemalloc_match(slab, emergency):
            continue
        taken.append(slab)
        available += len(slab.freelist)
        if half_fills_chain(cache, len(taken), available):
            break
    return taken


def half_fills_chain(cache: KmemCache, taken: int, available: int) -> bool:
    """Have enough slabs (or, in 5.10, objects) been taken off a node's list?"""
    if not cache.has_cpu_partial or cache.cpu_partial_slabs == 0:
        return True
    if cache.design.chain_counts_objects:
        return available > cache.cpu_partial // 2
    return taken - 1 > cache.cpu_partial_slabs // 2


# one object at a time: debug caches, and 7.x ----------------------------------


def take_single(cache: KmemCache, node: Node, slab: Slab) -> tuple[Slab, int]:
    """One object straight off a slab's freelist; tracked full slabs are listed."""
    index = slab.freelist.pop()
    slab.inuse += 1
    if slab.freelist:
        if not slab.on_partial:
            add_partial(node, slab, head=True)
    else:
        if slab.on_partial:
            remove_partial(node, slab)
        if cache.debug and cache.flags & Flags.STORE_USER:
            node.full[slab] = None
    return slab, index


def alloc_single_from_partial(
    cache: KmemCache, c: CpuSlot, node: Node, emergency: bool
) -> tuple[Slab, int] | None:
    """One object from the first suitable slab of a node's list."""
    for slab in node.partial:
        if pfmemalloc_match(slab, emergency):
            write_word(c, slab)
            return take_single(cache, node, slab)
    return None


def alloc_single_from_new_slab(
    cache: KmemCache, c: CpuSlot, slab: Slab
) -> tuple[Slab, int]:
    """One object from a new slab, which then goes to the head of its node's list."""
    node = cache.nodes[slab.node]
    lock_list(c, node)
    return take_single(cache, node, slab)
