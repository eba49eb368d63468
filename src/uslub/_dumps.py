"""`arena.dumps()` and `uslub.loads()`: whole Python objects in one block of an arena.

A block is one Object of the arena. Its bytes, little endian:

    0    header: magic, version, buffers, bytes of the pickle, bytes in all,
         CRC-32 of the pickle, CRC-32 of header and table
    40   table: offset and length of each buffer
    ...  the pickle (protocol 5)
    ...  the buffers, each at a multiple of 64 bytes

What can hand its memory over (NumPy arrays, Arrow tables, pandas frames: everything
that speaks `pickle.PickleBuffer`) is copied into the block once, here, and is looked at
in place by everybody who loads it.

A block may come from a stranger, so nothing in it is believed: `loads()` copies header,
table and pickle out, checks magic, counts, bounds and both checksums of these copies,
and unpickles only then. The checksums find damage, not malice: unpickling runs code, so
load what you would also give to `pickle.loads()`. Nothing but `loads()` ever unpickles.

The result refers to the block through memoryviews of its Object; the block therefore
lives as long as any part of the result that looks into it.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
import zlib
from collections import ChainMap
from typing import TYPE_CHECKING, Any, NamedTuple

from uslub.errors import BadArgument, CorruptArena

if TYPE_CHECKING:
    from uslub._engine import Arena, Object

MAGIC = b"uslubPY5"
VERSION = 1
ALIGN = 64  #: of every buffer: a cache line, and the widest vector registers
HEADER = struct.Struct("<8sIIQQII")
CHECKED = struct.Struct("<8sIIQQI")  #: the header without its own checksum
ENTRY = struct.Struct("<QQ")


class _Header(NamedTuple):
    magic: bytes
    version: int
    buffers: int
    pickle_bytes: int
    total_bytes: int
    pickle_crc: int
    header_crc: int


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


# -- writing -----------------------------------------------------------------------


def _reduce_array(array: Any) -> Any:
    """Pickles an array with its elements out of band, if they mean anything elsewhere.

    NumPy itself leaves dates, times and arrays with gaps inside the pickle.
    """
    plain = array.view(sys.modules["numpy"].ndarray)
    if plain.dtype.hasobject or plain.dtype.kind == "T" or plain.size == 0:
        return plain.__reduce_ex__(5)
    if not (plain.flags.c_contiguous or plain.flags.f_contiguous):
        plain = plain.copy()
    try:
        memoryview(plain).release()
    except (ValueError, BufferError):  # a dtype that the buffer protocol cannot name
        order = "C" if plain.flags.c_contiguous else "F"
        raw = plain.ravel(order="K").view("u1")
        return _restored_array, (raw, plain.dtype, plain.shape, order)
    return plain.__reduce_ex__(5)


def _restored_array(raw: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    return raw.view(dtype).reshape(shape, order=order)


def _reducers() -> Any:
    """How a block differs from other pickles: what `_reduce_array` is asked for.

    Arrays of an arena too. Elsewhere they pickle as handles, which die with the last
    holder; a block stands for itself, so it takes a copy, as of any other array.
    """
    numpy, shared = sys.modules.get("numpy"), sys.modules.get("uslub._shared_array")
    kinds = [getattr(numpy, "ndarray", None), getattr(shared, "SharedArray", None)]
    special = {kind: _reduce_array for kind in kinds if kind is not None}
    return ChainMap(special, copyreg.dispatch_table)


def _pickled(x: object, protocol: int) -> tuple[memoryview, list[memoryview]]:
    """The pickle of `x`, and the buffers that it leaves out."""
    found: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol, buffer_callback=found.append)
    pickler.dispatch_table = _reducers()
    pickler.dump(x)
    return stream.getbuffer(), [buffer.raw() for buffer in found]


def dumps(arena: Arena, x: object, *, protocol: int = 5) -> Object:
    """See `Arena.dumps` in _engine.pyi."""
    if not isinstance(protocol, int):
        raise TypeError(f"protocol must be an int, not {type(protocol).__name__}")
    if not 5 <= protocol <= pickle.HIGHEST_PROTOCOL:
        raise BadArgument(
            f"protocol is {protocol}: arena.dumps() keeps large buffers outside the"
            f" pickle, which needs 5 (this Python goes up to {pickle.HIGHEST_PROTOCOL})"
        )
    stream, buffers = _pickled(x, protocol)
    start = HEADER.size + ENTRY.size * len(buffers)
    end = start + stream.nbytes
    table = bytearray()
    places: list[int] = []
    for buffer in buffers:
        places.append(_aligned(end))
        table += ENTRY.pack(places[-1], buffer.nbytes)
        end = places[-1] + buffer.nbytes
    checked = CHECKED.pack(
        MAGIC, VERSION, len(buffers), stream.nbytes, end, zlib.crc32(stream)
    )
    header_crc = zlib.crc32(table, zlib.crc32(checked))
    block = arena.kmalloc(end)
    with memoryview(block) as view:
        view[: HEADER.size] = checked + struct.pack("<I", header_crc)
        view[HEADER.size : start] = table
        view[start : start + stream.nbytes] = stream
        for place, buffer in zip(places, buffers, strict=True):
            view[place : place + buffer.nbytes] = buffer
    return block


# -- reading -----------------------------------------------------------------------


def _read_header(block: Object, view: memoryview) -> tuple[_Header, bytes]:
    """Header and table, or an error; what is returned no longer changes."""
    if view.nbytes < HEADER.size or bytes(view[: len(MAGIC)]) != MAGIC:
        raise BadArgument(
            f"{block!r} does not begin as arena.dumps() would have written it; pass"
            " the Object that dumps() returned, or np.frombuffer() for plain bytes"
        )
    raw = bytes(view[: HEADER.size])
    header = _Header(*HEADER.unpack(raw))
    if header.version != VERSION:
        raise CorruptArena(
            f"{block!r} is a block of version {header.version}, this uslub reads"
            f" {VERSION}; load it with the uslub that wrote it"
        )
    room = view.nbytes - HEADER.size
    if header.total_bytes > view.nbytes:
        raise _damaged(block, f"it says that it is {header.total_bytes} bytes long")
    if header.buffers * ENTRY.size > room:
        raise _damaged(block, f"its {header.buffers} buffers have no room for a table")
    if header.buffers * ENTRY.size + header.pickle_bytes > room:
        raise _damaged(block, f"its pickle of {header.pickle_bytes} bytes has no room")
    table = bytes(view[HEADER.size : HEADER.size + ENTRY.size * header.buffers])
    if zlib.crc32(table, zlib.crc32(raw[: CHECKED.size])) != header.header_crc:
        raise _damaged(block, "the checksum of its header is wrong")
    return header, table


def _damaged(block: Object, what: str) -> CorruptArena:
    return CorruptArena(
        f"{block!r} is damaged: {what}; nothing was unpickled; ask its sender again"
    )


def _cut(
    block: Object, header: _Header, table: bytes, view: memoryview
) -> list[memoryview]:
    """The buffers of a block whose places are sound, else an error."""
    end = HEADER.size + len(table) + header.pickle_bytes
    found = []
    for number, (offset, nbytes) in enumerate(ENTRY.iter_unpack(table)):
        if offset % ALIGN or offset < end or offset + nbytes > header.total_bytes:
            raise _damaged(
                block, f"buffer {number} claims bytes {offset} to {offset + nbytes}"
            )
        end = offset + nbytes
        found.append(view[offset:end])
    return found


def loads(obj: Object, *, writable: bool = False) -> Any:
    """What `arena.dumps()` put into `obj`, with every large buffer still there.

    NumPy arrays, pandas frames and Arrow tables come back as views into the block:
    nothing is copied but the pickle around them. The block lives as long as a view.

    Args:
        obj: The Object that `dumps()` returned, here or in another process.
        writable: Arrays may be written to. Then everybody who loads the block sees
            it, and nobody orders the writes; by default arrays are read-only. What was
            read-only when it was dumped (bytes, Arrow buffers) stays so.

    Raises:
        BadArgument: Not a block that `dumps()` wrote.
        CorruptArena: Damaged, cut short, or of another version. Nothing was unpickled.
        ObjectFreed: `obj` has no memory any more.
        TypeError: `obj` is no `uslub.Object`.

    Unpickling runs code that the pickle names: load only what comes from people
    whom you would let run code in this process.
    """
    _require_object(obj)
    view = memoryview(obj)
    header, table = _read_header(obj, view)
    buffers = _cut(obj, header, table, view if writable else view.toreadonly())
    start = HEADER.size + len(table)
    pickled = bytes(view[start : start + header.pickle_bytes])
    if zlib.crc32(pickled) != header.pickle_crc:
        raise _damaged(obj, "the checksum of its pickle is wrong")
    return pickle.loads(pickled, buffers=buffers)


def _require_object(obj: object) -> None:
    from uslub._engine import Object

    if not isinstance(obj, Object):
        kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
        raise TypeError(
            "uslub.loads() takes the Object of arena.dumps(), not"
            f" {kind.removeprefix('builtins.')}"
        )
