"""A trace of the lab as a perf.data file: so that perf can be asked about its events.

Here: `write(chunks, path)`, and what a perf.data needs for `perf kmem`: a header, the
formats of four tracepoints, one sample per event in the form that `perf kmem record`
asks the kernel for (IDENTIFIER, IP, TID, TIME, CPU, PERIOD, RAW). Layout: Linux,
tools/perf/Documentation/perf.data-file-format.txt. Relies on NumPy only.

Objects get addresses as an allocator would give them, the last one freed first: compact
traces need not hold pointers, and perf keeps one record per address it has seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

EVENTS = ("kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free")
FIRST_ID = 900  # of a tracepoint; its sample id is the same number
PERF_TYPE_TRACEPOINT = 2
SAMPLE_TYPE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 16
RECORD_SAMPLE, RECORD_FINISHED_ROUND = 9, 68
HEADER_TRACING_DATA = 1
ATTR_BYTES = 128
KERNEL_TEXT = np.uint64(0xFFFFFFFF81000000)

COMMON = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;
\tfield:const void * ptr;\toffset:16;\tsize:8;\tsigned:0;
"""
ALLOC = """\
\tfield:size_t bytes_req;\toffset:24;\tsize:8;\tsigned:0;
\tfield:size_t bytes_alloc;\toffset:32;\tsize:8;\tsigned:0;
\tfield:unsigned long gfp_flags;\toffset:40;\tsize:8;\tsigned:0;
\tfield:int node;\toffset:48;\tsize:4;\tsigned:1;
"""
RING_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
SAMPLE = [
    ("type", "<u4"),
    ("misc", "<u2"),
    ("size", "<u2"),
    ("id", "<u8"),
    ("ip", "<u8"),
    ("pid", "<u4"),
    ("tid", "<u4"),
    ("time", "<u8"),
    ("cpu", "<u4"),
    ("reserved", "<u4"),
    ("period", "<u8"),
    ("raw_size", "<u4"),  # with the raw part a multiple of 8
    ("common_type", "<u2"),
    ("common_flags", "<u2"),
    ("common_pid", "<i4"),
    ("call_site", "<u8"),
    ("ptr", "<u8"),
]
FREE_SAMPLE = np.dtype([*SAMPLE, ("pad", "<u4")])
ALLOC_SAMPLE = np.dtype(
    [
        *SAMPLE,
        ("bytes_req", "<u8"),
        ("bytes_alloc", "<u8"),
        ("gfp_flags", "<u8"),
        ("node", "<i4"),
    ]
)


class Addresses:
    """Gives every object an address; one that is free again is used first."""

    def __init__(self) -> None:
        self.live: dict[int, tuple[int, int]] = {}  # object: address, size
        self.free: dict[int, list[int]] = {}  # size: addresses
        self.end = 0xFFFF888000000000

    def take(self, thing: int, size: int) -> int:
        """For a new object of `size` bytes."""
        pool = self.free.get(size)
        if pool:
            address = pool.pop()
        else:
            address = self.end
            self.end += max(size, 8)
        self.live[thing] = address, size
        return address

    def give(self, thing: int) -> int:
        """Of an object that is freed; of one never seen, an address nobody had."""
        address, size = self.live.pop(thing, (0, 0))
        if not address:
            return 0xFFFFC90000000000 + (thing << 3)
        self.free.setdefault(size, []).append(address)
        return address


def samples(chunk: Any, addresses: Addresses) -> tuple[bytes, int]:
    """The samples of one chunk of a trace, in its order, and their number.

    Frees that no tracepoint showed, pages and checkpoints are left out.
    """
    kind = np.asarray(chunk.kind)
    alloc, large_alloc = kind == 0, kind == 4
    allocates = alloc | large_alloc
    frees = (kind == 1) | (kind == 2) | (kind == 5)
    silent = kind == 3
    pointers = np.zeros(len(kind), dtype="<u8")
    sizes = np.asarray(chunk.allocated).tolist()
    things = np.asarray(chunk.object).tolist()
    take, give = addresses.take, addresses.give
    for row in np.flatnonzero(allocates | frees | silent).tolist():
        if allocates[row]:
            pointers[row] = take(things[row], sizes[row])
        else:
            pointers[row] = give(things[row])
    plain = np.asarray(chunk.cache) < 0
    event = np.where(allocates, 0, 1) + np.where(
        plain | large_alloc | (kind == 5), 0, 2
    )
    made = fill(ALLOC_SAMPLE, chunk, allocates, event, pointers)
    freed = fill(FREE_SAMPLE, chunk, frees, event, pointers)
    made["bytes_req"] = chunk.requested[allocates]
    made["bytes_alloc"] = chunk.allocated[allocates]
    made["node"] = chunk.node[allocates]
    return woven(made, freed, allocates, frees), len(made) + len(freed)


