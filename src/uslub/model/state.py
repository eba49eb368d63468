"""What there is: slabs, CPU slots, nodes, caches and the machine they run on.

Here: plain dataclasses, changed only by the transitions. A *freelist* is a list
of object indexes with its head at the end, so that taking and giving back an
object are `pop` and `append`. Chains and sheaves are lists of the same kind.
Node partial lists need both ends and removal from the middle: an OrderedDict
whose first key is the head. Not here: any rule.

Left out: the transaction id and everything else that only matters when two
CPUs act at the same time (see `races`), and the objects' bytes.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

from uslub.model.design import Design
from uslub.model.geometry import Boot, Layout
from uslub.model.pages import NodePages


class Position(NamedTuple):
    """One object: the creation number of its slab, and its index in the slab."""

    slab: int
    index: int  # type: ignore[assignment]  # a tuple's own index() is not needed


@dataclass(slots=True)
class Stats:
    """CONFIG_SLUB_STATS on one CPU, under the kernel's names."""

    alloc_fastpath: int = 0
    alloc_slowpath: int = 0
    free_fastpath: int = 0
    free_slowpath: int = 0
    free_frozen: int = 0
    free_add_partial: int = 0
    free_remove_partial: int = 0
    alloc_from_partial: int = 0
    alloc_slab: int = 0
    alloc_refill: int = 0
    alloc_node_mismatch: int = 0
    free_slab: int = 0
    cpuslab_flush: int = 0
    deactivate_full: int = 0
    deactivate_empty: int = 0
    deactivate_to_head: int = 0
    deactivate_to_tail: int = 0
    deactivate_remote_frees: int = 0
    deactivate_bypass: int = 0
    order_fallback: int = 0
    cmpxchg_double_cpu_fail: int = 0  # never moves here: nothing runs in between
    cmpxchg_double_fail: int = 0
    cpu_partial_alloc: int = 0
    cpu_partial_free: int = 0
    cpu_partial_node: int = 0
    cpu_partial_drain: int = 0
    # 6.18 and later
    alloc_pcs: int = 0
    free_pcs: int = 0
    sheaf_flush: int = 0
    sheaf_refill: int = 0
    sheaf_alloc: int = 0
    sheaf_free: int = 0
    barn_get: int = 0
    barn_get_fail: int = 0
    barn_put: int = 0
    barn_put_fail: int = 0


STAT_NAMES = tuple(item.name for item in fields(Stats))


@dataclass(slots=True, eq=False)
class Slab:
    """The descriptor of one run of pages; `freelist` is what no CPU owns."""

    number: int
    node: int
    page: int
    order: int
    objects: int
    pfmemalloc: bool
    freelist: list[int]
    inuse: int  #: handed out, or sitting on a CPU freelist
    taken: bytearray  #: 1 for each object in a user's hands
    last: array[int]  #: the CPU that wrote each object last
    writer: int  #: the CPU that wrote the slab word last
    frozen: bool = False
    on_partial: bool = False
    chain_objects: int = 0  #: 5.10: free objects on the chain from here on


class OwnsSlabs(Protocol):
    """What SLUB's and SLAB's caches have in common."""

    name: str
    slabs: dict[int, Slab]


Sheaf = list[Position]  #: last in, first out: the top is at the end


@dataclass(slots=True)
class Lines:
    """Cache lines that one CPU wrote after another had; see `lines`."""

    object: int = 0  #: lines of objects, at allocation or free
    slab: int = 0  #: slab descriptors
    words: int = 0  #: double-word CAS on slab words, whoever wrote them last
    node: int = 0  #: node structures, with their list locks
    barn: int = 0
    cross_cpu_frees: int = 0  #: of an object that another CPU had allocated
    cross_node_frees: int = 0  #: of an object on another node's memory


@dataclass(slots=True, eq=False)
class CpuSlot:
    """kmem_cache_cpu, and from 6.18 the CPU's two sheaves."""

    number: int
    node: int  #: the node this CPU belongs to
    slab: Slab | None = None
    freelist: list[int] = field(default_factory=list)
    partial: list[Slab] = field(default_factory=list)  #: the chain, head at the end
    stat: Stats = field(default_factory=Stats)
    main: Sheaf = field(default_factory=list)
    spare: Sheaf | None = None
    lines: Lines = field(default_factory=Lines)


@dataclass(slots=True, eq=False)
class Barn:
    """Sheaves of one node that no CPU holds; newest last."""

    full: list[Sheaf] = field(default_factory=list)
    empty: list[Sheaf] = field(default_factory=list)
    locked: int = 0  #: how often its lock was taken
    writer: int = -1  #: the CPU that took it last


@dataclass(slots=True, eq=False)
class Node:
    """kmem_cache_node: the slabs of one cache on one memory node."""

    number: int
    partial: OrderedDict[Slab, None] = field(default_factory=OrderedDict)
    full: OrderedDict[Slab, None] = field(default_factory=OrderedDict)  #: debug only
    nr_slabs: int = 0
    peak_slabs: int = 0
    total_objects: int = 0
    list_locked: int = 0  #: how often list_lock was taken
    writer: int = -1  #: the CPU that took it last
    barn: Barn = field(default_factory=Barn)


class Step(NamedTuple):
    """One transition as it is taken, for whoever watches."""

    function: str
    cache: str
    cpu: int
    slab: int | None
    why: str


@dataclass(slots=True, eq=False)
class Machine:
    """CPUs, nodes and pages; what all caches of an arena share."""

    design: Design
    boot: Boot
    cpu_node: list[int]  #: the node of each CPU
    pages: list[NodePages]
    zonelists: list[list[int]]  #: for each node all nodes, nearest first
    cycles: Callable[[], int]  #: the cycle counter behind remote_node_defrag_ratio
    policy_node: int | None = None  #: where the task's memory policy puts new pages
    watch: Callable[[Step], None] | None = None
    reclaim: Callable[[], None] | None = None  #: tried once before out of memory


@dataclass(slots=True, eq=False)
class KmemCache:
    """kmem_cache with everything it owns."""

    machine: Machine
    design: Design
    name: str
    layout: Layout
    flags: int
    order: int
    objects: int
    min_order: int
    min_objects: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    defrag_ratio: int
    cpus: list[CpuSlot]
    nodes: list[Node]
    has_cpu_partial: bool = True  #: CONFIG_SLUB_CPU_PARTIAL and no debugging
    debug: bool = False  #: slab_debug: frees work under the list lock
    singly: bool = False  #: one object at a time, no CPU slab (debug; 7.x)
    mergeable: bool = True
    sheaf_capacity: int = 0  #: objects per sheaf; 0: no sheaves
    max_full_sheaves: int = 10  #: in the barn of one node
    aliases: list[str] = field(default_factory=list)
    refcount: int = 1
    slabs: dict[int, Slab] = field(default_factory=dict)
    next_slab: int = 0  #: creation number of the next slab


def note(
    cache: KmemCache, c: CpuSlot, function: str, slab: Slab | None, why: str
) -> None:
    """Tell whoever watches which transition is being taken, and why."""
    if cache.machine.watch is not None:
        number = None if slab is None else slab.number
        cache.machine.watch(Step(function, cache.name, c.number, number, why))
