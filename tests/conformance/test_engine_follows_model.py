"""The engine makes the model's decisions: the same operations, compared after each one.

Engine and model get the same calls (CPUs, nodes, hints, bulk, flush, shrink, tunables,
merging, kmalloc, exhaustion, the reserve). After every step whole snapshots are equal:
same slab, same index, same lists in the same order, same counters, same free blocks;
and the engine's own `validate` finds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import uslub
from uslub.model import errors as model_errors
from uslub.model.arena import Arena as Model
from uslub.model.kmalloc import KmallocObject, LargeObject

PAGE = 4096

#: name -> (object size, options of the engine's cache, options of the model's)
CACHES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "tiny": (8, {}, {}),
    "small": (64, {"min_partial": 1, "cpu_partial": 0}, {}),
    "flock": (192, {"cpu_partial": 40, "min_partial": 2}, {}),
    "odd": (360, {"align": 32, "min_partial": 0}, {}),
    "page": (4096, {"cpu_partial": 1}, {}),
    "single": (6000, {"order": 1, "min_partial": 1, "cpu_partial": 2}, {}),
    "nochain": (
        512,
        {"flags": uslub.Flags.NO_CPU_PARTIAL, "min_partial": 2},
        {"has_cpu_partial": False},
    ),
}

CPU = st.integers(0, 3)
NODE = st.one_of(st.none(), st.integers(0, 2))


class EngineFollowsModel(RuleBasedStateMachine):
    """One arena in both worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.arena: uslub.Arena | None = None
        self.live: list[tuple[str, uslub.Object, Any]] = []
        self.buffers: list[tuple[uslub.Object, Any]] = []

    @initialize(
        cpus=st.integers(1, 4),
        nodes=st.integers(1, 3),
        pages=st.sampled_from([12, 40, 300]),
        reserve=st.sampled_from([0, 0, 4]),
    )
    def start(self, cpus: int, nodes: int, pages: int, reserve: int) -> None:
        nodes = min(nodes, cpus)
        self.cpus, self.nodes = cpus, nodes
        self.arena = uslub.Arena.create(
            size=pages * nodes * PAGE, cpus=cpus, nodes=nodes, reserve=reserve * PAGE
        )
        self.model = Model(
            cpus=cpus,
            nodes=nodes,
            pages_per_node=pages,
            design="classic",
            reserve_pages=reserve,
            merge=False,
        )
        self.engine_caches: dict[str, uslub.Cache] = {}
        self.model_caches: dict[str, Any] = {}

    def caches(self, name: str) -> tuple[uslub.Cache, Any]:
        """The pair of caches of that name, made at first use."""
        assert self.arena is not None
        if name not in self.engine_caches:
            size, options, model_options = CACHES[name]
            shared = {
                k: v for k, v in options.items() if k not in ("flags", "ctor")
            } | model_options
            self.engine_caches[name] = self.arena.cache(
                name, size, defrag_ratio=1024, **options
            )
            self.model_caches[name] = self.model.cache(
                name, size, defrag_ratio=1024, **shared
            )
        return self.engine_caches[name], self.model_caches[name]

    def both(self, engine: Any, model: Any) -> tuple[Any, Any] | None:
        """Results of one call in both worlds; None if both are out of memory."""
        try:
            ours = engine()
        except uslub.OutOfMemory:
            with pytest.raises(model_errors.OutOfMemory):
                model()
            return None
        return ours, model()

    @rule(
        name=st.sampled_from(sorted(CACHES)),
        cpu=CPU,
        node=NODE,
        thisnode=st.booleans(),
        emergency=st.sampled_from([False, False, True]),
    )
    def alloc(
        self, name: str, cpu: int, node: int | None, thisnode: bool, emergency: bool
    ) -> None:
        cache, model = self.caches(name)
        cpu %= self.cpus
        node = None if node is None else node % self.nodes
        thisnode = thisnode and node is not None
        got = self.both(
            lambda: cache.alloc(
                cpu=cpu, node=node, thisnode=thisnode, emergency=emergency
            ),
            lambda: model.alloc(cpu, node, thisnode, emergency),
        )
        if got is not None:
            obj, position = got
            assert (obj.slab, obj.index) == tuple(position)
            self.live.append((name, obj, position))

    @rule(name=st.sampled_from(sorted(CACHES)), cpu=CPU, n=st.integers(1, 70))
    def alloc_bulk(self, name: str, cpu: int, n: int) -> None:
        cache, model = self.caches(name)
        cpu %= self.cpus
        assert self.arena is not None
        n = max(1, min(n, self.arena.size // cache.size))  # more is refused at once
        got = self.both(
            lambda: cache.alloc_bulk(n, cpu=cpu), lambda: model.alloc_bulk(n, cpu)
        )
        if got is not None:
            assert [(o.slab, o.index) for o in got[0]] == [tuple(p) for p in got[1]]
            self.live += [(name, o, p) for o, p in zip(*got, strict=True)]

    @rule(which=st.randoms(use_true_random=False), cpu=CPU, n=st.integers(1, 12))
    def free(self, which: Any, cpu: int, n: int) -> None:
        for _ in range(min(n, len(self.live))):
            name, obj, position = self.live.pop(which.randrange(len(self.live)))
            obj.free(cpu=cpu % self.cpus)
            self.model_caches[name].free(position, cpu % self.cpus)

    @rule(which=st.randoms(use_true_random=False), cpu=CPU, n=st.integers(1, 60))
    def free_bulk(self, which: Any, cpu: int, n: int) -> None:
        if not self.live:
            return
        name = which.choice(self.live)[0]
        mine = [entry for entry in self.live if entry[0] == name]
        which.shuffle(mine)
        mine = mine[:n]
        self.live = [entry for entry in self.live if entry not in mine]
        positions = [position for _, _, position in mine]
        objects = [obj for _, obj, _ in mine]
        mine.clear()
        self.engine_caches[name].free_bulk(objects, cpu=cpu % self.cpus)
        self.model_caches[name].free_bulk(positions, cpu % self.cpus)

    @rule(name=st.sampled_from(sorted(CACHES)), cpu=st.one_of(st.none(), CPU))
    def flush(self, name: str, cpu: int | None) -> None:
        cache, model = self.caches(name)
        cpu = None if cpu is None else cpu % self.cpus
        cache.flush(cpu)
        model.flush(cpu)

    @rule(name=st.sampled_from(sorted(CACHES)))
    def shrink(self, name: str) -> None:
        cache, model = self.caches(name)
        cache.shrink()
        model.shrink()

    @rule(cpu=CPU)
    def cpu_goes_away(self, cpu: int) -> None:
        assert self.arena is not None
        self.arena.cpu_dead(cpu % self.cpus)
        self.model.cpu_dead(cpu % self.cpus)

    @rule(name=st.sampled_from(sorted(CACHES)), value=st.sampled_from([0, 1, 30, 120]))
    def set_cpu_partial(self, name: str, value: int) -> None:
        cache, model = self.caches(name)
        cache.cpu_partial = value
        model.set_cpu_partial(value)

    @rule(name=st.sampled_from(sorted(CACHES)), value=st.integers(0, 6))
    def set_min_partial(self, name: str, value: int) -> None:
        cache, model = self.caches(name)
        cache.min_partial = value
        model.min_partial = value

    @rule(
        n=st.one_of(st.integers(1, 8192), st.integers(8193, 40000)),
        cpu=CPU,
        node=NODE,
        kind=st.sampled_from(["normal", "normal", "reclaimable", "dma", "account"]),
    )
    def kmalloc(self, n: int, cpu: int, node: int | None, kind: str) -> None:
        arena = self.arena
        assert arena is not None
        cpu %= self.cpus
        node = None if node is None else node % self.nodes
        family = {kind: True} if kind != "normal" else {}
        got = self.both(
            lambda: arena.kmalloc(n, cpu=cpu, node=node, kind=kind),
            lambda: self.model.kmalloc(n, cpu, node, **family),
        )
        if got is None:
            return
        buffer, pointer = got
        if isinstance(pointer, LargeObject):
            assert (buffer.node, buffer.page) == (pointer.node, pointer.page)
        else:
            assert isinstance(pointer, KmallocObject)
            assert buffer.cache is not None
            assert buffer.cache.name == pointer.cache
            assert (buffer.slab, buffer.index) == tuple(pointer.position)
            assert buffer.usable_size == self.model.ksize(pointer)
        self.buffers.append((buffer, pointer))

    @rule(which=st.randoms(use_true_random=False), cpu=CPU)
    def kfree(self, which: Any, cpu: int) -> None:
        if self.buffers:
            buffer, pointer = self.buffers.pop(which.randrange(len(self.buffers)))
            buffer.free(cpu=cpu % self.cpus)
            self.model.kfree(pointer, cpu % self.cpus)

    @rule(name=st.sampled_from(sorted(CACHES)))
    def destroy(self, name: str) -> None:
        cache, model = self.caches(name)
        try:
            cache.destroy()
        except uslub.CacheBusy:
            with pytest.raises(model_errors.CacheBusy):
                self.model.destroy(model)
        else:
            self.model.destroy(model)
            del self.engine_caches[name], self.model_caches[name]

    @invariant()
    def snapshots_are_equal(self) -> None:
        if self.arena is not None:
            ours, model = self.arena.snapshot(), self.model.snapshot()
            assert ours.pages == model.pages
            assert [c.name for c in ours.caches] == [c.name for c in model.caches]
            for mine, its in zip(ours.caches, model.caches, strict=True):
                assert mine == replace(its, aliases=mine.aliases)

    @invariant()
    def nothing_is_found(self) -> None:
        if self.arena is not None:
            assert self.arena.validate() == []
            owned = len(self.live)
            used = sum(
                slab.inuse
                - sum(len(c.freelist) for c in cache.cpus if c.slab == slab.slab)
                for cache in self.arena.snapshot().caches
                for slab in cache.slabs
                if not cache.name.startswith(("kmalloc", "dma-"))
            )
            assert used == owned

    def teardown(self) -> None:
        for _, obj, _ in self.live:
            obj.free()
        for buffer, _ in self.buffers:
            buffer.free()
        if self.arena is not None:
            assert self.arena.validate() == []
            self.arena.close()


TestEngineFollowsModel = EngineFollowsModel.TestCase


@pytest.mark.check
class TestEngineFollowsModelForLong(EngineFollowsModel.TestCase):  # type: ignore[misc]
    """The same; `make check` runs it with the long profile."""
