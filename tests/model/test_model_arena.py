"""Nodes, pages, the reserve, merging, kmalloc, bulk, destroy."""

from __future__ import annotations

import pytest

from uslub.model import (
    Arena,
    Boot,
    Cache,
    CacheBusy,
    CacheError,
    DoubleFree,
    Flags,
    ObjectsRemaining,
    OutOfMemory,
    Position,
)
from uslub.model.bulk import build_detached_freelist
from uslub.model.kmalloc import ZERO_SIZE_PTR, KmallocObject, LargeObject
from uslub.model.pages import NodePages


def fill(cache: Cache, slabs: int, cpu: int = 0) -> list[list[Position]]:
    return [[cache.alloc(cpu) for _ in range(cache.objects)] for _ in range(slabs)]


# pages ------------------------------------------------------------------------


def test_a_node_starts_as_maximal_aligned_blocks() -> None:
    pages = NodePages.make(0, 100, 13, 0)
    assert pages.free == [[12], [], [8], [0]]


def test_pages_are_split_from_the_smallest_block_keeping_the_lower_half() -> None:
    pages = NodePages.make(0, 0, 16, 0)
    assert [pages.allocate(0), pages.allocate(1), pages.allocate(0)] == [0, 2, 1]
    assert pages.free == [[], [], [4], [8], []]


def test_freed_pages_merge_with_their_buddies_as_far_as_possible() -> None:
    pages = NodePages.make(0, 32, 16, 0)
    taken = [pages.allocate(0) for _ in range(16)]
    assert pages.allocate(0) is None
    for page in taken:
        assert page is not None
        pages.release(page, 0)
    assert pages.free == [[], [], [], [], [0]]


def test_exhausted_blocks_are_reused_lowest_address_first() -> None:
    pages = NodePages.make(0, 0, 8, 0)
    for _ in range(8):
        pages.allocate(0)
    for page in (6, 2, 4):
        pages.release(page, 0)
    assert [pages.allocate(0) for _ in range(3)] == [2, 4, 6]


def test_a_block_at_the_ragged_end_does_not_merge_beyond_it() -> None:
    pages = NodePages.make(0, 0, 13, 0)
    page = pages.allocate(0)
    assert page == 12
    pages.release(page, 0)
    assert pages.free == [[12], [], [8], [0]]


# order fallback, exhaustion, reserve ------------------------------------------


def test_a_slab_of_the_smallest_order_is_made_when_memory_is_tight() -> None:
    arena = Arena(pages_per_node=5)
    cache = arena.cache("test", 512, order=2)
    slabs = [fill(cache, 1)[0], [cache.alloc()]]
    view = cache.snapshot()
    assert [(s.order, s.objects) for s in view.slabs] == [(2, 32), (0, 8)]
    assert view.stat("order_fallback") == 1
    assert len(slabs[0]) == 32


def test_exhaustion_hands_out_nothing_and_a_free_ends_it() -> None:
    arena = Arena(pages_per_node=1)
    cache = arena.cache("test", 512)
    objects = [cache.alloc() for _ in range(8)]
    with pytest.raises(OutOfMemory, match="cache 'test', cpu 0"):
        cache.alloc()
    cache.free(objects[3])
    assert cache.alloc() == objects[3]


def test_ordinary_requests_leave_the_reserve_alone() -> None:
    arena = Arena(pages_per_node=4, reserve_pages=1)
    cache = arena.cache("test", 4096, order=0)
    for _ in range(3):
        cache.alloc()
    with pytest.raises(OutOfMemory):
        cache.alloc()
    position = cache.alloc(emergency=True)
    assert cache.slabs[position.slab].pfmemalloc


def test_classic_never_leaves_reserve_objects_to_the_fast_path() -> None:
    arena = Arena(pages_per_node=1, reserve_pages=1)
    cache = arena.cache("test", 512)
    cache.alloc(emergency=True)
    view = cache.snapshot()
    assert view.cpus[0].slab is None
    assert view.slabs[0].place == "node 0"
    assert view.stat("deactivate_to_head") == 1
    with pytest.raises(OutOfMemory):
        cache.alloc()
    assert cache.alloc(emergency=True) == (0, 1)


@pytest.mark.parametrize(("design", "slab"), [("classic", 0), ("6.18", 1)])
def test_the_first_try_on_a_named_node_may_dip_in_classic_only(
    design: str, slab: int
) -> None:
    arena = Arena(cpus=2, nodes=2, pages_per_node=2, design=design)
    cache = arena.cache("test", 512, order=0)
    cache.alloc(0)
    cache.slabs[0].pfmemalloc = True
    cache.flush(0)  # on the list of node 0, which also has an ordinary page
    assert cache.alloc(0, node=0, emergency=True).slab == slab


