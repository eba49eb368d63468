"""Sheaves and barns (6.18): arrays of ready objects in front of the slabs.

Here: a CPU's two sheaves, the node's barn of full and empty ones, refill from
slabs and flush to slabs. A sheaf is a stack of positions; objects in it count
as used for their slabs. Not here: rcu_free sheaves, prefilled sheaves, sheaves
as memory (getting an empty one always works), remote frees in batches.

Which node an object lies on decides: only objects of the CPU's own node enter
its sheaves.
"""

from __future__ import annotations

from uslub.model.alloc import slab_alloc
from uslub.model.bulk import free_returned, slab_alloc_bulk
from uslub.model.errors import OutOfMemory
from uslub.model.free import return_object, slab_free
from uslub.model.lines import count_free, lock_barn, write_object
from uslub.model.refill import refill_objects
from uslub.model.state import (
    Barn,
    CpuSlot,
    KmemCache,
    Node,
    Position,
    Sheaf,
    Slab,
    note,
)

PCS_BATCH_MAX = 32  # objects per step when a main sheaf is flushed

# allocation --------------------------------------------------------------------


def alloc_from_pcs(cache: KmemCache, c: CpuSlot, node: int | None) -> Position | None:
    """The top of the main sheaf, or None: then the slabs must help."""
    if node is not None and node != c.node:
        if not cache.design.cpu_slabs:
            c.stat.alloc_node_mismatch += 1
        return None
    if not c.main and not replace_empty_main(cache, c):
        return None
    position = c.main[-1]
    slab = cache.slabs[position.slab]
    if node is not None and slab.node != node:
        return None  # a refill may have brought objects of other nodes
    c.main.pop()
    slab.taken[position.index] = 1
    if slab.last[position.index] != c.number:
        write_object(c, slab, position.index)
    count_sheaf_alloc(cache, c, 1)
    return position


def count_sheaf_alloc(cache: KmemCache, c: CpuSlot, n: int) -> None:
    """6.18 has a counter of its own; from 7.x this *is* the fast path."""
    if cache.design.cpu_slabs:
        c.stat.alloc_pcs += n
    else:
        c.stat.alloc_fastpath += n


def count_sheaf_free(cache: KmemCache, c: CpuSlot, n: int) -> None:
    """The same for frees."""
    if cache.design.cpu_slabs:
        c.stat.free_pcs += n
    else:
        c.stat.free_fastpath += n


def replace_empty_main(cache: KmemCache, c: CpuSlot) -> bool:
    """Get a main sheaf with objects: the spare, a full one, or a refilled one."""
    barn = cache.nodes[c.node].barn
    if c.spare:
        note(cache, c, "replace_empty_main", None, "the spare has objects: swap")
        c.main, c.spare = c.spare, c.main
        return True
    if barn.full:
        note(cache, c, "replace_empty_main", None, "the barn has a full sheaf")
        lock_barn(c, barn)
        barn.empty.append(c.main)
        c.main = barn.full.pop()
        c.stat.barn_get += 1
        return True
    c.stat.barn_get_fail += 1
    sheaf = take_empty_for_refill(cache, c, barn)
    if not refill_sheaf(cache, c, sheaf):
        c.stat.sheaf_free += 1
        return False
    if c.spare is None and not cache.design.cpu_slabs:
        c.spare = c.main  # 7.x
    else:
        lock_barn(c, barn)
        barn.empty.append(c.main)
    c.main = sheaf
    return True


def take_empty_for_refill(cache: KmemCache, c: CpuSlot, barn: Barn) -> Sheaf:
    """An empty sheaf: the CPU's spare, else one of the barn, else a new one."""
    if c.spare is not None:
        sheaf, c.spare = c.spare, None
        return sheaf
    if barn.empty:
        lock_barn(c, barn)
        return barn.empty.pop()
    c.stat.sheaf_alloc += 1
    return []


def refill_sheaf(cache: KmemCache, c: CpuSlot, sheaf: Sheaf) -> bool:
    """Fill an empty sheaf from slabs to capacity; all or nothing."""
    want = cache.sheaf_capacity
    try:
        if cache.design.cpu_slabs:
            found = slab_alloc_bulk(cache, c, want)
        else:
            found = refill_objects(cache, c, want)
    except OutOfMemory:
        return False
    for number, index in found:
        cache.slabs[number].taken[index] = 0  # in a sheaf, not in a user's hands
    sheaf.extend(found)
    c.stat.sheaf_refill += want
    note(cache, c, "refill_sheaf", None, "no full sheaf anywhere: filled from slabs")
    return True


# free ----------------------------------------------------------------------------


def free_to_pcs(cache: KmemCache, c: CpuSlot, slab: Slab, index: int) -> bool:
    """Push an object of this node on the main sheaf; False: not an object for it."""
    if slab.node != c.node:
        return False
    if len(c.main) >= cache.sheaf_capacity:
        replace_full_main(cache, c)
    c.main.append(Position(slab.number, index))
    count_sheaf_free(cache, c, 1)
    return True


