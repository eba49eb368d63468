"""Sizes from first principles: how large a slot is, how many fit, what is kept.

Here: pure functions from (object size, alignment, flags, machine) to the numbers
that SLUB fixes when a cache is made. They follow `calculate_alignment`,
`calculate_sizes`, `calculate_order`, `set_cpu_partial` and the kmalloc table.
Not here: any state; KASAN; 32-bit layouts; SLUB_TINY.

All sizes are bytes. A *word* is 8 bytes, a page 4096 unless `Boot` says otherwise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from uslub.model.errors import CacheError

WORD = 8
CACHE_LINE = 64
MAX_PAGE_ORDER = 10
MAX_OBJECTS = 32767  # the objects field of a slab has 15 bits
TRACK_SIZE = 32  # who allocated or freed, one record; 152 up to 5.15
TRACK_SIZE_5_10 = 152
MIN_PARTIAL = 5
MAX_PARTIAL = 10


class Flags(enum.IntFlag):
    """SLAB_* flags that change sizes, merging or names."""

    NONE = 0
    CONSISTENCY_CHECKS = 1 << 0
    RED_ZONE = 1 << 1
    POISON = 1 << 2
    STORE_USER = 1 << 3
    TRACE = 1 << 4
    HWCACHE_ALIGN = 1 << 5
    CACHE_DMA = 1 << 6
    CACHE_DMA32 = 1 << 7
    RECLAIM_ACCOUNT = 1 << 8
    ACCOUNT = 1 << 9
    TYPESAFE_BY_RCU = 1 << 10
    NOLEAKTRACE = 1 << 11
    FAILSLAB = 1 << 12
    NO_MERGE = 1 << 13
    KMALLOC = 1 << 14


#: slab_debug=FZPU: with any of these a cache works one object at a time.
DEBUG_FLAGS = (
    Flags.CONSISTENCY_CHECKS
    | Flags.RED_ZONE
    | Flags.POISON
    | Flags.STORE_USER
    | Flags.TRACE
)


@dataclass(frozen=True, slots=True)
class Boot:
    """What is fixed at boot: the machine's size and the slab_* parameters."""

    cpus_present: int = 1
    cpus_possible: int = 0  #: 0: the same as present
    page_size: int = 4096
    slab_min_order: int = 0
    slab_max_order: int = 3
    slab_min_objects: int = 0  #: 0: from the number of CPUs


@dataclass(frozen=True, slots=True)
class Layout:
    """One slot: where the object, its free pointer and its metadata are."""

    object_size: int  #: what the user asked for
    size: int  #: stride between slots
    align: int
    offset: int  #: of the free pointer, from the object's start
    inuse: int  #: where metadata begins
    red_left_pad: int  #: bytes in front of the object


