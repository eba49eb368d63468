"""Any sequence of operations, on any design: what always holds still holds."""

from __future__ import annotations

import contextlib
import random
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from uslub.model import DESIGNS, Arena, OutOfMemory, Position
from uslub.model.invariants import nothing_lost, pages_add_up, violations

CPUS = st.integers(0, 3)
NODES = st.sampled_from([None, 0, 1])


class ModelKeepsItsPromises(RuleBasedStateMachine):
    """Random operations on a small machine with too little memory."""

    design = "classic"

    @initialize(size=st.sampled_from([64, 512, 1024]), reserve=st.integers(0, 2))
    def start(self, size: int, reserve: int) -> None:
        self.arena = Arena(
            cpus=4,
            nodes=2,
            pages_per_node=11,
            reserve_pages=reserve,
            design=self.design,
        )
        self.cache = self.arena.cache(
            "test", size, order=1, min_partial=2, cpu_partial=size // 64
        )
        self.held: list[Position] = []

    @rule(cpu=CPUS, node=NODES, thisnode=st.booleans(), emergency=st.booleans())
    def alloc(
        self, cpu: int, node: int | None, thisnode: bool, emergency: bool
    ) -> None:
        try:
            position = self.cache.alloc(cpu, node, thisnode, emergency)
        except OutOfMemory:
            return
        assert position not in self.held
        if thisnode and node is not None:
            assert self.cache.slabs[position.slab].node == node
        self.held.append(position)

    @rule(cpu=CPUS, n=st.integers(1, 40))
    def alloc_bulk(self, cpu: int, n: int) -> None:
        with contextlib.suppress(OutOfMemory):
            self.held += self.cache.alloc_bulk(n, cpu)

    @rule(cpu=CPUS, seed=st.integers(0, 1000), n=st.integers(1, 20))
    def free(self, cpu: int, seed: int, n: int) -> None:
        for _ in range(min(n, len(self.held))):
            self.cache.free(self.held.pop(seed % len(self.held)), cpu)

    @rule(cpu=CPUS, seed=st.integers(0, 1000), n=st.integers(1, 40))
    def free_bulk(self, cpu: int, seed: int, n: int) -> None:
        random.Random(seed).shuffle(self.held)
        gone, self.held = self.held[:n], self.held[n:]
        self.cache.free_bulk(gone, cpu)

    @rule(cpu=st.sampled_from([None, 0, 3]))
    def flush(self, cpu: int | None) -> None:
        self.cache.flush(cpu)

    @rule()
    def shrink(self) -> None:
        self.cache.shrink()

    @invariant()
    def nothing_is_wrong(self) -> None:
        if not hasattr(self, "cache"):
            return
        view = self.cache.snapshot()
        found = violations(view, chain_frozen=self.cache.design.chain_frozen)
        assert found == []
        assert list(pages_add_up(self.arena.snapshot())) == []
        if not self.cache.sheaf_capacity:
            assert list(nothing_lost(view, self.held)) == []

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            for position in self.held:
                self.cache.free(position)
            self.arena.destroy(self.cache)
            assert self.arena.machine.pages[0].free_pages == 11


@pytest.mark.parametrize("design", DESIGNS)
def test_invariants_hold_after_every_operation(design: str) -> None:
    machine = type(
        f"Promises{design}", (ModelKeepsItsPromises,), {"design": design}
    ).TestCase
    machine.settings = settings(settings.default, print_blob=False)
    machine("runTest").runTest()


def decisions_per_second(seconds: float) -> float:
    """A mixed load on two CPUs, until so much time has passed."""
    cache = Arena(cpus=2).cache("test", 192)
    rng = random.Random(1)
    live: list[Position] = []
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(1000):
            cpu = n >> 10 & 1
            if not live or rng.random() < 0.5:
                live.append(cache.alloc(cpu))
            else:
                at = rng.randrange(len(live))
                position, live[at] = live[at], live[-1]
                live.pop()
                cache.free(position, cpu)
            n += 1
    return n / (time.perf_counter() - start)


@pytest.mark.check
def test_the_model_takes_300_000_decisions_per_second() -> None:
    assert max(decisions_per_second(0.5) for _ in range(5)) > 300_000


def test_memory_does_not_grow_with_the_length_of_a_run() -> None:
    cache = Arena(cpus=2).cache("test", 512, order=0)
    for _ in range(200):
        objects = [cache.alloc(0) for _ in range(100)]
        for position in objects:
            cache.free(position, 1)
        cache.shrink()
        assert cache.slabs == {}
    assert cache.next_slab == 200 * 13
