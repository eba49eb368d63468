"""The compact file: a Parquet table of rows, and what is known beside them.

One event takes about a byte: columns repeat, times are stored as steps and objects by
their age, each column is compressed by itself (zstd). Row groups of CHUNK_ROWS rows
stand alone, so reading can begin anywhere and holds one group at a time. Any Parquet
reader opens the file; docs/reference/trace-format.md says what the columns mean.

Writing makes a new file beside the target and renames it, so that there is never half
a trace under a good name.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uslub.lab.trace.batch import Array
from uslub.lab.trace.errors import NotATrace, TraceError, TraceTruncated
from uslub.lab.trace.header import (
    Checkpoint,
    Header,
    checkpoint_from_plain,
    checkpoint_to_plain,
    header_from_plain,
    header_to_plain,
)
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.rows import COLUMNS, Rows

FORMAT = 1
CHUNK_ROWS = 1 << 16
#: Compression: 9 writes a million rows in a quarter of a second, 15 saves another 15 %.
LEVEL = 9
LEVEL_BEST = 19

#: Columns on disk; `step` and `age` stand for `time` and `object`.
DISK = {
    "step": pa.int64(),
    "kind": pa.uint8(),
    "cpu": pa.uint16(),
    "cache": pa.int32(),
    "age": pa.int64(),
    "requested": pa.int32(),
    "allocated": pa.int32(),
    "node": pa.int16(),
    "site": pa.int32(),
    "pid": pa.int32(),
    "flags": pa.uint32(),
    "pointer": pa.int64(),
}
#: Numbers whose upper bytes are mostly zero compress better byte by byte.
SPLIT = ("step", "age", "pointer")
SCHEMA = pa.schema(list(DISK.items()))
#: Rows that start an object; its age is counted from there.
STARTS = (Kind.ALLOC, Kind.LARGE_ALLOC, Kind.FREE_UNKNOWN)
ENDS = (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a trace in columns; see docs/design/06-lab.md."""

    start: int  # row of the trace that is the first here
    time: Array
    kind: Array
    cpu: Array
    cache: Array
    object: Array
    pointer: Array
    requested: Array
    allocated: Array
    node: Array
    site: Array
    pid: Array
    flags: Array

    def __len__(self) -> int:
        return len(self.time)

    def to_frame(self) -> Any:
        """The rows as a pandas data frame; pandas must be installed."""
        import pandas

        return pandas.DataFrame({name: getattr(self, name) for name in COLUMNS})

    def part(self, start: int, stop: int) -> Chunk:
        """Rows start to stop of this chunk, counted from its own first."""
        cut = {name: getattr(self, name)[start:stop] for name in COLUMNS}
        return replace(self, start=self.start + start, **cut)


