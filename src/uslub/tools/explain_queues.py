"""SLAB's queues in small: what a CPU keeps, counted on a trace excerpt.

Here: SLAB's array caches as they were in 6.1 (limits, refill and flush in
batches, the node's shared array), reduced to counts, and the same events on the
model's CPU slabs. Not here: SLAB's slabs, colours, alien caches, the reaper that
would empty idle arrays every few seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from uslub.model import Arena, Cache, Position
from uslub.tools.explain_sample import Sample, SampleEvent


def slab_limits(size: int) -> tuple[int, int]:
    """SLAB's tunables limit and batchcount for a slot size."""
    limit = 120
    for above, count in ((131072, 1), (4096, 8), (1024, 24), (256, 54)):
        if size > above:
            limit = count
            break
    return limit, (limit + 1) // 2


@dataclass(slots=True)
class Queues:
    """The arrays of one SLAB cache on one node, as counts of entries."""

    size: int
    arrays: Counter[int] = field(default_factory=Counter)  #: by CPU
    shared: int = 0
    touched: set[int] = field(default_factory=set)

    def alloc(self, cpu: int) -> None:
        """Take from the array; an empty one is refilled with a batch."""
        _, batch = slab_limits(self.size)
        if self.arrays[cpu] == 0:
            wanted = batch if cpu in self.touched else min(batch, 16)
            from_shared = min(wanted, self.shared)
            self.shared -= from_shared
            self.arrays[cpu] = from_shared or wanted  # else: from slabs
        self.touched.add(cpu)
        self.arrays[cpu] -= 1

    def free(self, cpu: int) -> None:
        """Put into the array; a full one gives a batch away, to shared first."""
        limit, batch = slab_limits(self.size)
        if self.arrays[cpu] >= limit:
            room = (8 * batch if self.size <= 4096 else 0) - self.shared
            self.shared += min(batch, room) if room > 0 else 0
            self.arrays[cpu] -= min(batch, room) if room > 0 else batch
        self.arrays[cpu] += 1

    def held(self) -> int:
        """Bytes of free objects in all arrays."""
        return (sum(self.arrays.values()) + self.shared) * self.size


def spread(event: SampleEvent, at: int, cpus: int) -> int:
    """The CPU of an event on a machine of `cpus`: tasks move every 100 events."""
    groups = max(cpus // 4, 1)
    return (event.cpu + 4 * (at // 100 % groups)) % cpus


def slab_bytes(sample: Sample, cpus: int) -> int:
    """Free bytes that SLAB's queues hold after the excerpt."""
    queues = {n: Queues(size) for n, (_, size) in sample.caches.items()}
    home: dict[int, int] = {}
    for at, event in enumerate(sample.events):
        cpu = spread(event, at, cpus)
        if event.cache is not None:
            home[event.object] = event.cache
            queues[event.cache].alloc(cpu)
        else:
            queues[home.pop(event.object)].free(cpu)
    return sum(queue.held() for queue in queues.values())


def slub_bytes(sample: Sample, cpus: int, design: str) -> int:
    """Free bytes that CPUs hold in the model after the excerpt."""
    arena = Arena(cpus=cpus, design=design, pages_per_node=1 << 18, merge=False)
    caches = {
        number: arena.cache(f"{name}-{number}", size)
        for number, (name, size) in sample.caches.items()
    }
    home: dict[int, tuple[Cache, Position]] = {}
    for at, event in enumerate(sample.events):
        cpu = spread(event, at, cpus)
        if event.cache is not None:
            cache = caches[event.cache]
            home[event.object] = cache, cache.alloc(cpu)
        else:
            cache, position = home.pop(event.object)
            cache.free(position, cpu)
    return sum(free_on_cpus(cache) * cache.layout.size for cache in caches.values())


def free_on_cpus(cache: Cache) -> int:
    """Free objects in CPU slabs, on chains and in sheaves."""
    count = 0
    for c in cache.cpus:
        count += len(c.freelist) + sum(len(slab.freelist) for slab in c.partial)
        count += len(c.main) + len(c.spare or ())
        if c.slab is not None:
            count += len(c.slab.freelist)
    return count + sum(len(s) for node in cache.nodes for s in node.barn.full)
