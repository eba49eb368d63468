"""Object: a writable buffer that knows where it lies."""

from __future__ import annotations

import copy
import pickle

import pytest

import uslub


@pytest.fixture
def obj(cache) -> uslub.Object:
    return cache.alloc(zero=True)


def test_it_is_a_writable_buffer_of_bytes(obj):
    view = memoryview(obj)
    assert (view.format, view.itemsize, view.ndim, view.shape) == ("B", 1, 1, (64,))
    assert not view.readonly and view.c_contiguous
    view[0:5] = b"hello"
    assert bytes(obj) == b"hello" + bytes(59)
    assert bytearray(obj)[:5] == b"hello"
    assert b"hell" in bytes(obj)


@pytest.mark.usefixtures("one_cpu")
def test_it_knows_where_it_lies(arena, cache):
    objs = cache.alloc_bulk(cache.objects_per_slab + 1, cpu=0)
    assert [obj.index for obj in objs[:3]] == [0, 1, 2]
    assert (objs[0].slab, objs[-1].slab) == (0, 1)
    assert objs[1].offset - objs[0].offset == cache.size
    assert objs[1].address - objs[0].address == cache.size
    assert objs[0].offset == arena.info().data_offset + objs[0].page * 4096
    assert objs[0].node in (0, 1)
    assert objs[0].usable_size == objs[0].nbytes == 64


def test_its_attributes_are_read_only(obj):
    for name in ("nbytes", "offset", "cache", "freed"):
        with pytest.raises(AttributeError):
            setattr(obj, name, 1)
    with pytest.raises(AttributeError):
        obj.colour = "red"


def test_its_repr_tells_the_truth(arena, cache):
    obj = cache.alloc()
    assert repr(obj) == (
        "<uslub.Object of 'thing', 64 bytes, object 0 of slab 0, 0 exports>"
    )
    view = memoryview(obj)
    assert "1 exports" in repr(obj)
    view.release()
    obj.free()
    assert repr(obj) == "<uslub.Object of 'thing', 64 bytes, freed>"
    assert "kmalloc" in repr(arena.kmalloc(10))
    assert "at page" in repr(arena.kmalloc("1MiB"))


def test_equality_and_hash_are_identity(cache, obj):
    other = cache.alloc()
    assert obj == obj and obj != other
    assert len({obj, other}) == 2


@pytest.mark.usefixtures("one_cpu")
def test_dropping_it_gives_the_memory_back(cache, in_use):
    obj = cache.alloc()
    offset = obj.offset
    assert in_use() == 1
    del obj
    assert in_use() == 0
    assert cache.alloc().offset == offset  # last in, first out


def test_free_gives_the_memory_back_once(obj, in_use):
    assert not obj.freed
    assert obj.free() is None
    assert obj.freed
    assert in_use() == 0
    with pytest.raises(uslub.DoubleFree, match="already free"):
        obj.free()


def test_free_through_another_cpu(cache):
    obj = cache.alloc(cpu=0)
    obj.free(cpu=1)
    assert cache.stats(per_cpu=True)["free_slowpath"][1] == 1


def test_with_gives_the_memory_back(cache, in_use):
    with cache.alloc() as obj:
        assert in_use() == 1
    assert obj.freed and in_use() == 0
    with pytest.raises(uslub.ObjectFreed), obj:
        pass


def test_with_does_not_mind_that_it_was_freed_inside(cache, in_use):
    with cache.alloc() as obj:
        obj.free()
    with cache.alloc() as obj:
        obj.move()
    assert in_use() == 1  # the moved one is on its way


def test_a_freed_object_has_no_memory_to_show(obj):
    obj.free()
    assert obj.nbytes == len(obj) == 64
    for look in (
        lambda: memoryview(obj),
        lambda: bytes(obj),
        lambda: obj.offset,
        lambda: obj.address,
        lambda: obj.index,
        lambda: obj.slab,
        lambda: obj.page,
        lambda: obj.node,
        lambda: obj.usable_size,
        lambda: obj.move(),
    ):
        with pytest.raises(uslub.ObjectFreed) as caught:
            look()
        assert isinstance(caught.value, (BufferError, ValueError))
    assert obj.cache.name == "thing"


def test_a_copy_is_the_same_object_and_a_deep_copy_other_memory(arena, obj):
    memoryview(obj)[:5] = b"hello"
    assert copy.copy(obj) is obj
    for original in (obj, arena.kmalloc(20_000, zero=True)):
        other = copy.deepcopy(original)
        assert other.offset != original.offset and bytes(other) == bytes(original)
        assert other.cache == original.cache and not original.shared


def test_a_pickled_object_is_the_same_memory(obj):
    other = pickle.loads(pickle.dumps(obj))
    assert other is not obj and other.offset == obj.offset
    memoryview(other)[:5] = b"again"
    assert bytes(obj)[:5] == b"again"


def test_many_objects_live_side_by_side(cache, in_use):
    objs = [cache.alloc() for _ in range(5000)]
    for number, obj in enumerate(objs):
        memoryview(obj)[:4] = number.to_bytes(4, "little")
    assert all(
        int.from_bytes(bytes(obj)[:4], "little") == number
        for number, obj in enumerate(objs)
    )
    assert in_use() == 5000
    del objs, obj
    assert in_use() == 0


