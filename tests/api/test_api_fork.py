"""After os.fork(): objects stay the parent's, the child is a participant of its own."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable

import pytest

import uslub


def in_child(work: Callable[[], object]) -> object:
    """Runs `work` in a forked child and returns its result or raises its exception."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = (True, work())
        except BaseException as error:
            result = (False, error)
        with open(write, "wb") as file:
            pickle.dump(result, file)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def test_the_child_reads_and_writes_inherited_objects(cache):
    obj = cache.alloc(zero=True)

    def work() -> bytes:
        memoryview(obj)[:5] = b"child"
        return bytes(obj)

    assert in_child(work) == b"child" + bytes(59)
    assert bytes(obj)[:5] == b"child"


def test_the_child_drops_inherited_objects_silently(cache, in_use):
    box = [cache.alloc() for _ in range(10)]

    def work() -> int:
        box.clear()
        gc.collect()
        return in_use()

    assert in_child(work) == 10
    assert in_use() == 10


def test_the_child_cannot_end_inherited_objects(arena, cache, in_use):
    obj, buf = cache.alloc(), arena.kmalloc(64)
    for call in (
        obj.free,
        obj.move,
        lambda: cache.free_bulk([obj]),
        lambda: arena.krealloc(buf, 10_000),
        lambda: obj.__exit__(None, None, None),
    ):
        with pytest.raises(uslub.NotOwner, match="fork"):
            in_child(call)
    assert in_use() == 1


def test_the_child_does_not_free_its_own_object_through_an_inherited_name(cache):
    """The parent frees, the child gets the same slot: that is another object."""
    go_read, go_write = os.pipe()
    box = [cache.alloc(cpu=0)]
    slot = box[0].offset

    def work() -> tuple[bool, int]:
        os.read(go_read, 1)  # the parent has freed by now
        mine = cache.alloc_bulk(cache.objects_per_slab * 2, cpu=0)
        shared = [obj for obj in mine if obj.offset == slot]
        box.clear()
        return bool(shared), len({obj.offset for obj in [*mine, cache.alloc(cpu=0)]})

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open(write, "wb") as file:
            pickle.dump(work(), file)
        os._exit(0)
    os.close(write)
    box[0].free(cpu=0)
    os.write(go_write, b"x")
    with open(read, "rb") as file:
        got_the_slot, different = pickle.loads(file.read())
    os.waitpid(pid, 0)
    os.close(go_read)
    os.close(go_write)
    assert got_the_slot
    assert different == cache.objects_per_slab * 2 + 1


def test_the_child_is_a_participant_of_its_own(arena, cache):
    mine = arena.owner
    held = cache.alloc()

    def work() -> tuple[int, int, int, bool]:
        obj = cache.alloc()
        obj.free()
        me = [process for process in arena.processes() if process.is_self]
        return arena.owner, len(arena.processes()), me[0].pid, me[0].pid == os.getpid()

    owner, processes, pid, right = in_child(work)
    assert owner != mine
    assert processes == 2 and right and pid != os.getpid()
    assert held.nbytes == 64


def test_the_child_hands_its_objects_to_the_parent(arena, cache):
    def work() -> uslub.Handle:
        obj = cache.alloc(zero=True)
        memoryview(obj)[:6] = b"parcel"
        return obj.move()

    obj = arena.adopt(in_child(work))
    assert bytes(obj)[:6] == b"parcel"


def test_the_parent_hands_its_objects_to_the_child(arena, cache, in_use):
    handle = cache.alloc(zero=True).move()

    def work() -> bool:
        arena.adopt(handle).free()
        return True

    assert in_child(work)
    assert in_use() == 0


def test_the_child_may_close_and_the_parent_goes_on(arena, cache):
    obj = cache.alloc()

    def work() -> bool:
        arena.close()
        memoryview(obj)[0] = 3
        return arena.closed

    assert in_child(work)
    assert not arena.closed
    assert bytes(obj)[0] == 3
    obj.free()


def test_a_grandchild_is_not_its_parent_either(arena, cache):
    def work() -> str:
        obj = cache.alloc()
        try:
            in_child(obj.free)
        except uslub.NotOwner:
            obj.free()
            return "refused"
        return "freed"

    assert in_child(work) == "refused"
