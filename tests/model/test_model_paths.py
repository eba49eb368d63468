"""One cache, a few CPUs: what each path does, step by step, and what it counts.

Most tests use 512-byte objects: order 1, 16 per slab, chains of up to 7 slabs,
5 partial slabs kept.
"""

from __future__ import annotations

import pytest

from uslub.model import Arena, Cache, DoubleFree, InvalidFree, Position
from uslub.model.invariants import chains_are_bounded, violations


def make(cpus: int = 1, design: str = "classic", **options: int) -> Cache:
    settings = {"order": 1, "cpu_partial": 52, "min_partial": 5} | options
    return Arena(cpus=cpus, design=design).cache("test", 512, **settings)


def moved(cache: Cache, before: dict[str, int]) -> dict[str, int]:
    """Counters that changed since `before`, by how much."""
    now = cache.stats()
    return {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}


def fill(cache: Cache, slabs: int, cpu: int = 0) -> list[list[Position]]:
    """Use up that many new slabs; their objects, slab by slab."""
    return [[cache.alloc(cpu) for _ in range(cache.objects)] for _ in range(slabs)]


def test_the_geometry_of_this_file_is_what_it_says() -> None:
    cache = make()
    assert (cache.objects, cache.cpu_partial_slabs, cache.min_partial) == (16, 7, 5)


def test_the_first_allocation_makes_a_slab_and_the_next_15_are_fast() -> None:
    cache = make()
    cache.alloc()
    assert cache.stats() == {"alloc_slowpath": 1, "alloc_slab": 1}
    objects = [cache.alloc() for _ in range(15)]
    assert objects == [Position(0, i) for i in range(1, 16)]
    assert cache.stats()["alloc_fastpath"] == 15


def test_the_17th_allocation_lets_the_full_slab_go_and_makes_another() -> None:
    cache = make()
    fill(cache, 1)
    before = cache.stats()
    assert cache.alloc() == (1, 0)
    assert moved(cache, before) == {
        "alloc_slowpath": 1,
        "deactivate_bypass": 1,
        "alloc_slab": 1,
    }
    full, owned = cache.snapshot().slabs
    assert (full.place, full.frozen, full.inuse) == ("full", False, 16)
    assert (owned.place, owned.frozen, owned.inuse) == ("cpu 0", True, 16)


def test_what_was_freed_last_is_allocated_next() -> None:
    cache = make()
    objects = [cache.alloc() for _ in range(3)]
    for position in objects:
        cache.free(position)
    assert [cache.alloc() for _ in range(3)] == objects[::-1]
    assert cache.stats()["free_fastpath"] == 3


def test_the_first_free_of_a_full_slab_puts_it_on_the_freeing_cpus_chain() -> None:
    cache = make(cpus=2)
    slabs = fill(cache, 2)
    cache.free(slabs[0][3], cpu=1)
    assert cache.cpus[1].partial == [cache.slabs[0]]
    assert moved(cache, {}) | {"alloc_fastpath": 0} == {
        "alloc_fastpath": 0,
        "alloc_slowpath": 2,
        "deactivate_bypass": 1,
        "alloc_slab": 2,
        "free_slowpath": 1,
        "cpu_partial_free": 1,
    }


def test_a_free_to_another_cpus_slab_waits_there_until_its_owner_looks() -> None:
    cache = make(cpus=2)
    objects = fill(cache, 1)[0]
    cache.free(objects[3], cpu=1)
    cache.free(objects[9], cpu=1)
    assert cache.stats()["free_frozen"] == 2
    before = cache.stats()
    assert cache.alloc(0) == objects[9]
    assert moved(cache, before) == {"alloc_slowpath": 1, "alloc_refill": 1}
    assert cache.alloc(0) == objects[3]


def test_the_eighth_slab_on_a_chain_of_seven_drains_it() -> None:
    cache = make()
    slabs = fill(cache, 9)
    before = cache.stats()
    for objects in slabs[:7]:
        cache.free(objects[0])
    assert moved(cache, before) == {"free_slowpath": 7, "cpu_partial_free": 7}
    before = cache.stats()
    cache.free(slabs[7][0])
    assert moved(cache, before) == {
        "free_slowpath": 1,
        "free_add_partial": 7,
        "cpu_partial_drain": 1,
        "cpu_partial_free": 1,
    }
    view = cache.snapshot()
    assert view.nodes[0].partial == (6, 5, 4, 3, 2, 1, 0)
    assert view.cpus[0].partial == (7,)


def test_empty_slabs_go_while_five_or_more_are_listed() -> None:
    cache = make()
    slabs = fill(cache, 9)
    for objects in slabs[:8]:
        cache.free(objects[0])
    discarded = []
    for objects in slabs[:7]:
        before = cache.stats()
        for position in objects[1:15]:
            cache.free(position)
        assert moved(cache, before) == {"free_slowpath": 14}
        before = cache.stats()
        cache.free(objects[15])
        discarded.append("free_slab" in moved(cache, before))
    assert discarded == [True, True, True, False, False, False, False]
    assert cache.stats()["free_remove_partial"] == 3
    assert len(cache.nodes[0].partial) == 4


