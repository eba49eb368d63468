"""Slabs between owners: node lists, CPU chains, deactivation, birth and end.

Here: every transition that moves a slab from one place to another: `new_slab`,
`discard_slab`, `freeze_slab`, `get_freelist`, `deactivate_slab`,
`put_cpu_partial`, `put_partials`. Each is one atomic step of SLUB. Not here:
who decides to take them (`alloc`, `free`, `flush`).

A slab is in exactly one place: a CPU slot, a CPU's chain, a node's partial
list, or nowhere ("full": every object is in somebody's hands).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from uslub.model.geometry import Flags
from uslub.model.lines import lock_list, write_word
from uslub.model.pages import get_pages
from uslub.model.state import CpuSlot, KmemCache, Machine, Node, Slab, note

# the node partial list -------------------------------------------------------


def add_partial(node: Node, slab: Slab, *, head: bool = False) -> None:
    """Put a slab on its node's list, at the tail unless told otherwise."""
    node.partial[slab] = None
    if head:
        node.partial.move_to_end(slab, last=False)
    slab.on_partial = True


def remove_partial(node: Node, slab: Slab) -> None:
    """Take a slab off its node's list, from wherever it is."""
    del node.partial[slab]
    slab.on_partial = False


def keeps_no_more_empty(cache: KmemCache, node: Node) -> bool:
    """Does the node have its fill of partial slabs, so that an empty one goes?"""
    return len(node.partial) >= cache.min_partial


# birth and end ---------------------------------------------------------------


def page_home(machine: Machine, node: int) -> int:
    """Where pages are looked for when no node is named: here, or where policy says."""
    return node if machine.policy_node is None else machine.policy_node


def new_slab(
    cache: KmemCache, c: CpuSlot, zonelist: list[int], emergency: bool
) -> Slab | None:
    """A slab on fresh pages: the preferred order, else the smallest that holds one.

    All objects are on its freelist, in address order, and it is in no place yet.
    """
    machine = cache.machine
    order, objects = cache.order, cache.objects
    pages = get_pages(machine.pages, zonelist, order, emergency)
    if pages is None:
        order, objects = cache.min_order, cache.min_objects
        pages = get_pages(machine.pages, zonelist, order, emergency)
        if pages is None:
            note(cache, c, "new_slab", None, "no node asked has pages: none made")
            return None
        c.stat.order_fallback += 1
    slab = Slab(
        number=cache.next_slab,
        node=pages.node,
        page=pages.page,
        order=order,
        objects=objects,
        pfmemalloc=pages.pfmemalloc,
        freelist=list(range(objects - 1, -1, -1)),
        inuse=0,
        taken=bytearray(objects),
        last=array("H", (c.number,)) * objects,
        writer=c.number,
    )
    cache.next_slab += 1
    cache.slabs[slab.number] = slab
    node = cache.nodes[slab.node]
    node.nr_slabs += 1
    node.peak_slabs = max(node.peak_slabs, node.nr_slabs)
    node.total_objects += objects
    note(cache, c, "new_slab", slab, "no slab has a free object: fresh pages")
    return slab


def discard_slab(cache: KmemCache, slab: Slab) -> None:
    """Give an empty slab's pages back to the page allocator."""
    node = cache.nodes[slab.node]
    node.nr_slabs -= 1
    node.total_objects -= slab.objects
    del cache.slabs[slab.number]
    cache.machine.pages[slab.node].release(slab.page, slab.order)


# freezing and unfreezing -----------------------------------------------------


def take_freelist(slab: Slab, *, frozen: bool) -> list[int]:
    """One swap of (freelist, inuse, frozen): the caller owns every free object."""
    freelist = slab.freelist
    slab.freelist = []
    slab.inuse = slab.objects
    slab.frozen = frozen
    return freelist


def freeze_slab(cache: KmemCache, c: CpuSlot, slab: Slab) -> list[int]:
    """Make an unowned slab this CPU's; its free objects become the CPU's."""
    note(cache, c, "freeze_slab", slab, "one CPU owns it from here on")
    write_word(c, slab)
    return take_freelist(slab, frozen=True)


def get_freelist(cache: KmemCache, c: CpuSlot, slab: Slab) -> list[int]:
    """Fetch what others freed into an owned slab; empty: the slab is let go."""
    write_word(c, slab)
    freelist = take_freelist(slab, frozen=bool(slab.freelist))
    why = "objects came back meanwhile" if freelist else "nothing came back: full"
    note(cache, c, "get_freelist", slab, why)
    return freelist


