"""What tells the five designs apart, and what sheaves do."""

from __future__ import annotations

import pytest

from uslub.model import DESIGNS, Arena, Cache, CacheError, OutOfMemory, Position
from uslub.model.flush import shutdown


def make(design: str, cpus: int = 2, **options: int) -> Cache:
    settings = {"order": 1, "cpu_partial": 52, "min_partial": 5} | options
    return Arena(cpus=cpus, design=design).cache("test", 512, **settings)


def fill(cache: Cache, slabs: int, cpu: int = 0) -> list[list[Position]]:
    return [[cache.alloc(cpu) for _ in range(cache.objects)] for _ in range(slabs)]


def test_an_unknown_design_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CacheError, match=r"5\.10, classic, 6\.8, 6\.18, 7\.1"):
        Arena(design="4.4")


@pytest.mark.parametrize(
    ("design", "frozen"), [("5.10", True), ("classic", True), ("6.8", False)]
)
def test_slabs_on_chains_are_frozen_up_to_6_7(design: str, frozen: bool) -> None:
    cache = make(design)
    slabs = fill(cache, 2)
    cache.free(slabs[0][0], cpu=1)
    cache.free(slabs[0][1], cpu=1)
    view = cache.snapshot()
    assert (view.slabs[0].place, view.slabs[0].frozen) == ("chain 1", frozen)
    assert view.stat("free_frozen") == int(frozen)


@pytest.mark.parametrize("design", ["classic", "6.8"])
def test_slabs_taken_for_the_chain_are_frozen_up_to_6_7(design: str) -> None:
    cache = make(design)
    slabs = fill(cache, 4)
    for objects in slabs[:3]:
        cache.free(objects[0], cpu=1)
    cache.flush(1)
    cache.alloc(1)
    chained = [s for s in cache.snapshot().slabs if s.place == "chain 1"]
    assert [slab.frozen for slab in chained] == [design == "classic"] * 2


def test_6_8_counts_every_pop_and_5_10_refills_what_it_pops() -> None:
    counts = {}
    for design in ("5.10", "classic", "6.8"):
        cache = make(design)
        slabs = fill(cache, 2)
        cache.free(slabs[0][0])
        cache.alloc()
        stats = cache.stats()
        counts[design] = (stats["cpu_partial_alloc"], stats.get("alloc_refill", 0))
    assert counts == {"5.10": (1, 1), "classic": (1, 0), "6.8": (1, 0)}


def test_5_10_bounds_chains_by_free_objects() -> None:
    cache = make("5.10", cpu_partial=6)
    slabs = fill(cache, 10)
    for n, objects in enumerate(slabs[:7]):
        cache.free(objects[0])
        assert len(cache.cpus[0].partial) == n + 1
    cache.free(slabs[7][0])  # 7 free objects are above 6: drained first
    assert len(cache.cpus[0].partial) == 1
    assert len(cache.nodes[0].partial) == 7


def test_5_10_counts_a_slabs_objects_as_they_were_when_it_was_pushed() -> None:
    cache = make("5.10", cpu_partial=6)
    slabs = fill(cache, 4)
    for position in slabs[0][:12]:
        cache.free(position)  # one was free at the push, 11 came later
    cache.free(slabs[1][0])
    assert len(cache.cpus[0].partial) == 2


def test_5_10_refills_until_half_of_cpu_partial_objects() -> None:
    cache = make("5.10", cpu_partial=6)
    slabs = fill(cache, 10)
    for objects in slabs[:8]:
        cache.free(objects[0], cpu=1)
    cache.flush(1)
    before = len(cache.nodes[0].partial)
    cache.alloc(1)
    assert before - len(cache.nodes[0].partial) == 4  # 1+1+1+1 > 6 // 2
    assert len(cache.cpus[1].partial) == 3


def test_5_10_without_a_limit_drains_at_once() -> None:
    cache = make("5.10", cpu_partial=0)
    slabs = fill(cache, 2)
    cache.free(slabs[0][0])
    assert cache.cpus[0].partial == []
    assert len(cache.nodes[0].partial) == 1


def test_5_10_returns_the_cpus_objects_one_by_one_so_in_reverse() -> None:
    orders = {}
    for design in ("5.10", "classic"):
        cache = make(design)
        for _ in range(13):
            cache.alloc()
        cache.flush()
        orders[design] = cache.snapshot().slabs[0].freelist
    assert orders == {"5.10": (15, 14, 13), "classic": (13, 14, 15)}


