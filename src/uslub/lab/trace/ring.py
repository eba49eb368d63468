"""Binary ring-buffer pages (`trace_pipe_raw`) to columns.

A page holds a time, how many bytes follow, and events one behind the other, each with
the time that passed since the one before. Their length is known only when the one
before was read, so a single page cannot be cut with NumPy; thousands of pages can,
event by event at the same time. Fields are then gathered by the offsets that the
event's `format` file gives.

Linux: the layout is described in Documentation/trace/ring-buffer-design and printed by
events/header_page and events/header_event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from uslub.lab.trace import kinds
from uslub.lab.trace.batch import (
    MARK,
    PAGE_ALLOC,
    PAGE_FREE,
    Array,
    Batch,
    Names,
    Origin,
)
from uslub.lab.trace.batch import empty as empty_batch
from uslub.lab.trace.errors import NotATrace, TraceTruncated
from uslub.lab.trace.formats import Format

PAGE_HEADER = 16  # u64 time, u64 bytes that follow and flags
MISSED = 1 << 31
MISSED_COUNTED = 1 << 30
COMMIT_MASK = (1 << 20) - 1
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
PAGES_AT_ONCE = 2048
#: common_flags: hard and soft interrupt.
IRQ_HARD, IRQ_SOFT = 0x08, 0x10


@dataclass
class Found:
    """Where the events of a block of pages lie."""

    at: Array  # byte offset of each event's data in the block
    time: Array


def walk(data: Array, page_bytes: int, path: str) -> tuple[Found, int, int]:
    """Find the events of whole pages.

    Args:
        data: uint8, a multiple of `page_bytes`.
        page_bytes: Of a sub-buffer, mostly 4096.
        path: For the error text.

    Returns:
        The events in order, how many pages say that events before them were lost, and
        how many events those pages say it was.

    Raises:
        NotATrace: A page whose events run over its end.
    """
    pages = len(data) // page_bytes
    words = data.view("<u4").reshape(pages, page_bytes // 4)
    longs = data.view("<u8").reshape(pages, page_bytes // 8)
    time = longs[:, 0].astype(np.uint64)
    commit = longs[:, 1]
    size = (commit & np.uint64(COMMIT_MASK)).astype(np.int64)
    if (size > page_bytes - PAGE_HEADER).any():
        raise _rubbish(path)
    missed, counted = _missed(words, commit, size, page_bytes)
    page = np.arange(pages)
    place = np.full(pages, PAGE_HEADER, np.int64)
    end = PAGE_HEADER + size
    found_at, found_time, found_page = [], [], []
    high = time & (np.uint64(31) << np.uint64(59))
    while len(page):
        active = place < end
        page, place, end = page[active], place[active], end[active]
        time, high = time[active], high[active]
        if not len(page):
            break
        head = words[page, place // 4]
        kind = head & np.uint32(31)
        delta = (head >> np.uint32(5)).astype(np.uint64)
        following = np.minimum(place // 4 + 1, words.shape[1] - 1)
        array = words[page, following].astype(np.uint64)
        long_delta = delta + (array << np.uint64(27))
        extend, stamp = kind == TIME_EXTEND, kind == TIME_STAMP
        time = np.where(
            stamp, long_delta | high, time + np.where(extend, long_delta, delta)
        )
        event = kind < PADDING
        small = event & (kind > 0)
        length = np.where(
            small, kind.astype(np.int64) * 4 + 4, array.astype(np.int64) + 4
        )
        length = np.where(extend | stamp, 8, length)
        ends_page = (kind == PADDING) & (delta == 0)
        length = np.where(ends_page, end - place, length)
        if ((place + length > end) | (length <= 0)).any():
            raise _rubbish(path)
        body = np.where(small, 4, 8)
        found_at.append((page * page_bytes + place + body)[event])
        found_time.append(time[event])
        found_page.append(page[event])
        place = place + length
    if not found_at:
        return Found(np.zeros(0, np.int64), np.zeros(0, np.int64)), missed, counted
    at = np.concatenate(found_at)
    order = np.argsort(at)
    times = np.concatenate(found_time)[order].astype(np.int64)
    return Found(at[order], times), missed, counted


# Pages whose header says that events before them were lost; some say how many.
def _missed(
    words: Array, commit: Array, size: Array, page_bytes: int
) -> tuple[int, int]:
    lost = (commit & np.uint64(MISSED)) != 0
    counted = 0
    told = lost & ((commit & np.uint64(MISSED_COUNTED)) != 0)
    for page in np.flatnonzero(told):
        place = (PAGE_HEADER + int(size[page])) // 4
        if place + 2 <= page_bytes // 4:
            low, high = int(words[page, place]), int(words[page, place + 1])
            counted += low | (high << 32)
    return int(lost.sum()), counted


def _rubbish(path: str) -> NotATrace:
    return NotATrace(
        f"{path}: an event runs over the end of its page; expected pages as"
        " trace_pipe_raw gives them, whole and of one size"
    )


class Decoder:
    """Events of one CPU's pages, field by field."""

    def __init__(
        self,
        formats: Iterable[Format],
        names: Names,
        sites: Names,
        origin: Origin,
        symbol: Callable[[int], str],
    ) -> None:
        self.formats = {each.number: each for each in formats}
        self.names, self.sites, self.origin = names, sites, origin
        self.symbol = symbol
        self._site_of: dict[int, int] = {}

    def batch(self, data: bytes, found: Found, cpu: int) -> Batch:
        """The events of a block of pages that `walk` found."""
        block = np.frombuffer(data + b"\0" * 8, np.uint8)
        numbers = _gather(block, found.at, "<u2")
        codes = np.full(1 << 16, -1, np.int16)
        for number, each in self.formats.items():
            codes[number] = each.event
        event = codes[numbers]
        for number, count in zip(
            *np.unique(numbers[event < 0], return_counts=True), strict=True
        ):
            name = f"event {number}"
            self.origin.foreign[name] = self.origin.foreign.get(name, 0) + int(count)
        keep = np.flatnonzero(event >= 0)
        batch = empty_batch(len(keep))
        at, numbers = found.at[keep], numbers[keep]
        batch.time[:], batch.cpu[:], batch.event[:] = found.time[keep], cpu, event[keep]
        batch.pid[:] = _gather(block, at + 4, "<i4")
        irq = block[at + 2]
        batch.flags[:] = np.where(irq & IRQ_SOFT, kinds.FLAG_SOFTIRQ, 0)
        batch.flags[(irq & IRQ_HARD) != 0] = kinds.FLAG_HARDIRQ
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            self._fill(batch, rows, block, at[rows], self.formats[int(number)], data)
        return batch

    def _fill(
        self,
        batch: Batch,
        rows: Array,
        block: Array,
        at: Array,
        form: Format,
        data: bytes,
    ) -> None:
        fields = form.fields

        def value(name: str) -> Array:
            field = fields[name]
            kind = f"<{'i' if field.signed else 'u'}{field.size}"
            return _gather(block, at + field.offset, kind)

        if form.event == MARK:
            self._marks(batch, rows, at, fields["buf"].offset, data)
            return
        if form.event in (PAGE_ALLOC, PAGE_FREE):
            batch.pointer[rows], batch.requested[rows] = value("pfn"), value("order")
        else:
            batch.pointer[rows] = value("ptr")
        if "bytes_req" in fields:
            batch.requested[rows] = value("bytes_req")
            batch.allocated[rows] = value("bytes_alloc")
        if "node" in fields:
            batch.node[rows] = value("node")
        if "gfp_flags" in fields:
            gfp = value("gfp_flags")
            if not form.gfp:
                self.origin.note("rows whose gfp bits no format names", len(rows))
            for bit, ours in form.gfp.items():
                batch.flags[rows[(gfp & gfp.dtype.type(bit)) != 0]] |= ours
        if "accounted" in fields:
            batch.flags[rows[value("accounted") != 0]] |= kinds.FLAG_ACCOUNTED
        if "call_site" in fields:
            batch.site[rows] = self._sites(value("call_site"))
        if "name" in fields:
            batch.name[rows] = self._names(block, at, fields["name"].offset, data)

    def _sites(self, addresses: Array) -> Array:
        different, inverse = np.unique(addresses, return_inverse=True)
        codes = np.empty(len(different), np.int32)
        for index, address in enumerate(different.tolist()):
            code = self._site_of.get(address)
            if code is None:
                code = self._site_of[address] = self.sites.number(self.symbol(address))
            codes[index] = code
        return codes[inverse]

    # __data_loc: the text lies at `low 16 bits` of the event, `high 16 bits` long.
    def _names(self, block: Array, at: Array, offset: int, data: bytes) -> Array:
        where = _gather(block, at + offset, "<u4")
        start = at + (where & 0xFFFF)
        stop = start + np.maximum((where >> 16).astype(np.int64) - 1, 0)  # without NUL
        bounds = np.empty((len(at), 2), np.int32)
        bounds[:, 0], bounds[:, 1] = start, stop
        if (stop > len(data)).any() or (np.diff(bounds.ravel()) < 0).any():
            raise NotATrace("a cache name lies outside its event; expected whole pages")
        texts = pa.Array.from_buffers(
            pa.binary(),
            bounds.size - 1,
            [None, pa.py_buffer(bounds.ravel()), pa.py_buffer(data)],
        )
        encoded = texts.take(pa.array(np.arange(len(at)) * 2)).dictionary_encode()
        codes = np.array(
            [
                self.names.number(text.decode(errors="replace").rstrip("\0"))
                for text in encoded.dictionary.to_pylist()
            ],
            np.int32,
        )
        numbers: Array = codes[np.asarray(encoded.indices)]
        return numbers

    def _marks(
        self, batch: Batch, rows: Array, at: Array, offset: int, data: bytes
    ) -> None:
        for row, place in zip(rows.tolist(), at.tolist(), strict=True):
            start = place + offset
            stop = data.find(b"\0", start, start + 4096)
            text = data[start : stop if stop >= 0 else start + 4096]
            batch.marks[row] = text.decode(errors="replace").strip()