def test_other_designs_keep_a_reserve_slab_until_an_ordinary_slow_path() -> None:
    arena = Arena(pages_per_node=1, reserve_pages=1, design="6.18")
    cache = arena.cache("test", 512)
    cache.alloc(emergency=True)
    assert cache.snapshot().cpus[0].slab == 0


def test_a_chained_reserve_slab_is_passed_on_to_its_node() -> None:
    arena = Arena(pages_per_node=2, reserve_pages=1)
    cache = arena.cache("test", 512, order=0, min_partial=0)
    objects = [cache.alloc() for _ in range(8)]
    reserve = [cache.alloc(emergency=True) for _ in range(8)]
    cache.free(reserve[0])
    assert cache.snapshot().slabs[1].place == "chain 0"
    with pytest.raises(OutOfMemory):
        cache.alloc()
    assert cache.snapshot().slabs[1].place == "node 0"
    assert len(objects) == 8


# nodes ------------------------------------------------------------------------


def two_nodes(**options: int) -> tuple[Arena, Cache]:
    arena = Arena(cpus=4, nodes=2, **options)
    return arena, arena.cache("test", 512, order=0, min_partial=1)


def node_of(cache: Cache, position: Position) -> int:
    return cache.slabs[position.slab].node


def test_cpus_are_dealt_to_nodes_in_order() -> None:
    assert Arena(cpus=5, nodes=2).machine.cpu_node == [0, 0, 0, 1, 1]


def test_other_nodes_follow_by_number() -> None:
    zonelists = Arena(cpus=3, nodes=3).machine.zonelists
    assert zonelists == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]


def test_memory_comes_from_the_cpus_own_node() -> None:
    _, cache = two_nodes()
    assert [node_of(cache, cache.alloc(cpu)) for cpu in (0, 3)] == [0, 1]


def test_a_named_node_gives_the_object_and_costs_the_cpu_slab() -> None:
    _, cache = two_nodes()
    cache.alloc(0)
    assert node_of(cache, cache.alloc(0, node=1)) == 1
    stats = cache.stats()
    assert (stats["alloc_node_mismatch"], stats["deactivate_to_head"]) == (1, 1)


def test_a_full_node_is_replaced_by_the_next_unless_it_is_insisted_on() -> None:
    _, cache = two_nodes(pages_per_node=1)
    fill(cache, 1, cpu=0)
    with pytest.raises(OutOfMemory, match="node 0"):
        cache.alloc(0, node=0, thisnode=True)
    assert node_of(cache, cache.alloc(0, node=0)) == 1


def test_a_named_node_is_tried_alone_before_others_are() -> None:
    _, cache = two_nodes(pages_per_node=2)
    slabs = fill(cache, 2, cpu=3)
    for objects in slabs:
        cache.free(objects[0], cpu=3)
    cache.flush(3)  # two partial slabs on node 1
    assert node_of(cache, cache.alloc(0, node=0)) == 0
    assert cache.stats()["alloc_slab"] == 3


def test_other_nodes_are_searched_only_above_min_partial() -> None:
    _, cache = two_nodes()
    slabs = fill(cache, 4, cpu=3)
    cache.free(slabs[0][0], cpu=3)
    cache.flush(3)  # one partial slab: not above min_partial 1
    assert node_of(cache, cache.alloc(0)) == 0
    for objects in slabs[1:3]:
        cache.free(objects[0], cpu=3)
    cache.flush(3)
    assert node_of(cache, cache.alloc(1)) == 1
    assert cache.stats()["alloc_from_partial"] == 1


@pytest.mark.parametrize(
    ("ratio", "cycles", "remote"), [(0, 0, False), (1000, 0, True)]
)
def test_the_defrag_ratio_opens_and_closes_other_nodes(
    ratio: int, cycles: int, remote: bool
) -> None:
    assert remote_partial_used(ratio, cycles) is remote


@pytest.mark.parametrize(("cycles", "remote"), [(1000, True), (1001, False)])
def test_the_cycle_counter_decides_at_the_ratio(cycles: int, remote: bool) -> None:
    assert remote_partial_used(1000, cycles) is remote
    assert remote_partial_used(1024, cycles) is True


def remote_partial_used(ratio: int, cycles: int) -> bool:
    arena = Arena(cpus=2, nodes=2, cycles=lambda: cycles)
    cache = arena.cache("test", 512, order=0, min_partial=0, defrag_ratio=ratio)
    slabs = fill(cache, 2, cpu=1)
    cache.free(slabs[0][0], cpu=1)
    cache.flush(1)
    return node_of(cache, cache.alloc(0)) == 1


def test_a_chained_slab_of_the_wrong_node_goes_to_its_own_list() -> None:
    _, cache = two_nodes()
    slabs = fill(cache, 2, cpu=3)
    cache.free(slabs[0][0], cpu=0)  # a slab of node 1 on the chain of CPU 0
    cache.alloc(0, node=0)
    assert cache.snapshot().nodes[1].partial == (0,)


