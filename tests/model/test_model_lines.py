"""Locks, double-word swaps and cache lines are counted where they are taken."""

from __future__ import annotations

from uslub.model import Arena, Cache
from uslub.model.adopt import adopt_slab, park_objects
from uslub.model.state import Position


def make(design: str = "6.18", *, nodes: int = 1, **options: int) -> Cache:
    arena = Arena(cpus=2, nodes=nodes, design=design)
    settings = {"order": 0, "min_partial": 2, "cpu_partial": 8} | options
    return arena.cache("test", 512, **settings)


def locks(cache: Cache) -> int:
    return sum(node.list_locked for node in cache.nodes)


def test_the_fast_path_takes_no_lock_and_moves_no_line() -> None:
    cache = make()
    for _ in range(5):
        cache.free(cache.alloc(0), 0)
    lines = cache.cpus[0].lines
    assert locks(cache) == 0
    assert (lines.words, lines.slab, lines.object, lines.node) == (0, 0, 0, 0)


def test_a_free_from_another_cpu_is_one_swap_and_moves_two_lines() -> None:
    cache = make()
    position = cache.alloc(0)
    cache.free(position, 1)
    lines = cache.cpus[1].lines
    assert (lines.words, lines.slab, lines.object) == (1, 1, 1)
    assert lines.cross_cpu_frees == 1 and lines.cross_node_frees == 0
    assert locks(cache) == 0, "the slab is frozen: its owner will find the object"


def test_an_object_used_where_it_was_freed_moves_no_line_again() -> None:
    cache = make("7.1")
    position = cache.alloc(0)
    cache.free(position, 1)
    assert cache.cpus[1].lines.object == 1
    assert cache.alloc(1) == position
    assert cache.cpus[1].lines.object == 1


def test_without_a_chain_each_first_free_of_a_full_slab_takes_the_lock() -> None:
    cache = make(cpu_partial=0)
    cache.has_cpu_partial = False
    objects = [cache.alloc(0) for _ in range(25)]
    for first in (0, 8, 16):
        cache.free(objects[first], 1)
    assert locks(cache) == 3
    assert cache.cpus[1].lines.node == 1, "the line moves once; then it is CPU 1's"
    cache.free(objects[1], 1)
    assert locks(cache) == 3, "partial before and after: no list changes"


def test_a_drained_chain_takes_the_lock_once_per_run_of_one_node() -> None:
    cache = make(cpu_partial=8)
    assert cache.cpu_partial_slabs == 2
    objects = [cache.alloc(0) for _ in range(33)]
    for first in (0, 8, 16):
        cache.free(objects[first], 1)
    assert cache.stats()["cpu_partial_drain"] == 1
    assert locks(cache) == 1


def test_frees_to_another_node_are_counted() -> None:
    cache = make(nodes=2)
    position = cache.alloc(0)
    cache.free(position, 1)
    assert cache.cpus[1].lines.cross_node_frees == 1


def test_barn_locks_are_counted_where_sheaves_change_hands() -> None:
    cache = make("7.1", sheaf_capacity=4)
    capacity = cache.sheaf_capacity
    objects = [cache.alloc(0) for _ in range(capacity * 4)]
    for position in objects:
        cache.free(position, 0)
    assert cache.stats()["barn_put"] == 2
    assert cache.nodes[0].barn.locked >= cache.stats()["barn_put"]


def test_the_policy_of_a_task_decides_where_new_slabs_lie_but_not_which_is_used() -> (
    None
):
    cache = make(nodes=2)
    cache.machine.policy_node = 1
    first = cache.alloc(0)
    assert cache.slabs[first.slab].node == 1
    cache.machine.policy_node = None
    assert cache.alloc(0).slab == first.slab, "the CPU slab is used up first"


def test_the_most_slabs_that_a_node_had_are_remembered() -> None:
    cache = make(cpu_partial=0, min_partial=0)
    cache.has_cpu_partial = False
    objects = [cache.alloc(0) for _ in range(32)]
    for position in objects:
        cache.free(position, 1)
    assert cache.nodes[0].peak_slabs == 4 > cache.nodes[0].nr_slabs


def test_an_adopted_slab_is_on_its_node_under_its_cpu_or_nowhere() -> None:
    cache = make(nodes=2)
    listed = adopt_slab(cache, 1, [0, 1])
    owned = adopt_slab(cache, 0, [3], cache.cpus[0])
    full = adopt_slab(cache, 0, range(8))
    view = {slab.slab: slab for slab in cache.snapshot().slabs}
    assert [view[s.number].place for s in (listed, owned, full)] == [
        "node 1",
        "cpu 0",
        "full",
    ]
    assert (listed.inuse, owned.inuse, full.inuse) == (2, 8, 8)
    assert [len(s.freelist) for s in (listed, owned, full)] == [6, 0, 0]
    assert cache.alloc(0) == (owned.number, 0)
    cache.free((full.number, 5), 0)
    assert cache.cpus[0].partial == [full]
    assert [node.nr_slabs for node in cache.nodes] == [2, 1]


def test_parked_objects_are_handed_out_in_their_order() -> None:
    cache = make("7.1", sheaf_capacity=4)
    slab = adopt_slab(cache, 0, [0])
    wanted = [Position(slab.number, index) for index in (5, 2, 7)]
    assert park_objects(cache, cache.cpus[0], [*wanted, Position(slab.number, 0)]) == 3
    assert [cache.alloc(0) for _ in range(3)] == wanted
    assert slab.inuse + len(slab.freelist) == slab.objects


def test_a_slab_all_of_whose_free_objects_are_parked_leaves_the_list() -> None:
    cache = make("7.1", sheaf_capacity=60)
    slab = adopt_slab(cache, 0, range(6))
    park_objects(cache, cache.cpus[0], [Position(slab.number, i) for i in (6, 7)])
    assert not slab.on_partial and not cache.nodes[0].partial
