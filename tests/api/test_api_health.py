"""health(), threads(), processes() and reap(): what is said of those who take part."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading

import pytest

import uslub
from uslub._engine import _examine


def test_a_new_arena_has_a_clean_record(arena: uslub.Arena) -> None:
    health = arena.health()
    assert not any(dataclasses.astuple(health))
    assert health == arena.health() and hash(health)
    with pytest.raises(dataclasses.FrozenInstanceError):
        health.poisoned = True  # type: ignore[misc]
    assert arena.reap() == uslub.Reaped(0, 0, 0, 0, 0, 0)
    assert arena.health() == health  # nothing was found, so nothing is noted


def test_what_was_reaped_is_on_record(arena: uslub.Arena, cache: uslub.Cache) -> None:
    pid = os.fork()
    if pid == 0:
        held = cache.alloc_bulk(7)
        os.kill(os.getpid(), signal.SIGKILL if held else 0)
    os.waitpid(pid, 0)
    done = arena.reap()
    assert (done.processes, done.waiting, done.objects) == (1, 0, 7)
    assert (done.threads, done.doubtful) == (0, 0)
    health = arena.health()
    assert (health.processes, health.objects, health.inside) == (1, 7, 0)
    assert not health.poisoned and not health.pages_doubtful


def test_a_process_says_which_one_it_is(arena: uslub.Arena) -> None:
    (own,) = arena.processes()
    assert own.is_self and own.alive and own.pid == os.getpid()
    assert own.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    with open("/proc/self/stat", encoding="ascii") as file:
        assert own.start_time == int(file.read().rpartition(")")[2].split()[19])


def test_threads_are_known_by_what_they_do(
    arena: uslub.Arena, cache: uslub.Cache
) -> None:
    cache.alloc().free()
    inside, leave = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        cache.alloc().free()
        tids.append(threading.get_native_id())
        inside.set()
        leave.wait(30)

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(30)
    (own,) = arena.processes()
    seen = {thread.tid: thread for thread in arena.threads()}
    leave.set()
    worker.join()
    assert set(seen) == {threading.get_native_id(), *tids}
    for thread in seen.values():
        assert (thread.process, thread.operation) == (own.slot, "")
        assert (thread.locks, thread.dead) == (0, False)
    assert {thread.tid for thread in arena.threads()} == {threading.get_native_id()}


def test_no_lock_is_held_while_a_constructor_runs(arena: uslub.Arena) -> None:
    seen: list[uslub.ThreadInfo] = []
    made = arena.cache("made", 32, ctor=lambda view: seen.extend(arena.threads()))
    obj = made.alloc()
    assert {thread.locks for thread in seen} == {0}
    assert len({thread.slot for thread in seen}) == 1
    assert {thread.operation for thread in arena.threads()} == {""}
    del obj


def test_after_close_nothing_is_said(arena: uslub.Arena) -> None:
    arena.close()
    for call in (arena.health, arena.threads, arena.processes, arena.reap):
        with pytest.raises(uslub.ClosedArena):
            call()


def test_a_look_from_outside_takes_no_part(name: str) -> None:
    with uslub.Arena.create(name, size="1MiB", cpus=1) as arena:
        arena.cache("thing", 64).alloc()
        open_files = set(os.listdir("/proc/self/fd"))
        health, processes, threads, doubtful = _examine(name)
        assert set(os.listdir("/proc/self/fd")) == open_files
        assert health == arena.health() and doubtful == []
        (seen,), (own,) = processes, arena.processes()
        assert seen == dataclasses.replace(own, is_self=False) and seen.alive
        assert threads == arena.threads()
    health, processes, threads, _ = _examine(name)
    assert processes == [] and threads == []
    uslub.Arena.unlink(name)
    with pytest.raises(uslub.ArenaNotFound):
        _examine(name)
    with pytest.raises(uslub.BadName):
        _examine("a/b")
    with pytest.raises(TypeError):
        _examine(3)  # type: ignore[arg-type]
