"""A ring of slots in one SharedMemory, made once: what one writes by hand for speed.

Fixed size, one sender, one receiver, and whoever dies leaves it as it was: the floor
for a general heap, not a peer of it. Two ways to wait: semaphores, or looking again and
again at two counters (plain loads and stores: ordered on x86, and where they are not
the receiver's check of the sequence number fails the run).
"""

from __future__ import annotations

from multiprocessing.context import SpawnContext
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from .base import Bytes, Transport

PAGE = 4096
LINE = 64  # bytes that one processor takes away from the other at a time


class Slots(Transport):
    """The memory; who waits for whom is said below."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.step = -(-size // PAGE) * PAGE
        memory = SharedMemory(create=True, size=PAGE + self.step * depth)
        memory.buf[:] = bytes(len(memory.buf))
        self.memory = memory  # travels as its name

    def open_slots(self) -> None:
        whole = np.frombuffer(self.memory.buf, np.uint8)
        whole[PAGE::PAGE] |= 0  # mapped here too, before the first message
        starts = [PAGE + self.step * i for i in range(self.depth)]
        self.slots = [whole[start : start + self.size] for start in starts]
        self.place = 0

    def open_sender(self) -> None:
        super().open_sender()
        self.open_slots()

    def open_receiver(self) -> None:
        self.open_slots()

    def send(self, source: Bytes) -> None:
        array = self.make()
        np.copyto(array, source)
        self.send_made(array)

    def close_receiver(self) -> None:
        self.slots.clear()
        self.memory.close()

    def close_sender(self) -> None:
        self.slots.clear()
        self.memory.close()
        self.memory.unlink()


class Ring(Slots):
    """Two semaphores: free slots, full slots."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.free, self.full = context.Semaphore(depth), context.Semaphore(0)

    def make(self) -> Bytes:
        self.free.acquire()
        return self.slots[self.place]

    def send_made(self, array: Bytes) -> None:
        self.place = (self.place + 1) % self.depth
        self.full.release()

    def receive(self) -> Bytes:
        self.full.acquire()
        return self.slots[self.place]

    def done(self) -> None:
        self.place = (self.place + 1) % self.depth
        self.free.release()


class PolledRing(Slots):
    """Two counters: sent, read."""

    def open_slots(self) -> None:
        super().open_slots()
        counters = self.memory.buf[: 2 * LINE].cast("q")
        self.sent, self.read = counters[: LINE // 8], counters[LINE // 8 :]
        counters.release()

    def make(self) -> Bytes:
        sent, read, depth = self.sent[0], self.read, self.depth
        while sent - read[0] == depth:
            pass
        return self.slots[sent % depth]

    def send_made(self, array: Bytes) -> None:
        self.sent[0] += 1

    def receive(self) -> Bytes:
        read, sent = self.read[0], self.sent
        while sent[0] == read:
            pass
        return self.slots[read % self.depth]

    def done(self) -> None:
        self.read[0] += 1

    def close_receiver(self) -> None:
        self.sent.release()
        self.read.release()
        super().close_receiver()

    def close_sender(self) -> None:
        self.sent.release()
        self.read.release()
        super().close_sender()
