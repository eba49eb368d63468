"""The model as something to call: `Arena`, `Cache`.

Here: argument checks, then one call into the transitions; the same operations
as the engine's, with CPUs and nodes always named, because the model has no
threads of its own. Not here: any rule of SLUB.

What the model leaves out: the objects' bytes, freelist encoding and shuffling,
everything that needs two CPUs at the same instant (see `races`), RCU delays,
memory control groups, KASAN and KFENCE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from uslub.model import bulk, flush, geometry, sheaf
from uslub.model.alloc import slab_alloc
from uslub.model.create import Request, find_mergeable, make_cache, merge_into
from uslub.model.design import Design, find_design
from uslub.model.errors import CacheError, InvalidFree, ObjectsRemaining, OutOfMemory
from uslub.model.free import return_object, slab_free
from uslub.model.geometry import Boot
from uslub.model.kmalloc import (
    KIND_FLAGS,
    ZERO_SIZE_PTR,
    KmallocObject,
    LargeObject,
    Pointer,
    ZeroSize,
    kmalloc_kind,
    slab_ksize,
)
from uslub.model.lines import count_free
from uslub.model.pages import NodePages, get_pages
from uslub.model.partial import flush_chain
from uslub.model.state import CpuSlot, KmemCache, Machine, Node, Position
from uslub.model.view import take_snapshot, view_cache
from uslub.snapshot import ArenaSnapshot, CacheSnapshot


class Cache(KmemCache):
    """One kmem_cache; made by `Arena.cache`."""

    __slots__ = ()

    def alloc(
        self,
        cpu: int = 0,
        node: int | None = None,
        thisnode: bool = False,
        emergency: bool = False,
    ) -> Position:
        """One object.

        Args:
            cpu: The CPU that asks.
            node: The node it should lie on; None: no preference.
            thisnode: Rather fail than take it from another node.
            emergency: May use the reserve.

        Raises:
            OutOfMemory: No source has one; nothing was handed out.
        """
        c = self.cpus[cpu]
        if self.sheaf_capacity:
            return sheaf.sheaf_alloc(self, c, node, thisnode, emergency)
        return slab_alloc(self, c, node, thisnode, emergency)

    def free(self, position: tuple[int, int], cpu: int = 0) -> None:
        """Give one object back, from any CPU.

        Raises:
            InvalidFree, DoubleFree: Nothing was changed.
        """
        slab = return_object(self, position)
        c = self.cpus[cpu]
        if slab.last[position[1]] != cpu or slab.node != c.node:
            count_free(c, slab, position[1])
        if self.sheaf_capacity:
            sheaf.sheaf_free(self, c, slab, position[1])
        else:
            slab_free(self, c, slab, [position[1]])

    def alloc_bulk(
        self,
        n: int,
        cpu: int = 0,
        node: int | None = None,
        thisnode: bool = False,
        emergency: bool = False,
    ) -> list[Position]:
        """`n` objects or none; arguments and errors as for `alloc`."""
        c = self.cpus[cpu]
        if not self.sheaf_capacity:
            return bulk.slab_alloc_bulk(self, c, n, node, thisnode, emergency)
        result = sheaf.sheaf_alloc_bulk(self, c, n)
        try:
            result += bulk.slab_alloc_bulk(self, c, n - len(result))
        except OutOfMemory:
            bulk.slab_free_bulk(self, c, result)
            raise
        return result

    def free_bulk(self, positions: Iterable[Position], cpu: int = 0) -> None:
        """Give many objects back; they are grouped by slab from the end on.

        Raises:
            InvalidFree, DoubleFree: None has reached a freelist.
        """
        if self.sheaf_capacity:
            sheaf.sheaf_free_bulk(self, self.cpus[cpu], list(positions))
        else:
            bulk.slab_free_bulk(self, self.cpus[cpu], list(positions))

    def flush(self, cpu: int | None = None) -> None:
        """Empty the slot of one CPU, or of all in ascending order."""
        if cpu is None:
            flush.flush_all(self)
        else:
            flush.flush_cpu(self, self.cpus[cpu])

    def flush_slab(self, cpu: int) -> None:
        """The first half of a flush: deactivate the CPU slab."""
        flush.flush_slab(self, self.cpus[cpu])

    def flush_chain(self, cpu: int) -> None:
        """The second half of a flush: hand the chain to the nodes."""
        flush_chain(self, self.cpus[cpu])

    def shrink(self) -> bool:
        """Flush all, give empty slabs back, sort the rest; True if any remains."""
        return flush.shrink(self)

    def shrink_nodes(self) -> bool:
        """The node half of a shrink, without a flush."""
        return flush.shrink_nodes(self)

    def set_cpu_partial(self, cpu_partial: int) -> None:
        """Change the wished chain length in objects; flushes every CPU."""
        self.cpu_partial = cpu_partial
        self.cpu_partial_slabs = geometry.cpu_partial_slabs(cpu_partial, self.objects)
        flush.flush_all(self)

    def stats(self) -> dict[str, int]:
        """Counters summed over CPUs; those that never moved are left out."""
        return {name: sum(values) for name, values in self.snapshot().stats}

    def snapshot(self) -> CacheSnapshot:
        """This cache at this moment."""
        return view_cache(self)


class Arena:
    """A machine with CPUs, nodes and pages, and the caches on it.

    Args:
        cpus: CPUs; dealt to the nodes contiguously.
        nodes: Memory nodes, at distance 10 to themselves and 20 to each other.
        pages_per_node: Pages that each node manages.
        design: "5.10", "classic", "6.8", "6.18", "7.1" or a `Design`.
        reserve_pages: Pages of each node that only emergency requests may use.
        boot: Boot-time tunables; by default those of a machine with `cpus` CPUs.
        merge: May new caches merge with existing ones (the kernel's default)?
        cycles: The cycle counter behind remote_node_defrag_ratio.
    """

    def __init__(
        self,
        *,
        cpus: int = 1,
        nodes: int = 1,
        pages_per_node: int = 4096,
        design: str | Design = "classic",
        reserve_pages: int = 0,
        boot: Boot | None = None,
        merge: bool = True,
        cycles: Callable[[], int] = lambda: 0,
    ) -> None:
        if not 1 <= nodes <= cpus and nodes != 1:
            raise CacheError(f"{nodes} nodes need at least as many CPUs, not {cpus}")
        self.machine = Machine(
            design=find_design(design),
            boot=boot or Boot(cpus_present=cpus),
            cpu_node=[cpu * nodes // cpus for cpu in range(cpus)],
            pages=[
                NodePages.make(n, n * pages_per_node, pages_per_node, reserve_pages)
                for n in range(nodes)
            ],
            zonelists=[
                sorted(range(nodes), key=lambda other: (other != home, other))
                for home in range(nodes)
            ],
            cycles=cycles,
        )
        self.merge = merge
        self.caches: list[Cache] = []
        if self.machine.design.reclaims:
            self.machine.reclaim = self.reclaim

    def cache(
        self,
        name: str,
        object_size: int,
        *,
        merge: bool | None = None,
        **options: Any,
    ) -> Cache:
        """A new cache, or (`merge`) an existing one that suits, under a new name.

        Args:
            name: Not in use yet, neither as a name nor as an alias.
            object_size: Bytes.
            merge: May it merge? None: what the arena says.
            options: The other fields of `uslub.model.create.Request`.

        Raises:
            CacheError: The name is in use, or no such cache can be made.
        """
        request = Request(name, object_size, **options)
        if any(name == c.name or name in c.aliases for c in self.caches):
            raise CacheError(f"cache {name!r} exists: choose another name")
        if self.merge if merge is None else merge:
            found = find_mergeable(self.caches, request)
            if found is not None:
                merge_into(found, request)
                return found
        cache: Cache = make_cache(Cache, self.machine, request)
        self.caches.append(cache)
        return cache

    def find(self, name: str) -> Cache:
        """The cache of that name or alias.

        Raises:
            CacheError: There is none.
        """
        for cache in self.caches:
            if name == cache.name or name in cache.aliases:
                return cache
        raise CacheError(f"no cache {name!r} in this arena")

    def destroy(self, cache: Cache) -> None:
        """Drop one name of a cache; with the last one the cache ends.

        Raises:
            CacheBusy: (classic) objects are in use; the cache lives on, flushed.
            ObjectsRemaining: (other designs) objects are in use; the cache is gone
                and its slabs leak, as in the kernel.
        """
        if cache.refcount > 1:
            cache.refcount -= 1
            return
        remain = flush.shutdown(cache)
        self.caches.remove(cache)
        if remain:
            raise ObjectsRemaining(
                f"cache {cache.name!r} still has objects: {remain} slabs leak; free"
                " every object before destroy"
            )

    def reclaim(self) -> None:
        """Get back what no object needs: every CPU slot, every empty slab."""
        for cache in self.caches:
            flush.release_empty(cache)

    def cpu_dead(self, cpu: int) -> None:
        """A CPU goes away: its slot of every cache is emptied."""
        flush.cpu_dead(list(self.caches), cpu)

    def kmalloc(
        self,
        size: int,
        cpu: int = 0,
        node: int | None = None,
        *,
        thisnode: bool = False,
        emergency: bool = False,
        dma: bool = False,
        reclaimable: bool = False,
        account: bool = False,
    ) -> Pointer:
        """Memory of at least `size` bytes.

        Raises:
            OutOfMemory: None of the sources has it.
        """
        if size == 0:
            return ZERO_SIZE_PTR
        if size > geometry.KMALLOC_MAX_CACHE_SIZE:
            return self._kmalloc_large(size, cpu, node, thisnode, emergency)
        kind = kmalloc_kind(dma=dma, reclaimable=reclaimable, account=account)
        cache = self.kmalloc_slab(size, kind)
        position = cache.alloc(cpu, node, thisnode, emergency)
        return KmallocObject(cache.name, position)

    def kmalloc_slab(self, size: int, kind: str = "normal") -> Cache:
        """The cache for requests of `size` bytes, made at its first use."""
        size = geometry.kmalloc_size(size)
        name = geometry.kmalloc_name(size, kind)
        for cache in self.caches:
            if cache.name == name:
                return cache
        era = self.machine.design.era
        align = geometry.kmalloc_align(size, era)
        flags = KIND_FLAGS[kind] | geometry.Flags.KMALLOC
        return self.cache(
            name, size, align=align, flags=flags, usersize=size, merge=False
        )

    def _kmalloc_large(
        self, size: int, cpu: int, node: int | None, thisnode: bool, emergency: bool
    ) -> LargeObject:
        machine = self.machine
        home = machine.cpu_node[cpu] if node is None else node
        zonelist = [home] if thisnode else machine.zonelists[home]
        order = geometry.get_order(size, machine.boot.page_size)
        pages = get_pages(machine.pages, zonelist, order, emergency)
        if pages is None and machine.reclaim is not None:
            machine.reclaim()
            pages = get_pages(machine.pages, zonelist, order, emergency)
        if pages is None:
            raise OutOfMemory(
                f"kmalloc of {size} bytes on cpu {cpu}: no block of order {order};"
                " free memory or ask for less"
            )
        return LargeObject(pages.node, pages.page, order)

    def kfree(self, pointer: Pointer | None, cpu: int = 0) -> None:
        """Give kmalloc memory back; None and kmalloc(0) are no-ops.

        Raises:
            InvalidFree, DoubleFree: Nothing was changed.
        """
        if isinstance(pointer, KmallocObject):
            self.find(pointer.cache).free(pointer.position, cpu)
        elif isinstance(pointer, LargeObject):
            self.machine.pages[pointer.node].release(pointer.page, pointer.order)

    def ksize(self, pointer: Pointer | None) -> int:
        """Bytes that the owner may use: the size class, not the request."""
        if isinstance(pointer, KmallocObject):
            return slab_ksize(self.find(pointer.cache))
        if isinstance(pointer, LargeObject):
            return self.machine.boot.page_size << pointer.order
        return 0

    def krealloc(
        self, pointer: Pointer | None, size: int, cpu: int = 0, **options: Any
    ) -> Pointer:
        """Keep the memory if `size` fits, else move it; 0 frees it.

        Raises:
            OutOfMemory: The old memory is untouched.
        """
        if size == 0:
            self.kfree(pointer, cpu)
            return ZERO_SIZE_PTR
        if pointer is None or isinstance(pointer, ZeroSize):
            return self.kmalloc(size, cpu, **options)
        if size <= self.ksize(pointer):
            return pointer
        moved = self.kmalloc(size, cpu, **options)
        self.kfree(pointer, cpu)
        return moved

    def snapshot(self) -> ArenaSnapshot:
        """The whole arena at this moment, comparable with the engine's."""
        return take_snapshot(self.machine, self.caches)


__all__ = ["Arena", "Cache", "CpuSlot", "InvalidFree", "Node", "Position"]
