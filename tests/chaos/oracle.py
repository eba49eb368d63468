"""The oracle of a round of chaos, for Python: see libuslub/chaos/oracle.h.

The file is a memfd that every worker inherits under the same number. The functions are
those of libchaos-oracle.so, made by `dev/bootstrap.sh chaos`; the structs are read
in place.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = Path(__file__).parents[2] / "build" / "test" / "libuslub"
LIBRARY = PROGRAMS / "libchaos-oracle.so"
C_WORKER = PROGRAMS / "chaos-worker"

CHAIRS, THREADS, PLACES, TEXTS, WIRE = 48, 4, 64, 64, 44
NOBODY, SITTING_DOWN, LIVE, EXECING, DEAD = range(5)
OPERATIONS = 28  # checked against the library

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


class Thread(ctypes.Structure):
    _fields_ = (("beat", u64), ("tid", u32), ("operation", u32))


class Chair(ctypes.Structure):
    _fields_ = (
        ("state", u32),
        ("pid", ctypes.c_int32),
        ("start", u64),
        ("language", u32),
        ("heir", u32),
        ("done", u64 * OPERATIONS),
        ("refused", u64),
        ("reaped", u64),
        ("reap_max_ns", u64),
        ("threads", Thread * THREADS),
    )


class Place(ctypes.Structure):
    _fields_ = (
        ("state", u32),
        ("chair", u32),
        ("from_", u32),
        ("wire", ctypes.c_uint8 * WIRE),
    )


class Head(ctypes.Structure):
    _fields_ = (
        ("words_count", u64),
        ("stop", u32),
        ("room", u32),
        ("channels", u32),
        ("calm", u32),
        ("unused", u32),
        ("texts_count", u32),
        ("serial", u64),
        ("channel", (ctypes.c_uint8 * WIRE) * 4),
        ("texts", (ctypes.c_char * 256) * TEXTS),
        ("places", Place * PLACES),
        ("chairs", Chair * CHAIRS),
    )


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(LIBRARY))
    o, n, p = ctypes.c_void_p, u64, ctypes.c_void_p
    for name, result, arguments in (
        ("bytes", u64, (n,)),
        ("map", o, (ctypes.c_int, n)),
        ("name", ctypes.c_char_p, (u32,)),
        ("operations", u32, ()),
        ("complain", None, (o, u32, ctypes.c_char_p)),
        ("sit", ctypes.c_int, (o, u32, u32)),
        ("void", None, (o, u32)),
        ("gone", ctypes.c_bool, (o, u32)),
        ("begin", None, (o, u32, u32, u32)),
        ("take", u32, (o, u32, n, p, n)),
        ("drop", None, (o, u32, n, p, n, u32)),
        ("share", None, (o, u32, n)),
        ("offer", None, (o, n, u32)),
        ("join", u32, (o, u32, n, p, n)),
        ("intact", ctypes.c_bool, (p, n, n, u32)),
        ("put", ctypes.c_bool, (o, u32, p, u32)),
        ("get", ctypes.c_bool, (o, u32, p, ctypes.POINTER(u32), ctypes.c_bool)),
    ):
        function = getattr(lib, f"chaos_{name}")
        function.restype, function.argtypes = result, arguments
    if lib.chaos_bytes(0) != ctypes.sizeof(Head) or lib.chaos_operations() != (
        OPERATIONS
    ):
        raise RuntimeError("oracle.py and libuslub/chaos/oracle.h differ")
    return lib


class Oracle:
    """The mapped file, with the library bound to it."""

    def __init__(self, fd: int, arena_bytes: int) -> None:
        self.fd, self.arena_bytes = fd, arena_bytes
        self.lib = _library()
        self.at = self.lib.chaos_map(fd, arena_bytes)
        if not self.at:
            raise OSError("the oracle cannot be mapped")
        self.head = Head.from_address(self.at)
        count = range(OPERATIONS)
        self.names = [self.lib.chaos_name(i).decode() for i in count]
        self.number = {name: i for i, name in enumerate(self.names)}

    @classmethod
    def create(cls, arena_bytes: int) -> Oracle:
        """All of it is there before a worker in a small control group touches it."""
        fd = os.memfd_create("uslub-chaos", 0)
        os.set_inheritable(fd, True)
        lib = _library()
        os.ftruncate(fd, lib.chaos_bytes(arena_bytes))
        os.posix_fallocate(fd, 0, lib.chaos_bytes(arena_bytes))
        oracle = cls(fd, arena_bytes)
        oracle.head.words_count = arena_bytes // 8
        return oracle

    def chairs(self) -> Iterator[tuple[int, Chair]]:
        """Those that somebody sits on."""
        for i, chair in enumerate(self.head.chairs):
            if chair.state != NOBODY:
                yield i, chair

    def complaints(self) -> list[str]:
        """What must not be, and was."""
        count = min(self.head.texts_count, TEXTS)
        texts = [
            self.head.texts[i].value.decode("utf-8", "replace") for i in range(count)
        ]
        more = self.head.texts_count - count
        return texts + ([f"and {more} more"] if more > 0 else [])
