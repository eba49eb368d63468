"""Trace text to columns: ftrace's `trace` file, `perf script`, `trace-cmd report`.

All three print one event a line and differ in the columns before the event:

    bash-24029  [000] .....  938.122994: kmalloc: call_site=f+0x5/0x9 ptr=ffff88.. ..
    bash 24029  [000]        938.122994:  kmem:kmalloc: call_site=f+0x5 ptr=0xffff88..
    |------- head --------|  |- time -| |------ event ----------| |- pointer -| rest

Only the time and the pointer differ from line to line; head, event and rest repeat. So
a block of bytes is cut at these places with NumPy, equal pieces are found by pyarrow's
`dictionary_encode`, and Python looks at each different piece once.

Design: docs/design/06-lab.md, "Trace".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa

from uslub.lab.trace import kinds
from uslub.lab.trace.batch import MARK, PAGE_ALLOC, Array, Batch, Names, Origin, empty
from uslub.lab.trace.errors import NotATrace, TraceTruncated
from uslub.lab.trace.probes import is_bulk_free, with_bulk_frees
from uslub.lab.trace.vocabulary import (
    EVENTS,
    Values,
    require,
    site_name,
    split_fields,
    values_of,
)

BLOCK_BYTES = 8 << 20
#: A line that is longer is no trace line.
LINE_BYTES_MAX = 1 << 16
#: Lines that are no events, per thousand, before we say that this is no trace.
ODD_LINES_PER_MILLE_MAX = 10

HEAD = re.compile(
    r"^(?:(?P<comm>.*?)(?:-|\s+)(?:\d+/)?(?P<pid>\d+)\s+(?:\(\s*[-\d]+\)\s+)?)"
    r"\[(?P<cpu>\d+)\](?:\s+(?P<context>\S+))?\s*$"
)
LOST = re.compile(r"CPU:?\s*(\d+)\s+\[LOST (\d+) EVENTS\]|LOST (\d+) EVENTS")
#: What stands before the text of a mark: the event, and for `print` who wrote it.
MARKED = re.compile(r"^\s*(?:tracing_mark_write:|(?:ftrace:)?b?print:\s*\S+:)\s*")
WRITTEN = re.compile(r"entries-in-buffer/entries-written:\s*(\d+)/(\d+)\s+#P:(\d+)")

NIBBLE = np.full(256, 255, np.uint8)
NIBBLE[ord("0") : ord("9") + 1] = np.arange(10)
NIBBLE[ord("a") : ord("f") + 1] = np.arange(10, 16)
NIBBLE[ord("A") : ord("F") + 1] = np.arange(10, 16)

#: Counted where the kernel hid an address before it could hash it.
HIDDEN = "pointers printed as ptrval"
PTR = int.from_bytes(b"ptr=", "little")
PFN = int.from_bytes(b"pfn=", "little")


class Pieces:
    """Repeating strings, each parsed once; what it means is kept in arrays."""

    def __init__(self, **columns: Any) -> None:
        self.codes: dict[bytes, int] = {}
        self.tables: dict[str, list[int]] = {name: [] for name in columns}
        self.types = columns

    def add(self, text: bytes, **values: int) -> int:
        """Remember what `text` means."""
        code = self.codes[text] = len(self.codes)
        for name, table in self.tables.items():
            table.append(values[name])
        return code

    def columns(self, codes: Array) -> dict[str, Array]:
        """The meaning of each of `codes`, one array per column."""
        return {
            name: np.array(table, self.types[name])[codes]
            for name, table in self.tables.items()
        }


def blocks(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time.

    Raises:
        NotATrace: A line without an end.
        TraceTruncated: The last line has no newline.
    """
    rest = b""
    while more := stream.read(BLOCK_BYTES):
        cut = more.rfind(b"\n") + 1
        if not cut:
            rest += more
            if len(rest) > 2 * BLOCK_BYTES:
                raise NotATrace(
                    f"{path}: no line ends within {len(rest)} bytes; expected trace"
                    " text, one event a line"
                )
            continue
        yield rest + more[:cut] if rest else more[:cut]
        rest = more[cut:]
    if rest.strip():
        raise TraceTruncated(
            f"{path}: the last line has no end"
            f" ({rest[-40:].decode(errors='replace')!r});"
            " the file was cut short: copy or record it again"
        )


