"""What an arena looks like at one moment: frozen, comparable, printable, JSON.

The engine and the executable model both describe themselves in these words, so
that two snapshots can be compared field by field. Nothing here refers to either
of them, and nothing here can change an arena.

A slab is named by `slab`, its creation number in its cache (0, 1, 2, ...), never
by an address: equal histories give equal snapshots in any process.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

#: Bumped whenever a field below changes its name or meaning.
SCHEMA = 1


@dataclass(frozen=True)
class SlabSnapshot:
    """One slab: a run of ``2**order`` pages holding `objects` objects."""

    slab: int  #: creation number in its cache
    page: int  #: first page of the run, counted from the start of the arena's pages
    node: int
    order: int
    objects: int
    inuse: int  #: objects handed out, or sitting on a CPU freelist
    frozen: bool  #: belongs to one CPU (as its CPU slab or on its chain)
    pfmemalloc: bool  #: came from the emergency reserve
    place: str  #: "cpu 0", "chain 1", "node 0", "full" or "stray" (docs/design/05)
    freelist: tuple[int, ...]  #: the slab's own freelist, object indexes, head first


@dataclass(frozen=True)
class CpuSnapshot:
    """One CPU slot of a cache: kmem_cache_cpu."""

    cpu: int
    slab: int | None  #: the CPU slab
    freelist: tuple[int, ...]  #: the CPU freelist, object indexes, head first
    partial: tuple[int, ...]  #: the CPU partial chain, head first


@dataclass(frozen=True)
class NodeSnapshot:
    """One memory node of a cache: kmem_cache_node."""

    node: int
    partial: tuple[int, ...]  #: the node partial list, head first
    slabs: int  #: nr_slabs
    objects: int  #: total_objects


@dataclass(frozen=True)
class CacheSnapshot:
    """One kmem_cache with everything it owns."""

    name: str
    aliases: tuple[str, ...]  #: other names merged into this cache, oldest first
    object_size: int
    size: int  #: stride between objects
    align: int
    offset: int  #: position of the free pointer in a free object
    inuse: int  #: where metadata begins in the slot
    order: int
    objects: int  #: objects per slab of the preferred order
    min_order: int
    min_objects: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    refcount: int
    cpus: tuple[CpuSnapshot, ...]
    nodes: tuple[NodeSnapshot, ...]
    slabs: tuple[SlabSnapshot, ...]  #: by creation number
    stats: tuple[tuple[str, tuple[int, ...]], ...]
    """(counter name in lower case, its value on each CPU); in the order of
    `uslub.snapshot.STATS`; counters that are zero on every CPU are left out."""

    def stat(self, name: str) -> int:
        """Sum over CPUs of one counter; 0 if it never moved."""
        return sum(dict(self.stats).get(name, ()))


@dataclass(frozen=True)
class PagesSnapshot:
    """The page allocator of one node."""

    node: int
    pages: int  #: pages the node manages
    free: tuple[int, ...]  #: number of free blocks of order 0, 1, 2, ...

    @property
    def free_pages(self) -> int:
        return sum(count << order for order, count in enumerate(self.free))


@dataclass(frozen=True)
class ArenaSnapshot:
    """A whole arena. ``print(snapshot)`` is a report, `to_json` is for programs."""

    cpus: int
    pages: tuple[PagesSnapshot, ...]
    caches: tuple[CacheSnapshot, ...]  #: in order of creation

    def cache(self, name: str) -> CacheSnapshot:
        """The cache with this name or alias.

        Raises:
            KeyError: No cache of that name in this snapshot.
        """
        for cache in self.caches:
            if name == cache.name or name in cache.aliases:
                return cache
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        lines = [f"arena: {self.cpus} CPUs, {len(self.pages)} nodes"]
        for pages in self.pages:
            blocks = " ".join(f"{o}:{n}" for o, n in enumerate(pages.free) if n)
            lines.append(
                f"  node {pages.node}: {pages.free_pages} of {pages.pages} pages free"
                f" (order:blocks {blocks or '-'})"
            )
        for cache in self.caches:
            lines.append(
                f"  cache {cache.name}: object {cache.object_size}, slot {cache.size},"
                f" order {cache.order}, {cache.objects} per slab"
            )
            for cpu in cache.cpus:
                if cpu.slab is not None or cpu.partial:
                    lines.append(
                        f"    cpu {cpu.cpu}: slab {cpu.slab},"
                        f" freelist {_run(cpu.freelist)}, chain {_run(cpu.partial)}"
                    )
            for node in cache.nodes:
                lines.append(
                    f"    node {node.node}: {node.slabs} slabs,"
                    f" partial {_run(node.partial)}"
                )
            for slab in cache.slabs:
                frozen = ", frozen" if slab.frozen else ""
                lines.append(
                    f"    slab {slab.slab} ({slab.place}{frozen}):"
                    f" {slab.inuse}/{slab.objects}, freelist {_run(slab.freelist)}"
                )
        return "\n".join(lines)


#: CONFIG_SLUB_STATS items of the classic design, in the kernel's order.
STATS = (
    "alloc_fastpath",
    "alloc_slowpath",
    "free_fastpath",
    "free_slowpath",
    "free_frozen",
    "free_add_partial",
    "free_remove_partial",
    "alloc_from_partial",
    "alloc_slab",
    "alloc_refill",
    "alloc_node_mismatch",
    "free_slab",
    "cpuslab_flush",
    "deactivate_full",
    "deactivate_empty",
    "deactivate_to_head",
    "deactivate_to_tail",
    "deactivate_remote_frees",
    "deactivate_bypass",
    "order_fallback",
    "cmpxchg_double_cpu_fail",
    "cmpxchg_double_fail",
    "cpu_partial_alloc",
    "cpu_partial_free",
    "cpu_partial_node",
    "cpu_partial_drain",
)


def _run(items: tuple[int, ...], limit: int = 12) -> str:
    """``3>1>0`` for a list in order; long ones are cut and counted."""
    if not items:
        return "-"
    text = ">".join(str(item) for item in items[:limit])
    return text if len(items) <= limit else f"{text}>... ({len(items)})"
