"""The page allocator: one buddy system per node, and a reserve.

Here: blocks of ``2**order`` pages, split and merged; the walk over nodes by
distance; the reserve that only emergency requests may use. Deterministic: the
smallest sufficient order, in it the lowest address, splitting keeps the lower
half. Not here: zones, migration types, per-CPU page lists, reclaim.

A node's pages are one contiguous range; page numbers count from the first page
of node 0. Alignment is relative to the node's first page.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class NodePages:
    """The buddy system of one node."""

    node: int
    start: int  #: number of the node's first page
    pages: int
    reserve: int  #: pages that ordinary requests leave alone
    free: list[list[int]] = field(default_factory=list)
    """For each order the free blocks' first pages, relative to `start`, ascending."""
    free_pages: int = 0

    @classmethod
    def make(cls, node: int, start: int, pages: int, reserve: int) -> NodePages:
        """A node with everything free, as maximal aligned blocks."""
        result = cls(node, start, pages, reserve)
        result.free = [[] for _ in range(max(pages.bit_length(), 1))]
        page = 0
        for order in reversed(range(pages.bit_length())):
            if pages >> order & 1:
                result.free[order].append(page)
                page += 1 << order
        result.free_pages = pages
        return result

    def allows(self, order: int) -> bool:
        """Would an ordinary request leave the reserve untouched?"""
        return self.free_pages - (1 << order) >= self.reserve

    def allocate(self, order: int) -> int | None:
        """First page of a block of that order, or None if there is none."""
        for larger in range(order, len(self.free)):
            if self.free[larger]:
                page = self.free[larger].pop(0)
                break
        else:
            return None
        while larger > order:
            larger -= 1
            insort(self.free[larger], page + (1 << larger))
        self.free_pages -= 1 << order
        return self.start + page

    def release(self, page: int, order: int) -> None:
        """Give a block back; it merges with its buddy as long as that is free."""
        self.free_pages += 1 << order
        page -= self.start
        while order < len(self.free) - 1:
            blocks = self.free[order]
            buddy = page ^ (1 << order)
            at = bisect_left(blocks, buddy)
            if at == len(blocks) or blocks[at] != buddy:
                break
            del blocks[at]
            page &= buddy
            order += 1
        insort(self.free[order], page)


@dataclass(frozen=True, slots=True)
class Pages:
    """A block that was handed out."""

    node: int
    page: int
    order: int
    pfmemalloc: bool  #: it came out of the reserve


def get_pages(
    nodes: list[NodePages],
    zonelist: list[int],
    order: int,
    emergency: bool,
) -> Pages | None:
    """A block from the first node of `zonelist` that has one for this request."""
    for number in zonelist:
        node = nodes[number]
        ordinary = node.allows(order)
        if not (ordinary or emergency):
            continue
        page = node.allocate(order)
        if page is not None:
            return Pages(number, page, order, not ordinary)
    return None
