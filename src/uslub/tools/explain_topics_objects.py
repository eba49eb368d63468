"""Questions 1 to 7: addresses, links, freelists, and what a slab's numbers mean.

Here: one function per question; each runs the model. Not here: slow paths and
lists (`explain_topics_paths`), CPUs at the same time (`explain_topics_cpus`).
"""

from __future__ import annotations

from typing import Any

from uslub.model import Arena, Boot, Cache, Flags
from uslub.model.geometry import calculate_order, calculate_sizes, order_objects
from uslub.tools.explain_story import Story, small_cache, topic

PAGE = 4096


@topic(
    "address",
    1,
    "How does a bare address find its page, its cache, its object index? What is"
    " the page's role in a call?",
)
def address(story: Story) -> None:
    arena = Arena(cpus=1, pages_per_node=16)
    other = arena.cache("other", 64, order=0)
    cache = arena.cache("demo", 700, order=1)
    other.alloc()
    objects = [cache.alloc() for _ in range(7)]
    story.on(cache, "two caches share 16 pages; this one has slabs of two pages")
    slab = cache.slabs[objects[6].slab]
    size = cache.layout.size
    where = slab.page * PAGE + objects[6].index * size
    story.say(
        f"""kfree gets nothing but the address {where:#x}. The page descriptor is
        what ties it to everything else: pages are numbered, so the address gives
        the page; the page's descriptor names the first page of its run (the head),
        and the head's descriptor *is* the slab: cache, freelist, inuse, frozen."""
    )
    page = where // PAGE
    offset = where - slab.page * PAGE
    story.table(
        "from the address to the object",
        ("step", "computation", "result"),
        [
            ("page", f"{where:#x} >> 12", page),
            ("head of its run", "page is a tail: look at the head", slab.page),
            ("cache", "descriptor of the head", cache.name),
            ("offset in the slab", f"{where:#x} - {slab.page * PAGE:#x}", offset),
            ("index", f"{offset} // {size}", offset // size),
            ("remainder", f"{offset} % {size}", offset % size),
        ],
    )
    story.say(
        """A remainder means an address inside an object, or between two: it is
        refused, and so is a page whose descriptor is not a slab. In the call the
        page is the meeting point: the freeing CPU changes the descriptor's freelist
        and inuse, whoever owns the slab."""
    )
    story.do(
        f"free({where:#x}): object {objects[6].index} of slab {slab.number}",
        lambda: cache.free(objects[6]),
    )


def overrun(offset: int, size: int, written: int) -> tuple[str, str]:
    """Two slots of `size` bytes; `written` bytes run from the first into the second."""
    row = ["."] * size
    for at in range(min(8, size - offset)):
        row[offset + at] = "L"
    hit = any(cell == "L" for cell in row[:written])
    row[:written] = ["X"] * written
    return "".join(row), "link destroyed" if hit else "link survives"


@topic(
    "link",
    2,
    "Why is the link kept inside the object, and why at `offset` rather than at the"
    " start?",
)
def link(story: Story) -> None:
    plain = calculate_sizes(64, 8)
    story.say(
        f"""A free object's bytes belong to nobody, so the link to the next free
        object costs no memory when it lies inside: a 64-byte object has a slot of
        {plain.size} bytes, link at offset {plain.offset}. Only where the bytes of a
        free object still mean something, it goes behind them and the slot grows."""
    )
    rows = []
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("constructor", {"ctor": True}),
        ("readers under RCU", {"flags": Flags.TYPESAFE_BY_RCU}),
        ("poisoned (slab_debug=P)", {"flags": Flags.POISON}),
    ]
    for name, options in kinds:
        layout = calculate_sizes(64, 8, **options)
        per_page = order_objects(0, layout.size)
        rows.append((name, layout.offset, layout.size, per_page))
    story.table("64-byte objects", ("cache", "offset", "slot", "per page"), rows)
    story.say(
        """Why in the middle? A program that writes past the end of its object hits
        the first bytes of the next one. If that is free and its link lies at the
        start, one stray word sends a later allocation anywhere. Up to 5.6 the link
        was at 0. The slot after an overrun of 8, 24 and 40 bytes (X; L is the link):"""
    )
    lines = []
    for written in (8, 24, 40):
        for offset in (0, plain.offset):
            drawn, outcome = overrun(offset, 64, written)
            lines.append(f"link at {offset:>2} {drawn[:44]}.. {outcome}")
    story.show("the next object, free, after an overrun", *lines)
    cache = story.on(small_cache(cpus=1), "links in use: an empty cache")
    first = story.do("the first allocation builds the list", cache.alloc)
    story.do(
        "a free writes one link, into the object itself", lambda: cache.free(first)
    )


