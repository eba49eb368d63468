"""Handles through everything that carries them, at the edges of a process too."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uslub._engine", reason="the extension is not built")

import uslub

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(params=["named", "anonymous"])
def arena(request: pytest.FixtureRequest) -> Iterator[uslub.Arena]:
    name = f"handles-{os.getpid()}" if request.param == "named" else None
    with uslub.Arena.create(name, size="16MiB") as arena:
        yield arena
    if name is not None:
        uslub.Arena.unlink(name)


def all_free(arena: uslub.Arena) -> bool:
    """Nobody holds anything any more, the dead included."""
    gc.collect()
    for _ in range(100):
        arena.reap()
        if len(arena.processes()) == 1:
            break
        time.sleep(0.02)  # a child that has sent its answer may not have gone yet
    assert arena.validate() == []
    for cache in arena.caches():
        if cache.name.startswith("kmalloc-"):
            continue
        cache.destroy()  # CacheBusy if an object is left
    return arena.info().processes_dead == 0


# -- what the other side does (spawn imports this module by name) -------------------


def add_one(things: Any) -> int:
    obj, array = things
    view = memoryview(obj)
    view[0] += 1
    array += 1
    return int(view[0])


def answer(conn: Any, *things: Any) -> None:
    conn.send((add_one(things), things[1]))
    conn.recv()  # until the other side has it


def through_queue(queue: Any, back: Any) -> None:
    obj, array = queue.get(timeout=30)
    add_one((obj, array))
    back.put(array[1:])
    queue.get(timeout=30)


def everything(arena: uslub.Arena, cache: uslub.Cache, conn: Any) -> None:
    obj = cache.alloc(zero=True)
    memoryview(obj)[:2] = b"ok"
    conn.send((arena.id, obj))
    conn.recv()


def make(arena: uslub.Arena) -> tuple[uslub.Object, Any]:
    obj = arena.cache("thing", 100).alloc(zero=True)
    return obj, arena.ndarray((4, 5), "i4", zero=True)


# -- carriers ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_arguments_and_pipes_of_processes(arena: uslub.Arena, method: str) -> None:
    context: BaseContext = multiprocessing.get_context(method)
    obj, array = make(arena)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, obj, array))  # type: ignore[attr-defined]
    process.start()
    first, same = ours.recv()
    ours.send(None)
    process.join()
    assert process.exitcode == 0 and first == 1
    assert memoryview(obj)[0] == 1 and (array == 1).all()
    same[0, 0] = 9
    assert array[0, 0] == 9 and type(same) is uslub.SharedArray
    del obj, array, same
    assert all_free(arena)


@pytest.mark.parametrize("method", METHODS)
def test_arenas_and_caches_are_arguments_too(arena: uslub.Arena, method: str) -> None:
    context: BaseContext = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    cache = arena.cache("thing", 100)
    process = context.Process(target=everything, args=(arena, cache, theirs))  # type: ignore[attr-defined]
    process.start()
    identity, obj = ours.recv()
    ours.send(None)
    process.join()
    assert process.exitcode == 0 and identity == arena.id
    assert bytes(obj)[:2] == b"ok" and obj.cache == cache
    del obj
    assert all_free(arena)


@pytest.mark.parametrize("method", METHODS)
def test_queues(arena: uslub.Arena, method: str) -> None:
    context: BaseContext = multiprocessing.get_context(method)
    queue, back = context.Queue(), context.Queue()
    process = context.Process(target=through_queue, args=(queue, back))  # type: ignore[attr-defined]
    process.start()
    obj, array = make(arena)
    queue.put((obj, array))
    part = back.get(timeout=30)
    queue.put(None)
    process.join()
    assert part.shape == (3, 5) and (part == 1).all() and memoryview(obj)[0] == 1
    part[:] = 5
    assert (array[1:] == 5).all() and (array[0] == 1).all()
    queue.close(), back.close()
    del obj, array, part
    assert all_free(arena)


@pytest.mark.parametrize("method", METHODS)
def test_executors(arena: uslub.Arena, method: str) -> None:
    context: BaseContext = multiprocessing.get_context(method)
    things = make(arena)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        counts = list(pool.map(add_one, [things] * 6))
    # Two workers may add at the same time: what both see is one memory.
    assert max(counts) == memoryview(things[0])[0] > 1
    del things
    assert all_free(arena)


def test_a_plain_pickle_over_a_socket_to_a_process_that_attached(
    arena: uslub.Arena,
) -> None:
    """The receiver is no relative of ours."""
    code = (
        "import pickle, socket, sys, uslub\n"
        "where = sys.argv[1]\n"
        "arena = uslub.Arena.attach(int(where) if where.isdigit() else where)\n"
        "peer = socket.socket(fileno=int(sys.argv[2]))\n"
        "obj, array = pickle.loads(peer.recv(4096))\n"
        "assert obj.arena is not None and obj.arena.id == arena.id\n"
        "memoryview(obj)[:3] = b'yes'; array[:] = 7\n"
        "del obj, array; peer.sendall(b'done')\n"
    )
    ours, theirs = socket.socketpair()
    obj, array = make(arena)
    where = arena.name or str(arena.fileno())
    fds = [theirs.fileno(), *([] if arena.name else [arena.fileno()])]
    process = subprocess.Popen(
        [sys.executable, "-c", code, where, str(theirs.fileno())], pass_fds=fds
    )
    ours.sendall(pickle.dumps((obj, array)))
    assert ours.recv(10) == b"done" and process.wait() == 0
    assert bytes(obj)[:3] == b"yes" and (array == 7).all()
    ours.close(), theirs.close()
    del obj, array
    assert all_free(arena)


# -- what a handle is ---------------------------------------------------------------


def test_a_handle_of_an_object_is_small(arena: uslub.Arena) -> None:
    obj, _ = make(arena)
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):  # 2 has no bytes
        assert len(pickle.dumps(obj, protocol)) < 100
    pickle.loads(pickle.dumps(arena.kmalloc(10)))


def test_unpickling_twice_is_one_more_reference(arena: uslub.Arena) -> None:
    obj, _ = make(arena)
    handle = pickle.dumps(obj)
    assert obj.in_flight == 1
    first, second = pickle.loads(handle), pickle.loads(handle)
    assert obj.in_flight == 0 and len({first.offset, second.offset, obj.offset}) == 1
    for each in (obj, first):
        each.free()
    memoryview(second)[0] = 1
    second.free()
    with pytest.raises(uslub.StaleHandle, match="gone"):
        pickle.loads(handle)
    assert all_free(arena)


def test_a_computed_array_is_an_ordinary_one(arena: uslub.Arena) -> None:
    _, array = make(arena)
    for other in (array + 1, array.copy(), np.sqrt(array), array.sum(axis=0)):
        arrived = pickle.loads(pickle.dumps(other))
        arrived += 1
        assert not np.shares_memory(arrived, other)
    read_only = array[::2, 1:3]
    read_only.flags.writeable = False
    arrived = pickle.loads(pickle.dumps(read_only))
    assert np.shares_memory(arrived, array) and not arrived.flags.writeable


@pytest.mark.parametrize("place", range(16, 44))
def test_a_forged_handle_is_an_error(arena: uslub.Arena, place: int) -> None:
    """Every field of a handle, a bit changed."""
    obj = arena.cache("thing", 100).alloc(zero=True)
    other = arena.cache("thing", 100).alloc(zero=True)  # something that might be hit
    wire = bytearray(obj._send())
    for bit in range(8):
        forged = bytearray(wire)
        forged[place] ^= 1 << bit
        try:
            got = arena._receive(bytes(forged))
        except uslub.Error:
            continue
        # Another way to name the object that the sender has: not another object.
        assert got.offset == obj.offset and got.nbytes <= obj.usable_size
        got.free()
    assert not other.shared
    arena._receive(bytes(wire)).free()
    obj.free(), other.free()
    assert all_free(arena)


@pytest.mark.parametrize("wire", [b"", b"x" * 43, b"x" * 44, "text", None, 7])
def test_what_is_no_handle_is_refused(arena: uslub.Arena, wire: Any) -> None:
    with pytest.raises(uslub.StaleHandle):
        arena._receive(wire)


# -- threads, interpreters, the end --------------------------------------------------


def test_threads_of_one_process_hold_together(arena: uslub.Arena) -> None:
    objs = [make(arena)[0]]
    handles: list[bytes] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(300):
                handles.append(pickle.dumps(objs[0]))
                copy = pickle.loads(handles.pop())
                assert memoryview(copy)[99] == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and objs[0].in_flight == 0 and objs[0].holders == (0,)
    objs.clear()
    assert all_free(arena)


def sub_interpreters() -> Any:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return __import__(name)
        except ImportError:
            continue
    pytest.skip("this Python has no sub-interpreters to call")


def test_a_sub_interpreter_holds_for_itself(arena: uslub.Arena) -> None:
    interpreters = sub_interpreters()
    obj = arena.cache("thing", 100).alloc(zero=True)
    handle = pickle.dumps(obj)
    where = arena.name or arena.fileno()
    code = (
        "import pickle, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "import uslub\n"
        f"arena = uslub.Arena.attach({where!r})\n"
        f"obj = pickle.loads({handle!r})\n"
        "memoryview(obj)[:3] = b'sub'\n"
    )
    number = interpreters.create()
    assert not interpreters.run_string(number, code)
    assert bytes(obj)[:3] == b"sub" and obj.in_flight == 0
    interpreters.destroy(number)
    obj.free()
    assert all_free(arena)


def test_a_process_that_ends_with_everything_in_its_hands(arena: uslub.Arena) -> None:
    """Shutdown, in whatever order it drops things: silent, and nothing is lost."""
    obj, array = make(arena)
    channel = uslub.Channel(arena, 4)
    code = (
        "import pickle, sys, threading, uslub\n"
        "obj, array, channel = pickle.load(sys.stdin.buffer)\n"
        "channel.send(obj); channel.fileno()\n"
        "cycle = [obj, array, channel]; cycle.append(cycle)\n"
        "view = memoryview(obj); kept = pickle.dumps(array)\n"
        "threading.Thread(target=channel.recv, daemon=True).start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code],
        input=pickle.dumps((obj, array, channel)),
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    del obj, array, channel
    assert all_free(arena)
