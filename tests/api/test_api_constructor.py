"""ctor=bytes and ctor=callable: what an object is before its first use."""

from __future__ import annotations

import gc
import weakref

import pytest

import uslub


@pytest.mark.usefixtures("one_cpu")
def test_an_image_is_what_objects_start_as(arena):
    image = bytes(range(100))
    cache = arena.cache("made", 100, ctor=image)
    objs = cache.alloc_bulk(2 * cache.objects_per_slab)
    assert all(bytes(obj) == image for obj in objs)
    assert cache.info().has_ctor
    memoryview(objs[0])[:4] = b"used"
    index, slab = objs[0].index, objs[0].slab
    objs[0].free()
    again = cache.alloc()
    assert (again.index, again.slab) == (index, slab)
    assert bytes(again).startswith(b"used")  # constructed once, not at each alloc


def test_an_image_is_for_every_process(name, run_python):
    with uslub.Arena.create(name, size="1MiB") as arena:
        arena.cache("made", 8, ctor=bytearray(b"imagines"))
        code = """
import sys, uslub
arena = uslub.Arena.attach(sys.argv[1])
print(bytes(arena.cache("made").alloc()).decode())
"""
        assert run_python(code, name) == "imagines"


@pytest.mark.parametrize("image", [b"", b"x" * 99, b"x" * 101])
def test_an_image_has_the_size_of_the_object(arena, image):
    with pytest.raises(uslub.BadSize, match="exactly object_size = 100"):
        arena.cache("made", 100, ctor=image)
    assert arena.caches() == []


def test_another_image_is_another_cache(arena):
    arena.cache("made", 4, ctor=b"aaaa")
    arena.cache("made", 4, ctor=b"aaaa")
    with pytest.raises(uslub.CacheExists):
        arena.cache("made", 4, ctor=b"bbbb")


@pytest.mark.usefixtures("one_cpu")
def test_a_callable_sees_each_object_once(arena):
    seen = []

    def construct(view: memoryview) -> None:
        seen.append((len(view), view.readonly))
        view[:] = b"fresh..."

    cache = arena.cache("made", 8, ctor=construct)
    obj = cache.alloc()
    assert bytes(obj) == b"fresh..."
    assert seen == [(8, False)] * cache.objects_per_slab
    obj.free()
    cache.alloc()
    assert len(seen) == cache.objects_per_slab


def test_the_same_callable_finds_the_same_cache(arena):
    def construct(view: memoryview) -> None:
        view[0] = 1

    one = arena.cache("made", 64, ctor=construct)
    assert arena.cache("made", 64, ctor=construct) == one
    assert bytes(arena.cache("made").alloc())[0] == 1


def test_its_exception_is_that_of_the_alloc(arena):
    calm = []

    def construct(view: memoryview) -> None:
        if not calm:
            raise ZeroDivisionError("of mine")

    cache = arena.cache("made", 64, ctor=construct)
    for call in (cache.alloc, lambda: cache.alloc(zero=True)):
        with pytest.raises(ZeroDivisionError, match="of mine"):
            call()
    with pytest.raises(ZeroDivisionError):
        cache.alloc_bulk(3)
    assert cache.info().slabs == 0
    assert arena.validate() == []
    calm.append(True)
    assert cache.alloc().nbytes == 64


def test_its_view_ends_with_the_call(arena):
    kept = []
    cache = arena.cache("made", 4096, ctor=kept.append)
    cache.alloc()
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


def test_keeping_a_part_of_the_view_fails_the_alloc(arena):
    kept = []
    cache = arena.cache("made", 4096, ctor=lambda view: kept.append(view[1:3]))
    with pytest.raises(uslub.ObjectInUse, match="kept a view"):
        cache.alloc()
    assert len(kept[0]) == 2


def test_the_object_under_construction_cannot_be_freed(arena):
    caught = []

    def construct(view: memoryview) -> None:
        owner = view.obj
        view.release()
        try:
            owner.free()
        except uslub.NotOwner as error:
            caught.append(error)

    cache = arena.cache("made", 4096, ctor=construct)
    assert cache.alloc().nbytes == 4096
    assert caught


def test_it_may_use_the_arena(arena):
    other = arena.cache("other", 64)
    held = []
    cache = arena.cache("made", 1024, ctor=lambda view: held.append(other.alloc()))
    cache.alloc()
    assert len(held) == cache.objects_per_slab


def test_it_may_close_the_arena(arena):
    cache = arena.cache("made", 4096, ctor=lambda view: arena.close())
    with pytest.raises(uslub.ClosedArena):
        cache.alloc()
    assert arena.closed


def test_a_callable_needs_an_anonymous_arena(name):
    arena = uslub.Arena.create(name, size="1MiB")
    with pytest.raises(uslub.BadArgument, match="has a name"):
        arena.cache("made", 64, ctor=print)


def test_other_things_are_no_constructor(arena):
    with pytest.raises(TypeError, match="ctor must be bytes or a callable, not int"):
        arena.cache("made", 64, ctor=5)


def test_a_callable_that_refers_to_its_arena_does_not_leak():
    class Construct:
        def __init__(self, arena: uslub.Arena) -> None:
            self.arena = arena

        def __call__(self, view: memoryview) -> None:
            view[0] = 1

    arena = uslub.Arena.create(size="1MiB")
    construct = Construct(arena)
    gone = weakref.ref(construct)
    arena.cache("made", 64, ctor=construct).alloc()
    del construct, arena
    gc.collect()
    assert gone() is None


def test_another_attachment_cannot_run_a_callable_that_is_gone(arena):
    cache = arena.cache("made", 4096, ctor=lambda view: None)
    other = uslub.Arena.attach(arena.fileno())
    arena.close()
    with pytest.raises(uslub.ConstructorFailed):
        other.cache("made").alloc()
    assert other.validate() == []
    assert cache.name == "made"
