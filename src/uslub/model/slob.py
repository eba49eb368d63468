"""SLOB: three lists of partly free pages, first fit, for requests of any size.

The small allocator of Linux up to 6.3, in the rules of 6.1. A page is 2048 units of two
bytes; its free blocks are kept in address order. A request goes to the list of its size
(below 256 bytes, below 1024, the rest), to the first page where it fits; that page
becomes the first of its list. No per-CPU and no per-cache state: one lock for all.

Here: `Slob`, its pages and lists, and `SlobCache`, which gives a size to each request.
Not here: the encoding of free blocks inside them, RCU footers, constructors.
Linux: mm/slob.c, v6.1.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from uslub.model.errors import DoubleFree, OutOfMemory
from uslub.model.geometry import get_order
from uslub.model.pages import get_pages
from uslub.model.state import Lines, Machine

UNIT = 2
PAGE_SIZE = 4096
PAGE_UNITS = PAGE_SIZE // UNIT
MINALIGN = 8  # bytes in front of a kmalloc object that hold its size
LISTS = (("small", 256), ("medium", 1024), ("large", PAGE_SIZE))


@dataclass(slots=True, eq=False)
class SlobPage:
    """One page: `starts` and `sizes` of its free blocks, in units, by address."""

    node: int
    page: int
    kind: int  #: index in LISTS; chosen when it was made, or first freed into
    units: int
    starts: list[int]
    sizes: list[int]
    used: dict[int, int] = field(default_factory=dict)  #: start: units, of the used
    writer: int = -1


@dataclass(slots=True)
class SlobObject:
    """What a request got: units of a page, or pages of its own."""

    page: SlobPage | None
    start: int
    node: int
    first: int
    order: int
    cpu: int  #: that allocated it


@dataclass(slots=True, eq=False)
class Slob:
    """The whole allocator."""

    machine: Machine
    lists: list[list[SlobPage]] = field(default_factory=lambda: [[] for _ in LISTS])
    pages: list[dict[int, int]] = field(
        default_factory=lambda: [{} for _ in LISTS]
    )  #: of each list, pages by node, full ones too
    locked: int = 0
    writer: int = -1
    large_pages: int = 0
    lines: list[Lines] = field(default_factory=list)
    walked: int = 0  #: pages looked at
    new_pages: int = 0
    freed_pages: int = 0

    def __post_init__(self) -> None:
        self.lines = [Lines() for _ in self.machine.cpu_node]

    def lock(self, cpu: int) -> None:
        """The one lock."""
        self.locked += 1
        if self.writer != cpu:
            self.writer = cpu
            self.lines[cpu].node += 1

    def alloc(
        self, size: int, align: int, cpu: int, node: int | None, align_offset: int = 0
    ) -> SlobObject:
        """`size` bytes below a page, at an alignment of (address + align_offset).

        Raises:
            OutOfMemory: No page fits and there is no fresh one.
        """
        units = -(-size // UNIT)
        kind = list_of(size)
        self.lock(cpu)
        pages = self.lists[kind]
        for at, page in enumerate(pages):
            if page.units < units or (node is not None and page.node != node):
                continue
            start = place(page, units, align, align_offset)
            if start is None:
                continue
            self.walked += at + 1
            if not page.units:
                del pages[at]
            elif at:
                self.lists[kind] = pages[at:] + pages[:at]
            return self.hand_out(page, start, units, cpu)
        self.walked += len(pages)
        page = self.new_page(kind, cpu, node)
        start = place(page, units, align, align_offset)
        if start is None:
            raise OutOfMemory(
                f"slob, cpu {cpu}: {size} bytes at alignment {align} do not fit into an"
                " empty page; ask for whole pages"
            )
        if page.units:
            self.lists[kind].insert(0, page)
        return self.hand_out(page, start, units, cpu)

    def hand_out(self, page: SlobPage, start: int, units: int, cpu: int) -> SlobObject:
        """Note who has it, and whose line it was."""
        page.used[start] = units
        if page.writer != cpu:
            page.writer = cpu
            self.lines[cpu].slab += 1
        return SlobObject(page, start, page.node, page.page, 0, cpu)

    def new_page(self, kind: int, cpu: int, node: int | None) -> SlobPage:
        """A fresh page, one free block, on no list yet."""
        home = self.machine.cpu_node[cpu] if node is None else node
        zonelist = self.machine.zonelists[home]
        found = get_pages(self.machine.pages, zonelist, 0, False)
        if found is None:
            raise OutOfMemory(f"slob, cpu {cpu}: no page on any node; free objects")
        self.new_pages += 1
        count = self.pages[kind]
        count[found.node] = count.get(found.node, 0) + 1
        return SlobPage(
            found.node, found.page, kind, PAGE_UNITS, [0], [PAGE_UNITS], writer=cpu
        )

    def alloc_pages(self, size: int, cpu: int, node: int | None) -> SlobObject:
        """Pages of their own, for what does not fit below a page."""
        order = get_order(size, PAGE_SIZE)
        home = self.machine.cpu_node[cpu] if node is None else node
        found = get_pages(
            self.machine.pages, self.machine.zonelists[home], order, False
        )
        if found is None:
            raise OutOfMemory(
                f"slob, cpu {cpu}: no block of order {order} for {size} bytes: free"
            )
        self.large_pages += 1 << order
        return SlobObject(None, 0, found.node, found.page, order, cpu)

    def free(self, block: SlobObject, size: int, cpu: int) -> None:
        """Give a block back.

        Raises:
            DoubleFree: It is free already; nothing was changed.
        """
        page = block.page
        if page is None:
            self.large_pages -= 1 << block.order
            self.machine.pages[block.node].release(block.first, block.order)
            return
        units = page.used.pop(block.start, 0)
        if not units:
            raise DoubleFree(
                f"slob: the block at unit {block.start} of page {page.page} is already"
                " free: free each block once"
            )
        self.lock(cpu)
        lines = self.lines[cpu]
        if block.cpu != cpu:
            lines.cross_cpu_frees += 1
            lines.object += 1
        if page.node != self.machine.cpu_node[cpu]:
            lines.cross_node_frees += 1
        if page.writer != cpu:
            page.writer = cpu
            lines.slab += 1
        if page.units + units == PAGE_UNITS:
            self.drop_page(page)
        elif not page.units:
            self.relist_full(page, block.start, units, list_of(size))
        else:
            give_back(page, block.start, units)

    def drop_page(self, page: SlobPage) -> None:
        """A page with nothing in it goes back to the page allocator."""
        if page.units:
            self.lists[page.kind].remove(page)
        self.pages[page.kind][page.node] -= 1
        self.freed_pages += 1
        self.machine.pages[page.node].release(page.page, 0)

    def relist_full(self, page: SlobPage, start: int, units: int, kind: int) -> None:
        """A full page gets its first free block: to the head of that size's list."""
        if kind != page.kind:
            self.pages[page.kind][page.node] -= 1
            count = self.pages[kind]
            count[page.node] = count.get(page.node, 0) + 1
            page.kind = kind
        page.units, page.starts, page.sizes = units, [start], [units]
        self.lists[kind].insert(0, page)


