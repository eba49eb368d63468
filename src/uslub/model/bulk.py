"""Many objects at once: bulk allocation, and free by detached freelists.

Here: `slab_alloc_bulk`, all or nothing; `build_detached_freelist`, which cuts an
array of mixed objects into groups of one slab, each freed in one step.
Not here: bulk through sheaves (`sheaf`).
"""

from __future__ import annotations

from uslub.model.alloc import slab_alloc
from uslub.model.errors import OutOfMemory
from uslub.model.free import return_object, slab_free
from uslub.model.lines import count_free
from uslub.model.state import CpuSlot, KmemCache, Position

LOOKAHEAD = 3  # objects of other slabs that are passed over before giving up


def slab_alloc_bulk(
    cache: KmemCache,
    c: CpuSlot,
    n: int,
    node: int | None = None,
    thisnode: bool = False,
    emergency: bool = False,
) -> list[Position]:
    """`n` objects, each as by `slab_alloc`; on failure all taken are freed again.

    Raises:
        OutOfMemory: Nothing was handed out.
    """
    result: list[Position] = []
    try:
        while len(result) < n:
            result.append(slab_alloc(cache, c, node, thisnode, emergency))
    except OutOfMemory:
        slab_free_bulk(cache, c, result)
        raise
    return result


def slab_free_bulk(cache: KmemCache, c: CpuSlot, positions: list[Position]) -> None:
    """Free objects of any slabs, one group after another from the array's end.

    Raises:
        InvalidFree, DoubleFree: At the first wrong one; earlier ones are marked
            as given back, none has reached a freelist.
    """
    for position in positions:
        count_free(c, return_object(cache, position), position[1])
    free_returned(cache, c, list(positions))


def free_returned(cache: KmemCache, c: CpuSlot, left: list[Position]) -> None:
    """The same for objects already taken back from their users; empties `left`."""
    while left:
        number = left[-1].slab
        slab_free(cache, c, cache.slabs[number], build_detached_freelist(left))


def build_detached_freelist(left: list[Position]) -> list[int]:
    """Take one group off `left`: the objects of the last one's slab, head first.

    Walks from the end towards the front, linking each object of that slab before
    those already found, and swapping it behind the ones that remain; after three
    objects of other slabs it gives up.
    """
    number, index = left.pop()
    detached = [index]
    remain = len(left)
    lookahead = LOOKAHEAD
    for at in reversed(range(len(left))):
        if left[at].slab == number:
            detached.insert(0, left[at].index)
            remain -= 1
            left[at], left[remain] = left[remain], left[at]
        else:
            lookahead -= 1
            if lookahead == 0:
                break
    del left[remain:]
    return detached