# merging ----------------------------------------------------------------------


def test_caches_of_one_size_share_slabs_and_the_larger_object_counts() -> None:
    arena = Arena()
    first = arena.cache("first", 60)
    assert arena.cache("second", 64) is first
    view = first.snapshot()
    assert (view.aliases, view.refcount) == (("second",), 2)
    assert (view.object_size, view.inuse) == (64, 64)


def test_the_oldest_suitable_cache_is_taken() -> None:
    arena = Arena()
    small = arena.cache("small", 192)
    arena.cache("other", 192, flags=Flags.NO_MERGE)
    large = arena.cache("large", 200)
    assert arena.cache("third", 190) is small
    assert arena.cache("fourth", 193) is large


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"flags": Flags.RECLAIM_ACCOUNT}, {}),
        ({}, {"flags": Flags.ACCOUNT}),
        ({"ctor": True}, {}),
        ({}, {"ctor": True}),
        ({}, {"usersize": 8}),
        ({"flags": Flags.NO_MERGE}, {}),
        ({}, {"flags": Flags.TYPESAFE_BY_RCU}),
        ({}, {"flags": Flags.POISON}),
        ({}, {"align": 64}),
        ({}, {"merge": False}),
    ],
)
def test_caches_that_differ_in_kind_do_not_merge(
    first: dict[str, int], second: dict[str, int]
) -> None:
    arena = Arena()
    old = arena.cache("first", 72, **first)
    assert arena.cache("second", 72, **second) is not old


def test_a_slot_larger_by_a_word_is_not_shared() -> None:
    arena = Arena()
    old = arena.cache("first", 72)
    assert arena.cache("second", 64) is not old
    assert arena.cache("third", 65) is old


def test_sheaf_caches_do_not_merge_in_6_18() -> None:
    arena = Arena(design="6.18")
    old = arena.cache("first", 72)
    assert arena.cache("second", 72, sheaf_capacity=8) is not old


def test_a_name_in_use_is_refused_also_as_an_alias() -> None:
    arena = Arena()
    arena.cache("first", 64)
    arena.cache("second", 64)
    for name in ("first", "second"):
        with pytest.raises(CacheError, match="exists"):
            arena.cache(name, 64)


@pytest.mark.parametrize("options", [{"align": 24}, {"order": 0}, {"object_size": 0}])
def test_impossible_caches_are_refused(options: dict[str, int]) -> None:
    size = options.pop("object_size", 5000)
    with pytest.raises(CacheError):
        Arena().cache("bad", size, **options)


# destroy ----------------------------------------------------------------------


def test_destroy_gives_every_page_back() -> None:
    arena = Arena(cpus=2)
    cache = arena.cache("test", 512)
    objects = [cache.alloc(n % 2) for n in range(100)]
    for n, position in enumerate(objects):
        cache.free(position, cpu=n % 2)
    arena.destroy(cache)
    assert arena.snapshot().pages[0].free_pages == 4096
    assert arena.caches == []


def test_destroy_of_an_alias_only_drops_a_reference() -> None:
    arena = Arena()
    cache = arena.cache("first", 64)
    arena.cache("second", 64)
    arena.destroy(cache)
    assert (arena.caches, cache.refcount) == ([cache], 1)


def test_classic_refuses_to_destroy_a_cache_in_use_which_lives_on_flushed() -> None:
    arena = Arena()
    cache = arena.cache("test", 512)
    position = cache.alloc()
    with pytest.raises(CacheBusy, match="1 objects in use"):
        arena.destroy(cache)
    assert arena.caches == [cache]
    assert cache.snapshot().slabs[0].place == "node 0"
    cache.free(position)
    arena.destroy(cache)
    assert arena.snapshot().pages[0].free_pages == 4096


def test_the_kernel_lets_a_cache_in_use_go_and_leaks_its_slabs() -> None:
    arena = Arena(design="6.18")
    cache = arena.cache("test", 512, order=0)
    cache.alloc()
    with pytest.raises(ObjectsRemaining, match="1 slabs leak"):
        arena.destroy(cache)
    assert arena.caches == []
    assert arena.machine.pages[0].free_pages == 4095


# bulk -------------------------------------------------------------------------


def test_bulk_allocation_is_the_same_objects_as_one_by_one() -> None:
    one, many = Arena().cache("test", 512), Arena().cache("test", 512)
    assert many.alloc_bulk(40) == [one.alloc() for _ in range(40)]
    assert many.snapshot() == one.snapshot()


def test_bulk_allocation_is_all_or_nothing() -> None:
    cache = Arena(pages_per_node=1).cache("test", 512)
    with pytest.raises(OutOfMemory):
        cache.alloc_bulk(9)
    assert sum(sum(slab.taken) for slab in cache.slabs.values()) == 0
    assert len(cache.alloc_bulk(8)) == 8


