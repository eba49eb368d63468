"""Races in small: the fast path, remote free and deactivation, step by step.

Here: one or two slabs of two or three objects, with links inside the objects, and
the racing operations as generators of atomic steps. Each guard of SLUB can be
taken away alone (`Guards`); `TWINS` says which race then goes wrong. Not here:
the search (`explore`), and everything that does not race.

An object is a number: 10 times its slab plus its index. CPUs have one freelist
and transaction id each; threads on one CPU interrupt each other anywhere, except
while one of them has interrupts off.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields

from uslub.model.explore import Outcome, Steps, Thread, Violation, explore


@dataclass(frozen=True, slots=True)
class Guards:
    """What protects the paths; False: that guard is missing."""

    compares_tid: bool = True  #: the fast swap compares the transaction id too
    steps_tid: bool = True  #: every operation moves the transaction id on
    reads_tid_first: bool = True  #: before the freelist and the link
    detach_steps_tid: bool = True  #: taking the slab away moves the tid on
    slow_path_alone: bool = True  #: interrupts are off in the slow path
    free_checks_frozen: bool = True  #: only an unfrozen full slab is put on a chain
    free_compares: bool = True  #: the free's swap fails if the slab has changed
    freezes_in_one_step: bool = True  #: a was-full slab is frozen by the same swap
    takes_in_one_step: bool = True  #: get_freelist is one swap
    lets_empty_go: bool = True  #: get_freelist unfreezes a slab that gave nothing
    deactivate_compares: bool = True  #: its swap fails if the slab has changed
    decides_again: bool = True  #: after a failed swap the outcome is chosen anew


@dataclass(slots=True)
class Slab:
    """freelist, inuse and frozen change together, by one double-word swap."""

    objects: int
    freelist: int | None = None
    inuse: int = 0
    frozen: bool = False
    listed: bool = False  #: on the node's partial list
    gone: bool = False  #: its pages were given back

    def word(self) -> tuple[int | None, int, bool]:
        return self.freelist, self.inuse, self.frozen


@dataclass(slots=True)
class Cpu:
    """freelist and tid change together, by one double-word swap."""

    slab: int | None = None
    freelist: int | None = None
    tid: int = 0
    chain: list[int] = field(default_factory=list)
    interrupts_off: str | None = None  #: by which thread


class World:
    """Shared state of one race, and its threads."""

    def __init__(self, guards: Guards, slabs: list[Slab], cpus: int) -> None:
        self.guards = guards
        self.slabs = slabs
        self.cpus = [Cpu() for _ in range(cpus)]
        self.links: dict[int, int | None] = {}
        self.held: set[int] = set()
        self.freed: set[int] = set()  # by a thread that has not finished linking
        self.threads: list[Thread] = []

    def start(self, name: str, cpu: int, body: Steps) -> None:
        self.threads.append(Thread(name, cpu, body))

    def may_run(self, thread: Thread) -> bool:
        return self.cpus[thread.cpu].interrupts_off in (None, thread.name)

    def key(self) -> Hashable:
        return (
            tuple((s.word(), s.listed, s.gone) for s in self.slabs),
            tuple(
                (c.slab, c.freelist, c.tid, tuple(c.chain), c.interrupts_off)
                for c in self.cpus
            ),
            tuple(sorted(self.links.items())),
            frozenset(self.held),
        )

    def hand_out(self, obj: int) -> int:
        if obj in self.held:
            raise Violation(f"object {obj} is handed out twice")
        self.held.add(obj)
        return obj

    def walk(self, head: int | None) -> list[int]:
        found: list[int] = []
        while head is not None:
            if head in found:
                raise Violation(f"a freelist runs in a circle at object {head}")
            found.append(head)
            head = self.links.get(head)
        return found

    def check_end(self) -> None:
        """Each object is held or can be found on one list; each slab likewise."""
        places: list[tuple[int, str]] = []
        free: list[int] = []
        for number, c in enumerate(self.cpus):
            if c.slab is not None:
                places.append((c.slab, f"cpu {number}"))
            if c.slab is None and c.freelist is not None:
                raise Violation(f"cpu {number} has a freelist but no slab")
            places += [(slab, f"chain {number}") for slab in c.chain]
            free += self.walk(c.freelist)
        places += [(n, "node") for n, s in enumerate(self.slabs) if s.listed]
        for number, slab in enumerate(self.slabs):
            self.check_slab(number, slab, [p for n, p in places if n == number])
            free += self.walk(slab.freelist)
        for number, slab in enumerate(self.slabs):
            if not slab.gone:
                for obj in range(number * 10, number * 10 + slab.objects):
                    check_object(obj, obj in self.held, free.count(obj))

    def check_slab(self, number: int, slab: Slab, places: list[str]) -> None:
        if slab.gone and places:
            raise Violation(f"slab {number} is gone, but {places[0]} has it")
        if len(places) > 1:
            raise Violation(f"slab {number} is in two places: {', '.join(places)}")
        if slab.freelist is not None and not places and not slab.gone:
            raise Violation(f"slab {number} has a free object but is nowhere")
        owned = bool(places) and places[0] != "node"
        if slab.frozen != owned and not slab.gone:
            state = "frozen" if slab.frozen else "not frozen"
            raise Violation(f"slab {number} is {state} at {places or 'no place'}")


def check_object(obj: int, held: bool, times_free: int) -> None:
    if held and times_free:
        raise Violation(f"object {obj} is held and free at once")
    if times_free > 1:
        raise Violation(f"object {obj} is free twice")
    if not held and not times_free:
        raise Violation(f"object {obj} is lost")


# operations ------------------------------------------------------------------------


def step_tid(w: World, c: Cpu) -> None:
    """next_tid."""
    if w.guards.steps_tid:
        c.tid += 1


def swap_cpu(w: World, c: Cpu, old: tuple[int | None, int], new: int | None) -> bool:
    """The local double-word swap of (freelist, tid)."""
    same_tid = c.tid == old[1] or not w.guards.compares_tid
    if c.freelist != old[0] or not same_tid:
        return False
    c.freelist = new
    step_tid(w, c)
    return True


def slab_alloc(w: World, cpu: int, name: str) -> Steps:
    """One object: the fast path, and of the slow path the CPU's own slab."""
    c = w.cpus[cpu]
    while True:
        yield "read tid"
        tid = c.tid
        yield "read freelist"
        head = c.freelist
        if head is None:
            return (yield from refill(w, cpu, name))
        yield f"read the link of object {head}"
        following = w.links.get(head)
        if not w.guards.reads_tid_first:
            yield "read tid (late)"
            tid = c.tid
        yield f"swap freelist {head} -> {following}"
        if swap_cpu(w, c, (head, tid), following):
            return w.hand_out(head)