# Numbers of any alignment at these byte offsets.
def _gather(block: Array, at: Array, kind: str) -> Array:
    size = np.dtype(kind).itemsize
    view = np.ndarray((len(block) - size + 1,), kind, block, strides=(1,))
    return view[at]


def read_pages(stream: IO[bytes], page_bytes: int, path: str) -> Iterator[bytes]:
    """Whole pages, some megabytes at a time.

    Raises:
        TraceTruncated: The last page is not whole.
    """
    while block := stream.read(PAGES_AT_ONCE * page_bytes):
        while len(block) % page_bytes:
            more = stream.read(page_bytes - len(block) % page_bytes)
            if not more:
                raise TraceTruncated(
                    f"{path}: ends {len(block) % page_bytes} bytes into a page of"
                    f" {page_bytes}; copy or record it again"
                )
            block += more
        yield block


def read_ring(
    stream: IO[bytes], cpu: int, decoder: Decoder, page_bytes: int, path: str
) -> Iterator[Batch]:
    """Batches of one CPU's pages, in order of time."""
    missed = 0
    for block in read_pages(stream, page_bytes, path):
        data = np.frombuffer(block, np.uint8)
        found, pages, counted = walk(data, page_bytes, path)
        missed += pages
        if pages:
            lost = max(counted, pages)
            decoder.origin.lost += lost
            exact = "" if counted else "at least "
            decoder.origin.lost_where.append(f"CPU {cpu}: {exact}{lost}")
        batch = decoder.batch(block, found, cpu)
        if len(batch):
            yield batch


