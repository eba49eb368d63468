"""Bad input: each has its exception, of one tree, with a text that helps."""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path

import pytest

import uslub
from uslub import errors

PREFIX = "/dev/shm/uslub."


def test_the_errors_are_one_tree():
    for name in errors.__all__:
        kind = getattr(uslub, name)
        assert issubclass(kind, uslub.Error)
        assert kind.__doc__ and kind.__name__ == name


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (uslub.OutOfMemory, MemoryError),
        (uslub.ArenaNotFound, FileNotFoundError),
        (uslub.ArenaExists, FileExistsError),
        (uslub.SystemCallFailed, OSError),
        (uslub.ObjectInUse, BufferError),
        (uslub.ObjectFreed, ValueError),
        (uslub.BadName, ValueError),
        (uslub.BadSize, ValueError),
        (uslub.BadArgument, ValueError),
        (uslub.ClosedArena, ValueError),
        (uslub.CacheNotFound, LookupError),
        (uslub.LockTimeout, TimeoutError),
        (uslub.Poisoned, uslub.CorruptArena),
    ],
)
def test_errors_are_what_python_calls_them_too(kind, builtin):
    assert issubclass(kind, builtin)


# -- sizes -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, -(1 << 80), 1 << 63, 1 << 100, "0", "-5", "x"])
def test_sizes_that_cannot_be(arena, size):
    for call in (
        lambda: uslub.Arena.create(size=size),
        lambda: arena.kmalloc(size),
        lambda: arena.krealloc(arena.kmalloc(8), size),
        lambda: arena.cache("thing", size),
        lambda: uslub.geometry(size),
    ):
        with pytest.raises(uslub.BadSize):
            call()
    assert arena.caches() == [] or arena.caches()[0].name.startswith("kmalloc")


@pytest.mark.parametrize("size", [1.0, None, b"64", [64], object()])
def test_sizes_that_are_no_sizes(arena, size):
    for call in (
        lambda: uslub.Arena.create(size=size),
        lambda: arena.kmalloc(size),
    ):
        with pytest.raises(TypeError, match="must be an int or text"):
            call()


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, "1TiB", (1 << 63) - 1])
def test_sizes_that_no_arena_holds(arena, size):
    with pytest.raises((uslub.BadSize, uslub.OutOfMemory)):
        arena.kmalloc(size)
    with pytest.raises((uslub.BadSize, uslub.OutOfMemory)):
        arena.cache("thing", size).alloc()
    with pytest.raises(uslub.BadSize):
        uslub.Arena.create(size=1 << 62)


# -- alignments, flags, numbers ----------------------------------------------------


@pytest.mark.parametrize("align", [3, 12, 4097, -8, 1 << 31, 1 << 40])
def test_alignments_that_cannot_be(arena, align):
    with pytest.raises((uslub.BadArgument, uslub.BadSize)):
        arena.cache("thing", 64, align=align)
    assert arena.caches() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"flags": 1 << 30},
        {"flags": uslub.Flags.RED_ZONE},
        {"flags": -1},
        {"order": -1},
        {"order": 60},
        {"min_partial": -1},
        {"cpu_partial": 1 << 40},
        {"usersize": 1000},
        {"defrag_ratio": 5000},
    ],
)
def test_parameters_that_cannot_be(arena, wrong):
    with pytest.raises((uslub.BadArgument, uslub.BadSize)):
        arena.cache("thing", 64, **wrong)
    assert arena.caches() == []


@pytest.mark.parametrize("place", [-1, 2, 1000, 1 << 31, 1 << 70])
def test_cpus_and_nodes_that_are_not_there(arena, cache, place):
    for call in (
        lambda: cache.alloc(cpu=place),
        lambda: cache.alloc(node=place),
        lambda: cache.alloc_bulk(3, cpu=place),
        lambda: cache.alloc().free(cpu=place),
        lambda: cache.free_bulk(cache.alloc_bulk(3), cpu=place),
        lambda: cache.flush(cpu=place),
        lambda: cache.flush_slab(place),
        lambda: arena.kmalloc(8, cpu=place),
        lambda: arena.kmalloc(8, node=place),
        lambda: arena.cpu_dead(place),
    ):
        with pytest.raises(uslub.BadArgument):
            call()


@pytest.mark.parametrize(
    "wrong", [{"cpus": 0}, {"cpus": 513}, {"nodes": 17}, {"cpus": -1}]
)
def test_machines_that_cannot_be(wrong):
    with pytest.raises(uslub.BadArgument):
        uslub.Arena.create(size="1MiB", **wrong)


