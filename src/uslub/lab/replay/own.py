"""Objects that the allocator makes for itself, when the trace's own do not fit.

Under other parameters there are other slabs, so the accounting vectors (one per slab of
a cache whose objects are charged to somebody: 8 bytes an object, Linux:
alloc_slab_obj_exts) and the sheaves themselves (Linux: __alloc_empty_sheaf) are others
too. The feed leaves the traced ones out, and `OwnObjects` keeps as many as the model's
slabs and sheaves need. It settles once per chunk of rows, not at each birth.
"""

from __future__ import annotations

from typing import Any

from uslub.lab.replay.build import Machine
from uslub.model import Cache, geometry
from uslub.model.geometry import KMALLOC_MAX_CACHE_SIZE, SHEAF_HEADER, WORD


class OwnObjects:
    """The vectors and sheaves of one replay."""

    def __init__(self, machine: Machine, names: list[str], accounted: Any) -> None:
        self.machine = machine
        self.accounted = accounted  #: bool per cache: charged objects were seen
        self.by_name = {
            name: cache for name, cache in zip(names, machine.caches, strict=True)
        }
        self.vectors: dict[int, list[tuple[Cache, Any]]] = {}
        self.sheaves: dict[int, list[tuple[Cache, Any]]] = {}

    def settle(self, cpu: int) -> None:
        """Make or give back until there is one per slab and one per sheaf."""
        for index, cache in self.machine.distinct():
            if not isinstance(cache, Cache):
                return
            if self.accounted[index]:
                count = sum(node.nr_slabs for node in cache.nodes)
                have = self.vectors.setdefault(index, [])
                self.adjust(have, count, cache.objects * WORD, cpu)
            if cache.sheaf_capacity:
                have = self.sheaves.setdefault(index, [])
                size = SHEAF_HEADER + WORD * cache.sheaf_capacity
                self.adjust(have, count_sheaves(cache), size, cpu)

    def adjust(
        self, have: list[tuple[Cache, Any]], count: int, size: int, cpu: int
    ) -> None:
        """Bring a list of objects of `size` bytes to `count`."""
        if size > KMALLOC_MAX_CACHE_SIZE:
            return
        name = geometry.kmalloc_name(geometry.kmalloc_size(size))
        cache = self.by_name.get(name)
        if not isinstance(cache, Cache):
            return
        while len(have) < count:
            have.append((cache, cache.alloc(cpu)))
        while len(have) > count:
            owner, position = have.pop()
            owner.free(position, cpu)

    @property
    def made(self) -> int:
        """Objects that live now."""
        kinds = (self.vectors, self.sheaves)
        return sum(len(have) for kind in kinds for have in kind.values())


def count_sheaves(cache: Cache) -> int:
    """Sheaves that exist: of CPUs (the main one always) and of barns."""
    count = sum(1 + (c.spare is not None) for c in cache.cpus if c.main or c.spare)
    barns = (node.barn for node in cache.nodes)
    return count + sum(len(barn.full) + len(barn.empty) for barn in barns)
