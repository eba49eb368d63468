"""Arena: create, attach, unlink, close, and what an arena tells about itself."""

from __future__ import annotations

import os
import pickle
import stat
import weakref

import pytest

import uslub


def test_create_without_a_name_is_anonymous(arena):
    assert arena.name is None
    assert arena.size == 32 << 20
    assert (arena.cpus, arena.nodes) == (2, 2)
    assert len(arena.id) == 32
    assert not arena.closed
    assert "anonymous" in repr(arena)


def test_create_with_a_name_makes_a_file_for_the_owner_alone(name):
    with uslub.Arena.create(name, size="1MiB") as arena:
        assert arena.name == name
        mode = os.stat(f"/dev/shm/uslub.{name}").st_mode
        assert stat.S_IMODE(mode) == 0o600
        assert name in uslub.arenas()
        assert repr(arena).startswith(f"<uslub.Arena '{name}'")


def test_the_name_outlives_the_arena_until_unlink(name):
    uslub.Arena.create(name, size="1MiB").close()
    with uslub.Arena.attach(name) as again:
        assert again.name == name
    uslub.Arena.unlink(name)
    assert name not in uslub.arenas()
    with pytest.raises(uslub.ArenaNotFound):
        uslub.Arena.attach(name)


def test_unlink_leaves_those_who_are_attached_alone(name):
    with uslub.Arena.create(name, size="1MiB") as arena:
        uslub.Arena.unlink(name)
        with arena.cache("thing", 64).alloc(zero=True) as obj:
            assert bytes(obj) == bytes(64)


def test_a_name_is_given_once(name):
    with uslub.Arena.create(name, size="1MiB"):
        with pytest.raises(uslub.ArenaExists) as caught:
            uslub.Arena.create(name, size="1MiB")
        assert isinstance(caught.value, FileExistsError)
        assert name in str(caught.value)


def test_attach_sees_what_create_made(name):
    with uslub.Arena.create(name, size="1MiB", cpus=3) as one:
        obj = one.cache("thing", 64).alloc(zero=True)
        memoryview(obj)[:3] = b"abc"
        with uslub.Arena.attach(name) as other:
            assert other.id == one.id
            assert other.cpus == 3
            assert [cache.name for cache in other.caches()] == ["thing"]
            assert other.cache("thing") == one.cache("thing")


def test_attach_takes_a_file_descriptor(arena):
    obj = arena.cache("thing", 64).alloc()
    fd = os.dup(arena.fileno())
    with uslub.Arena.attach(fd) as other:
        assert other.id == arena.id
        assert other.cache("thing") == obj.cache
    os.close(fd)  # it stayed ours


def test_arenas_and_caches_can_be_pickled(name, arena):
    with uslub.Arena.create(name, size="1MiB") as named:
        for which in (named, arena):
            cache = which.cache("pickled", 64)
            assert pickle.loads(pickle.dumps(which)).id == which.id
            assert pickle.loads(pickle.dumps(cache)) == cache


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("64KiB", 64 << 10),
        ("64K", 64 << 10),
        ("512M", 512 << 20),
        ("1GiB", 1 << 30),
        ("1.5 GiB", 3 << 29),
        ("2T", 2 << 40),
        ("2MB", 2_000_000),
        ("10B", 10),
        (0, 0),
    ],
)
def test_sizes_are_numbers_or_text(size, expected):
    assert uslub.size_bytes(size) == expected


@pytest.mark.parametrize(
    "size", ["", "GiB", "1XiB", "1 .5G", "1.5", "-1", "1e3", "99999999T", "1Gi", -1]
)
def test_sizes_that_make_no_sense_are_refused(size):
    with pytest.raises(uslub.BadSize):
        uslub.size_bytes(size)


@pytest.mark.parametrize("size", [1.5, None, b"1", [1]])
def test_sizes_of_another_type_are_type_errors(size):
    with pytest.raises(TypeError):
        uslub.size_bytes(size)


def test_size_must_be_given():
    with pytest.raises(TypeError, match="size"):
        uslub.Arena.create("whatever")


def test_arenas_are_made_by_create_only():
    for kind in (uslub.Arena, uslub.Cache, uslub.Object):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            type("Sub", (kind,), {})


def test_unknown_arguments_are_named(arena):
    with pytest.raises(TypeError, match="'colour'"):
        arena.kmalloc(1, colour="red")
    with pytest.raises(TypeError, match="multiple values for argument 'n'"):
        arena.kmalloc(1, n=2)
    with pytest.raises(TypeError, match="missing its argument 'n'"):
        arena.kmalloc()
    with pytest.raises(TypeError, match="at most 1 positional"):
        arena.kmalloc(1, 2)


# -- close -------------------------------------------------------------------------


def test_close_twice_is_fine_and_with_closes(arena):
    with arena as same:
        assert same is arena
    assert arena.closed
    arena.close()
    assert "closed" in repr(arena)