def packed(value: Any) -> str:
    """JSON, compressed, as text that every Parquet reader bears."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(_pack(data)).decode()


def unpacked(text: bytes) -> Any:
    """The inverse of `packed`."""
    return json.loads(_unpack(base64.b64decode(text)))


def _pack(data: bytes) -> bytes:
    body: bytes = pa.Codec("zstd", 19).compress(data, asbytes=True)
    return len(data).to_bytes(8, "little") + body


def _unpack(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    return bytes(pa.Codec("zstd").decompress(data[8:], size, asbytes=True))


class Writer:
    """Writes a compact file row group by row group.

    Use as a context manager: left with an exception, it leaves no file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        time_unit_ns: int = 1000,
        pointers: bool = True,
        level: int = LEVEL,
    ) -> None:
        self.path = Path(path)
        self.unit, self.pointers = time_unit_ns, pointers
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self._file: Any = open(self._partial, "wb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise TraceError(
                f"{self.path}: {error.strerror}; expected a folder that can be written"
            ) from None
        encoding = {
            name: "BYTE_STREAM_SPLIT" if name in SPLIT else "PLAIN" for name in DISK
        }
        self._writer: Any = pq.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            compression_level=level,
            use_dictionary=False,
            column_encoding=encoding,
            write_statistics=False,
            store_schema=False,
        )
        self._held: list[dict[str, Array]] = []
        self._rows = 0
        self._index: list[list[int]] = []  # row, time in units, objects before it
        self.objects = 0
        self.events = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            self._writer.close()
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def add(self, rows: Rows) -> None:
        """Append rows; objects must be numbered in order of their first row."""
        self._held.append(rows.columns)
        self._rows += len(rows)
        if self._rows >= CHUNK_ROWS:
            self._flush(whole=False)

    def finish(
        self, header: Header, checkpoints: list[Checkpoint], **tables: Any
    ) -> None:
        """Write the rest and what is known beside the rows; the file is complete.

        Args:
            header: Its counts of rows and the like are taken as they are.
            checkpoints: In order of time.
            tables: JSON values, kept under their names.
        """
        self._flush(whole=True)
        plain = header_to_plain(header)
        sites, caches = plain.pop("sites"), plain.pop("caches")
        values = {
            "uslub.format": str(FORMAT),
            "uslub.header": json.dumps(plain),
            "uslub.caches": packed(caches),
            "uslub.sites": packed(sites),
            "uslub.checkpoints": packed([checkpoint_to_plain(c) for c in checkpoints]),
            "uslub.index": packed(self._index),
            **{f"uslub.{name}": packed(value) for name, value in tables.items()},
        }
        self._writer.add_key_value_metadata(values)
        self._writer.close()
        self._file.close()
        os.replace(self._partial, self.path)

    def _flush(self, *, whole: bool) -> None:
        if not self._held:
            return
        columns = {
            name: np.concatenate([held[name] for held in self._held])
            for name in COLUMNS
        }
        total = len(columns["time"])
        cut = total if whole else total // CHUNK_ROWS * CHUNK_ROWS
        for start in range(0, cut, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, cut)
            self._group({name: each[start:stop] for name, each in columns.items()})
        self._held = [{name: each[cut:] for name, each in columns.items()}]
        self._rows = total - cut

    def _group(self, columns: dict[str, Array]) -> None:
        time = columns["time"] // self.unit
        self._index.append([self.events, int(time[0]), self.objects])
        kind, objects = columns["kind"], columns["object"]
        starts = np.isin(kind, STARTS)
        before = self.objects + np.cumsum(starts)
        started = before[-1] - self.objects if len(before) else 0
        wrong = objects[starts] != self.objects + np.arange(started)
        if wrong.any():
            raise TraceError("objects are not numbered in order of their first row")
        pointer = columns["pointer"].astype(np.int64)
        keeps = np.isin(kind, (Kind.PAGE_ALLOC, Kind.PAGE_FREE))
        if self.pointers:
            keeps |= starts
        disk = dict(columns)
        disk["step"] = np.diff(time, prepend=time[0])
        age = np.where(np.isin(kind, ENDS), before - objects, 0)
        disk["age"] = np.where(kind == Kind.CHECKPOINT, objects, age)
        disk["pointer"] = np.where(keeps, pointer, 0)
        self._writer.write_table(
            pa.table(
                [pa.array(disk[n].astype(str(t))) for n, t in DISK.items()],
                schema=SCHEMA,
            )
        )
        self.objects = int(before[-1])
        self.events += len(time)