def refill(w: World, cpu: int, name: str) -> Steps:
    """The slow path as far as get_freelist; None if the slab has nothing."""
    c = w.cpus[cpu]
    yield "slow path: interrupts off"
    if w.guards.slow_path_alone:
        c.interrupts_off = name
    if c.freelist is None and c.slab is not None:
        slab = w.slabs[c.slab]
        yield "get_freelist: swap the slab's freelist away"
        head = slab.freelist
        if not w.guards.takes_in_one_step:
            yield "get_freelist: clear it (second step)"
        slab.freelist, slab.inuse = None, slab.objects
        slab.frozen = head is not None or not w.guards.lets_empty_go
        if head is None:
            c.slab = None
        else:
            yield f"load: object {head} is the answer, the rest the freelist"
            c.freelist = w.links.get(head)
            w.hand_out(head)
        step_tid(w, c)
    c.interrupts_off = None
    return None


def slab_free(w: World, cpu: int, obj: int) -> Steps:
    """Give an object back, to the CPU's own slab or to any other."""
    c = w.cpus[cpu]
    yield f"free object {obj}: read tid"
    w.held.discard(obj)
    while True:
        tid = c.tid
        yield "is it the CPU's slab?"
        if c.slab != obj // 10:
            yield from slab_free_slow(w, cpu, obj)
            return
        yield f"read freelist, link object {obj} before it"
        head = c.freelist
        w.links[obj] = head
        yield f"swap freelist {head} -> {obj}"
        if swap_cpu(w, c, (head, tid), obj):
            return