def list_of(size: int) -> int:
    """The list for requests of this size."""
    return 0 if size < 256 else 1 if size < 1024 else 2


def place(page: SlobPage, units: int, align: int, align_offset: int) -> int | None:
    """Take `units` from the first free block that holds them aligned; its start."""
    for at, (start, size) in enumerate(zip(page.starts, page.sizes, strict=True)):
        if size < units:
            continue
        address = start * UNIT + align_offset
        skip = (-address % align) // UNIT if align else 0
        if size < units + skip:
            continue
        rest_start, rest = start + skip + units, size - skip - units
        new = [(start, skip)] if skip else []
        new += [(rest_start, rest)] if rest else []
        page.starts[at : at + 1] = [begin for begin, _ in new]
        page.sizes[at : at + 1] = [length for _, length in new]
        page.units -= units
        return start + skip
    return None


def give_back(page: SlobPage, start: int, units: int) -> None:
    """Insert a free block by address, and merge it with its neighbours."""
    at = bisect_left(page.starts, start)
    page.units += units
    if at < len(page.starts) and start + units == page.starts[at]:
        units += page.sizes[at]
        del page.starts[at], page.sizes[at]
    if at and page.starts[at - 1] + page.sizes[at - 1] == start:
        page.sizes[at - 1] += units
    else:
        page.starts.insert(at, start)
        page.sizes.insert(at, units)


@dataclass(slots=True, eq=False)
class SlobCache:
    """A named size in front of the one allocator; `kmalloc`: the size varies."""

    slob: Slob
    name: str
    object_size: int
    align: int = 0
    kmalloc: bool = False
    live: int = 0
    live_bytes: int = 0

    def alloc(self, cpu: int = 0, node: int | None = None, size: int = 0) -> SlobObject:
        """One object; `size` bytes of it for a kmalloc cache.

        Raises:
            OutOfMemory: As `Slob.alloc`.
        """
        want = size if self.kmalloc and size else self.object_size
        self.live += 1
        if self.kmalloc:
            if want >= PAGE_SIZE - MINALIGN:
                return self.slob.alloc_pages(want, cpu, node)
            power = want if want & (want - 1) == 0 else 0
            align = max(MINALIGN, power)
            return self.slob.alloc(want + MINALIGN, align, cpu, node, MINALIGN)
        if want >= PAGE_SIZE:
            return self.slob.alloc_pages(want, cpu, node)
        return self.slob.alloc(want, self.align, cpu, node)

    def free(self, block: SlobObject, cpu: int = 0) -> None:
        """Give one object back, from any CPU.

        Raises:
            DoubleFree: Nothing was changed.
        """
        size = self.object_size
        if block.page is not None:
            size = block.page.used.get(block.start, 0) * UNIT
        self.slob.free(block, size, cpu)
        self.live -= 1