@pytest.mark.parametrize("design", ["5.10", "6.8"])
def test_up_to_6_8_a_named_node_is_the_only_list_searched(design: str) -> None:
    arena = Arena(cpus=2, nodes=2, design=design)
    cache = arena.cache("test", 512, order=1, min_partial=0)
    slabs = fill(cache, 2, cpu=1)
    cache.free(slabs[0][0], cpu=1)
    cache.flush(1)
    assert cache.slabs[cache.alloc(0, node=0).slab].node == 0
    assert cache.stats()["alloc_slab"] == 3


# sheaves -------------------------------------------------------------------------


def sheaf_cache(design: str = "6.18", cpus: int = 1, nodes: int = 1) -> Cache:
    arena = Arena(cpus=cpus, nodes=nodes, design=design)
    cache = arena.cache("sheaves", 4096, sheaf_capacity=4)
    assert cache.sheaf_capacity == 4
    return cache


def test_6_18_gives_sheaves_to_those_who_ask_and_7_1_to_all() -> None:
    def capacity(design: str, **options: int) -> int:
        return Arena(design=design).cache("x", 64, **options).sheaf_capacity

    assert capacity("6.18") == capacity("6.8", sheaf_capacity=8) == 0
    assert capacity("6.18", sheaf_capacity=8) == 8
    assert (capacity("7.1"), capacity("7.1", sheaf_capacity=99)) == (60, 99)


def test_an_empty_sheaf_is_refilled_to_capacity_from_slabs() -> None:
    cache = sheaf_cache()
    cache.alloc()
    stats = cache.stats()
    assert (stats["sheaf_refill"], stats["barn_get_fail"]) == (4, 1)
    assert len(cache.cpus[0].main) == 3


def test_a_sheaf_hands_out_what_was_freed_last() -> None:
    cache = sheaf_cache()
    objects = [cache.alloc() for _ in range(3)]
    for position in objects:
        cache.free(position)
    assert [cache.alloc() for _ in range(3)] == objects[::-1]


def test_a_full_main_sheaf_becomes_the_spare_then_goes_to_the_barn() -> None:
    cache = sheaf_cache()
    objects = [cache.alloc() for _ in range(13)]
    c, barn = cache.cpus[0], cache.nodes[0].barn
    for position in objects[:4]:  # main had 3 left: full after one
        cache.free(position)
    assert (len(c.main), c.spare is not None and len(c.spare)) == (3, 4)
    for position in objects[4:9]:
        cache.free(position)
    assert (len(c.main), len(barn.full)) == (4, 1)
    assert cache.stats()["barn_put"] == 1


def test_an_eleventh_full_sheaf_is_flushed_to_slabs() -> None:
    cache = sheaf_cache()
    objects = [cache.alloc() for _ in range(4 * 14)]
    for position in objects:
        cache.free(position)
        assert len(cache.nodes[0].barn.full) <= 10
    stats = cache.stats()
    assert (stats["barn_put"], stats["barn_put_fail"], stats["sheaf_flush"]) == (
        10,
        2,
        8,
    )


def test_full_sheaves_come_out_of_the_barn_newest_first() -> None:
    cache = sheaf_cache()
    objects = [cache.alloc() for _ in range(4 * 6)]
    for position in objects:
        cache.free(position)
    newest = list(cache.nodes[0].barn.full[-1])
    again = [cache.alloc() for _ in range(4 * 6)]
    assert again == objects[::-1] or set(again[8:12]) == set(newest)
    assert cache.stats()["barn_get"] == 4


def test_objects_of_another_node_never_enter_a_sheaf() -> None:
    cache = sheaf_cache(cpus=2, nodes=2)
    position = cache.alloc(0)
    cache.free(position, cpu=1)
    assert cache.cpus[1].main == []
    assert cache.stats()["free_slowpath"] == 1


def test_a_request_for_another_node_passes_the_sheaves_by() -> None:
    cache = sheaf_cache(cpus=2, nodes=2)
    cache.alloc(0)
    position = cache.alloc(0, node=1)
    assert cache.slabs[position.slab].node == 1
    assert cache.stats()["alloc_pcs"] == 1


