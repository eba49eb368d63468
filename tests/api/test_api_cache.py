"""Cache: making one, allocating from it, its upkeep and its numbers."""

from __future__ import annotations

import dataclasses

import pytest

import uslub
from uslub.snapshot import STATS


def test_a_cache_knows_its_geometry(arena):
    cache = arena.cache("thing", 100, align=32)
    assert (cache.name, cache.object_size, cache.size, cache.align) == (
        "thing",
        100,
        128,
        32,
    )
    assert cache.objects_per_slab == (4096 << cache.order) // 128
    assert cache.arena is arena
    assert cache.flags == 0
    assert cache.aliases == ()
    assert "'thing'" in repr(cache) and "100 bytes" in repr(cache)


def test_geometry_says_the_same_without_an_arena(arena):
    cache = arena.cache("thing", 700, order=2)
    geometry = uslub.geometry(700, order=2, cpus=2)
    info = cache.info()
    for field in dataclasses.fields(geometry):
        assert getattr(geometry, field.name) == getattr(info, field.name), field.name


def test_the_same_parameters_find_the_same_cache(arena):
    one = arena.cache("thing", 64, flags=uslub.SLAB_HWCACHE_ALIGN)
    two = arena.cache("thing", 64, flags=uslub.Flags.HWCACHE_ALIGN)
    assert one == two and hash(one) == hash(two)
    assert one == arena.cache("thing")
    assert one != arena.cache("other", 64)
    assert one != "thing"


def test_other_parameters_under_the_same_name_are_refused(arena):
    arena.cache("thing", 64)
    with pytest.raises(uslub.CacheExists, match="thing"):
        arena.cache("thing", 65)


def test_a_name_alone_finds_and_never_makes(arena):
    with pytest.raises(uslub.CacheNotFound, match="nothing") as caught:
        arena.cache("nothing")
    assert isinstance(caught.value, LookupError)
    with pytest.raises(TypeError, match="align"):
        arena.cache("nothing", align=8)


def test_caches_lists_them_in_order_of_creation(arena):
    assert arena.caches() == []
    made = [arena.cache(name, 64) for name in ("c", "a", "b")]
    assert arena.caches() == made
    assert [cache.name for cache in arena.caches()] == ["c", "a", "b"]


def test_sizes_may_be_text(arena):
    assert arena.cache("frame", "1MiB").object_size == 1 << 20


def test_flags_come_back_as_flags(arena):
    flags = uslub.SLAB_HWCACHE_ALIGN | uslub.SLAB_NO_MERGE
    cache = arena.cache("thing", 64, flags=flags)
    assert uslub.Flags.HWCACHE_ALIGN in cache.flags
    assert isinstance(cache.flags, uslub.Flags)
    assert isinstance(cache.info().flags, uslub.Flags)


def test_merging_is_asked_for_and_shows(arena):
    one = arena.cache("one", 64, flags=uslub.SLAB_MERGE)
    two = arena.cache("two", 60, flags=uslub.SLAB_MERGE)
    apart = arena.cache("apart", 64)
    assert one == two and one != apart
    assert (one.name, two.name) == ("one", "two")
    assert one.aliases == ("two",)
    assert one.info().refcount == 2
    assert len(two.alloc()) == 60  # as asked for, whatever the slot holds
    two.destroy()
    assert one.aliases == ()
    one.alloc()


# -- alloc -------------------------------------------------------------------------


def test_alloc_gives_an_object_of_the_cache(arena, cache):
    obj = cache.alloc()
    assert obj.cache is cache
    assert obj.arena is arena
    assert obj.nbytes == len(obj) == 64


@pytest.mark.usefixtures("one_cpu")
def test_zero_means_zero(cache):
    with cache.alloc() as obj:
        memoryview(obj)[:] = b"x" * 64
    with cache.alloc() as obj:
        assert bytes(obj).endswith(b"x")  # the same slot again, as it was left
    with cache.alloc(zero=True) as obj:
        assert bytes(obj) == bytes(64)


def test_cpu_and_node_are_followed(cache):
    on_one = cache.alloc(cpu=1)
    assert cache.snapshot().cpus[1].slab == on_one.slab
    on_node = cache.alloc(node=1)
    assert on_node.node == 1
    assert cache.alloc(cpu=0, node=0, thisnode=True).node == 0


def test_thisnode_does_not_go_elsewhere():
    arena = uslub.Arena.create(size="64KiB", cpus=1, nodes=2)
    cache = arena.cache("page", 4096)
    held = []
    with pytest.raises(uslub.OutOfMemory):
        while True:
            held.append(cache.alloc(node=0, thisnode=True))
    assert {obj.node for obj in held} == {0}
    assert cache.alloc(node=0).node == 1
    assert arena.validate() == []


def test_the_reserve_is_for_emergencies():
    arena = uslub.Arena.create(size="256KiB", cpus=1, nodes=1, reserve="64KiB")
    cache = arena.cache("page", 4096)
    held = []
    with pytest.raises(uslub.OutOfMemory):
        while True:
            held.append(cache.alloc())
    assert cache.alloc(emergency=True).nbytes == 4096


def test_bulk_gives_all(cache, in_use):
    objs = cache.alloc_bulk(100, zero=True)
    assert isinstance(objs, list)
    assert len({obj.offset for obj in objs}) == 100
    assert all(bytes(obj) == bytes(64) for obj in objs)
    assert in_use() == 100
    cache.free_bulk(objs)
    assert in_use() == 0
    assert all(obj.freed for obj in objs)
    assert cache.alloc_bulk(0) == []
    assert cache.free_bulk([]) is None