def test_a_reserve_that_does_not_fit():
    with pytest.raises(uslub.BadSize, match="reserve"):
        uslub.Arena.create(size="1MiB", reserve="2MiB")


@pytest.mark.parametrize("value", ["1", 1.0, object()])
def test_cpus_of_another_type(cache, value):
    with pytest.raises(TypeError, match="cpu must be an int"):
        cache.alloc(cpu=value)


# -- names -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "/", "x" * 300, "a\nb", "a\0b", "\ud800"])
def test_arena_names_that_cannot_be(name):
    for call in (
        lambda: uslub.Arena.create(name, size="1MiB"),
        lambda: uslub.Arena.attach(name),
        lambda: uslub.Arena.unlink(name),
    ):
        with pytest.raises(uslub.BadName):
            call()


@pytest.mark.parametrize("name", ["", "a/b", "x" * 64, "x" * 300, "a\nb", "a\0b"])
def test_cache_names_that_cannot_be(arena, name):
    with pytest.raises(uslub.BadName):
        arena.cache(name, 64)
    with pytest.raises((uslub.BadName, uslub.CacheNotFound)):
        arena.cache(name)


def test_names_may_be_long_and_in_any_script(name):
    with uslub.Arena.create(name + "-zażółć-" + "x" * 100, size="1MiB") as arena:
        cache = arena.cache("ж" * 31, 64)
        assert cache.name == "ж" * 31 == arena.caches()[0].name
        assert arena.name is not None and "zażółć" in arena.name
        uslub.Arena.unlink(arena.name)


@pytest.mark.parametrize("name", [b"abc", 1.5, ["a"], None])
def test_names_of_another_type(arena, name):
    with pytest.raises(TypeError):
        uslub.Arena.attach(name)
    with pytest.raises(TypeError):
        arena.cache(name, 64)


def test_nothing_is_there(name):
    for call in (uslub.Arena.attach, uslub.Arena.unlink):
        with pytest.raises(uslub.ArenaNotFound, match=name) as caught:
            call(name)
        assert not str(caught.value).startswith("[Errno")
        assert caught.value.errno == 2


# -- files that are no arena -------------------------------------------------------


