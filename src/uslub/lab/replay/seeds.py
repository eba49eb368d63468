"""Putting into the model what was there before the first row.

`plant` takes the blocks of a survey. In the traced design each becomes the slab that it
was: under the CPU that allocated from it first, on a chain, or on its node's list. In
another design slabs cannot be carried over, so that design allocates the live objects
itself, block by block. What addresses never show comes from the checkpoint before the
first row, where there is one: slabs never touched, and how many of them have room.

Untouched objects of a touched slab are unknown; they are taken as live or as free, and
a replay of a cut is run with both (docs/design/06-lab.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from uslub.lab.replay.build import AnyCache, Machine
from uslub.lab.replay.survey import NEVER, Block
from uslub.lab.trace import CacheInfo, CacheTruth
from uslub.model import Cache
from uslub.model.adopt import adopt_slab, park_objects
from uslub.model.state import CpuSlot, Position

Held = dict[int, Any]  #: object id: what the model handed out

UNTOUCHED = ("live", "free")


@dataclass
class Planted:
    """What was put there, for the result's header."""

    slabs: int = 0
    live: int = 0  #: objects that are freed later
    untouched: int = 0  #: objects of which nothing is known
    never_touched: int = 0  #: slabs known from a checkpoint only
    phantoms: int = 0  #: of these, with room
    parked: int = 0  #: free objects put into sheaves
    caches: set[int] = field(default_factory=set)


def plant(
    machine: Machine,
    blocks: Iterable[Block],
    held: Held,
    *,
    untouched: str = "live",
    before: dict[int, CacheTruth] | None = None,
    anew: bool = False,
    infos: Sequence[CacheInfo] = (),
) -> Planted:
    """Make the initial state.

    Args:
        machine: Whose caches are still empty.
        blocks: Of the survey.
        held: Gets the position of each object that is freed later, by its id.
        untouched: What unknown objects of a touched slab are, "live" or "free".
        before: The kernel's counters at the first row, by cache; None: not known.
        anew: Allocate in the traced design too, as in any other: for those who set
            designs side by side. What no row touches is then left out everywhere.
        infos: The traced caches: how many objects their blocks hold, and of which
            stride; another design may cut the same memory otherwise.

    Returns:
        What was done.
    """
    done = Planted()
    by_cache: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        by_cache[block.cache].append(block)
    for index in sorted({*by_cache, *(before or {})}):
        cache = machine.caches[index]
        truth = (before or {}).get(index)
        mine = sorted(by_cache.get(index, ()), key=lambda b: (b.first_alloc, b.page))
        if mine:
            done.caches.add(index)
        if isinstance(cache, Cache) and machine.base and not anew:
            plant_slabs(cache, mine, held, untouched, truth, done)
        else:
            shape = shape_of(cache, infos[index] if infos else None)
            plant_objects(machine, cache, shape, mine, held, untouched, done)
    return done


