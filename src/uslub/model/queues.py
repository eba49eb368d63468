"""SLAB: arrays of ready objects per CPU, per node and between nodes, and a reaper.

The allocator that SLUB replaced, in the rules of Linux 6.1 (removed in 6.8). An
allocation pops the CPU's array; an empty array takes a batch from the node's shared
array, else from the node's slabs (partial first, then free), else from a new slab. A
free pushes; a full array gives its oldest batch away. An object of another node goes
through an alien array. Every two seconds a reaper takes a part of what lies unused.

Here: `QueueCache` and its transitions, in this order. Counters carry SLAB's names. Not
here: colouring (addresses only), debugging, index placement beyond its effect on the
order, the memory of arrays themselves. Linux: mm/slab.c, v6.1.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field

from uslub.model.errors import OutOfMemory
from uslub.model.free import return_object
from uslub.model.geometry import WORD, Flags, align_up
from uslub.model.pages import get_pages
from uslub.model.state import Lines, Machine, Position, Slab

BATCH_REFILL_LIMIT = 16  # of an array that was not used since the last reaping
ALIEN_LIMIT = 12
OBJECTS_MAX = 255  # one-byte indexes
SLOT_MIN = 16
REAP_NS = 2_000_000_000  # of a CPU's array
REAP_NODE_NS = 4_000_000_000  # of a node's shared array and free slabs
KMALLOC_MIN = 32  # the smallest size class
MAX_ORDER = 10

QUEUE_STATS = (
    "allochit",
    "allocmiss",
    "freehit",
    "freemiss",
    "grown",
    "reaped",
    "node_allocs",
    "node_frees",
    "overflows",
)


@dataclass(slots=True, eq=False)
class ArrayCache:
    """A stack of ready objects, newest last."""

    limit: int
    batch: int
    entries: list[Position] = field(default_factory=list)
    touched: bool = False


@dataclass(slots=True, eq=False)
class QueueCpu:
    """One CPU's part of a cache."""

    number: int
    node: int
    array: ArrayCache
    lines: Lines = field(default_factory=Lines)
    stat: dict[str, int] = field(default_factory=lambda: dict.fromkeys(QUEUE_STATS, 0))
    next_alien: int = 0  #: which remote node the reaper drains next


@dataclass(slots=True, eq=False)
class QueueNode:
    """kmem_cache_node of SLAB: three lists of slabs, a shared and the alien arrays."""

    number: int
    shared: ArrayCache | None
    alien: dict[int, ArrayCache]  #: by the node of the objects
    free_limit: int
    partial: OrderedDict[Slab, None] = field(default_factory=OrderedDict)
    full: OrderedDict[Slab, None] = field(default_factory=OrderedDict)
    free: OrderedDict[Slab, None] = field(default_factory=OrderedDict)
    free_objects: int = 0
    free_touched: bool = False
    nr_slabs: int = 0
    peak_slabs: int = 0
    list_locked: int = 0
    alien_locked: int = 0
    writer: int = -1
    next_reap: int = REAP_NODE_NS


@dataclass(slots=True, eq=False)
class QueueCache:
    """One kmem_cache of SLAB."""

    machine: Machine
    name: str
    object_size: int
    size: int
    flags: int
    order: int
    objects: int
    limit: int
    batch: int
    cpus: list[QueueCpu]
    nodes: list[QueueNode]
    slabs: dict[int, Slab] = field(default_factory=dict)
    next_slab: int = 0

    def alloc(self, cpu: int = 0, node: int | None = None) -> Position:
        """One object.

        Raises:
            OutOfMemory: No array, slab or page has one.
        """
        c = self.cpus[cpu]
        if node is not None and node != c.node:
            position = alloc_from_node(self, c, self.nodes[node])
        else:
            array_cache = c.array
            if array_cache.entries:
                array_cache.touched = True
                c.stat["allochit"] += 1
            else:
                c.stat["allocmiss"] += 1
                refill(self, c)
            if not array_cache.entries:
                position = alloc_fallback(self, c)
            else:
                position = array_cache.entries.pop()
        slab = self.slabs[position.slab]
        slab.taken[position.index] = 1
        if slab.last[position.index] != cpu:
            slab.last[position.index] = cpu
            c.lines.object += 1
        return position

    def free(self, position: tuple[int, int], cpu: int = 0) -> None:
        """Give one object back, from any CPU.

        Raises:
            InvalidFree, DoubleFree: Nothing was changed.
        """
        number, index = position
        slab = return_object(self, position)
        c = self.cpus[cpu]
        if slab.last[index] != cpu:
            slab.last[index] = cpu
            c.lines.object += 1
            c.lines.cross_cpu_frees += 1
        if slab.node != c.node:
            c.lines.cross_node_frees += 1
            free_alien(self, c, slab, Position(number, index))
            return
        if len(c.array.entries) < c.array.limit:
            c.stat["freehit"] += 1
        else:
            c.stat["freemiss"] += 1
            flush_array(self, c)
        c.array.entries.append(Position(number, index))

    def stats(self) -> dict[str, int]:
        """Counters over all CPUs; those that never moved are left out."""
        sums = {name: sum(c.stat[name] for c in self.cpus) for name in QUEUE_STATS}
        return {name: count for name, count in sums.items() if count}