def test_after_close_everything_new_is_refused(arena):
    cache = arena.cache("thing", 64)
    obj, buf = cache.alloc(), arena.kmalloc(10)
    handle = cache.alloc().move()
    arena.close()
    for call in (
        lambda: arena.cache("other", 64),
        lambda: arena.cache("thing"),
        lambda: arena.kmalloc(10),
        lambda: arena.krealloc(buf, 20),
        lambda: arena.adopt(handle),
        lambda: arena.caches(),
        lambda: arena.validate(),
        lambda: arena.snapshot(),
        lambda: arena.stats(),
        lambda: arena.info(),
        lambda: arena.processes(),
        lambda: arena.fileno(),
        lambda: arena.trim(),
        lambda: arena.cpu_dead(0),
        lambda: arena.owner,
        lambda: arena.__enter__(),
        lambda: cache.alloc(),
        lambda: cache.alloc(zero=True),
        lambda: cache.alloc_bulk(3),
        lambda: cache.free_bulk([]),
        lambda: cache.flush(),
        lambda: cache.shrink(),
        lambda: cache.destroy(),
        lambda: cache.validate(),
        lambda: cache.stats(),
        lambda: cache.info(),
        lambda: cache.snapshot(),
        lambda: cache.min_partial,
        lambda: obj.free(),
        lambda: obj.move(),
    ):
        with pytest.raises(uslub.ClosedArena, match="closed"):
            call()


def test_names_and_sizes_survive_close(arena):
    cache = arena.cache("thing", 64)
    arena.close()
    assert (arena.size, arena.cpus, arena.nodes) == (32 << 20, 2, 2)
    assert arena.name is None and len(arena.id) == 32
    assert (cache.name, cache.object_size, cache.order) == ("thing", 64, 0)


def test_objects_and_views_survive_close(arena):
    obj = arena.cache("thing", 64).alloc(zero=True)
    view = memoryview(obj)
    arena.close()
    view[:2] = b"ok"
    assert bytes(obj)[:2] == b"ok"
    assert memoryview(obj)[1] == ord("k")
    assert obj.index == 0 and obj.nbytes == 64


def mapped(inode: int) -> bool:
    """Does this process map that file?"""
    with open("/proc/self/maps") as maps:
        return any(line.split()[4] == str(inode) for line in maps)


def inode_of(name: str) -> int:
    return os.stat(f"/dev/shm/uslub.{name}").st_ino


def test_the_mapping_goes_with_the_last_object_after_close(name):
    arena = uslub.Arena.create(name, size="1MiB")
    obj = arena.cache("thing", 64).alloc()
    view = memoryview(obj)
    arena.close()
    del obj
    assert mapped(inode_of(name))
    del view
    assert not mapped(inode_of(name))
    assert arena.closed


def test_close_unmaps_at_once_when_no_object_lives(name):
    arena = uslub.Arena.create(name, size="1MiB")
    cache = arena.cache("thing", 64)
    cache.alloc()
    assert mapped(inode_of(name))
    arena.close()
    assert not mapped(inode_of(name))
    assert cache.arena is arena


def test_memory_of_objects_dropped_after_close_returns(name):
    with uslub.Arena.create(name, size="1MiB") as watch:
        arena = uslub.Arena.attach(name)
        obj = arena.cache("thing", 64).alloc()
        arena.close()
        assert watch.cache("thing").info().slabs == 1
        del obj
        watch.cache("thing").destroy()  # would be CacheBusy


def test_an_arena_that_is_dropped_without_close_goes_with_its_objects(name):
    obj = uslub.Arena.create(name, size="1MiB").cache("thing", 64).alloc()
    assert mapped(inode_of(name))
    assert obj.arena.name == name
    del obj
    assert not mapped(inode_of(name))


def test_arenas_caches_and_objects_take_weak_references(arena, cache):
    obj = cache.alloc()
    gone = []
    references = [weakref.ref(x, gone.append) for x in (arena, cache, obj)]
    assert [r() for r in references] == [arena, cache, obj]
    del obj
    assert gone == [references[2]]


# -- what it tells -----------------------------------------------------------------


def test_info_tells_the_facts(name):
    with uslub.Arena.create(name, size="4MiB", cpus=1, nodes=1, reserve="64K") as arena:
        arena.cache("thing", 64)
        info = arena.info()
        assert (info.name, info.id) == (name, arena.id)
        assert (info.size, info.cpus, info.nodes, info.caches) == (4 << 20, 1, 1, 1)
        assert info.page_size == 4096
        assert info.reserve_pages == 16
        assert info.free_pages == 1024
        assert info.data_offset < info.file_size
        assert info.processes == 1 and info.processes_dead == 0
        obj = arena.kmalloc("1MiB")
        memoryview(obj)[:] = bytes(1 << 20)
        assert arena.info().free_pages <= 1024 - 256
        assert arena.info().committed > info.committed


def test_processes_lists_this_one(arena):
    (process,) = arena.processes()
    assert process.pid == os.getpid()
    assert process.alive and process.is_self
    assert process.slot + 1 == arena.owner


def test_trim_gives_pages_back(arena):
    buf = arena.kmalloc("4MiB", zero=True)
    del buf
    before = arena.info().committed
    given = arena.trim()
    assert given >= 0
    assert arena.info().committed <= before - given + 65536


def test_cpu_dead_flushes_that_cpu_in_every_cache(arena):
    caches = [arena.cache(f"thing-{n}", 64 + 8 * n) for n in range(3)]
    for cache in caches:
        cache.alloc(cpu=1).free(cpu=1)
    assert all(cache.snapshot().cpus[1].slab is not None for cache in caches)
    arena.cpu_dead(1)
    assert all(cache.snapshot().cpus[1].slab is None for cache in caches)