def slab_free_slow(w: World, cpu: int, obj: int) -> Steps:
    """Into a slab that this CPU does not own."""
    slab = w.slabs[obj // 10]
    while True:
        yield f"read the slab, link object {obj} before its freelist"
        prior, inuse, frozen = old = slab.word()
        w.links[obj] = prior
        freeze = prior is None and not frozen
        yield f"swap the slab's freelist {prior} -> {obj}"
        if slab.word() != old and w.guards.free_compares:
            continue
        slab.freelist, slab.inuse = obj, inuse - 1
        slab.frozen = frozen or (freeze and w.guards.freezes_in_one_step)
        emptied = slab.inuse == 0 and not slab.frozen
        if emptied and prior is not None:
            slab.listed, slab.gone = False, True  # in the same list_lock section
            return
        break
    if freeze or (prior is None and not w.guards.free_checks_frozen):
        yield f"put_cpu_partial: slab {obj // 10} to the chain of cpu {cpu}"
        slab.frozen = True
        w.cpus[cpu].chain.append(obj // 10)


def flush_slab(w: World, cpu: int, name: str) -> Steps:
    """Take the CPU's slab away and deactivate it."""
    c = w.cpus[cpu]
    yield "flush_slab: interrupts off, detach slab and freelist"
    c.interrupts_off = name
    number, freelist = c.slab, c.freelist
    c.slab, c.freelist = None, None
    if w.guards.detach_steps_tid:
        step_tid(w, c)
    c.interrupts_off = None
    if number is not None:
        yield from deactivate_slab(w, number, freelist)


def deactivate_slab(w: World, number: int, freelist: int | None) -> Steps:
    """Give the freelist back, unfreeze, and list the slab if anything is free."""
    slab = w.slabs[number]
    own = tuple(w.walk(freelist))
    outcome = ""
    while True:
        yield f"deactivate_slab: read slab {number}"
        head, inuse, _ = old = slab.word()
        if own:
            w.links[own[-1]] = head
        first = own[0] if own else head
        if not outcome or w.guards.decides_again:
            outcome = "PARTIAL" if first is not None else "FULL"
        yield f"deactivate_slab: swap, {outcome}"
        if slab.word() == old or not w.guards.deactivate_compares:
            slab.freelist, slab.inuse, slab.frozen = first, inuse - len(own), False
            slab.listed = outcome == "PARTIAL"  # the swap is inside list_lock
            return


# races -------------------------------------------------------------------------------


def aba(guards: Guards) -> World:
    """An allocation is interrupted; meanwhile its object leaves and comes back."""
    w = World(guards, [Slab(3, inuse=3, frozen=True)], cpus=1)
    w.links = {0: 1, 1: 2, 2: None}
    w.cpus[0].slab, w.cpus[0].freelist = 0, 0

    def interrupter() -> Steps:
        first = yield from slab_alloc(w, 0, "B")
        yield from slab_alloc(w, 0, "B")
        if first is not None:
            yield from slab_free(w, 0, first)

    w.start("A", 0, slab_alloc(w, 0, "A"))
    w.start("B", 0, interrupter())
    return w


def free_during_flush(guards: Guards) -> World:
    """A free to the CPU's own slab is interrupted by a flush of that slab."""
    w = World(guards, [Slab(2, inuse=2, frozen=True)], cpus=1)
    w.held = {0, 1}
    w.cpus[0].slab = 0
    w.start("A", 0, slab_free(w, 0, 0))
    w.start("B", 0, flush_slab(w, 0, "B"))
    return w


def refill_and_remote_frees(guards: Guards) -> World:
    """The owner asks its slab for objects while two other CPUs free into it."""
    w = World(guards, [Slab(3, inuse=3, frozen=True)], cpus=3)
    w.held = {0, 1, 2}
    w.cpus[0].slab = 0
    w.start("A", 0, slab_alloc(w, 0, "A"))
    w.start("B", 1, slab_free(w, 1, 0))
    w.start("C", 2, slab_free(w, 2, 1))
    return w


def refill_and_local_free(guards: Guards) -> World:
    """The slow path of an allocation is interrupted by a free on the same CPU."""
    w = World(guards, [Slab(3, freelist=2, inuse=2, frozen=True)], cpus=1)
    w.links = {2: None}
    w.held = {0, 1}
    w.cpus[0].slab = 0
    w.start("A", 0, slab_alloc(w, 0, "A"))
    w.start("B", 0, slab_free(w, 0, 0))
    return w


def flush_and_remote_free(guards: Guards) -> World:
    """A CPU's full slab is deactivated while another CPU frees into it."""
    w = World(guards, [Slab(2, inuse=2, frozen=True)], cpus=2)
    w.held = {0, 1}
    w.cpus[0].slab = 0
    w.start("A", 0, flush_slab(w, 0, "A"))
    w.start("B", 1, slab_free(w, 1, 0))
    return w


def two_frees_of_a_full_slab(guards: Guards) -> World:
    """Two CPUs free the only two objects of a slab that nobody owns."""
    w = World(guards, [Slab(2, inuse=2)], cpus=2)
    w.held = {0, 1}
    w.start("A", 0, slab_free(w, 0, 0))
    w.start("B", 1, slab_free(w, 1, 1))
    return w


RACES: dict[str, Callable[[Guards], World]] = {
    race.__name__: race
    for race in (
        aba,
        free_during_flush,
        refill_and_remote_frees,
        refill_and_local_free,
        flush_and_remote_free,
        two_frees_of_a_full_slab,
    )
}

#: guard taken away -> a race that then goes wrong
TWINS = {
    "compares_tid": "aba",
    "steps_tid": "aba",
    "reads_tid_first": "aba",
    "detach_steps_tid": "free_during_flush",
    "slow_path_alone": "refill_and_local_free",
    "free_checks_frozen": "refill_and_remote_frees",
    "free_compares": "two_frees_of_a_full_slab",
    "freezes_in_one_step": "two_frees_of_a_full_slab",
    "takes_in_one_step": "refill_and_remote_frees",
    "lets_empty_go": "refill_and_remote_frees",
    "deactivate_compares": "flush_and_remote_free",
    "decides_again": "flush_and_remote_free",
}

GUARDS = tuple(guard.name for guard in fields(Guards))


def run_race(name: str, without: str | None = None) -> Outcome:
    """Search one race with every guard, or without the one named.

    Raises:
        KeyError: No such race or guard.
    """
    race = RACES[name]
    if without is not None and without not in GUARDS:
        raise KeyError(without)
    guards = Guards() if without is None else Guards(**{without: False})
    return explore(lambda: race(guards))
