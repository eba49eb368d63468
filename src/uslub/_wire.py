"""How arenas, caches, objects and channels travel: as handles, which are data.

A handle of an object is the 44 bytes of binding/share.c: the arena's id, where the
object is and which it is. Whoever unpickles one needs the arena: it is found among
those this process has attached, else by its id in /dev/shm, else (an anonymous one)
through the descriptor of the sender, while that lives. An arena that was attached on
the way stays attached until the process ends.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from uslub._listing import DIRECTORY, PREFIX, arenas
from uslub.errors import Error, StaleHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from uslub._engine import Arena, Cache, Object
    from uslub.channel import Channel

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]]

_KMALLOC = ("kmalloc-", "dma-kmalloc-")
_ID = slice(0, 16)
_NAMED = 44  # bytes of a handle; what follows is (pid, fd) of an anonymous arena
_SOURCE = struct.Struct("<ii")
# struct us_header up to config.id: see libuslub/arena/layout.h
_HEADER = struct.Struct("<8sII4Q16s")

_known: WeakValueDictionary[bytes, Arena] = WeakValueDictionary()
_kept: dict[bytes, Arena] = {}  # attached by us, for as long as the process lives


# -- finding the arena -------------------------------------------------------------


def _source(arena: Arena) -> bytes:
    """The id; for an anonymous arena also where to get it from."""
    _known[bytes.fromhex(arena.id)] = arena
    wire = bytes.fromhex(arena.id)
    if arena.name is None:
        wire += _SOURCE.pack(os.getpid(), arena.fileno())
    return wire


def _name_of(arena_id: bytes) -> str | None:
    for name in arenas():
        try:
            fd = os.open(
                f"{DIRECTORY}/{PREFIX}{name}",
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            )
        except OSError:
            continue
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
                continue
            head = os.read(fd, _HEADER.size)
        except OSError:
            continue
        finally:
            os.close(fd)
        if len(head) == _HEADER.size and _HEADER.unpack(head)[-1] == arena_id:
            return name
    return None


def _attach(arena_id: bytes, source: bytes) -> Arena:
    from uslub._engine import Arena

    if not source:
        name = _name_of(arena_id)
        if name is None:
            raise StaleHandle(
                f"the arena {arena_id.hex()} of this handle is gone: it was unlinked, "
                "and this process has not attached it"
            )
        arena = Arena.attach(name)
    else:
        pid, number = _SOURCE.unpack(source)
        try:
            fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StaleHandle(
                f"the anonymous arena {arena_id.hex()} of this handle is not attached "
                f"here and cannot be had from process {pid} ({error.strerror}): send "
                "the arena before its objects, or give it a name"
            ) from None
        try:
            arena = Arena.attach(fd)
        except Error as error:
            raise StaleHandle(
                f"process {pid} has another file there: {error}"
            ) from None
        finally:
            os.close(fd)
    if bytes.fromhex(arena.id) != arena_id:
        arena.close()
        raise StaleHandle(
            f"expected the arena {arena_id.hex()}, found {arena.id} in its place"
        )
    _kept[arena_id] = arena
    return arena


def find(arena_id: bytes, source: bytes = b"") -> Arena:
    """The arena with this id, attached if need be; StaleHandle if it is gone."""
    if not isinstance(arena_id, bytes) or len(arena_id) != 16:
        raise StaleHandle(f"not the id of an arena: {arena_id!r}")
    if source and len(source) != _SOURCE.size:
        raise StaleHandle(f"not where an arena can be had from: {source!r}")
    arena = _known.get(arena_id) or _kept.get(arena_id)
    if arena is None or arena.closed:
        _kept.pop(arena_id, None)
        arena = _attach(arena_id, source)
    _known[arena_id] = arena
    return arena


# -- what pickle asks for, and what it calls on arrival ----------------------------


def _of(wire: bytes) -> Arena:
    if not isinstance(wire, bytes) or len(wire) not in (
        _NAMED,
        _NAMED + _SOURCE.size,
    ):
        raise StaleHandle(f"not a handle of an object: {wire!r}")
    return find(wire[_ID], wire[_NAMED:])


def o(wire: bytes) -> Object:
    """The object that a handle means; the short name keeps handles short."""
    return _of(wire)._receive(wire)


def deep_copy(obj: Object, memo: dict[int, Any]) -> Object:
    """Other memory with the same contents, of the same cache."""
    buffer = obj.cache is None or obj.cache.name.startswith(_KMALLOC)
    copy = obj.arena.kmalloc(obj.nbytes) if buffer else obj.cache.alloc()  # type: ignore[union-attr]
    with memoryview(obj) as source, memoryview(copy) as target:
        target[:] = source
    memo[id(obj)] = copy
    return copy


def reduce_object(obj: Object, wire: bytes) -> Reduced:
    _known[wire[_ID]] = obj.arena
    return o, (wire,)


def channel(wire: bytes) -> Channel:
    from uslub.channel import Channel

    return Channel._open(_of(wire), wire)


def reduce_channel(ch: Channel) -> Reduced:
    wire = ch._send_handle()
    _known[wire[_ID]] = ch.arena
    return channel, (wire,)


def cache(source: bytes, name: str) -> Cache:
    return find(source[_ID], source[16:]).cache(name)


def reduce_cache(self: Cache) -> Reduced:
    return cache, (_source(self.arena), self.name)


def arena(source: bytes) -> Arena:
    return find(source[_ID], source[16:])


def arena_from_fd(duplicate: Any, arena_id: bytes) -> Arena:
    """An anonymous arena, from the descriptor that multiprocessing passed on."""
    found = _known.get(arena_id) or _kept.get(arena_id)
    fd = duplicate.detach()
    try:
        if found is not None and not found.closed:
            return found
        from uslub._engine import Arena

        made = _kept[arena_id] = _known[arena_id] = Arena.attach(fd)
        return made
    finally:
        os.close(fd)


def reduce_arena(self: Arena) -> Reduced:
    source = _source(self)
    if self.name is None:
        from multiprocessing.context import get_spawning_popen
        from multiprocessing.reduction import DupFd

        if get_spawning_popen() is not None:
            return arena_from_fd, (DupFd(self.fileno()), source[_ID])
    return arena, (source,)