def write_file(name: str, content: bytes) -> None:
    fd = os.open(PREFIX + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        file.write(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\0" * 4096, b"\0" * 100_000, b"#!/bin/sh\n", bytes(range(256)) * 64],
)
def test_files_that_are_no_arena(name, content):
    write_file(name, content)
    with pytest.raises(uslub.CorruptArena, match=name):
        uslub.Arena.attach(name)
    assert Path(PREFIX + name).read_bytes() == content


def test_files_that_others_can_write_are_not_trusted(name):
    write_file(name, b"")
    os.chmod(PREFIX + name, 0o666)
    with pytest.raises(uslub.Error, match="600"):
        uslub.Arena.attach(name)


def test_descriptors_that_are_no_arena(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\0" * 8192)
    read, write = os.pipe()
    with open(path, "r+b") as file:
        for fd in (file.fileno(), read, write):
            with pytest.raises((uslub.CorruptArena, uslub.SystemCallFailed)):
                uslub.Arena.attach(fd)
    os.close(read)
    os.close(write)
    with pytest.raises(uslub.SystemCallFailed) as caught:
        uslub.Arena.attach(write)
    assert caught.value.errno in (2, 9)
    for fd in (-1, 1 << 40):
        with pytest.raises(uslub.BadArgument):
            uslub.Arena.attach(fd)


@pytest.fixture
def stored(name) -> str:
    """A named arena with some life in it that nobody has attached."""
    with uslub.Arena.create(name, size="1MiB", cpus=2, nodes=1) as arena:
        for obj in arena.cache("thing", 64).alloc_bulk(10)[::2]:
            obj.move()
    return name


def test_the_stored_arena_is_sound(stored):
    with uslub.Arena.attach(stored) as arena:
        assert arena.validate() == []


def test_truncated_arenas(stored):
    size = os.path.getsize(PREFIX + stored)
    for length in (size - 1, size // 2, 8192, 4096, 4095, 100, 8, 1, 0):
        os.truncate(PREFIX + stored, length)
        with pytest.raises(uslub.CorruptArena, match=stored):
            uslub.Arena.attach(stored)


def test_a_flipped_bit_in_the_header_is_seen(stored):
    with open(PREFIX + stored, "r+b") as file:
        for position in (*range(0, 8), *range(12, 72)):
            file.seek(position)
            byte = file.read(1)[0]
            for bit in (0, 7):
                file.seek(position)
                file.write(bytes([byte ^ 1 << bit]))
                file.flush()
                with pytest.raises((uslub.CorruptArena, uslub.LayoutMismatch)):
                    uslub.Arena.attach(stored)
            file.seek(position)
            file.write(bytes([byte]))
            file.flush()
    with uslub.Arena.attach(stored) as arena:
        assert arena.validate() == []


def test_flipped_bits_elsewhere_are_an_error_and_never_a_crash(stored, run_python):
    """Every 97th byte of the metadata; in a process of its own, in case it dies."""
    code = """
import os, sys, uslub
sys.unraisablehook = lambda what: None  # objects that outlive their damaged arena
path = "/dev/shm/uslub." + sys.argv[1]
holes = os.open(path, os.O_RDONLY)
spans, end = [], 0
size = os.fstat(holes).st_size
while True:
    try:
        start = os.lseek(holes, end, os.SEEK_DATA)
    except OSError:
        break
    end = os.lseek(holes, start, os.SEEK_HOLE)
    spans.append((start, end))
original = open(path, "rb").read()
used = [n for span in spans for n in range(*span)]
tried = 0
for position in used[200::max(1, len(used) // 150)]:
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(bytes([original[position] ^ 0x41]))
    try:
        with uslub.Arena.attach(sys.argv[1]) as arena:
            findings = arena.validate()
            cache = arena.cache("thing")
            objs = cache.alloc_bulk(100)
            cache.shrink()
            arena.snapshot()
            cache.free_bulk(objs)
            arena.kmalloc(100_000)
    except uslub.Error:
        pass
    tried += 1
    objs = None
    with open(path, "r+b") as file:
        for start, end in spans:
            file.seek(start)
            file.write(original[start:end])
print("tried", tried)
"""
    assert run_python(code, stored).startswith("tried 1")


def test_an_arena_of_another_layout_version(stored):
    with open(PREFIX + stored, "r+b") as file:
        file.seek(8)
        (version,) = struct.unpack("<I", file.read(4))
        file.seek(8)
        file.write(struct.pack("<I", version + 1))
    with pytest.raises(uslub.LayoutMismatch, match=str(version + 1)):
        uslub.Arena.attach(stored)


# -- too much ----------------------------------------------------------------------


def test_a_full_arena_says_so_and_recovers():
    arena = uslub.Arena.create(size="256KiB", cpus=1, nodes=1)
    cache = arena.cache("page", 4096)
    held = []
    with pytest.raises(uslub.OutOfMemory, match=r"'page'|arena") as caught:
        while True:
            held.append(cache.alloc())
    assert isinstance(caught.value, MemoryError)
    assert len(held) == 64
    with pytest.raises(uslub.OutOfMemory):
        arena.kmalloc(100)
    with pytest.raises(uslub.OutOfMemory):
        cache.alloc_bulk(1)
    held.pop()
    assert cache.alloc().nbytes == 4096
    assert arena.validate() == []


def test_a_hundred_thousand_caches_end_in_bounded_time(arena):
    start = time.monotonic()
    made = 0
    with pytest.raises((uslub.LimitReached, uslub.OutOfMemory)):
        for number in range(100_000):
            arena.cache(f"cache-{number}", 64)
            made += 1
    assert made >= 64
    assert time.monotonic() - start < 10
    assert len(arena.caches()) == made
    assert arena.cache("cache-0").alloc().nbytes == 64


# -- objects -----------------------------------------------------------------------


def test_free_after_close(arena, cache):
    obj = cache.alloc()
    arena.close()
    with pytest.raises(uslub.ClosedArena):
        obj.free()
    assert not obj.freed


def test_free_from_another_thread_is_fine_and_a_second_is_not(cache, in_use):
    obj = cache.alloc()
    caught = []

    def work() -> None:
        try:
            obj.free()
        except uslub.Error as error:
            caught.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert caught == [uslub.DoubleFree]
    assert in_use() == 0


def test_text_names_the_object_the_expected_and_what_to_do(arena, cache):
    for call, words in (
        (lambda: arena.cache("thing", 65), ("'thing'", "64", "65")),
        (lambda: arena.kmalloc(8, kind="x"), ("kind", "'x'", "'normal'")),
        (lambda: cache.alloc(cpu=7), ("7",)),
        (lambda: arena.cache("nothing"), ("'nothing'",)),
    ):
        with pytest.raises(uslub.Error) as caught:
            call()
        for word in words:
            assert word in str(caught.value)