def fill(dtype: Any, chunk: Any, rows: Any, event: Any, pointers: Any) -> Any:
    """The fields that both kinds of samples have."""
    out = np.zeros(int(rows.sum()), dtype=dtype)
    out["type"], out["size"], out["period"] = RECORD_SAMPLE, dtype.itemsize, 1
    out["misc"] = 1  # kernel
    out["raw_size"] = dtype.itemsize - dtype.fields["common_type"][1]
    out["id"] = out["common_type"] = FIRST_ID + event[rows]
    out["ip"] = KERNEL_TEXT
    out["time"], out["cpu"] = chunk.time[rows], chunk.cpu[rows]
    pid = np.maximum(chunk.pid[rows], 0)
    out["pid"] = out["tid"] = out["common_pid"] = pid
    out["call_site"] = KERNEL_TEXT + 16 * (chunk.site[rows] + 1).astype(np.uint64)
    out["ptr"] = pointers[rows]
    return out


def woven(made: Any, freed: Any, allocates: Any, frees: Any) -> bytes:
    """Two kinds of records, of two sizes, in the order of the rows."""
    width = np.where(allocates, ALLOC_SAMPLE.itemsize, 0)
    width = width + np.where(frees, FREE_SAMPLE.itemsize, 0)
    start = np.concatenate([[0], np.cumsum(width)])
    out = np.zeros(int(start[-1]), dtype=np.uint8)
    for records, rows in ((made, allocates), (freed, frees)):
        size = records.dtype.itemsize
        places = start[:-1][rows][:, None] + np.arange(size)
        out[places] = records.view(np.uint8).reshape(len(records), size)
    return out.tobytes()


def tracing_data() -> bytes:
    """The formats of the events, as `perf record` copies them from tracefs."""
    parts = [b"\x17\x08\x44tracing0.6\0", bytes([0, 8]), struct.pack("<I", 4096)]
    parts += [b"header_page\0", struct.pack("<Q", len(RING_PAGE)), RING_PAGE.encode()]
    parts += [b"header_event\0", struct.pack("<Q", 0)]
    parts.append(struct.pack("<I", 0))  # formats of ftrace's own events
    parts += [struct.pack("<I", 1), b"kmem\0", struct.pack("<I", len(EVENTS))]
    for index, name in enumerate(EVENTS):
        fields = COMMON + (ALLOC if name.endswith("alloc") else "")
        said = '"call_site=%lx ptr=%p", REC->call_site, REC->ptr'
        text = f"name: {name}\nID: {FIRST_ID + index}\nformat:\n{fields}\n"
        text += f"print fmt: {said}\n"
        parts += [struct.pack("<Q", len(text)), text.encode()]
    parts += [struct.pack("<I", 0), struct.pack("<I", 0), struct.pack("<Q", 0)]
    return b"".join(parts)


def attributes(ids_at: int) -> bytes:
    """One perf_event_attr for each event, and where its sample ids stand."""
    out = b""
    for index in range(len(EVENTS)):
        flags = 1 | 1 << 18  # disabled, sample_id_all
        attr = struct.pack(
            "<IIQQQQQ",
            PERF_TYPE_TRACEPOINT,
            ATTR_BYTES,
            FIRST_ID + index,
            1,
            SAMPLE_TYPE,
            1 << 2,
            flags,
        )
        out += attr.ljust(ATTR_BYTES, b"\0") + struct.pack("<QQ", ids_at + 8 * index, 8)
    return out


def write(chunks: Iterable[Any], path: Path) -> int:
    """Write a trace's allocations and frees as perf.data.

    Args:
        chunks: Of a trace of the lab, in time order.
        path: The file; written over.

    Returns:
        The number of samples.
    """
    header_bytes, count = 104, len(EVENTS)
    ids_at = header_bytes
    attrs_at = ids_at + 8 * count
    attrs_bytes = count * (ATTR_BYTES + 16)
    data_at = attrs_at + attrs_bytes
    addresses, written = Addresses(), 0
    with path.open("wb") as file:
        file.write(b"\0" * header_bytes)
        file.write(struct.pack(f"<{count}Q", *range(FIRST_ID, FIRST_ID + count)))
        file.write(attributes(ids_at))
        for chunk in chunks:
            data, number = samples(chunk, addresses)
            file.write(data + struct.pack("<IHH", RECORD_FINISHED_ROUND, 0, 8))
            written += number
        data_end = file.tell()
        formats = tracing_data()
        file.write(struct.pack("<QQ", data_end + 16, len(formats)) + formats)
        file.seek(0)
        file.write(struct.pack("<8sQQ", b"PERFILE2", header_bytes, ATTR_BYTES + 16))
        file.write(struct.pack("<QQ", attrs_at, attrs_bytes))
        file.write(struct.pack("<QQQQ", data_at, data_end - data_at, 0, 0))
        file.write(struct.pack("<4Q", 1 << HEADER_TRACING_DATA, 0, 0, 0))
    return written