def test_bulk_gives_none_if_it_cannot_give_all(cache, in_use):
    held = cache.alloc_bulk(1000)
    for count in (1 << 62, 1 << 20, (32 << 20) // 64 - 500):
        with pytest.raises(uslub.OutOfMemory):
            cache.alloc_bulk(count)
        assert in_use() == 1000
    assert len(held) == 1000


@pytest.mark.parametrize(("count", "error"), [(-1, uslub.BadSize), (1.0, TypeError)])
def test_bulk_counts_must_make_sense(cache, count, error):
    with pytest.raises(error):
        cache.alloc_bulk(count)


def test_free_bulk_takes_any_sequence(cache, in_use):
    cache.free_bulk(tuple(cache.alloc_bulk(300)))
    cache.free_bulk(iter(cache.alloc_bulk(3)), cpu=1)
    assert in_use() == 0


def test_free_bulk_frees_none_if_it_cannot_free_all(arena, cache, in_use):
    objs = cache.alloc_bulk(5)
    stranger = arena.cache("other", 64).alloc()
    view = memoryview(objs[4])
    freed = cache.alloc()
    freed.free()
    for bad, error in (
        ([*objs[:3], stranger], uslub.WrongCache),
        ([*objs[:3], arena.kmalloc(64)], uslub.WrongCache),
        ([*objs[:3], objs[0]], uslub.DoubleFree),
        ([*objs[:3], freed], uslub.DoubleFree),
        ([*objs[:3], objs[4]], BufferError),
        ([*objs[:3], "object"], TypeError),
    ):
        with pytest.raises(error):
            cache.free_bulk(bad)
        assert in_use() == 5
        assert not any(obj.freed for obj in objs)
    del view
    cache.free_bulk(objs)
    assert in_use() == 0


# -- upkeep ------------------------------------------------------------------------


def test_flush_empties_one_cpu_or_all(cache):
    for cpu in (0, 1):
        cache.alloc(cpu=cpu).free(cpu=cpu)
    cache.flush(cpu=0)
    assert [cpu.slab is None for cpu in cache.snapshot().cpus] == [True, False]
    cache.flush()
    assert [cpu.slab is None for cpu in cache.snapshot().cpus] == [True, True]


def test_the_halves_of_a_flush(cache):
    cache.alloc(cpu=1).free(cpu=1)
    cache.flush_chain(1)
    assert cache.snapshot().cpus[1].slab is not None
    cache.flush_slab(1)
    assert cache.snapshot().cpus[1].slab is None


def test_shrink_discards_empty_slabs(cache):
    cache.alloc_bulk(1000)
    assert cache.info().slabs > 0
    cache.shrink()
    assert cache.info().slabs == 0
    assert cache.info().objects_total == 0
    cache.shrink_nodes()


def test_destroy_refuses_while_objects_live(arena, cache):
    obj = cache.alloc()
    with pytest.raises(uslub.CacheBusy, match="thing"):
        cache.destroy()
    obj.free()
    cache.destroy()
    assert arena.caches() == []
    assert "destroyed" in repr(cache)


def test_a_destroyed_cache_can_be_used_no_more_and_made_again(arena, cache):
    same = arena.cache("thing")
    cache.destroy()
    for call in (cache.alloc, cache.flush, cache.info, same.alloc, same.info):
        with pytest.raises(uslub.CacheNotFound):
            call()
    again = arena.cache("thing", 128)
    assert again.alloc().nbytes == 128
    with pytest.raises(uslub.CacheNotFound):
        same.alloc()


def test_limits_can_be_tuned(cache):
    cache.min_partial = 7
    cache.cpu_partial = 13
    assert (cache.min_partial, cache.cpu_partial) == (7, 13)
    cache.cpu_partial_slabs = 3
    assert cache.cpu_partial_slabs == 3
    assert cache.info().min_partial == 7
    for bad, error in ((-1, uslub.BadArgument), ("x", TypeError), (None, TypeError)):
        with pytest.raises(error):
            cache.min_partial = bad
    with pytest.raises(TypeError):
        del cache.min_partial
    with pytest.raises(AttributeError):
        cache.object_size = 3


def test_limits_can_be_given(arena):
    cache = arena.cache("thing", 64, order=1, min_partial=2, cpu_partial=0)
    info = cache.info()
    assert (info.order, info.min_partial, info.cpu_partial) == (1, 2, 0)


# -- numbers -----------------------------------------------------------------------


def test_stats_has_every_counter_in_the_kernels_order(cache):
    assert tuple(cache.stats()) == STATS
    cache.alloc(cpu=1)
    held = cache.alloc(cpu=1)
    stats = cache.stats()
    assert stats["alloc_slab"] == 1
    assert stats["alloc_slowpath"] + stats["alloc_fastpath"] == 2
    per_cpu = cache.stats(per_cpu=True)
    assert per_cpu["alloc_slab"] == (0, 1)
    assert {name: sum(counts) for name, counts in per_cpu.items()} == stats
    assert held is not None


def test_stats_can_be_cleared_and_summed(arena, cache):
    cache.alloc()
    other = arena.cache("other", 32)
    other.alloc()
    assert arena.stats()["alloc_slab"] == 2
    cache.clear_stats()
    assert set(cache.stats().values()) == {0}
    assert arena.stats()["alloc_slab"] == 1


def test_info_counts_slabs_and_objects(cache):
    held = cache.alloc_bulk(2 * cache.objects_per_slab + 1, cpu=0)
    info = cache.info()
    assert info.slabs == 3
    assert info.objects_total == 3 * cache.objects_per_slab
    assert info.cpu_slabs == 1
    assert len(held) == 2 * cache.objects_per_slab + 1


def test_validate_finds_nothing_wrong(arena, cache):
    held = [cache.alloc() for _ in range(100)][::3]
    assert cache.validate() == []
    assert arena.validate() == []
    assert len(held) == 34