def test_a_detached_freelist_gathers_one_slab_from_the_end() -> None:
    left = [Position(*p) for p in ((1, 0), (2, 0), (1, 1), (2, 1), (1, 2))]
    assert build_detached_freelist(left) == [0, 1, 2]
    assert left == [(2, 1), (2, 0)] or left == [(2, 0), (2, 1)]


def test_a_detached_freelist_gives_up_after_three_strangers() -> None:
    left = [Position(1, 0), *(Position(n, 0) for n in (2, 3, 4)), Position(1, 1)]
    assert build_detached_freelist(left) == [1]
    assert len(left) == 4
    left = [Position(1, 0), *(Position(n, 0) for n in (2, 3)), Position(1, 1)]
    assert build_detached_freelist(left) == [0, 1]


def test_bulk_free_of_a_whole_slab_is_one_step() -> None:
    cache = Arena(cpus=2).cache("test", 512, order=1)
    slabs = fill(cache, 2)
    cache.free_bulk(slabs[0], cpu=1)
    stats = cache.stats()
    assert (stats["free_slowpath"], stats["cpu_partial_free"]) == (1, 1)
    view = cache.snapshot()
    assert (view.cpus[1].partial, view.slabs[0].inuse) == ((0,), 0)
    assert view.slabs[0].freelist == tuple(range(16))


def test_bulk_free_to_the_own_slab_counts_every_object() -> None:
    cache = Arena().cache("test", 512, order=1)
    cache.free_bulk([cache.alloc() for _ in range(5)])
    assert cache.stats()["free_fastpath"] == 5
    assert cache.alloc() == (0, 0)


# kmalloc ----------------------------------------------------------------------


def test_kmalloc_caches_are_made_at_first_use_and_named_by_kind() -> None:
    arena = Arena()
    arena.kmalloc(100)
    arena.kmalloc(100, account=True)
    arena.kmalloc(1000, reclaimable=True, account=True)
    arena.kmalloc(8, dma=True, reclaimable=True)
    assert [cache.name for cache in arena.caches] == [
        "kmalloc-128",
        "kmalloc-cg-128",
        "kmalloc-rcl-1k",
        "dma-kmalloc-8",
    ]


def test_kmalloc_96_and_192_are_aligned_naturally_since_6_10() -> None:
    arena = Arena()
    for size in (96, 192):
        arena.kmalloc(size)
    assert [cache.layout.align for cache in arena.caches] == [32, 64]


def test_nothing_merges_with_kmalloc_caches() -> None:
    arena = Arena()
    arena.kmalloc(64)
    assert arena.cache("mine", 64).name == "mine"


def test_large_requests_come_from_the_page_allocator() -> None:
    arena = Arena(pages_per_node=64)
    pointer = arena.kmalloc(8193)
    assert isinstance(pointer, LargeObject)
    assert (pointer.order, arena.ksize(pointer)) == (2, 16384)
    arena.kfree(pointer)
    assert arena.snapshot().pages[0].free_pages == 64
    with pytest.raises(OutOfMemory, match="order 7"):
        arena.kmalloc(65 * 4096)


def test_kmalloc_of_nothing_is_no_object_and_may_be_freed() -> None:
    arena = Arena()
    pointer = arena.kmalloc(0)
    assert pointer is ZERO_SIZE_PTR
    arena.kfree(pointer)
    arena.kfree(None)
    assert arena.caches == []


def test_ksize_is_the_size_class_and_krealloc_keeps_what_fits() -> None:
    arena = Arena()
    pointer = arena.kmalloc(70)
    assert arena.ksize(pointer) == 96
    assert arena.krealloc(pointer, 96) == pointer
    moved = arena.krealloc(pointer, 97)
    assert isinstance(moved, KmallocObject)
    assert moved.cache == "kmalloc-128"
    with pytest.raises(DoubleFree):
        arena.kfree(pointer)
    assert arena.krealloc(moved, 0) is ZERO_SIZE_PTR
    assert isinstance(arena.krealloc(None, 10), KmallocObject)


def test_boot_parameters_reach_every_cache() -> None:
    arena = Arena(boot=Boot(cpus_present=1, slab_min_order=1))
    assert arena.cache("test", 64).order == 1


def test_equal_histories_give_equal_snapshots() -> None:
    def history() -> Arena:
        arena = Arena(cpus=2)
        cache = arena.cache("test", 512)
        objects = [cache.alloc(n % 2) for n in range(50)]
        for position in objects[::3]:
            cache.free(position, cpu=1)
        return arena

    assert history().snapshot() == history().snapshot()
    assert history().snapshot().to_json() == history().snapshot().to_json()
