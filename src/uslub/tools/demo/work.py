"""A worker process: takes frames from the way that is on, works on them, frees them.

What is done to a frame is done in place, in bands that fit a processor cache: each row
is averaged with the next (a blur), pixels darker than half the median are lifted to it,
every byte goes into a sum, and a thumbnail is taken. Sums depend on the bytes alone.
"""

from __future__ import annotations

import signal
import struct
import traceback
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any

import numpy as np

import uslub
from uslub.tools.demo.pictures import Pixels, pixels

if TYPE_CHECKING:
    from uslub.tools.demo.course import Plan

#: What a record says: frame number, width, height, plate, x, y. 64 bytes with padding.
RECORD = struct.Struct("=QIIIII36x")
#: What stands behind a thumbnail: frame number, sum.
ANSWER = struct.Struct("=QQ")
BAND = 40  # rows
STEP = 8  # a thumbnail has every eighth pixel of every eighth row
MASK = (1 << 64) - 1


class Bench:
    """Scratch memory for the work on one frame after another."""

    def __init__(self, width: int) -> None:
        self.mixed = np.empty((BAND, width, 3), np.uint8)
        self.shared = np.empty((BAND, width, 3), np.uint8)
        self.floor = np.empty((BAND, width, 3), np.uint8)

    def process(self, frame: Pixels) -> int:
        """Work on `frame` in place; the sum of what it has become."""
        counts = np.bincount(frame[::STEP, ::STEP, 1].ravel(), minlength=256)
        median = int(np.searchsorted(np.cumsum(counts), counts.sum() // 2))
        self.floor.fill(median // 2)
        total = 0
        for top in range(0, len(frame), BAND):
            band = frame[top : top + BAND]
            self.blur(band, frame[top + 1 : top + BAND + 1])
            self.cut_off(band)
            words = band.reshape(-1).view(np.uint64)
            total += int(np.add.reduce(words)) * (2 * top + 1)
        return (total ^ zlib.crc32(counts.tobytes())) & MASK

    def blur(self, band: Pixels, below: Pixels) -> None:
        """band = (band + below) / 2, without leaving 8 bits."""
        rows = len(below)
        mixed, shared = self.mixed[:rows], self.shared[:rows]
        np.bitwise_xor(band[:rows], below, out=mixed)
        np.bitwise_and(band[:rows], below, out=shared)
        np.right_shift(mixed, 1, out=mixed)
        np.add(shared, mixed, out=band[:rows])

    def cut_off(self, band: Pixels) -> None:
        """What is darker than the floor becomes that."""
        # An array, not a number: NumPy's maximum with a number is 15 times slower.
        np.maximum(band, self.floor[: len(band)], out=band)


def thumbnail(frame: Pixels) -> Pixels:
    """Every eighth pixel of every eighth row: a view."""
    return frame[::STEP, ::STEP]


def main(conn: Connection, queue: Queue[Any], plan: Plan, arena_name: str) -> None:
    """A worker's life: attach by name, then whatever the pipe says, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo's own process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        Worker(conn, queue, plan, arena_name).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the demo has gone
    except BaseException:
        conn.send(("error", traceback.format_exc()))
        raise


class Worker:
    """One worker process and its four kinds of message."""

    def __init__(
        self, conn: Connection, queue: Queue[Any], plan: Plan, arena_name: str
    ) -> None:
        self.conn, self.queue, self.plan = conn, queue, plan
        self.arena = uslub.Arena.attach(arena_name)
        self.bench = Bench(plan.width)

    def serve(self) -> None:
        """Answer messages until the other end closes."""
        thumbs = self.arena.cache("thumb", self.plan.thumb_bytes + ANSWER.size)
        self.conn.send(("ready",))
        while True:
            match self.conn.recv():
                case ("channel", frames, answers):
                    self.objects(frames, answers, thumbs)
                case ("segment", number, name):
                    self.segment(number, name)
                case ("queue",):
                    self.drain_queue()
                case ("stop",):
                    self.arena.close()
                    return

    def objects(
        self, frames: uslub.Channel, answers: uslub.Channel, thumbs: uslub.Cache
    ) -> None:
        """Frames with their records behind them: worked on in place, freed here."""
        plan = self.plan
        for frame in self.received(frames):
            number, width, height, *_ = RECORD.unpack_from(frame, plan.frame_bytes)
            array = pixels(frame, height, width)
            total = self.bench.process(array)
            small = thumbs.alloc()
            target = pixels(small, plan.thumb_height, plan.thumb_width)
            target[...] = thumbnail(array)
            ANSWER.pack_into(small, plan.thumb_bytes, number, total)
            answers.send(small)

    def received(self, frames: uslub.Channel) -> Iterator[uslub.Object]:
        """What comes through, until the demo closes the channel, or is gone."""
        while True:
            try:
                yield frames.recv(timeout=0.5)
            except uslub.TimedOut:
                if self.conn.poll():
                    return
            except uslub.ChannelClosed:
                return

    def segment(self, number: int, name: str) -> None:
        """A frame in a SharedMemory of its own: attached, worked on, unlinked here."""
        memory = SharedMemory(name)
        array = pixels(memory.buf, self.plan.height, self.plan.width)
        total = self.bench.process(array)
        small = thumbnail(array).copy()
        del array
        memory.close()
        memory.unlink()
        self.conn.send(("done", number, total, small))

    def drain_queue(self) -> None:
        """Frames as pickled arrays, until None comes."""
        while (item := self.queue.get()) is not None:
            number, array = item
            total = self.bench.process(array)
            self.conn.send(("done", number, total, thumbnail(array).copy()))
