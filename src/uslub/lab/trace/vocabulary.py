"""The words of the kernel's trace events, and what they mean here.

One place knows the names of events and fields, of every kernel; everything else goes by
the fields that are present, never by a version. Unknown fields of a known event are
counted and passed over; an event that lacks a field we need is refused, with the names
of the fields it has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from uslub.lab.trace import kinds
from uslub.lab.trace.batch import (
    CACHE_ALLOC,
    CACHE_FREE,
    KFREE,
    KMALLOC,
    MARK,
    PAGE_ALLOC,
    PAGE_FREE,
    Names,
)
from uslub.lab.trace.errors import UnknownFields

#: Event name to raw event. The *_node twins exist up to 6.0.
EVENTS = {
    "kmalloc": KMALLOC,
    "kmalloc_node": KMALLOC,
    "kfree": KFREE,
    "kmem_cache_alloc": CACHE_ALLOC,
    "kmem_cache_alloc_node": CACHE_ALLOC,
    "kmem_cache_free": CACHE_FREE,
    "mm_page_alloc": PAGE_ALLOC,
    "mm_page_free": PAGE_FREE,
    "tracing_mark_write": MARK,
    "print": MARK,
    "bprint": MARK,
}
EVENT_NAMES = {number: name for name, number in reversed(EVENTS.items())}

#: Fields without which an event says nothing.
NEEDED = {
    KMALLOC: ("ptr", "bytes_req", "bytes_alloc"),
    CACHE_ALLOC: ("ptr", "bytes_req", "bytes_alloc"),
    KFREE: ("ptr",),
    CACHE_FREE: ("ptr",),
    PAGE_ALLOC: ("pfn", "order"),
    PAGE_FREE: ("pfn", "order"),
}
KNOWN = {
    "call_site", "ptr", "bytes_req", "bytes_alloc", "gfp_flags", "node", "accounted",
    "name", "page", "pfn", "order", "migratetype",
}  # fmt: skip

#: The allocator's and the tracer's own allocations, by the function that makes them.
OWN_SITES = ("alloc_slab_obj_exts", "__alloc_empty_sheaf", "__rb_allocate_pages")

#: Names of gfp bits that matter here. The GFP_ combinations are written out because
#: the kernel prints the longest name that fits.
GFP = {
    "__GFP_ACCOUNT": kinds.FLAG_ACCOUNT,
    "GFP_KERNEL_ACCOUNT": kinds.FLAG_ACCOUNT,
    "__GFP_RECLAIMABLE": kinds.FLAG_RECLAIMABLE,
    "__GFP_DMA": kinds.FLAG_DMA,
    "GFP_DMA": kinds.FLAG_DMA,
    "__GFP_THISNODE": kinds.FLAG_THISNODE,
}

FIELD = re.compile(r"(?:^|\s)(\w+)=")


@dataclass(frozen=True)
class Values:
    """What the fields behind the pointer say, of one event."""

    requested: int = 0
    allocated: int = 0
    node: int = -1
    flags: int = 0
    name: int = -1
    present: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    blank: bool = False  # %s fields printed empty (seen with nohash-ptr before 6.6)


def split_fields(text: str) -> dict[str, str]:
    """`a=1 b=two words c=3` as a mapping; values may hold spaces."""
    marks = list(FIELD.finditer(text))
    ends = [mark.start() for mark in marks] + [len(text)]
    return {
        mark[1]: text[mark.end() : end].strip()
        for mark, end in zip(marks, ends[1:], strict=True)
    }


def gfp_flags(text: str) -> int:
    """Our bits of `GFP_KERNEL|__GFP_ACCOUNT`; a number is none that we could read."""
    bits = 0
    for word in text.split("|"):
        bits |= GFP.get(word, 0)
    return bits


def values_of(text: str, names: Names) -> Values:
    """The fields behind the pointer, as printed by the kernel, perf or trace-cmd."""
    fields = split_fields(text)
    flags = gfp_flags(fields.get("gfp_flags", ""))
    if fields.get("accounted") in ("true", "1"):
        flags |= kinds.FLAG_ACCOUNTED
    name = fields.get("name", "")
    return Values(
        requested=int(fields.get("bytes_req", fields.get("order", "0")), 0),
        allocated=int(fields.get("bytes_alloc", "0"), 0),
        node=int(fields.get("node", "-1"), 0),
        flags=flags,
        name=names.number(name) if name else -1,
        present=frozenset(fields),
        unknown=tuple(sorted(set(fields) - KNOWN)),
        blank=fields.get("gfp_flags") == "" or fields.get("name") == "",
    )


def require(event: int, present: frozenset[str] | set[str]) -> None:
    """Refuse an event without the fields that make it one.

    Raises:
        UnknownFields: Naming the event, what it lacks and what it has.
    """
    lacking = [name for name in NEEDED.get(event, ()) if name not in present]
    if lacking:
        has = ", ".join(sorted(present)) or "none"
        raise UnknownFields(
            f"event {EVENT_NAMES[event]} has no field {' or '.join(lacking)}"
            f" (its fields: {has}); this kernel's events are unknown to the lab:"
            " record the other events only, or teach uslub.lab.trace.vocabulary"
        )


def site_name(text: str) -> str:
    """`getname_flags.part.0+0x24/0x1f0 [ext4]` as `getname_flags.part.0+0x24`."""
    return text.split("/", 1)[0].split(" ", 1)[0]


def is_own(site: str) -> bool:
    """Was it allocated by the allocator or the tracer for itself?"""
    return site.split("+", 1)[0].split(".", 1)[0] in OWN_SITES