def read_text(
    stream: IO[bytes], path: str, names: Names, sites: Names, origin: Origin
) -> Iterator[Batch]:
    """Batches of raw rows, in the order of the lines.

    Raises:
        NotATrace: Too many lines that are no events.
        TraceTruncated: The last line has no end.
        UnknownFields: An event without the fields we need.
    """
    reader = Reader(path, names, sites, origin)
    for block in blocks(stream, path):
        batch = reader.batch(block)
        if batch is not None and len(batch):
            yield batch
    reader.finish()


class Reader:
    """Turns blocks of lines into batches; keeps what repeats."""

    def __init__(self, path: str, names: Names, sites: Names, origin: Origin) -> None:
        self.path, self.names, self.sites, self.origin = path, names, sites, origin
        self.heads = Pieces(pid=np.int32, cpu=np.int32, flags=np.uint32)
        self.events = Pieces(event=np.int16, site=np.int32)
        self.rests = Pieces(
            requested=np.int64,
            allocated=np.int64,
            node=np.int16,
            flags=np.uint32,
            name=np.int32,
            unknown=np.int32,
            blank=np.int32,
            present=np.int32,
        )
        self.presents: list[frozenset[str]] = []
        self.unknown = Names()
        self._foreign = Names()
        self._is_bulk: dict[int, bool] = {}  # by the code of a foreign event
        self.lines = 0
        self.odd = 0
        self.first_odd = ""

    def batch(self, block: bytes) -> Batch | None:
        """The events of a block of whole lines; None where it has none."""
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == 10)
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        self.lines += len(starts)
        colons, seconds, time, lined = self._times(data, starts)
        if len(lined) < len(starts):
            others = np.ones(len(starts), bool)
            others[lined] = False
            self._other_lines(block, starts[others], ends[others])
            starts, ends = starts[lined], ends[lined]
        if not len(starts):
            return None
        return self._cut(block, data, starts, ends, colons, seconds, time)

    # The colon behind the time of each line that has one, where the time starts, the
    # time in ns, and the numbers of those lines.
    def _times(self, data: Array, starts: Array) -> tuple[Array, Array, Array, Array]:
        colons = np.flatnonzero(data == ord(":"))
        colons = colons[(colons > 10) & (colons < len(data) - 1)]
        after = data[colons + 1]
        digit = data[colons - 1] - np.uint8(ord("0")) < 10
        micro = data[colons - 7] == ord(".")
        nano = data[colons - 10] == ord(".")
        colons_ok = digit & (micro | nano) & ((after == 32) | (after == 9))
        colons, nano = colons[colons_ok], nano[colons_ok] & ~micro[colons_ok]
        line = np.searchsorted(starts, colons, "right") - 1
        first = np.ones(len(line), bool)
        first[1:] = line[1:] != line[:-1]
        colons, nano, line = colons[first], nano[first], line[first]
        width = np.where(nano, 9, 6)
        dots = colons - 1 - width
        fraction = np.zeros(len(colons), np.int64)
        for k in range(1, (10 if nano.any() else 7)):
            place = np.minimum(dots + k, colons - 1)
            value = data[place].astype(np.int64) - 48
            fraction = np.where(k <= width, fraction * 10 + value, fraction)
        fraction = np.where(nano, fraction, fraction * 1000)
        whole = np.zeros(len(colons), np.int64)
        seconds = dots.copy()
        active = np.ones(len(colons), bool)
        scale = 1
        for k in range(1, 12):
            value = data[dots - k].astype(np.int64) - 48
            active &= (value >= 0) & (value < 10) & (dots - k >= starts[line])
            if not active.any():
                break
            whole += np.where(active, value * scale, 0)
            seconds -= active
            scale *= 10
        return colons, seconds, whole * 1_000_000_000 + fraction, line

    # Cut each line into head, event, pointer and rest, and look up what repeats.
    def _cut(
        self,
        block: bytes,
        data: Array,
        starts: Array,
        ends: Array,
        colons: Array,
        seconds: Array,
        time: Array,
    ) -> Batch:
        equals = np.flatnonzero(data == ord("="))
        equals = equals[equals >= 3]
        words = np.ndarray((len(data) - 3,), "<u4", block, strides=(1,))[equals - 3]
        first_equal = self._first(equals, colons, ends)
        ptr = self._first(equals[words == PTR], colons, ends)
        pfn = self._first(equals[words == PFN], colons, ends)
        has_ptr, has_pfn = ptr >= 0, pfn >= 0
        valued = np.where(has_ptr, ptr, np.where(has_pfn, pfn, -1))
        plain = valued < 0
        middle_end = np.where(has_ptr, ptr, first_equal)
        if plain.any():
            event_colon = self._first(np.flatnonzero(data == 58), colons + 1, ends)
            middle_end[plain] = np.where(
                event_colon[plain] >= 0, event_colon[plain], ends[plain]
            )
        pointer, rest = self._pointers(data, valued, ends, has_pfn & ~has_ptr)
        bounds = np.empty((len(starts), 6), np.int32)
        for column, place in enumerate(
            (starts, seconds, colons + 1, middle_end, rest, ends)
        ):
            bounds[:, column] = place
        pieces = pa.Array.from_buffers(
            pa.binary(),
            bounds.size - 1,
            [None, pa.py_buffer(bounds.ravel()), pa.py_buffer(block)],
        )
        line = np.arange(len(starts), dtype=np.int64) * 6
        heads = self.heads.columns(self._codes(pieces, line, self.heads, self._head))
        events = self.events.columns(
            self._codes(pieces, line + 2, self.events, self._event)
        )
        code = self._codes(pieces, line + 4, self.rests, self._rest)
        rests = self.rests.columns(code)
        return self._batch(
            block, time, heads, events, rests, pointer, valued, colons, ends
        )

    # The first of sorted `places` behind each of `after` and before each of `ends`.
    @staticmethod
    def _first(places: Array, after: Array, ends: Array) -> Array:
        if not len(places):
            return np.full(len(after), -1, np.int64)
        index = np.searchsorted(places, after, "right")
        found = places[np.minimum(index, len(places) - 1)]
        return np.where((index < len(places)) & (found < ends), found, -1)

    # The number behind each `=`: hexadecimal with or without 0x, or a decimal pfn.
    def _pointers(
        self, data: Array, equals: Array, ends: Array, page: Array
    ) -> tuple[Array, Array]:
        last = len(data) - 1
        start = equals + 1
        prefixed = (data[np.minimum(start, last)] == 48) & (
            data[np.minimum(start + 1, last)] | 32 == ord("x")
        )
        start = np.where(prefixed, start + 2, start)
        base = np.where(page & ~prefixed, 10, 16).astype(np.uint64)
        value = np.zeros(len(equals), np.uint64)
        place = start.copy()
        active = equals >= 0
        for _ in range(20):
            nibble = NIBBLE[data[np.minimum(place, last)]]
            active &= nibble < base
            if not active.any():
                break
            value = np.where(active, value * base + nibble, value)
            place += active
        null = (equals >= 0) & (place == start)  # (null), (nil), (____ptrval____)
        for row in np.flatnonzero(null):
            text = bytes(data[start[row] : ends[row]]).split(b" ")[0]
            if b"ptrval" in text:
                self.origin.note(HIDDEN)
            place[row] += len(text)
        return value, np.where(equals >= 0, place, ends)

    # The number of each piece, asking `parse` about those not seen before.
    def _codes(self, pieces: Any, which: Array, known: Pieces, parse: Any) -> Array:
        encoded = pieces.take(pa.array(which)).dictionary_encode()
        local = np.empty(len(encoded.dictionary), np.int64)
        for index, text in enumerate(encoded.dictionary.to_pylist()):
            code = known.codes.get(text)
            local[index] = parse(text) if code is None else code
        codes: Array = local[np.asarray(encoded.indices)]
        return codes

    def _head(self, text: bytes) -> int:
        match = HEAD.match(text.decode(errors="replace"))
        if match is None:
            return self.heads.add(text, pid=-1, cpu=-1, flags=0)
        context = (match["context"] or "")[2:3]  # irqs-off, need-resched, this
        flags = 0
        if context in ("h", "H", "Z", "z"):
            flags = kinds.FLAG_HARDIRQ
        elif context == "s":
            flags = kinds.FLAG_SOFTIRQ
        return self.heads.add(
            text, pid=int(match["pid"]), cpu=int(match["cpu"]), flags=flags
        )

    def _event(self, text: bytes) -> int:
        words = text.decode(errors="replace").split(":")
        if len(words) > 1 and words[0].strip() == "kmem":
            del words[0]
        name = words[0].strip().rsplit(" ", 1)[-1]
        name = name.removeprefix("kmem:")
        event = EVENTS.get(name, -1)
        site = -1
        if "call_site=" in text.decode(errors="replace"):
            place = text.decode(errors="replace").split("call_site=", 1)[1]
            if place.rsplit(" ", 1)[0]:
                site = self.sites.number(site_name(place.rsplit(" ", 1)[0]))
        if event < 0:
            # Its number is kept as -2 - n, so that foreign events can be counted.
            event = -2 - self._foreign.number(name)
        return self.events.add(text, event=event, site=site)

    def _rest(self, text: bytes) -> int:
        try:
            values = values_of(text.decode(errors="replace"), self.names)
        except ValueError:
            values = Values(unknown=("unreadable",))
        if values.present in self.presents:
            present = self.presents.index(values.present)
        else:
            present = len(self.presents)
            self.presents.append(values.present)
        unknown = (
            self.unknown.number(" ".join(values.unknown)) if values.unknown else -1
        )
        return self.rests.add(
            text,
            requested=values.requested,
            allocated=values.allocated,
            node=values.node,
            flags=values.flags,
            name=values.name,
            unknown=unknown,
            blank=values.blank,
            present=present,
        )

    def _batch(
        self,
        block: bytes,
        time: Array,
        heads: dict[str, Array],
        events: dict[str, Array],
        rests: dict[str, Array],
        pointer: Array,
        valued: Array,
        colons: Array,
        ends: Array,
    ) -> Batch:
        event = events["event"]
        self._check(event, rests, valued, block, colons, ends)
        odd = heads["cpu"] < 0
        if odd.any():
            self._odd(int(odd.sum()), block[: int(ends[0])])
        keep = np.flatnonzero((event >= 0) & ~odd)
        batch = empty(len(keep))
        batch.time[:] = time[keep]
        batch.cpu[:] = heads["cpu"][keep]
        batch.pid[:] = heads["pid"][keep]
        batch.event[:] = event[keep]
        batch.site[:] = events["site"][keep]
        batch.pointer[:] = pointer[keep]
        for name in ("requested", "allocated", "node", "name"):
            getattr(batch, name)[:] = rests[name][keep]
        batch.flags[:] = heads["flags"][keep] | rests["flags"][keep]
        for row in np.flatnonzero(batch.event == MARK):
            line = int(keep[row])
            text = block[int(colons[line]) + 1 : int(ends[line])].decode(
                errors="replace"
            )
            batch.marks[int(row)] = MARKED.sub("", text)
        probes = self._probes(block, event, heads, time, colons, ends)
        if probes:
            batch = with_bulk_frees(batch, keep, probes, self.origin)
        self.origin.cpus = max(self.origin.cpus, int(batch.cpu.max(initial=0)) + 1)
        return batch

    # Lines of probes on kmem_cache_free_bulk: the first line of an event tells.
    def _probes(
        self,
        block: bytes,
        event: Array,
        heads: dict[str, Array],
        time: Array,
        colons: Array,
        ends: Array,
    ) -> list[tuple[int, int, int, int, str]]:
        found = []
        for code in np.unique(event[event < -1]).tolist():
            lines = np.flatnonzero(event == code).tolist()
            for line in lines if self._is_bulk.get(code, True) else ():
                text = block[int(colons[line]) + 1 : int(ends[line])].decode(
                    errors="replace"
                )
                if code not in self._is_bulk:
                    self._is_bulk[code] = is_bulk_free(text)
                if not self._is_bulk[code]:
                    break
                cpu, pid = int(heads["cpu"][line]), int(heads["pid"][line])
                if cpu >= 0:
                    found.append((line, int(time[line]), cpu, pid, text))
        return sorted(found)

    # Count foreign events and unknown fields; refuse events that lack what we need.
    def _check(
        self,
        event: Array,
        rests: dict[str, Array],
        valued: Array,
        block: bytes,
        colons: Array,
        ends: Array,
    ) -> None:
        foreign = event[event < -1]
        if len(foreign):
            for code, count in zip(
                *np.unique(foreign, return_counts=True), strict=True
            ):
                name = self._foreign.texts[-2 - int(code)]
                held = self.origin.foreign.get(name, 0)
                self.origin.foreign[name] = held + int(count)
        ours = (event >= 0) & (event != MARK)
        pairs = (rests["present"][ours] * 8 + event[ours]) * 2 + (valued[ours] >= 0)
        for pair in np.flatnonzero(np.bincount(pairs)).tolist():
            kind, fields = pair // 2 % 8, set(self.presents[pair // 16])
            if pair % 2:
                fields.add("pfn" if kind >= PAGE_ALLOC else "ptr")
            else:  # nothing stands behind an address: name what the line does hold
                line = np.flatnonzero(ours)[np.flatnonzero(pairs == pair)[0]]
                printed = block[int(colons[line]) : int(ends[line])]
                fields = set(split_fields(printed.decode(errors="replace")))
            require(kind, fields)
        if len(self.unknown):
            counts = np.bincount(rests["unknown"][ours] + 1)
            for number in np.flatnonzero(counts[1:]).tolist():
                text = self.unknown.texts[number]
                self.origin.note(
                    f"rows with unknown fields: {text}", int(counts[number + 1])
                )
        self.origin.note("rows with blank text fields", int(rests["blank"][ours].sum()))

    # Lines without a time: comments, losses, and things that belong to no trace.
    def _other_lines(self, block: bytes, starts: Array, ends: Array) -> None:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            line = block[start : min(end, start + LINE_BYTES_MAX)]
            text = line.decode(errors="replace").strip()
            if match := LOST.search(text):
                lost = int(match[2] or match[3])
                self.origin.lost += lost
                where = f"CPU {match[1]}" if match[1] else "some CPU"
                self.origin.lost_where.append(f"{where}: {lost}")
            elif match := WRITTEN.search(text):
                gone = int(match[2]) - int(match[1])
                if gone > 0:
                    self.origin.lost += gone
                    self.origin.lost_where.append(f"overwritten: {gone}")
                self.origin.cpus = max(self.origin.cpus, int(match[3]))
            elif text and not text.startswith(("#", "cpus=", "CPU ", "version =")):
                self._odd(1, line)

    def _odd(self, count: int, line: bytes) -> None:
        self.odd += count
        self.first_odd = self.first_odd or repr(line[:60])
        if self.odd > 100 + self.lines * ODD_LINES_PER_MILLE_MAX // 1000:
            raise self._refusal()

    def _refusal(self) -> NotATrace:
        return NotATrace(
            f"{self.path}: {self.odd} of {self.lines} lines are no trace events, the"
            f" first {self.first_odd}; expected the text of ftrace, `perf script` or"
            " `trace-cmd report`, with CPU and time in seconds on each line"
        )

    def finish(self) -> None:
        """What can be said only at the end.

        Raises:
            NotATrace: There was no event, or nearly as many odd lines.
        """
        if not self.lines:
            raise NotATrace(f"{self.path}: empty; expected a trace")
        if self.odd * 2 > self.lines:
            raise self._refusal()
        self.origin.note("lines that are no events", self.odd)
