"""Making a cache: sizes, limits, merging with an existing one.

Here: `make_cache`, `find_mergeable`. Not here: sizes themselves (`geometry`),
the caller's interface (`arena`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from uslub.model import geometry
from uslub.model.errors import CacheError
from uslub.model.geometry import DEBUG_FLAGS, WORD, Flags, align_up
from uslub.model.state import CpuSlot, KmemCache, Machine, Node

#: No cache with one of these merges, neither as the new nor as the old one.
NEVER_MERGE = (
    Flags.RED_ZONE
    | Flags.POISON
    | Flags.STORE_USER
    | Flags.TRACE
    | Flags.TYPESAFE_BY_RCU
    | Flags.NOLEAKTRACE
    | Flags.FAILSLAB
    | Flags.NO_MERGE
)
#: Two caches that merge agree in these.
MERGE_SAME = Flags.RECLAIM_ACCOUNT | Flags.CACHE_DMA | Flags.CACHE_DMA32 | Flags.ACCOUNT


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks a cache to be; None means "by the formula"."""

    name: str
    object_size: int
    align: int = 0
    flags: int = 0
    ctor: bool = False
    freeptr_offset: int | None = None
    order: int | None = None
    min_partial: int | None = None
    cpu_partial: int | None = None
    usersize: int = 0
    sheaf_capacity: int = 0
    has_cpu_partial: bool = True
    defrag_ratio: int = 1000


AnyCache = TypeVar("AnyCache", bound=KmemCache)


def never_merges(request: Request) -> bool:
    """Is this a cache that shares its slabs with nobody?"""
    return bool(
        request.flags & NEVER_MERGE
        or request.ctor
        or request.usersize
        or request.sheaf_capacity
    )


def find_mergeable(caches: Iterable[AnyCache], request: Request) -> AnyCache | None:
    """The oldest cache whose slots suit this request, if it may merge at all.

    Suits: slots at least as large but by less than a word, at the same alignment,
    and the same kind of memory.
    """
    if never_merges(request):
        return None
    size = align_up(request.object_size, WORD)
    align = geometry.calculate_alignment(request.flags, request.align, size)
    size = align_up(size, align)
    for cache in caches:
        slot = cache.layout.size
        if (
            cache.mergeable
            and size <= slot
            and slot - size < WORD
            and slot % align == 0
            and (cache.flags ^ request.flags) & MERGE_SAME == 0
        ):
            return cache
    return None


def merge_into(cache: KmemCache, request: Request) -> None:
    """The cache gets another name and, if need be, a larger object."""
    cache.aliases.append(request.name)
    cache.refcount += 1
    old = cache.layout
    cache.layout = geometry.Layout(
        object_size=max(old.object_size, request.object_size),
        size=old.size,
        align=old.align,
        offset=old.offset,
        inuse=max(old.inuse, align_up(request.object_size, WORD)),
        red_left_pad=old.red_left_pad,
    )


def make_cache(
    cls: Callable[..., AnyCache], machine: Machine, request: Request
) -> AnyCache:
    """A new cache with every limit set, and nothing in it.

    Raises:
        CacheError: Size, alignment or order that SLUB refuses.
    """
    check_request(request)
    design, boot, flags = machine.design, machine.boot, request.flags
    layout = choose_layout(machine, request)
    order, min_order = choose_orders(machine, request, layout.size)
    objects = geometry.order_objects(order, layout.size, boot.page_size)
    debug = bool(flags & DEBUG_FLAGS)
    has_cpu_partial = request.has_cpu_partial and design.cpu_slabs and not debug
    wished = request.cpu_partial if design.cpu_slabs else 0
    if wished is None:
        wished = geometry.cpu_partial(layout.size, flags, boot, design.era)
    least = request.min_partial
    return cls(
        machine=machine,
        design=design,
        name=request.name,
        layout=layout,
        flags=flags,
        order=order,
        objects=objects,
        min_order=min_order,
        min_objects=geometry.order_objects(min_order, layout.size, boot.page_size),
        min_partial=geometry.min_partial(layout.size) if least is None else least,
        cpu_partial=wished,
        cpu_partial_slabs=geometry.cpu_partial_slabs(wished, objects),
        defrag_ratio=request.defrag_ratio,
        cpus=[CpuSlot(cpu, node) for cpu, node in enumerate(machine.cpu_node)],
        nodes=[Node(number) for number in range(len(machine.pages))],
        has_cpu_partial=has_cpu_partial,
        debug=debug,
        singly=debug or not design.cpu_slabs,
        mergeable=not never_merges(request),
        sheaf_capacity=choose_sheaf_capacity(machine, request, layout.size),
    )


def check_request(request: Request) -> None:
    """Refuse what no slot could be made for."""
    if request.object_size < 1:
        raise CacheError(
            f"cache {request.name!r}: object size {request.object_size} is not"
            " positive: objects need at least one byte"
        )
    if request.align & (request.align - 1):
        raise CacheError(
            f"cache {request.name!r}: alignment {request.align} is not a power of two"
        )


def choose_layout(machine: Machine, request: Request) -> geometry.Layout:
    """The slot that the design's era gives to this request."""
    return geometry.calculate_sizes(
        request.object_size,
        geometry.calculate_alignment(request.flags, request.align, request.object_size),
        request.flags,
        ctor=request.ctor,
        freeptr_offset=request.freeptr_offset,
        era=machine.design.era,
    )


def choose_orders(machine: Machine, request: Request, size: int) -> tuple[int, int]:
    """The preferred order and the smallest one that holds an object."""
    page = machine.boot.page_size
    min_order = geometry.get_order(size, page)
    order = request.order
    if order is None:
        order = geometry.calculate_order(size, machine.boot, machine.design.era)
    if not geometry.order_objects(order, size, page):
        raise CacheError(
            f"cache {request.name!r}: order {order} does not hold one slot of {size}"
            f" bytes: the smallest that does is {min_order}"
        )
    return order, min(order, min_order)


def choose_sheaf_capacity(machine: Machine, request: Request, size: int) -> int:
    """Objects per sheaf: none, what was asked for, or (7.x) what the size gives."""
    kind = machine.design.sheaves
    if kind == "none" or request.flags & (DEBUG_FLAGS | Flags.NOLEAKTRACE):
        return 0
    if kind == "asked":
        return request.sheaf_capacity
    return geometry.sheaf_capacity(size, request.sheaf_capacity, machine.boot)
