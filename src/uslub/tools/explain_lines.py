"""Cache lines and who had them last: line transfers, counted.

Here: a count of how often a line that one CPU wrote is next used by another one
(each such use moves the line between CPU caches), for SLUB as the model runs it
and for one list shared by all CPUs. Not here: cache sizes, prefetching, the cost
in time.

Lines: each CPU slot, each slab descriptor, each node list, each object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from uslub.model import Cache, Position, Step
from uslub.tools.explain_story import small_cache

#: what a transition touches besides the CPU slot: (slab descriptor, node list)
TOUCHES = {
    "get_freelist": (True, False),
    "freeze_slab": (True, False),
    "new_slab": (True, True),
    "slab_free_slow": (True, False),
    "deactivate_slab": (True, True),
    "get_partial_node": (True, True),
    "put_partials": (True, True),
}


class Lines:
    """The CPU that used each line last, and the transfers so far by kind."""

    def __init__(self) -> None:
        self.owner: dict[tuple[str, object], int] = {}
        self.moved: Counter[str] = Counter()

    def use(self, cpu: int, kind: str, which: object) -> None:
        """`cpu` writes the line; it moves if another CPU had it."""
        last = self.owner.get((kind, which))
        if last is not None and last != cpu:
            self.moved[kind] += 1
        self.owner[kind, which] = cpu

    def watch(self, step: Step) -> None:
        """Count what one transition of the model touches."""
        slab, node = TOUCHES.get(step.function, (False, False))
        if slab and step.slab is not None:
            self.use(step.cpu, "slab", step.slab)
        if node:
            self.use(step.cpu, "node", 0)


Move = Callable[[str, int, Position | None], Position]


def slub(lines: Lines) -> Move:
    """Operations on a cache of the model; every line they use is counted."""
    cache: Cache = small_cache(cpus=2)
    cache.machine.watch = lines.watch

    def move(kind: str, cpu: int, position: Position | None) -> Position:
        lines.use(cpu, "cpu slot", cpu)
        if position is None:
            position = cache.alloc(cpu)
        else:
            cache.free(position, cpu)
        lines.use(cpu, "object", position)
        return position

    return move


def one_list(lines: Lines) -> Move:
    """The same on one freelist for all CPUs, as before per-CPU slabs."""
    free: list[Position] = [Position(0, index) for index in reversed(range(4096))]

    def move(kind: str, cpu: int, position: Position | None) -> Position:
        lines.use(cpu, "list head", 0)
        if position is None:
            position = free.pop()
        else:
            free.append(position)
        lines.use(cpu, "object", position)
        return position

    return move


def private(move: Move, rounds: int) -> int:
    """Two CPUs in turn allocate three objects each, use and free them."""
    for _ in range(rounds):
        for cpu in (0, 1):
            held = [move("alloc", cpu, None) for _ in range(3)]
            for position in held:
                move("free", cpu, position)
    return rounds * 12


def interleaved(move: Move, rounds: int) -> int:
    """Two CPUs allocate and free at the same time, step by step in turn."""
    for _ in range(rounds):
        held = [[move("alloc", cpu, None) for cpu in (0, 1)] for _ in range(3)]
        for pair in held:
            for cpu in (0, 1):
                move("free", cpu, pair[cpu])
    return rounds * 12


def producer(move: Move, rounds: int) -> int:
    """CPU 0 allocates, CPU 1 frees, at the same time, six objects behind."""
    backlog = [move("alloc", 0, None) for _ in range(6)]
    for _ in range(rounds * 6):
        backlog.append(move("alloc", 0, None))
        move("free", 1, backlog.pop(0))
    return rounds * 12


LOADS = {
    "each CPU its own, in turn": private,
    "each CPU its own, interleaved": interleaved,
    "CPU 0 allocates, CPU 1 frees": producer,
}
ALLOCATORS = {"one list": one_list, "SLUB": slub}


def count(load: str, allocator: str, rounds: int = 1000) -> tuple[Counter[str], int]:
    """Line transfers by kind, and the number of operations."""
    lines = Lines()
    operations = LOADS[load](ALLOCATORS[allocator](lines), rounds)
    return lines.moved, operations