def test_a_refill_takes_one_slab_and_four_more_for_the_chain() -> None:
    cache = make()
    slabs = fill(cache, 9)
    for objects in slabs[:8]:
        cache.free(objects[0])  # 7 on the node, 1 on the chain
    cache.alloc()  # the chain's
    before = cache.stats()
    assert cache.alloc() == slabs[6][0]
    assert moved(cache, before) == {
        "alloc_slowpath": 1,
        "deactivate_bypass": 1,
        "alloc_from_partial": 1,
        "cpu_partial_node": 4,
    }
    assert cache.snapshot().cpus[0].partial == (2, 3, 4, 5)


def test_the_five_sources_are_tried_in_order() -> None:
    cache = make(cpus=2)
    slabs = fill(cache, 11)
    for objects in slabs[:8]:
        cache.free(objects[0])  # node: 6..0, chain: 7
    cache.free(slabs[10][1], cpu=1)  # into the CPU slab, from outside
    cache.free(slabs[10][0])  # into the CPU freelist
    names = []
    for _ in range(12):
        before = cache.stats()
        cache.alloc()
        names.append(
            next(
                name
                for name in (
                    "alloc_fastpath",
                    "alloc_refill",
                    "cpu_partial_alloc",
                    "alloc_from_partial",
                    "alloc_slab",
                )
                if name in moved(cache, before)
            )
        )
    assert names == [
        "alloc_fastpath",
        "alloc_refill",
        "cpu_partial_alloc",
        "alloc_from_partial",
        *["cpu_partial_alloc"] * 4,
        "alloc_from_partial",
        "cpu_partial_alloc",
        "alloc_slab",
        "alloc_fastpath",
    ]


def test_deactivation_puts_the_cpus_objects_before_the_slabs_own() -> None:
    cache = make(cpus=2)
    objects = [cache.alloc() for _ in range(6)]
    cache.free(objects[1], cpu=1)
    cache.free(objects[4])
    before = cache.stats()
    cache.flush(0)
    slab = cache.snapshot().slabs[0]
    assert slab.freelist == (4, *range(6, 16), 1)
    assert (slab.place, slab.frozen, slab.inuse) == ("node 0", False, 4)
    assert moved(cache, before) == {
        "deactivate_remote_frees": 1,
        "deactivate_to_tail": 1,
        "cpuslab_flush": 1,
    }


def test_deactivation_puts_a_slab_without_remote_frees_at_the_head() -> None:
    cache = make(cpus=3)
    for cpu in (0, 1, 2):
        cache.alloc(cpu)
    cache.flush(0)
    cache.flush(1)
    assert cache.snapshot().nodes[0].partial == (1, 0)
    cache.free((2, 0), cpu=0)
    cache.flush(2)
    assert cache.snapshot().nodes[0].partial == (1, 0, 2)
    assert cache.stats()["deactivate_to_head"] == 2


def test_deactivation_discards_an_empty_slab_only_when_enough_are_listed() -> None:
    cache = make(min_partial=1)
    cache.free(cache.alloc())
    cache.flush()
    assert len(cache.nodes[0].partial) == 1
    cache = make(cpus=2, min_partial=1)
    first, second = cache.alloc(0), cache.alloc(1)
    cache.flush(0)
    cache.free(second, cpu=1)
    before = cache.stats()
    cache.flush(1)
    assert moved(cache, before) == {
        "deactivate_empty": 1,
        "free_slab": 1,
        "cpuslab_flush": 1,
    }
    assert [slab.slab for slab in cache.snapshot().slabs] == [first.slab]


def test_a_full_slab_is_deactivated_onto_no_list() -> None:
    cache = make()
    fill(cache, 1)
    cache.flush()
    assert cache.stats()["deactivate_full"] == 1
    assert cache.snapshot().slabs[0].place == "full"


def test_a_free_to_a_slab_on_a_node_list_moves_nothing() -> None:
    cache = make()
    objects = [cache.alloc() for _ in range(4)]
    cache.flush()
    before, view = cache.stats(), cache.snapshot().nodes
    cache.free(objects[0])
    assert moved(cache, before) == {"free_slowpath": 1}
    assert cache.snapshot().nodes == view


def test_an_empty_slab_stays_on_a_chain() -> None:
    cache = make(cpus=2)
    slabs = fill(cache, 2)
    for position in slabs[0]:
        cache.free(position, cpu=1)
    view = cache.snapshot()
    assert view.cpus[1].partial == (0,)
    assert view.slabs[0].inuse == 0
    assert cache.stats()["free_frozen"] == 15


def test_a_drained_chain_discards_empty_slabs_that_nobody_needs() -> None:
    cache = make(min_partial=1)
    slabs = fill(cache, 4)
    for objects in slabs[:3]:
        for position in objects:
            cache.free(position)
    before = cache.stats()
    cache.flush()
    assert moved(cache, before) == {
        "free_add_partial": 1,  # the first is kept: min_partial is 1
        "deactivate_empty": 2,
        "free_slab": 2,
        "deactivate_full": 1,
        "cpuslab_flush": 1,
    }
    assert cache.snapshot().nodes[0].partial == (2,)