def test_a_named_node_is_kept_though_a_sheaf_has_others() -> None:
    arena = Arena(cpus=2, nodes=2, pages_per_node=1, design="6.18")
    cache = arena.cache("sheaves", 1024, order=0, sheaf_capacity=8)
    cache.alloc(0)  # a refill of 8 objects: 4 of node 0, 4 of node 1
    assert [cache.slabs[p.slab].node for p in cache.cpus[0].main[-2:]] == [1, 1]
    with pytest.raises(OutOfMemory):
        cache.alloc(0, node=0, thisnode=True)
    assert cache.slabs[cache.alloc(0).slab].node == 1


def test_a_flush_empties_the_sheaves_and_a_shrink_the_barn() -> None:
    cache = sheaf_cache()
    objects = [cache.alloc() for _ in range(40)]
    for position in objects:
        cache.free(position)
    assert cache.shrink() is True
    assert cache.cpus[0].spare is None
    assert cache.nodes[0].barn.full == []


def test_6_18_shrinks_the_barn_after_the_flush_so_slabs_land_on_a_chain_again() -> None:
    cache = sheaf_cache()
    for position in [cache.alloc() for _ in range(40)]:
        cache.free(position)
    cache.shrink()
    assert {slab.place for slab in cache.snapshot().slabs} == {"chain 0"}
    assert cache.shrink() is False
    assert cache.machine.pages[0].free_pages == 4096


def test_destroy_finds_the_objects_of_full_barns() -> None:
    cache = sheaf_cache()
    for position in [cache.alloc() for _ in range(40)]:
        cache.free(position)
    assert shutdown(cache) == 0


def test_sheaves_keep_every_object_accounted_for() -> None:
    for design in ("6.18", "7.1"):
        cache = sheaf_cache(design, cpus=2)
        objects = [cache.alloc(n % 2) for n in range(300)]
        assert len(set(objects)) == 300
        for n, position in enumerate(objects):
            cache.free(position, cpu=n // 7 % 2)
        assert shutdown(cache) == 0


def test_bulk_takes_from_sheaves_first_and_the_rest_from_slabs() -> None:
    cache = sheaf_cache()
    cache.free_bulk([cache.alloc() for _ in range(9)])
    objects = cache.alloc_bulk(20)  # 12 are in sheaves: main, spare, barn
    assert len(set(objects)) == 20
    assert cache.stats()["alloc_pcs"] == 9 + 12


def test_7_1_has_no_cpu_slabs_and_counts_sheaves_as_the_fast_path() -> None:
    cache = make("7.1")
    objects = [cache.alloc() for _ in range(100)]
    for position in objects:
        cache.free(position)
    view = cache.snapshot()
    assert all(c.slab is None and not c.partial for c in view.cpus)
    assert (view.stat("alloc_fastpath"), view.stat("free_fastpath")) == (100, 100)


def test_7_1_puts_the_rest_of_a_new_slab_at_the_head_of_its_list() -> None:
    cache = make("7.1")
    cache.sheaf_capacity = 0
    cache.alloc()
    cache.alloc()
    view = cache.snapshot()
    assert view.nodes[0].partial == (0,)
    assert (view.slabs[0].inuse, view.stat("alloc_slowpath")) == (2, 2)


def test_7_1_uses_the_last_isolated_slab_first_when_it_refills() -> None:
    cache = make("7.1")
    capacity, cache.sheaf_capacity = cache.sheaf_capacity, 0
    slabs = fill(cache, 3)
    cache.free(slabs[0][5])
    for position in slabs[1]:
        cache.free(position)
    cache.sheaf_capacity = 6
    assert cache.alloc().slab == 1
    assert cache.snapshot().nodes[0].partial == (0, 1)
    assert capacity == 28


def test_7_1_discards_an_empty_was_full_slab_without_a_list_removal() -> None:
    cache = Arena(design="7.1").cache("one", 4096, order=0, min_partial=0)
    cache.sheaf_capacity = 0
    cache.free(cache.alloc())
    stats = cache.stats()
    assert (stats["free_slab"], stats.get("free_remove_partial", 0)) == (1, 0)


@pytest.mark.parametrize("design", DESIGNS)
def test_debug_caches_work_one_object_at_a_time(design: str) -> None:
    cache = Arena(design=design).cache("debug", 512, flags=1 << 3)  # STORE_USER
    objects = [cache.alloc() for _ in range(cache.objects + 1)]
    node = cache.nodes[0]
    assert cache.cpus[0].slab is None
    assert [slab.number for slab in node.full] == [0]
    assert [slab.number for slab in node.partial] == [1]
    cache.free(objects[0])
    assert [slab.number for slab in node.partial] == [1, 0]
    assert not node.full