def objects_of(
    block: Block, size: int, objects: int, untouched: str
) -> tuple[dict[int, int], list[int]]:
    """Index to object id of the live objects that are freed later; other live ones."""
    known = {offset // size: object_id for offset, object_id in block.live.items()}
    touched = set(known) | {offset // size for _, _, offset in block.free}
    rest: list[int] = []
    if untouched == "live" and not block.returned:
        rest = [index for index in range(objects) if index not in touched]
    return {at: value for at, value in known.items() if at < objects}, rest


def plant_slabs(
    cache: Cache,
    blocks: list[Block],
    held: Held,
    untouched: str,
    truth: CacheTruth | None,
    done: Planted,
) -> None:
    """The blocks of one cache as slabs of the traced design."""
    size, objects = cache.layout.size, cache.objects
    nodes = len(cache.nodes)
    slabs = [0] * nodes
    room = dict(truth.cpu_partial) if truth is not None else {}
    ready: list[tuple[int, int, Position]] = []
    for block in blocks:
        known, rest = objects_of(block, size, objects, untouched)
        node = min(block.node, nodes - 1)
        live = [*known, *rest]
        c = owner(cache, block, len(live) < objects)
        slab = adopt_slab(cache, node, live, c)
        if c is None and slab.on_partial and cache.has_cpu_partial:
            to_chain(cache, block, slab, room)
        for index, object_id in known.items():
            held[object_id] = Position(slab.number, index)
        for row, cpu, offset in block.free:
            if offset // size < objects:
                ready.append((row, cpu, Position(slab.number, offset // size)))
        slabs[node] += 1
        done.slabs += 1
        done.live += len(known)
        done.untouched += objects - len(known) - len(block.free)
    if cache.sheaf_capacity:
        done.parked += fill_sheaves(cache, ready)
    if truth is not None:
        plant_untouched(cache, truth, slabs, done)


def owner(cache: Cache, block: Block, has_room: bool) -> CpuSlot | None:
    """The CPU whose slab this was: the first from which that CPU allocated."""
    if not cache.design.cpu_slabs or cache.debug or not has_room:
        return None
    if block.first_alloc == NEVER or block.cpu >= len(cache.cpus):
        return None
    c = cache.cpus[block.cpu]
    return c if c.slab is None else None


def to_chain(cache: Cache, block: Block, slab: Any, room: dict[int, int]) -> None:
    """Off the node's list and on the chain of its CPU, as long as that has room."""
    cpu = block.cpu
    if block.first_alloc == NEVER or room.get(cpu, 0) <= 0:
        return
    room[cpu] -= 1
    del cache.nodes[slab.node].partial[slab]
    slab.on_partial = False
    slab.frozen = cache.design.chain_frozen
    cache.cpus[cpu].partial.insert(0, slab)


def fill_sheaves(cache: Cache, ready: list[tuple[int, int, Position]]) -> int:
    """Objects that a CPU allocated before it freed any lay in its sheaves; how many.

    Where exactly, main, spare or barn, only changes which slab is asked when.
    """
    by_cpu: dict[int, list[Position]] = defaultdict(list)
    for _, cpu, position in sorted(ready):
        if cpu < len(cache.cpus):
            by_cpu[cpu].append(position)
    return sum(
        park_objects(cache, cache.cpus[cpu], positions)
        for cpu, positions in sorted(by_cpu.items())
    )


def plant_untouched(
    cache: Cache, truth: CacheTruth, slabs: list[int], done: Planted
) -> None:
    """Slabs that the kernel counted and no row touches: full, or with little room."""
    for node, count in enumerate(truth.slabs[: len(slabs)]):
        missing = max(0, count - slabs[node])
        room = max(0, truth.partial[node] - len(cache.nodes[node].partial))
        for at in range(missing):
            free = 1 if at < room else 0
            adopt_slab(cache, node, range(cache.objects - free))
            done.phantoms += free
        done.never_touched += missing


def plant_objects(
    machine: Machine,
    cache: AnyCache,
    shape: tuple[int, int],
    blocks: list[Block],
    held: Held,
    untouched: str,
    done: Planted,
) -> None:
    """The live objects, allocated by whatever design this is."""
    nodes = machine.arena.machine.cpu_node
    for block in blocks:
        known, rest = objects_of(block, *shape, untouched)
        node = min(block.node, max(nodes))
        cpu = nodes.index(node)
        for object_id in known.values():
            held[object_id] = cache.alloc(cpu)
        for _ in rest:
            cache.alloc(cpu)
        done.slabs += 1
        done.live += len(known)
        done.untouched += len(rest)


def shape_of(cache: AnyCache, info: CacheInfo | None) -> tuple[int, int]:
    """Stride and number of the objects of a traced block."""
    if info is not None and info.size and info.objects_per_slab:
        return info.size, info.objects_per_slab
    size = max(1, slot_bytes(cache))
    return size, (4096 << getattr(cache, "order", 0)) // size


def slot_bytes(cache: AnyCache) -> int:
    """The stride between objects, whatever the design."""
    if isinstance(cache, Cache):
        return cache.layout.size
    return getattr(cache, "size", 0) or cache.object_size