def test_a_chain_limit_of_zero_still_holds_one_slab() -> None:
    cache = make(cpu_partial=0)
    slabs = fill(cache, 3)
    cache.free(slabs[0][0])
    assert cache.snapshot().cpus[0].partial == (0,)
    cache.free(slabs[1][0])
    view = cache.snapshot()
    assert (view.cpus[0].partial, view.nodes[0].partial) == ((1,), (0,))


def test_without_chains_a_was_full_slab_goes_to_its_node() -> None:
    cache = make(cpus=2, has_cpu_partial=False)
    slabs = fill(cache, 2)
    before = cache.stats()
    cache.free(slabs[0][0], cpu=1)
    assert moved(cache, before) == {"free_slowpath": 1, "free_add_partial": 1}
    assert cache.snapshot().nodes[0].partial == (0,)


def test_without_chains_a_one_object_slab_goes_when_enough_are_listed() -> None:
    arena = Arena(cpus=2)
    cache = arena.cache(
        "one", 4096, order=0, min_partial=0, has_cpu_partial=False, merge=False
    )
    first, _second = cache.alloc(), cache.alloc()
    before = cache.stats()
    cache.free(first)
    assert moved(cache, before) == {"free_slowpath": 1, "free_slab": 1}


def test_a_refill_without_chains_takes_one_slab() -> None:
    cache = make(cpus=2, has_cpu_partial=False)
    slabs = fill(cache, 4)
    for objects in slabs[:3]:
        cache.free(objects[0], cpu=1)
    cache.alloc(1)
    assert cache.snapshot().nodes[0].partial == (1, 2)


def test_shrink_discards_empties_and_sorts_the_fullest_first() -> None:
    cache = make(cpus=2)
    slabs = fill(cache, 6)
    for objects, count in zip(slabs, (3, 1, 16, 3, 2, 16), strict=True):
        for position in objects[:count]:
            cache.free(position, cpu=1)
    assert cache.shrink() is True
    view = cache.snapshot()
    assert view.nodes[0].partial == (1, 4, 0, 3)
    assert [slab.slab for slab in view.slabs] == [0, 1, 3, 4]
    assert view.stat("free_slab") == 0  # a shrink does not count


def test_shrink_leaves_slabs_with_more_than_32_free_behind_in_order() -> None:
    cache = Arena(cpus=2).cache("small", 64)  # 64 per slab
    slabs = fill(cache, 4)
    for objects, count in zip(slabs, (32, 40, 33, 1), strict=True):
        for position in objects[:count]:
            cache.free(position, cpu=1)
    cache.shrink()
    assert cache.snapshot().nodes[0].partial == (3, 0, 2, 1)


def test_shrink_of_an_unused_cache_says_that_nothing_remains() -> None:
    cache = make()
    cache.free(cache.alloc())
    assert cache.shrink() is False
    assert cache.machine.pages[0].free_pages == 4096


def test_a_dead_cpus_slab_and_chain_go_to_the_nodes() -> None:
    arena = Arena(cpus=2)
    cache = arena.cache("test", 512, order=1)
    slabs = fill(cache, 2, cpu=1)
    cache.free(slabs[0][0], cpu=1)
    cache.free(slabs[1][0], cpu=1)
    arena.cpu_dead(1)
    view = cache.snapshot()
    assert view.cpus[1].slab is None
    assert (view.cpus[1].partial, view.nodes[0].partial) == ((), (1, 0))


def test_counters_belong_to_the_cpu_that_acts() -> None:
    cache = make(cpus=2)
    position = cache.alloc(0)
    cache.free(position, cpu=1)
    stats = dict(cache.snapshot().stats)
    assert stats["alloc_slowpath"] == (1, 0)
    assert stats["free_frozen"] == (0, 1)


def test_setting_cpu_partial_flushes_and_changes_the_limit() -> None:
    cache = make()
    cache.alloc()
    cache.set_cpu_partial(8)
    assert (cache.cpu_partial_slabs, cache.cpus[0].slab) == (1, None)


def test_a_double_free_is_refused() -> None:
    cache = make()
    position = cache.alloc()
    cache.free(position)
    with pytest.raises(DoubleFree, match="already free"):
        cache.free(position)
    assert violations(cache.snapshot()) == []


@pytest.mark.parametrize("position", [(5, 0), (0, 16), (0, -1)])
def test_a_position_that_is_no_object_is_refused(position: tuple[int, int]) -> None:
    cache = make()
    cache.alloc()
    with pytest.raises(InvalidFree):
        cache.free(position)


def test_chains_stay_within_their_limit() -> None:
    cache = make()
    slabs = fill(cache, 30)
    for objects in slabs:
        cache.free(objects[0])
        assert list(chains_are_bounded(cache.snapshot())) == []


def test_transitions_tell_their_names_and_reasons() -> None:
    cache = make()
    steps: list[str] = []
    cache.machine.watch = lambda step: steps.append(step.function)
    cache.alloc()
    cache.alloc()
    cache.flush()
    assert steps == ["new_slab", "slab_alloc", "flush_slab", "deactivate_slab"]