class Trace:
    """A trace in the compact form, opened for reading.

    Attributes:
        path: The compact file.
        header: Kernel, caches, counts and oddities.

    Can be pickled: another process opens the file by its path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _parquet(self.path)
        metadata = self._file.metadata.metadata or {}
        self._values: dict[str, bytes] = {
            name.decode(): value
            for name, value in metadata.items()
            if name.startswith(b"uslub.")
        }
        _check_format(self.path, self._values)
        try:
            plain = json.loads(self._values["uslub.header"])
            plain["caches"] = unpacked(self._values["uslub.caches"])
            plain["sites"] = unpacked(self._values["uslub.sites"])
            self.header: Header = header_from_plain(plain)
            self._index: list[list[int]] = unpacked(self._values["uslub.index"])
            self._values["uslub.checkpoints"]  # there, at least
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise self._unreadable(error) from None

    @cached_property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The kernel's own counters, where the trace carries them; read when asked for.

        Raises:
            TraceError: They cannot be read.
        """
        try:
            saved = unpacked(self._values["uslub.checkpoints"])
            return tuple(checkpoint_from_plain(each) for each in saved)
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> TraceError:
        return TraceError(
            f"{self.path}: its description cannot be read ({type(error).__name__}:"
            f" {error}); convert the trace again"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Trace, (str(self.path),)

    def __repr__(self) -> str:
        return f"Trace({str(self.path)!r}, {self.header.events} rows)"

    def __len__(self) -> int:
        return self.header.events

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def table(self, name: str) -> Any:
        """What was kept under `name` beside the rows; None where nothing was."""
        value = self._values.get(f"uslub.{name}")
        return None if value is None else unpacked(value)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Chunk]:
        """Rows `start` to `stop` in order, at most CHUNK_ROWS at a time.

        Only the row groups that hold these rows are read.

        Raises:
            TraceTruncated: The file ends before its rows do, or is damaged.
        """
        stop = self.header.events if stop is None else min(stop, self.header.events)
        firsts = [row for row, _, _ in self._index] + [self.header.events]
        for group, (first, after) in enumerate(pairwise(firsts)):
            if first >= stop or after <= start:
                continue
            chunk = self._group(group)
            low, high = max(start - first, 0), min(stop - first, len(chunk))
            yield chunk if high - low == len(chunk) else chunk.part(low, high)

    def row_at(self, time: int) -> int:
        """The first row at or after `time` (ns)."""
        unit = self.header.time_unit_ns
        times = [first * unit for _, first, _ in self._index]
        group = max(int(np.searchsorted(times, time)) - 1, 0)
        for chunk in self.chunks(self._index[group][0] if self._index else 0):
            if len(chunk) and chunk.time[-1] >= time:
                return chunk.start + int(np.searchsorted(chunk.time, time))
        return self.header.events

    def groups(self, names: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Some columns as they are on disk, a row group at a time.

        For sums over whole traces: what is not read costs nothing.

        Args:
            names: Of DISK.

        Yields:
            Time of the first row, in units of the header; objects begun before it;
            the columns.

        Raises:
            TraceTruncated: The file ends before its rows do, or is damaged.
        """
        for group, (_, time, objects) in enumerate(self._index):
            yield time, objects, self._disk(group, names)

    def _disk(self, group: int, names: Sequence[str]) -> dict[str, Any]:
        try:
            table = self._file.read_row_group(group, list(names), use_threads=False)
            return {name: plain(table.column(name)) for name in names}
        except (OSError, pa.ArrowException) as error:
            row = self._index[group][0]
            raise TraceTruncated(
                f"{self.path}: row {row} and what follows cannot be read ({error});"
                " the file is damaged: copy or convert it again"
            ) from None

    def _group(self, group: int) -> Chunk:
        first, time, objects = self._index[group]
        column = self._disk(group, tuple(DISK))
        kind, age = column["kind"], column["age"]
        before = objects + np.cumsum(np.isin(kind, STARTS))
        number = np.where(np.isin(kind, ENDS), before - age, -1)
        number = np.where(np.isin(kind, STARTS), before - 1, number)
        number = np.where(kind == Kind.CHECKPOINT, age, number)
        steps = (time + np.cumsum(column["step"])) * self.header.time_unit_ns
        made = {"time": steps, "object": number}
        columns = {
            name: np.asarray(made.get(name, column.get(name)), kind_of)
            for name, kind_of in COLUMNS.items()
        }
        return Chunk(first, **columns)


def plain(column: Any) -> Array:
    """The numbers of a column of pyarrow as they lie in memory.

    Its own to_numpy() would import pandas where that is installed, which takes longer
    than to read a million rows.

    Raises:
        pyarrow.ArrowInvalid: Some are missing.
    """
    if column.null_count:
        raise pa.ArrowInvalid(f"{column.null_count} values are missing")
    kind = np.dtype(str(column.type))
    parts = [
        np.frombuffer(each.buffers()[1], kind, len(each), each.offset * kind.itemsize)
        for each in column.chunks
        if len(each)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, kind), *parts])


def _parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file; expected a trace") from None
    except (OSError, pa.ArrowException) as error:
        text = str(error).split("\n")[0]
        raise TraceTruncated(
            f"{path}: not a whole compact trace ({text}); copy or convert it again"
        ) from None


def _check_format(path: Path, values: dict[str, bytes]) -> None:
    found = values.get("uslub.format")
    if found is None:
        raise NotATrace(
            f"{path}: a Parquet file, but no trace of uslub; expected the output of"
            " `uslub trace convert` or `uslub record`"
        )
    if found != str(FORMAT).encode():
        raise TraceError(
            f"{path}: trace format {found.decode(errors='replace')}, this version reads"
            f" {FORMAT}; convert the trace again, or use the uslub that wrote it"
        )