@topic("straddle", 3, "Can an object straddle two pages? Two slabs?")
def straddle(story: Story) -> None:
    story.say(
        """Two pages of one slab: yes, they are contiguous. Two slabs: never, because
        a slab holds a whole number of slots and what is left at its end stays
        unused. Each column below is 128 bytes; a digit is an object, | a page
        boundary, - waste."""
    )
    for size in (700, 1536, 512):
        order = calculate_order(size, Boot(cpus_present=2))
        layout = calculate_sizes(size, 8)
        objects = order_objects(order, layout.size)
        story.show(
            f"{size} bytes: order {order}, {objects} objects",
            *map_of(layout.size, order, objects),
        )
    cache = Arena(cpus=1).cache("demo", 1536, order=1)
    positions = [cache.alloc() for _ in range(cache.objects)]
    crossing = [
        p.index
        for p in positions
        if p.index * 1536 // PAGE != ((p.index + 1) * 1536 - 1) // PAGE
    ]
    story.on(cache, "the model's cache of 1536-byte objects in slabs of two pages")
    story.say(
        f"""Objects {crossing} cross a page boundary; all {cache.objects} end within
        their slab. The last {(PAGE << 1) - cache.objects * 1536} bytes are waste. The
        next allocation cannot use them:"""
    )
    story.do("allocate once more", cache.alloc)


def map_of(size: int, order: int, objects: int) -> list[str]:
    """A slab as text, one character per 128 bytes, one line per page."""
    lines = []
    for page in range(1 << order):
        row = ""
        for column in range(32):
            index = (page * PAGE + column * 128) // size
            row += (
                "-" if index >= objects else "0123456789abcdefghijklmnopqrstuvw"[index]
            )
        lines.append(f"page {page} |{row}|")
    return lines


@topic("birth", 4, "Where and how is the first freelist of a new slab built?")
def birth(story: Story) -> None:
    cache = story.on(small_cache(cpus=1), "an empty cache")
    story.say(
        """In new_slab, once, before anybody else can see the slab: each object gets a
        link to the next, in address order (or in a shuffled order with
        SLAB_FREELIST_RANDOM), the last one links to nothing. The constructor runs
        here too, once per object, not per allocation."""
    )
    story.do("the first allocation makes a slab and takes its whole list", cache.alloc)
    story.say(
        """The list did not stay with the slab: the CPU took all of it in one go
        (own: -, inuse 8 of 8), gave out object 0 and keeps 1>2>.. as its own. From
        now on the order is that of use: last freed, first out."""
    )
    second = story.do("another one", cache.alloc)
    story.do("freed again: it is first in line", lambda: cache.free(second))


@topic(
    "freelists",
    5,
    "What is the difference between kmem_cache_cpu.freelist and the slab's own"
    " freelist? get_freepointer and get_freelist?",
)
def freelists(story: Story) -> None:
    cache = small_cache()
    objects = [cache.alloc(0) for _ in range(6)]
    story.on(cache, "CPU 0 has a slab; 6 objects are in use")
    story.say(
        """Two lists for one slab. The CPU freelist belongs to one CPU, which takes
        from it and gives to it without any lock. The slab's own (regular) freelist
        is where every *other* CPU frees to, with a swap on the slab's descriptor."""
    )
    story.do("CPU 0 frees object 5", lambda: cache.free(objects[5], 0))
    story.do("CPU 1 frees object 2", lambda: cache.free(objects[2], 1))
    story.do("CPU 1 frees object 4", lambda: cache.free(objects[4], 1))
    for _ in range(3):
        cache.alloc(0)
    story.on(cache, "CPU 0 has used up its own list")
    story.say(
        """get_freepointer(object) reads one link: "what comes after this object". It
        is part of every fast allocation. get_freelist(slab) is the meeting of the
        two lists: one swap takes all that others have freed, and it becomes the CPU
        freelist."""
    )
    story.do("CPU 0 allocates", lambda: cache.alloc(0))