# sizes ------------------------------------------------------------------------------


def slot_size(object_size: int, align: int) -> int:
    """The stride between objects; a slot is never below 16 bytes."""
    size = align_up(max(object_size, 1), WORD)
    return max(align_up(size, max(align, WORD)), SLOT_MIN)


def slab_order(size: int, flags: int, max_order: int = 1) -> tuple[int, int]:
    """Order and objects of a slab: the first order that wastes at most an eighth.

    Up to `max_order` (1 above 32 MiB of memory) is tried for little waste; caches
    of reclaimable memory take the smallest order that holds an object.
    """
    best = (0, 0)
    for order in range(MAX_ORDER + 1):
        block = 4096 << order
        objects, left = divmod(block, size)
        if not objects:
            continue
        if objects > OBJECTS_MAX:
            break
        best = (order, objects)
        if flags & Flags.RECLAIM_ACCOUNT or order >= max_order or left * 8 <= block:
            break
    return best if best[1] else (0, min(4096 // size, OBJECTS_MAX))


def array_limit(size: int) -> int:
    """Objects that a CPU's array holds."""
    for bound, limit in ((131072, 1), (4096, 8), (1024, 24), (256, 54)):
        if size > bound:
            return limit
    return 120


def make_queue_cache(
    machine: Machine, name: str, object_size: int, *, align: int = 0, flags: int = 0
) -> QueueCache:
    """A new SLAB cache with its arrays, and nothing in it."""
    size = slot_size(object_size, align)
    order, objects = slab_order(size, flags)
    limit = array_limit(size)
    batch = (limit + 1) // 2
    cpus, nodes = machine.cpu_node, range(len(machine.pages))
    shared = 8 if size <= 4096 and len(cpus) > 1 else 0
    return QueueCache(
        machine=machine,
        name=name,
        object_size=object_size,
        size=size,
        flags=flags,
        order=order,
        objects=objects,
        limit=limit,
        batch=batch,
        cpus=[QueueCpu(c, n, ArrayCache(limit, batch)) for c, n in enumerate(cpus)],
        nodes=[
            QueueNode(
                number,
                shared=ArrayCache(shared * batch, batch) if shared else None,
                alien={
                    other: ArrayCache(ALIEN_LIMIT, ALIEN_LIMIT)
                    for other in nodes
                    if other != number and limit > 1
                },
                free_limit=(1 + cpus.count(number)) * batch + objects,
            )
            for number in nodes
        ],
    )


# allocation -------------------------------------------------------------------------


def lock(c: QueueCpu, node: QueueNode) -> None:
    """Take the node's list_lock, and with it its line."""
    node.list_locked += 1
    if node.writer != c.number:
        node.writer = c.number
        c.lines.node += 1


def refill(cache: QueueCache, c: QueueCpu) -> None:
    """Fill an empty CPU array: shared array, partial slabs, free slabs, a new slab."""
    node, own = cache.nodes[c.node], c.array
    want = own.batch
    if not own.touched and want > BATCH_REFILL_LIMIT:
        want = BATCH_REFILL_LIMIT
    if node.free_objects or (node.shared is not None and node.shared.entries):
        lock(c, node)
        if node.shared is not None and node.shared.entries:
            moved = node.shared.entries[-want:]
            del node.shared.entries[-want:]
            own.entries += moved
            node.shared.touched = True
        else:
            while want > 0:
                slab = first_slab(node)
                if slab is None:
                    break
                want -= take_objects(cache, c, node, slab, want)
    if not own.entries:
        slab = grow(cache, c, c.node)
        if slab is not None:
            lock(c, node)
            node.free_objects += slab.objects
            node.free[slab] = None
            take_objects(cache, c, node, slab, want)
    own.touched = True


def first_slab(node: QueueNode) -> Slab | None:
    """The first partial slab, else the first free one."""
    if node.partial:
        return next(iter(node.partial))
    node.free_touched = True
    return next(iter(node.free), None)


def take_objects(
    cache: QueueCache, c: QueueCpu, node: QueueNode, slab: Slab, want: int
) -> int:
    """Up to `want` objects of a listed slab into the CPU's array; how many."""
    count = 0
    while count < want and slab.freelist:
        c.array.entries.append(take_one(c, node, slab))
        count += 1
    relist(node, slab)
    return count


def take_one(c: QueueCpu, node: QueueNode, slab: Slab) -> Position:
    """One object off a slab's index stack."""
    index = slab.freelist.pop()
    slab.inuse += 1
    node.free_objects -= 1
    if slab.writer != c.number:
        slab.writer = c.number
        c.lines.slab += 1
    return Position(slab.number, index)


def relist(node: QueueNode, slab: Slab) -> None:
    """After an allocation: to the head of the full or of the partial list."""
    node.partial.pop(slab, None)
    node.free.pop(slab, None)
    into = node.partial if slab.freelist else node.full
    into[slab] = None
    into.move_to_end(slab, last=False)


def grow(cache: QueueCache, c: QueueCpu, home: int) -> Slab | None:
    """A new slab on this node's pages, on no list yet; None: the node has none."""
    pages = get_pages(cache.machine.pages, [home], cache.order, False)
    if pages is None:
        return None
    slab = Slab(
        number=cache.next_slab,
        node=pages.node,
        page=pages.page,
        order=cache.order,
        objects=cache.objects,
        pfmemalloc=False,
        freelist=list(range(cache.objects - 1, -1, -1)),
        inuse=0,
        taken=bytearray(cache.objects),
        last=array("H", (c.number,)) * cache.objects,
        writer=c.number,
    )
    cache.next_slab += 1
    cache.slabs[slab.number] = slab
    node = cache.nodes[home]
    node.nr_slabs += 1
    node.peak_slabs = max(node.peak_slabs, node.nr_slabs)
    c.stat["grown"] += 1
    return slab


def alloc_from_node(cache: QueueCache, c: QueueCpu, node: QueueNode) -> Position:
    """One object straight from a node's slabs; the CPU's array is not used."""
    c.stat["node_allocs"] += 1
    lock(c, node)
    slab = first_slab(node)
    if slab is None:
        slab = grow(cache, c, node.number)
        if slab is None:
            return alloc_fallback(cache, c)
        node.free_objects += slab.objects
    position = take_one(c, node, slab)
    relist(node, slab)
    return position


def alloc_fallback(cache: QueueCache, c: QueueCpu) -> Position:
    """From any node that has a free object or pages, nearest first."""
    zonelist = cache.machine.zonelists[c.node]
    for may_grow in (False, True):
        for number in zonelist:
            node = cache.nodes[number]
            slab = first_slab(node) if node.free_objects else None
            if slab is None and may_grow:
                slab = grow(cache, c, number)
                if slab is not None:
                    node.free_objects += slab.objects
            if slab is not None:
                lock(c, node)
                position = take_one(c, node, slab)
                relist(node, slab)
                return position
    raise OutOfMemory(
        f"cache {cache.name!r}, cpu {c.number}: no free object and no pages for a slab"
        f" of order {cache.order} on any node; free objects"
    )


# free -------------------------------------------------------------------------------


def free_alien(cache: QueueCache, c: QueueCpu, slab: Slab, position: Position) -> None:
    """An object of another node: into the alien array, which is drained when full."""
    c.stat["node_frees"] += 1
    home, there = cache.nodes[c.node], cache.nodes[slab.node]
    alien = home.alien.get(slab.node)
    if alien is None:
        free_block(cache, c, there, [position])
        return
    home.alien_locked += 1
    if len(alien.entries) >= alien.limit:
        c.stat["overflows"] += 1
        drain_alien(cache, c, alien, there)
    alien.entries.append(position)


def drain_alien(
    cache: QueueCache, c: QueueCpu, alien: ArrayCache, there: QueueNode
) -> None:
    """An alien array to its node: into the shared array while there is room."""
    moved, alien.entries = alien.entries, []
    if not moved:
        return
    if there.shared is not None:
        room = there.shared.limit - len(there.shared.entries)
        lock(c, there)
        taken = moved[len(moved) - min(room, len(moved)) :] if room > 0 else []
        there.shared.entries += taken
        moved = moved[: len(moved) - len(taken)]
    if moved:
        free_block(cache, c, there, moved)


def flush_array(cache: QueueCache, c: QueueCpu) -> None:
    """The oldest batch of a full array: to the shared array, else to the slabs."""
    node, own = cache.nodes[c.node], c.array
    oldest = own.entries[: own.batch]
    shared = node.shared
    room = 0 if shared is None else shared.limit - len(shared.entries)
    if shared is not None and room > 0:
        lock(c, node)
        oldest = oldest[:room]
        shared.entries += oldest
        del own.entries[: len(oldest)]
        return
    del own.entries[: own.batch]
    free_block(cache, c, node, oldest)


def free_block(
    cache: QueueCache, c: QueueCpu, node: QueueNode, objects: list[Position]
) -> None:
    """Objects back to slabs of one node; too many free objects cost free slabs."""
    lock(c, node)
    for number, index in objects:
        slab = cache.slabs[number]
        if slab.writer != c.number:
            slab.writer = c.number
            c.lines.slab += 1
        node.partial.pop(slab, None)
        node.full.pop(slab, None)
        slab.freelist.append(index)
        slab.inuse -= 1
        node.free_objects += 1
        if slab.inuse:
            node.partial[slab] = None
        else:
            node.free[slab] = None
            node.free.move_to_end(slab, last=False)
    while node.free_objects > node.free_limit and node.free:
        destroy_last(cache, node)


def destroy_last(cache: QueueCache, node: QueueNode) -> None:
    """The slab at the tail of the free list gives its pages back."""
    slab, _ = node.free.popitem()
    node.free_objects -= slab.objects
    node.nr_slabs -= 1
    del cache.slabs[slab.number]
    cache.machine.pages[slab.node].release(slab.page, slab.order)


# the reaper -------------------------------------------------------------------------


def reap_cpu(cache: QueueCache, cpu: int, now_ns: int) -> None:
    """What runs every two seconds on each CPU, for one cache."""
    c = cache.cpus[cpu]
    node = cache.nodes[c.node]
    others = [other for other in cache.nodes if other.number in node.alien]
    if others:
        there = others[c.next_alien % len(others)]
        c.next_alien += 1
        drain_alien(cache, c, node.alien[there.number], there)
    drain_part(cache, c, node, c.array)
    if now_ns < node.next_reap:
        return
    node.next_reap = now_ns + REAP_NODE_NS
    if node.shared is not None:
        drain_part(cache, c, node, node.shared)
    if node.free_touched:
        node.free_touched = False
        return
    reaped = (node.free_limit + 5 * cache.objects - 1) // (5 * cache.objects)
    for _ in range(min(reaped, len(node.free))):
        destroy_last(cache, node)
        c.stat["reaped"] += 1


def drain_part(
    cache: QueueCache, c: QueueCpu, node: QueueNode, queue: ArrayCache
) -> None:
    """An array that was used is spared once; else its oldest fifth goes."""
    if queue.touched:
        queue.touched = False
        return
    if not queue.entries:
        return
    count = (queue.limit + 4) // 5
    if count > len(queue.entries):
        count = (len(queue.entries) + 1) // 2
    oldest = queue.entries[:count]
    del queue.entries[:count]
    free_block(cache, c, node, oldest)


def drain_all(cache: QueueCache) -> None:
    """A shrink: every array and every free slab is given back."""
    for c in cache.cpus:
        node = cache.nodes[c.node]
        entries, c.array.entries = c.array.entries, []
        free_block(cache, c, node, entries)
        for number, alien in node.alien.items():
            drain_alien(cache, c, alien, cache.nodes[number])
    for node in cache.nodes:
        c = cache.cpus[cache.machine.cpu_node.index(node.number)]
        if node.shared is not None:
            entries, node.shared.entries = node.shared.entries, []
            free_block(cache, c, node, entries)
        while node.free:
            destroy_last(cache, node)


def queued(cache: QueueCache) -> int:
    """Objects in all arrays."""
    count = sum(len(c.array.entries) for c in cache.cpus)
    for node in cache.nodes:
        count += sum(len(alien.entries) for alien in node.alien.values())
        count += 0 if node.shared is None else len(node.shared.entries)
    return count