def deactivate_slab(
    cache: KmemCache, c: CpuSlot, slab: Slab, freelist: list[int]
) -> None:
    """Give a CPU's slab back with what is left of the CPU's freelist.

    The CPU's objects go in front of the slab's own. Empty and not needed: the
    pages go back. Something free: onto the node list, at the tail if others had
    freed into it, because its objects are cold here. Nothing free: nowhere.
    """
    stat, node = c.stat, cache.nodes[slab.node]
    remote_frees = bool(slab.freelist)
    if remote_frees:
        stat.deactivate_remote_frees += 1
    if cache.design.deactivates_singly:
        freelist = freelist[::-1]  # object by object: the last one ends on top
    slab.freelist += freelist
    slab.inuse -= len(freelist)
    slab.frozen = False
    write_word(c, slab)
    if slab.inuse == 0 and keeps_no_more_empty(cache, node):
        note(cache, c, "deactivate_slab", slab, "FREE: empty, and enough are kept")
        stat.deactivate_empty += 1
        discard_slab(cache, slab)
        stat.free_slab += 1
    elif slab.freelist and remote_frees:
        note(cache, c, "deactivate_slab", slab, "PARTIAL: tail, remote frees")
        lock_list(c, node)
        add_partial(node, slab)
        stat.deactivate_to_tail += 1
    elif slab.freelist:
        note(cache, c, "deactivate_slab", slab, "PARTIAL: head, no remote frees")
        lock_list(c, node)
        add_partial(node, slab, head=True)
        stat.deactivate_to_head += 1
    else:
        note(cache, c, "deactivate_slab", slab, "FULL: nothing free, on no list")
        stat.deactivate_full += 1
        if cache.debug and cache.flags & Flags.STORE_USER:
            lock_list(c, node)
            node.full[slab] = None


# the CPU's chain of partial slabs --------------------------------------------


def chain_is_full(cache: KmemCache, chain: list[Slab]) -> bool:
    """Has the chain reached its bound, in slabs or (5.10) in free objects?"""
    if cache.design.chain_counts_objects:
        return chain[-1].chain_objects > cache.cpu_partial
    return len(chain) >= cache.cpu_partial_slabs


def put_cpu_partial(cache: KmemCache, c: CpuSlot, slab: Slab, *, drain: bool) -> None:
    """Push a slab on this CPU's chain; a full chain goes to the nodes first."""
    drained: list[Slab] = []
    if drain and c.partial and chain_is_full(cache, c.partial):
        drained, c.partial = c.partial, []
    before = c.partial[-1].chain_objects if c.partial else 0
    slab.chain_objects = before + len(slab.freelist)
    c.partial.append(slab)
    why = "the chain was full: it is drained" if drained else "the chain has room"
    note(cache, c, "put_cpu_partial", slab, why)
    if drained:
        put_partials(cache, c, drained)
        c.stat.cpu_partial_drain += 1
    if cache.design.chain_counts_objects and cache.cpu_partial == 0:
        flush_chain(cache, c)


def put_partials(cache: KmemCache, c: CpuSlot, chain: list[Slab]) -> None:
    """Hand slabs of a chain, from its head on, to the tails of their nodes' lists.

    Empty ones that their node does not need are set aside and discarded last.
    """
    aside = []
    locked: Node | None = None  # kept from slab to slab of one node
    for slab in reversed(chain):
        node = cache.nodes[slab.node]
        if node is not locked:
            lock_list(c, node)
            locked = node
        slab.frozen = False
        if slab.inuse == 0 and keeps_no_more_empty(cache, node):
            aside.append(slab)
        else:
            note(cache, c, "put_partials", slab, "to the tail of its node's list")
            add_partial(node, slab)
            c.stat.free_add_partial += 1
    for slab in aside:
        note(cache, c, "put_partials", slab, "empty, and enough are kept: discarded")
        c.stat.deactivate_empty += 1
        discard_slab(cache, slab)
        c.stat.free_slab += 1


def flush_chain(cache: KmemCache, c: CpuSlot) -> None:
    """Hand the whole chain of one CPU to the nodes; the chain ends up empty."""
    chain, c.partial = c.partial, []
    put_partials(cache, c, chain)


def sort_partial(cache: KmemCache, node: Node) -> None:
    """The node half of a shrink: empty slabs go, the fullest come first.

    Slabs with up to 32 free objects are sorted by how many (each bucket newest
    first); the others keep their order behind them.
    """
    buckets: list[list[Slab]] = [[] for _ in range(32)]
    rest: list[Slab] = []
    for slab in tuple(node.partial):
        free = slab.objects - slab.inuse
        if free == slab.objects:
            remove_partial(node, slab)
            discard_slab(cache, slab)
        elif free <= 32:
            buckets[free - 1].insert(0, slab)
        else:
            rest.append(slab)
    ordered = [slab for bucket in buckets for slab in bucket] + rest
    node.partial = OrderedDict.fromkeys(ordered)