@topic(
    "frozen", 6, "Which slabs are frozen, who sets and clears it, what does it forbid?"
)
def frozen(story: Story) -> None:
    cache = story.on(small_cache(), "an empty cache, design classic")
    story.say(
        """Frozen means: one CPU owns this slab. Others may still free into it, but
        only the owner may take from it, and nobody may put it on a list or take it
        off. Every change of the bit is one of these:"""
    )
    objects = story.do(
        "a new slab is frozen by the CPU that made it", lambda: cache.alloc_bulk(8, 0)
    )
    story.do(
        "used up: get_freelist finds nothing and lets it go", lambda: cache.alloc(0)
    )
    story.do(
        "first free of a full slab: frozen again, for the freeing CPU's chain",
        lambda: cache.free(objects[0], 1),
    )
    story.do(
        "frozen: the next free only adds its object, whoever owns the slab",
        lambda: cache.free(objects[1], 0),
    )
    story.do("put_partials unfreezes what goes to a node", lambda: cache.flush(1))
    story.do("get_partial_node freezes what it takes", lambda: cache.alloc(1))
    story.do("deactivate_slab unfreezes the CPU's slab", lambda: cache.flush(1))
    rows = []
    for design in ("5.10", "classic", "6.8", "6.18", "7.1"):
        frozen_at = frozen_by_place(design)
        rows.append(
            (design, *(yes(frozen_at.get(place)) for place in ("cpu", "chain", "node")))
        )
    story.table("frozen?", ("design", "CPU slab", "on a chain", "on a node list"), rows)


def frozen_by_place(design: str) -> dict[str, bool]:
    """The bit of a slab in each place that the design has, seen in a run."""
    cache = small_cache(design=design)
    objects = [cache.alloc(0) for _ in range(17)]
    cache.free(objects[0], 1)
    cache.flush(1)
    cache.free(objects[8], 1)
    return {slab.place.split()[0]: slab.frozen for slab in cache.snapshot().slabs}


def yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[value]


@topic(
    "inuse",
    7,
    "What are `inuse` and `objects` of a slab, against `inuse` of the cache?",
)
def inuse(story: Story) -> None:
    cache = small_cache()
    story.on(cache, "an empty cache")
    story.say(
        """objects: how many the slab can hold. inuse of a slab: how many are not on
        the slab's own freelist, so it counts what sits on a CPU freelist too. The
        list's length is always objects - inuse."""
    )
    held = story.do(
        "CPU 0 takes one; inuse says 8: 1 used, 7 on the CPU freelist",
        lambda: cache.alloc(0),
    )
    story.do("a free by another CPU: inuse goes down", lambda: cache.free(held, 1))
    story.do("a flush: the CPU's 7 come back, inuse is 0", lambda: cache.flush(0))
    rows = [row_of(name, cache) for name, cache in examples()]
    story.say(
        """inuse of the *cache* has nothing to do with it: it is a position in the
        slot, the first byte behind the object, where metadata (a link outside, who
        allocated) begins."""
    )
    story.table(
        "kmem_cache.inuse",
        ("cache", "object", "inuse", "link at", "slot"),
        rows,
    )


def examples() -> list[tuple[str, Cache]]:
    """Caches that differ in what follows the object."""
    arena = Arena(merge=False)
    return [
        ("plain 60", arena.cache("a", 60)),
        ("60 with constructor", arena.cache("b", 60, ctor=True)),
        ("60 red-zoned", arena.cache("c", 60, flags=Flags.RED_ZONE)),
        ("60 tracked", arena.cache("d", 60, flags=Flags.STORE_USER)),
    ]


def row_of(name: str, cache: Cache) -> tuple[str, int, int, int, int]:
    layout = cache.layout
    return name, layout.object_size, layout.inuse, layout.offset, layout.size
