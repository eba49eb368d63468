"""Who wrote last: locks taken, and cache lines that change hands.

Here: `lock_list`, `lock_barn`, `write_word`, `write_object`, one per kind of
shared line. Each is called where the kernel takes the lock or swaps the word, so
that the counts belong to decisions, not to guesses about them. A line is counted
when a CPU writes it and another CPU wrote it last. Not here: any decision; reads;
the CPU's own structures, which no other CPU writes.
"""

from __future__ import annotations

from uslub.model.state import Barn, CpuSlot, Node, Slab


def lock_list(c: CpuSlot, node: Node) -> None:
    """CPU `c` takes the node's list_lock, and with it the node's line."""
    node.list_locked += 1
    if node.writer != c.number:
        node.writer = c.number
        c.lines.node += 1


def lock_barn(c: CpuSlot, barn: Barn) -> None:
    """CPU `c` takes the barn's lock."""
    barn.locked += 1
    if barn.writer != c.number:
        barn.writer = c.number
        c.lines.barn += 1


def write_word(c: CpuSlot, slab: Slab) -> None:
    """CPU `c` swaps (freelist, counters) of a slab: one double-word CAS."""
    c.lines.words += 1
    if slab.writer != c.number:
        slab.writer = c.number
        c.lines.slab += 1


def write_object(c: CpuSlot, slab: Slab, index: int) -> None:
    """CPU `c` writes an object: its new owner fills it, or a free links it."""
    if slab.last[index] != c.number:
        slab.last[index] = c.number
        c.lines.object += 1


def count_free(c: CpuSlot, slab: Slab, index: int) -> None:
    """CPU `c` gives an object back: from whose CPU and node, and its line."""
    if slab.last[index] != c.number:
        slab.last[index] = c.number
        c.lines.object += 1
        c.lines.cross_cpu_frees += 1
    if slab.node != c.node:
        c.lines.cross_node_frees += 1