def replace_full_main(cache: KmemCache, c: CpuSlot) -> None:
    """Get a main sheaf with room: the spare, an empty one, or a flushed one."""
    barn = cache.nodes[c.node].barn
    if c.spare is None:
        c.spare, c.main = c.main, take_empty(c, barn)
    elif len(c.spare) < cache.sheaf_capacity:
        note(cache, c, "replace_full_main", None, "the spare has room: swap")
        c.main, c.spare = c.spare, c.main
    elif len(barn.full) >= cache.max_full_sheaves:
        note(cache, c, "replace_full_main", None, "the barn is full: flush the spare")
        c.stat.barn_put_fail += 1
        spare, c.spare = c.spare, c.main
        flush_sheaf(cache, c, spare)
        c.main = spare
    else:
        note(cache, c, "replace_full_main", None, "main goes to the barn, full")
        empty = take_empty(c, barn)
        lock_barn(c, barn)
        barn.full.append(c.main)
        c.main = empty
        c.stat.barn_put += 1


def take_empty(c: CpuSlot, barn: Barn) -> Sheaf:
    """An empty sheaf of the barn, or a new one."""
    if barn.empty:
        lock_barn(c, barn)
        return barn.empty.pop()
    c.stat.sheaf_alloc += 1
    return []


# to slabs --------------------------------------------------------------------------


def flush_sheaf(cache: KmemCache, c: CpuSlot, sheaf: Sheaf) -> None:
    """All objects of a sheaf go back to their slabs; the sheaf stays, empty."""
    c.stat.sheaf_flush += len(sheaf)
    note(cache, c, "flush_sheaf", None, "its objects go back to their slabs")
    free_returned(cache, c, sheaf[:])
    sheaf.clear()


def flush_main(cache: KmemCache, c: CpuSlot) -> None:
    """The main sheaf goes back to slabs, from its top, in batches."""
    while c.main:
        batch = c.main[-PCS_BATCH_MAX:]
        del c.main[-PCS_BATCH_MAX:]
        c.stat.sheaf_flush += len(batch)
        free_returned(cache, c, batch)


def flush_sheaves(cache: KmemCache, c: CpuSlot) -> None:
    """Empty both sheaves of one CPU; the spare itself goes too."""
    if c.spare is not None:
        spare, c.spare = c.spare, None
        if spare:
            flush_sheaf(cache, c, spare)
        c.stat.sheaf_free += 1
    flush_main(cache, c)


def empty_barn(cache: KmemCache, node: Node) -> None:
    """Flush a node's full sheaves and drop all of its sheaves."""
    c = next((c for c in cache.cpus if c.node == node.number), cache.cpus[0])
    for sheaf in reversed(node.barn.full):
        flush_sheaf(cache, c, sheaf)
    c.stat.sheaf_free += len(node.barn.full) + len(node.barn.empty)
    node.barn = Barn()


# whole operations --------------------------------------------------------------------


def sheaf_alloc(
    cache: KmemCache, c: CpuSlot, node: int | None, thisnode: bool, emergency: bool
) -> Position:
    """One object from sheaves, else as without them."""
    position = alloc_from_pcs(cache, c, node)
    if position is None:
        position = slab_alloc(cache, c, node, thisnode, emergency)
    return position


def sheaf_free(cache: KmemCache, c: CpuSlot, slab: Slab, index: int) -> None:
    """One object to sheaves, else to its slab."""
    if not free_to_pcs(cache, c, slab, index):
        slab_free(cache, c, slab, [index])


def sheaf_alloc_bulk(cache: KmemCache, c: CpuSlot, n: int) -> list[Position]:
    """Up to `n` objects from sheaves that need no refill, tops first."""
    barn = cache.nodes[c.node].barn
    result: list[Position] = []
    while len(result) < n:
        if not c.main and not c.spare and not barn.full:
            break
        if not c.main:
            replace_empty_main(cache, c)
        batch = c.main[max(0, len(c.main) - (n - len(result))) :]
        del c.main[len(c.main) - len(batch) :]
        for position in batch:
            slab = cache.slabs[position.slab]
            slab.taken[position.index] = 1
            write_object(c, slab, position.index)
        result += batch
        count_sheaf_alloc(cache, c, len(batch))
    return result


def sheaf_free_bulk(cache: KmemCache, c: CpuSlot, positions: list[Position]) -> None:
    """Objects of this node to sheaves while there is room; the rest to slabs."""
    slabs = [return_object(cache, position) for position in positions]
    barn = cache.nodes[c.node].barn
    rest: list[Position] = []
    for slab, position in zip(slabs, positions, strict=True):
        count_free(c, slab, position.index)
        full = len(c.main) >= cache.sheaf_capacity
        no_spare_room = full and c.spare is not None and len(c.spare) == len(c.main)
        no_room = no_spare_room and len(barn.full) >= cache.max_full_sheaves
        if no_room or not free_to_pcs(cache, c, slab, position.index):
            rest.append(position)
    free_returned(cache, c, rest)
