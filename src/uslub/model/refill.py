"""7.x: filling a sheaf straight from slabs, without CPU slabs in between.

Here: `refill_objects`. Slabs are isolated from a node's list until they hold
enough, emptied, and what is too much goes back. Not here: the sheaves.
"""

from __future__ import annotations

from uslub.model.bulk import free_returned
from uslub.model.errors import OutOfMemory
from uslub.model.free import slab_free_slow
from uslub.model.lines import lock_list, write_word
from uslub.model.partial import (
    add_partial,
    discard_slab,
    keeps_no_more_empty,
    new_slab,
    remove_partial,
    take_freelist,
)
from uslub.model.state import CpuSlot, KmemCache, Node, Position, Slab, note


def refill_objects(cache: KmemCache, c: CpuSlot, want: int) -> list[Position]:
    """`want` objects: the own node's slabs, other nodes', then new slabs.

    Raises:
        OutOfMemory: Not enough; what had been found has gone back to its slabs.
    """
    found: list[Position] = []
    refill_from_node(cache, c, cache.nodes[c.node], want, found)
    zonelist = cache.machine.zonelists[c.node]
    ratio = cache.defrag_ratio
    if len(found) < want and ratio and cache.machine.cycles() % 1024 <= ratio:
        for number in zonelist:
            node = cache.nodes[number]
            if len(found) < want and len(node.partial) > cache.min_partial:
                refill_from_node(cache, c, node, want, found)
    while len(found) < want:
        slab = new_slab(cache, c, zonelist, False)
        if slab is None:
            free_returned(cache, c, found)
            raise OutOfMemory(
                f"cache {cache.name!r}, cpu {c.number}: no pages to refill a sheaf"
                f" with {want} objects; free objects or shrink"
            )
        c.stat.alloc_slab += 1
        refill_from_new_slab(cache, c, slab, want, found)
    return found


def refill_from_new_slab(
    cache: KmemCache, c: CpuSlot, slab: Slab, want: int, found: list[Position]
) -> None:
    """Objects of a new slab; with some left it goes to the head of its list."""
    while slab.freelist and len(found) < want:
        found.append(Position(slab.number, slab.freelist.pop()))
        slab.inuse += 1
    if slab.freelist:
        node = cache.nodes[slab.node]
        lock_list(c, node)
        add_partial(node, slab, head=True)


def isolate(node: Node, want: int) -> list[Slab]:
    """Slabs off the head of a node's list that together hold `want` objects."""
    isolated: list[Slab] = []
    while node.partial and want > 0:
        slab = next(iter(node.partial))
        remove_partial(node, slab)
        isolated.append(slab)
        want -= len(slab.freelist)
    return isolated


def refill_from_node(
    cache: KmemCache, c: CpuSlot, node: Node, want: int, found: list[Position]
) -> None:
    """Empty isolated slabs into `found`, the last isolated first."""
    if not node.partial:
        return  # seen without the lock
    lock_list(c, node)
    isolated = isolate(node, want - len(found))
    while isolated and len(found) < want:
        slab = isolated.pop()
        note(cache, c, "refill_objects", slab, "its whole freelist is taken")
        write_word(c, slab)
        freelist = take_freelist(slab, frozen=False)
        while freelist and len(found) < want:
            found.append(Position(slab.number, freelist.pop()))
        if freelist:
            slab_free_slow(cache, c, slab, freelist[::-1])
    if isolated:
        lock_list(c, node)
    for slab in reversed(isolated):
        if slab.inuse == 0 and keeps_no_more_empty(cache, node):
            discard_slab(cache, slab)
            c.stat.free_slab += 1
        else:
            add_partial(node, slab, head=True)
