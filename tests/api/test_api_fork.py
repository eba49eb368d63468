"""After os.fork(): parent and child hold what the parent held, each for itself."""

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


def test_each_of_both_drops_what_it_holds(cache, in_use):
    box = [cache.alloc() for _ in range(10)]

    def work() -> int:
        box.clear()
        gc.collect()
        return in_use()

    assert in_child(work) == 10
    box.clear()
    assert in_use() == 0


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_view_stays_valid_whoever_lets_go_first(arena, cache, in_use, first):
    box = [cache.alloc(zero=True)]
    view = memoryview(box[0])
    view[:5] = b"still"
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_read, 1)
        good = bytes(view[:5]) == b"still"
        view.release()
        box[0].free()
        os._exit(0 if good and in_use() == (first == "child") else 1)
    if first == "parent":
        view.release()
        box.clear()
        assert in_use() == 1
    os.write(go_write, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(go_read)
    os.close(go_write)
    if first == "child":
        assert in_use() == 1 and bytes(view[:5]) == b"still"
        view.release()
        box.clear()
    assert in_use() == 0
    assert arena.validate() == []


def test_the_child_ends_inherited_objects_for_itself(arena, cache, in_use):
    obj, buf = cache.alloc(), arena.kmalloc(64)
    for call in (
        obj.free,
        lambda: cache.free_bulk([obj]),
        lambda: obj.__exit__(None, None, None),
        buf.free,
    ):
        in_child(call)
        assert not obj.freed and in_use() == 1
    for refused in (obj.move, lambda: arena.krealloc(buf, 10_000)):
        with pytest.raises(uslub.NotOwner, match="others hold it"):
            in_child(refused)
    obj.free()
    buf.free()
    assert arena.reap().waiting == 0
    assert in_use() == 0


def test_a_child_that_dies_holds_nothing(arena, cache, in_use):
    obj = cache.alloc()
    in_child(lambda: None)  # leaves without a word
    obj.free()
    assert arena.reap().waiting == 0
    assert in_use() == 0 and len(arena.processes()) == 1


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


def test_a_grandchild_holds_it_too(arena, cache, in_use):
    def work() -> bool:
        obj = cache.alloc()
        in_child(obj.free)
        obj.free()
        return True

    assert in_child(work)
    assert arena.reap().waiting == 0
    assert in_use() == 0