def merged(streams: list[Iterator[Batch]], rows_max: int = 1 << 18) -> Iterator[Batch]:
    """One stream in the order of time from several that are; ties by stream.

    Holds a batch of each stream; rows leave once every stream has passed their time.
    """
    from uslub.lab.trace.batch import concatenate

    held: list[list[Batch]] = [[] for _ in streams]
    open_streams = set(range(len(streams)))
    while True:
        for index in sorted(open_streams):
            while not held[index]:
                more = next(streams[index], None)
                if more is None:
                    open_streams.discard(index)
                    break
                if len(more):
                    held[index].append(more)
        if not any(held):
            return
        horizon = min(
            (int(held[i][-1].time[-1]) for i in open_streams if held[i]),
            default=np.iinfo(np.int64).max,
        )
        ready = []
        for index, batches in enumerate(held):
            kept: list[Batch] = []
            for batch in batches:
                cut = int(np.searchsorted(batch.time, horizon, "right"))
                rows: Any = np.arange(len(batch))
                if cut:
                    ready.append(batch.take(rows[:cut]))
                if cut < len(batch):
                    kept.append(batch.take(rows[cut:]))
            held[index] = kept
        whole = concatenate(ready)
        order = np.argsort(whole.time, kind="stable")
        for start in range(0, len(order), rows_max):
            yield whole.take(order[start : start + rows_max])
