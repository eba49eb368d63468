"""Free: the fast path to the CPU's own slab, the slow path to any other.

Here: `slab_free` and the cases of `slab_free_slow` (`__slab_free`), for any
number of objects of one slab at once. Not here: how a bulk free is cut into
such groups (`bulk`), sheaves (`sheaf`).
"""

from __future__ import annotations

from uslub.model.errors import DoubleFree, InvalidFree
from uslub.model.lines import lock_list, write_word
from uslub.model.partial import (
    add_partial,
    discard_slab,
    keeps_no_more_empty,
    put_cpu_partial,
    remove_partial,
)
from uslub.model.state import CpuSlot, KmemCache, Node, OwnsSlabs, Slab, note


def return_object(cache: OwnsSlabs, position: tuple[int, int]) -> Slab:
    """Check that a user holds this object, take it back, and find its slab.

    Raises:
        InvalidFree: No such slab in this cache, or no such object in the slab.
        DoubleFree: The object is not in a user's hands.
    """
    number, index = position
    slab = cache.slabs.get(number)
    if slab is None or not 0 <= index < slab.objects:
        raise InvalidFree(
            f"cache {cache.name!r} has no object {index} of slab {number}: it was"
            " never handed out, or its slab is gone since"
        )
    if not slab.taken[index]:
        raise DoubleFree(
            f"cache {cache.name!r}, object {index} of slab {number} is already free:"
            " free each object once"
        )
    slab.taken[index] = 0
    return slab


def slab_free(cache: KmemCache, c: CpuSlot, slab: Slab, objects: list[int]) -> None:
    """Give `objects` (head first) of one slab back on CPU `c`."""
    if slab is c.slab:
        c.freelist += objects[::-1]
        c.stat.free_fastpath += len(objects)
        if cache.machine.watch is not None:
            note(cache, c, "slab_free", slab, "it is this CPU's slab: CPU freelist")
    else:
        slab_free_slow(cache, c, slab, objects)


def slab_free_slow(
    cache: KmemCache, c: CpuSlot, slab: Slab, objects: list[int]
) -> None:
    """Give objects back to a slab that this CPU does not own.

    Only the state found decides. Frozen: somebody owns the slab and will find
    the objects. Was full: it is on no list, so it must be put on one, the CPU's
    chain if there are chains. Now empty: it may have to go.
    """
    c.stat.free_slowpath += 1 if cache.design.cpu_slabs else len(objects)
    was_full = not slab.freelist
    slab.freelist += objects[::-1]
    slab.inuse -= len(objects)
    write_word(c, slab)
    if cache.debug:
        free_to_partial_list(cache, c, slab, was_full)
    elif slab.frozen:
        note(cache, c, "slab_free_slow", slab, "frozen: its owner will find it")
        c.stat.free_frozen += 1
    elif was_full and cache.has_cpu_partial:
        note(cache, c, "slab_free_slow", slab, "was full: to this CPU's chain")
        slab.frozen = cache.design.chain_frozen
        put_cpu_partial(cache, c, slab, drain=True)
        c.stat.cpu_partial_free += 1
    elif was_full or slab.inuse == 0:
        free_to_node(cache, c, slab, was_full)
    elif cache.machine.watch is not None:
        note(cache, c, "slab_free_slow", slab, "partial before and after: it stays")


def free_to_node(cache: KmemCache, c: CpuSlot, slab: Slab, was_full: bool) -> None:
    """The list work of a free: an empty slab may go, a was-full one is listed."""
    node = cache.nodes[slab.node]
    lock_list(c, node)
    if not was_full and not slab.on_partial:
        note(cache, c, "slab_free_slow", slab, "empty on a chain: it stays there")
    elif slab.inuse == 0 and keeps_no_more_empty(cache, node):
        note(cache, c, "slab_free_slow", slab, "empty, and enough are kept: discarded")
        if slab.on_partial:
            remove_partial(node, slab)
            c.stat.free_remove_partial += 1
        c.stat.free_slab += 1
        discard_slab(cache, slab)
    elif was_full:
        note(cache, c, "slab_free_slow", slab, "was full: tail of its node's list")
        add_partial(node, slab)
        c.stat.free_add_partial += 1
    else:
        note(cache, c, "slab_free_slow", slab, "empty, but few are kept: it stays")


def free_to_partial_list(
    cache: KmemCache, c: CpuSlot, slab: Slab, was_full: bool
) -> None:
    """The same for debug caches: everything under the node's list lock."""
    node: Node = cache.nodes[slab.node]
    lock_list(c, node)
    discard = slab.inuse == 0 and keeps_no_more_empty(cache, node)
    if was_full:
        node.full.pop(slab, None)
        if not discard:
            add_partial(node, slab)
            c.stat.free_add_partial += 1
    elif discard:
        remove_partial(node, slab)
        c.stat.free_remove_partial += 1
    if discard:
        c.stat.free_slab += 1
        discard_slab(cache, slab)
