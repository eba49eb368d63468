"""move() and adopt(): one object, several processes, no copy."""

from __future__ import annotations

import base64
import gc
import multiprocessing
import pickle

import pytest

import uslub


def test_a_handle_is_plain_values(arena, cache):
    obj = cache.alloc()
    offset = obj.offset
    handle = obj.move()
    assert handle == uslub.Handle("", arena.id, offset, arena.owner, 64, "thing")
    assert pickle.loads(pickle.dumps(handle)) == handle
    assert obj.freed and obj.nbytes == 64
    with pytest.raises(uslub.DoubleFree):
        obj.free()


def test_what_was_moved_stays_allocated_until_adopted(arena, cache, in_use):
    obj = cache.alloc(zero=True)
    memoryview(obj)[:5] = b"cargo"
    handle = obj.move()
    del obj
    gc.collect()
    assert in_use() == 1
    again = arena.adopt(handle)
    assert bytes(again)[:5] == b"cargo"
    assert (again.offset, again.nbytes, again.cache) == (handle.offset, 64, cache)
    assert again.cache.name == "thing"
    del again
    assert in_use() == 0


def test_a_handle_is_good_once(arena, cache, in_use):
    handle = cache.alloc().move()
    obj = arena.adopt(handle)
    obj.free()
    with pytest.raises(uslub.NotOwner):
        arena.adopt(handle)
    assert in_use() == 0


def test_an_old_handle_does_not_steal_a_live_object(arena, cache, in_use):
    handle = cache.alloc().move()
    obj = arena.adopt(handle)
    other = uslub.Arena.attach(arena.fileno())
    for receiver in (arena, other):
        with pytest.raises(uslub.NotOwner):
            receiver.adopt(handle)
    obj.free()
    assert in_use() == 0


def test_kmalloc_buffers_and_large_ones_move_too(arena):
    for n in (10, 100_000):
        buf = arena.kmalloc(n, zero=True)
        again = arena.adopt(buf.move())
        assert (again.nbytes, bytes(again)) == (n, bytes(n))
        assert arena.krealloc(again, 3).nbytes == 3


def test_another_attachment_of_the_same_process_may_adopt(name):
    one, two = uslub.Arena.create(name, size="1MiB"), uslub.Arena.attach(name)
    obj = two.adopt(one.cache("thing", 64).alloc().move())
    assert obj.cache == one.cache("thing")
    assert obj.arena is two
    obj.free()


def test_views_stop_a_move(cache):
    obj = cache.alloc()
    view = memoryview(obj)
    with pytest.raises(BufferError, match="hand over"):
        obj.move()
    view.release()
    obj.move()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"arena_id": "0" * 32}, uslub.ForeignAddress),
        ({"offset": 0}, uslub.ForeignAddress),
        ({"offset": 1 << 50}, uslub.ForeignAddress),
        ({"offset": -1}, uslub.BadArgument),
        ({"offset": 1 << 70}, uslub.BadArgument),
        ({"owner": 0}, uslub.BadArgument),
        ({"owner": 77}, uslub.NotOwner),
        ({"owner": 1 << 20}, uslub.BadArgument),
        ({"nbytes": 0}, uslub.BadArgument),
        ({"nbytes": 65}, uslub.ForeignAddress),
        ({"nbytes": 1 << 40}, uslub.ForeignAddress),
        ({"offset": "x"}, TypeError),
        ({"cache": None}, TypeError),
    ],
)
def test_handles_that_cannot_be(arena, cache, in_use, change, error):
    handle = cache.alloc().move()
    with pytest.raises(error):
        arena.adopt(handle._replace(**change))
    assert in_use() == 1
    arena.adopt(handle).free()


def test_interior_addresses_are_no_objects(arena, cache):
    handle = cache.alloc().move()
    for step in (1, 8, 63):
        with pytest.raises(uslub.ForeignAddress):
            arena.adopt(handle._replace(offset=handle.offset + step))
    arena.adopt(handle)


def test_free_objects_cannot_be_adopted(arena, cache):
    handle = cache.alloc().move()
    free = handle._replace(offset=handle.offset + 64)
    with pytest.raises(uslub.NotOwner):
        arena.adopt(free)
    arena.adopt(handle)


def test_other_things_are_no_handles(arena):
    for thing in (None, 5, b"handle", (1, 2, 3)):
        with pytest.raises(TypeError, match="Handle"):
            arena.adopt(thing)


# -- between processes -------------------------------------------------------------


def echo(name: str, inbox, outbox) -> None:
    """Adopts what comes, adds one to each byte, hands it back; None: the end."""
    arena = uslub.Arena.attach(name)
    while (handle := inbox.get()) is not None:
        obj = arena.adopt(handle)
        view = memoryview(obj)
        view[:] = bytes(byte + 1 for byte in view)
        view.release()
        outbox.put(obj.move())
        del obj
    arena.close()
    outbox.put(None)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_objects_travel_to_another_process_and_back(name, method):
    context = multiprocessing.get_context(method)
    inbox, outbox = context.SimpleQueue(), context.SimpleQueue()
    with uslub.Arena.create(name, size="1MiB") as arena:
        cache = arena.cache("thing", 100)
        process = context.Process(target=echo, args=(name, inbox, outbox))
        process.start()
        for number in range(50):
            obj = cache.alloc(zero=True)
            memoryview(obj)[0] = number
            inbox.put(obj.move())
            back = arena.adopt(outbox.get())
            assert bytes(back) == bytes([number + 1]) + b"\1" * 99
            back.free()
        inbox.put(None)
        assert outbox.get() is None
        process.join()
        assert process.exitcode == 0
        assert arena.validate() == []
        cache.shrink()
        assert cache.info().slabs == 0


def test_a_worker_frees_what_it_was_given(name, run_python):
    with uslub.Arena.create(name, size="1MiB") as arena:
        cache = arena.cache("thing", 64)
        handles = [obj.move() for obj in cache.alloc_bulk(20)]
        code = """
import base64, pickle, sys, uslub
arena = uslub.Arena.attach(sys.argv[1])
objs = [arena.adopt(h) for h in pickle.loads(base64.b64decode(sys.argv[2]))]
arena.cache("thing").free_bulk(objs[:10])
for obj in objs[10:]:
    obj.free()
print(arena.cache("thing").info().objects_total)
"""
        text = base64.b64encode(pickle.dumps(handles)).decode()
        assert run_python(code, name, text) == str(cache.objects_per_slab)
        with pytest.raises(uslub.NotOwner):
            arena.adopt(handles[0])
        cache.flush()
        assert arena.validate() == []


def test_an_anonymous_arena_is_passed_by_descriptor(arena, run_python):
    handle = arena.cache("thing", 64).alloc(zero=True).move()
    code = """
import sys, uslub
fd, offset, owner = map(int, sys.argv[1:4])
arena = uslub.Arena.attach(fd)
obj = arena.adopt(uslub.Handle("", arena.id, offset, owner, 64, "thing"))
memoryview(obj)[:2] = b"hi"
print(obj.move().owner)
"""
    fd = arena.fileno()
    owner = run_python(
        code, str(fd), str(handle.offset), str(handle.owner), pass_fds=[fd]
    )
    back = arena.adopt(handle._replace(owner=int(owner)))
    assert bytes(back)[:2] == b"hi"