@pytest.mark.usefixtures("one_cpu")
def test_objects_keep_their_cache_and_arena_alive():
    obj = uslub.Arena.create(size="1MiB").cache("thing", 64).alloc(zero=True)
    assert bytes(obj) == bytes(64)
    assert obj.cache.arena.size == 1 << 20
    assert obj.cache.alloc().index == 1


# -- kmalloc -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "usable", "cache_name"),
    [
        (1, 8, "kmalloc-8"),
        (9, 16, "kmalloc-16"),
        (65, 96, "kmalloc-96"),
        (129, 192, "kmalloc-192"),
        (8192, 8192, "kmalloc-8k"),
    ],
)
def test_kmalloc_rounds_up_to_the_kernels_sizes(arena, n, usable, cache_name):
    buf = arena.kmalloc(n)
    assert (buf.nbytes, buf.usable_size) == (n, usable)
    assert len(memoryview(buf)) == n
    assert buf.cache is not None and buf.cache.name == cache_name


def test_kmalloc_of_more_takes_pages(arena):
    buf = arena.kmalloc(8193, zero=True)
    assert buf.cache is None
    assert buf.nbytes == 8193
    assert buf.usable_size >= 8193
    assert bytes(buf) == bytes(8193)


def test_kmalloc_families(arena):
    kinds = {"normal": "kmalloc-64", "reclaimable": "kmalloc-rcl-64"}
    for kind, name in kinds.items():
        assert arena.kmalloc(64, kind=kind).cache.name == name
    for kind in ("dma", "account"):
        assert arena.kmalloc(64, kind=kind).usable_size == 64
    with pytest.raises(uslub.BadArgument, match="'reclaimable'"):
        arena.kmalloc(64, kind="huge")
    with pytest.raises(TypeError):
        arena.kmalloc(64, kind=1)


def test_kmalloc_follows_cpu_and_node(arena):
    assert arena.kmalloc(64, node=1).node == 1
    buf = arena.kmalloc("64", cpu=1, zero=True)
    assert bytes(buf) == bytes(64)


def test_kmalloc_memory_returns_too(arena):
    before = arena.info().free_pages
    bufs = [arena.kmalloc("100K") for _ in range(5)]
    assert arena.info().free_pages < before
    del bufs
    assert arena.info().free_pages == before


def test_krealloc_stays_if_it_fits(arena):
    buf = arena.kmalloc(65, zero=True)
    view = memoryview(buf)
    memoryview(buf)[:] = b"x" * 65
    same = arena.krealloc(buf, 90, zero=True)
    assert same is buf
    assert buf.nbytes == 90
    assert bytes(buf) == b"x" * 65 + bytes(25)
    assert len(view) == 65  # what it was exported with
    assert arena.krealloc(buf, 10) is buf
    assert len(buf) == 10


def test_krealloc_moves_if_it_must(arena):
    buf = arena.kmalloc(64)
    memoryview(buf)[:] = b"y" * 64
    larger = arena.krealloc(buf, 20_000, zero=True)
    assert larger is not buf
    assert buf.freed
    assert bytes(larger) == b"y" * 64 + bytes(20_000 - 64)
    with pytest.raises(uslub.ObjectFreed):
        arena.krealloc(buf, 10)


def test_krealloc_refuses_to_move_under_a_view(arena):
    buf = arena.kmalloc(64, zero=True)
    view = memoryview(buf)
    with pytest.raises(BufferError, match="1 exported buffer"):
        arena.krealloc(buf, 20_000)
    assert not buf.freed and bytes(view) == bytes(64)
    view.release()
    buf = arena.krealloc(buf, 20_000)
    assert buf.nbytes == 20_000


def test_krealloc_of_large_buffers(arena):
    buf = arena.kmalloc(100_000, zero=True)
    memoryview(buf)[:3] = b"abc"
    view = memoryview(buf)
    assert arena.krealloc(buf, 100_100) is buf  # the last page has room
    for n in (50_000, 100, 1_000_000):
        with pytest.raises(uslub.ObjectInUse):
            arena.krealloc(buf, n)
    assert (len(buf), bytes(view)[:3]) == (100_100, b"abc")
    view.release()
    for n in (70_000, 10_000, 1_000_000, 9000, 100, 20_000, 3):
        buf = arena.krealloc(buf, n, zero=True)
        assert bytes(buf) == b"abc" + bytes(n - 3)
        assert arena.validate() == []
    del buf
    assert arena.info().free_pages >= 8192 - 8


def test_krealloc_that_finds_no_room_changes_nothing(arena):
    buf = arena.kmalloc(64, zero=True)
    with pytest.raises(uslub.OutOfMemory):
        arena.krealloc(buf, "1GiB")
    assert bytes(buf) == bytes(64) and buf.nbytes == 64


def test_krealloc_is_for_kmalloc_buffers_of_this_arena(arena, cache):
    with pytest.raises(uslub.WrongCache, match="'thing'"):
        arena.krealloc(cache.alloc(), 100)
    with pytest.raises(TypeError):
        arena.krealloc(b"abc", 100)
    other = uslub.Arena.create(size="1MiB")
    with pytest.raises(uslub.ForeignAddress, match="another arena"):
        arena.krealloc(other.kmalloc(10), 100)