def align_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def get_order(size: int, page_size: int = 4096) -> int:
    """The smallest order whose page run holds `size` bytes."""
    pages = max(1, -(-size // page_size))
    return (pages - 1).bit_length()


def calculate_alignment(flags: int, align: int, object_size: int) -> int:
    """Alignment of a cache; HWCACHE_ALIGN halves the line for small objects."""
    if flags & Flags.HWCACHE_ALIGN:
        line = CACHE_LINE
        while object_size <= line // 2:
            line //= 2
        align = max(align, line)
    return align_up(max(align, WORD), WORD)


def pointer_is_outside(
    flags: int,
    object_size: int,
    *,
    ctor: bool = False,
    freeptr_offset: int | None = None,
    era: str = "6.18",
) -> bool:
    """Must the free pointer lie behind the object instead of inside it?

    Yes where the object's bytes still mean something while it is free: readers
    under RCU, a constructed state, a poison pattern, a red zone in a tiny object.
    """
    if flags & Flags.TYPESAFE_BY_RCU and freeptr_offset is None:
        return True
    if flags & Flags.POISON or ctor:
        return True
    if era == "5.10":
        return False
    keeps_request = bool(flags & Flags.KMALLOC and flags & Flags.STORE_USER)
    if era == "6.8":
        return keeps_request
    return bool(flags & Flags.RED_ZONE) and (object_size < WORD or keeps_request)


def inside_offset(object_size: int, size: int, era: str) -> int:
    """Where an inside free pointer goes: the middle, away from both neighbours."""
    if era == "5.10":
        return align_up(size // 2, WORD) if size > WORD else 0
    return object_size // 2 // WORD * WORD


def calculate_sizes(
    object_size: int,
    align: int,
    flags: int = 0,
    *,
    ctor: bool = False,
    freeptr_offset: int | None = None,
    era: str = "6.18",
) -> Layout:
    """Layout of one slot; `align` is the result of `calculate_alignment`.

    Raises:
        CacheError: `freeptr_offset` outside the object, or without TYPESAFE_BY_RCU.
    """
    check_freeptr(object_size, flags, freeptr_offset)
    red_zone = bool(flags & Flags.RED_ZONE)
    size = aligned = align_up(object_size, WORD)
    if red_zone and size == object_size:
        size += WORD  # otherwise the alignment padding is the right red zone
    inuse = size
    if pointer_is_outside(
        flags, object_size, ctor=ctor, freeptr_offset=freeptr_offset, era=era
    ):
        offset = size
        size += WORD
    elif freeptr_offset is not None:
        offset = freeptr_offset
    else:
        offset = inside_offset(object_size, aligned, era)
    if flags & Flags.STORE_USER:
        size += 2 * (TRACK_SIZE_5_10 if era == "5.10" else TRACK_SIZE)
        if flags & Flags.KMALLOC and era != "5.10":
            size += 4  # the size that was asked for
    left_pad = align_up(WORD, align) if red_zone else 0
    if red_zone:
        size += WORD + left_pad
    size = align_up(size, align)
    return Layout(object_size, size, align, offset, inuse, left_pad)


def check_freeptr(object_size: int, flags: int, freeptr_offset: int | None) -> None:
    """Refuse a user-chosen free pointer offset that SLUB would refuse."""
    if freeptr_offset is None:
        return
    if not flags & Flags.TYPESAFE_BY_RCU:
        raise CacheError(
            "a free pointer offset needs TYPESAFE_BY_RCU: leave freeptr_offset out"
        )
    if freeptr_offset % WORD or not 0 <= freeptr_offset < object_size:
        raise CacheError(
            f"free pointer offset {freeptr_offset} is not an aligned place inside"
            f" {object_size} bytes: choose a multiple of {WORD} below the size"
        )


def order_objects(order: int, size: int, page_size: int = 4096) -> int:
    """How many slots of `size` bytes fit into a run of ``2**order`` pages."""
    return (page_size << order) // size


def min_objects_wanted(boot: Boot, era: str = "6.18") -> int:
    """How many objects a slab should hold at least: more CPUs, larger slabs."""
    if boot.slab_min_objects:
        return boot.slab_min_objects
    cpus = boot.cpus_present
    if cpus <= 1 or era == "5.10":
        cpus = boot.cpus_possible or boot.cpus_present
    return 4 * (cpus.bit_length() + 1)


def calculate_order(size: int, boot: Boot, era: str = "6.18") -> int:
    """The order that wastes little and holds enough (6.7 and later).

    Raises:
        CacheError: One slot is larger than the largest page run.
    """
    if era == "5.10":
        return calculate_order_old(size, boot, era)
    page, highest = boot.page_size, boot.slab_max_order
    wanted = min(
        min_objects_wanted(boot, era), max(order_objects(highest, size, page), 1)
    )
    lowest = max(boot.slab_min_order, get_order(wanted * size, page))
    if order_objects(lowest, size, page) > MAX_OBJECTS:
        return get_order(size * MAX_OBJECTS, page) - 1
    for fraction in (16, 8, 4, 2):
        for order in range(lowest, highest + 1):
            if (page << order) % size <= (page << order) // fraction:
                return order
    return single_object_order(size, boot)


def calculate_order_old(size: int, boot: Boot, era: str = "6.6") -> int:
    """The order as chosen up to 6.6: fewer objects before more waste."""
    page, highest = boot.page_size, boot.slab_max_order
    wanted = min(min_objects_wanted(boot, era), order_objects(highest, size, page))
    while wanted > 1:
        for fraction in (16, 8, 4):
            order = first_order(wanted, size, fraction, boot)
            if order is not None:
                return order
        wanted -= 1
    order = first_order(1, size, 1, boot)
    return single_object_order(size, boot) if order is None else order


def first_order(wanted: int, size: int, fraction: int, boot: Boot) -> int | None:
    """First order that holds `wanted` slots and wastes at most 1/`fraction`."""
    page = boot.page_size
    if order_objects(boot.slab_min_order, size, page) > MAX_OBJECTS:
        return get_order(size * MAX_OBJECTS, page) - 1
    lowest = max(boot.slab_min_order, get_order(wanted * size, page))
    for order in range(lowest, boot.slab_max_order + 1):
        if (page << order) % size <= (page << order) // fraction:
            return order
    return None


def single_object_order(size: int, boot: Boot) -> int:
    """The order for one object per slab, when nothing better was found."""
    order = get_order(size, boot.page_size)
    if order > MAX_PAGE_ORDER:
        raise CacheError(
            f"a slot of {size} bytes is larger than the largest page run"
            f" ({boot.page_size << MAX_PAGE_ORDER} bytes): make the object smaller"
        )
    return order


def cpu_partial(size: int, flags: int, boot: Boot, era: str = "6.18") -> int:
    """Objects that a CPU's chain should hold, before conversion to slabs."""
    if flags & DEBUG_FLAGS:
        return 0
    counts = (2, 6, 13, 30) if era == "5.10" else (6, 24, 52, 120)
    for limit, count in zip((boot.page_size, 1024, 256), counts, strict=False):
        if size >= limit:
            return count
    return counts[-1]


def cpu_partial_slabs(objects_wished: int, objects_per_slab: int) -> int:
    """The chain limit in slabs: as if every slab on it were half full."""
    return -(-2 * objects_wished // objects_per_slab)


def min_partial(size: int) -> int:
    """Slabs on a node list below which an empty slab is kept."""
    return min(max((size.bit_length() - 1) // 2, MIN_PARTIAL), MAX_PARTIAL)


def cache_id(flags: int, size: int) -> str:
    """The name of a mergeable cache in sysfs, for example ":aA-0000192"."""
    letters = "".join(
        letter
        for letter, flag in (
            ("d", Flags.CACHE_DMA),
            ("D", Flags.CACHE_DMA32),
            ("a", Flags.RECLAIM_ACCOUNT),
            ("F", Flags.CONSISTENCY_CHECKS),
            ("A", Flags.ACCOUNT),
        )
        if flags & flag
    )
    return f":{letters}{'-' if letters else ''}{size:07d}"


# kmalloc ----------------------------------------------------------------------

KMALLOC_MAX_CACHE_SIZE = 8192
KMALLOC_SIZES = (8, 16, 32, 64, 96, 128, 192, *(1 << i for i in range(8, 14)))


def kmalloc_size(size: int, min_align: int = WORD) -> int:
    """Size class of a request of 1..8192 bytes; 96 and 192 fall with alignment."""
    for candidate in KMALLOC_SIZES:
        if candidate == 96 and min_align >= 64:
            continue
        if candidate == 192 and min_align >= 128:
            continue
        if size <= candidate:
            return candidate
    raise CacheError(f"{size} bytes is above {KMALLOC_MAX_CACHE_SIZE}: use pages")


def kmalloc_align(size: int, era: str = "6.18") -> int:
    """Natural alignment: the largest power of two that divides the class."""
    if era in ("5.10", "6.8") and size & (size - 1):
        return WORD
    return max(size & -size, WORD)


def kmalloc_name(size: int, kind: str = "normal") -> str:
    """kmalloc-96, kmalloc-rcl-1k, kmalloc-cg-64, dma-kmalloc-8, ..."""
    text = f"{size // 1024}k" if size >= 1024 else str(size)
    prefix = {"normal": "kmalloc", "dma": "dma-kmalloc"}.get(kind, f"kmalloc-{kind}")
    return f"{prefix}-{text}"


# sheaves ----------------------------------------------------------------------

SHEAF_HEADER = 32


def sheaf_capacity(size: int, asked: int, boot: Boot) -> int:
    """7.x: objects per sheaf, grown so that a sheaf fills its kmalloc class."""
    base = 60
    for limit, count in ((boot.page_size, 4), (1024, 12), (256, 26)):
        if size >= limit:
            base = count
            break
    full = kmalloc_size(SHEAF_HEADER + WORD * base)
    return max((full - SHEAF_HEADER) // WORD, asked)
