"""uslub: an array of the arena, through a Channel or through a queue as any array.

Each message is an array of its own, allocated by the sender and given back when the
receiver drops it; there is no ring and no fixed size.
"""

from __future__ import annotations

from multiprocessing.context import SpawnContext

import numpy as np

import uslub

from .base import Bytes, Transport

SPARE = 8  # messages beyond `depth`: being written, being read, not yet swept


class InArena(Transport):
    """The arena and how a message is made; who carries it is said below."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        room = max(16 << 20, 2 * (size + 4096) * (depth + SPARE))
        self.arena = uslub.Arena.create(None, room)

    def make(self) -> Bytes:
        return self.arena.ndarray(self.size, np.uint8)

    def send(self, source: Bytes) -> None:
        array = self.make()
        np.copyto(array, source)
        self.send_made(array)


class Arrays(InArena):
    """`arena.ndarray()` through a Channel: dtype and shape travel with it."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.channel = uslub.Channel(self.arena, depth)

    def send_made(self, array: Bytes) -> None:
        self.channel.send(array)

    def receive(self) -> Bytes:
        return self.channel.recv()


class Objects(Arrays):
    """Objects of a cache through a Channel, looked at by NumPy on either side."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        # As many empty slabs stay as messages can be under way.
        self.cache = self.arena.cache("message", size, min_partial=depth + SPARE)

    def make(self) -> Bytes:
        self.made = self.cache.alloc()
        return np.frombuffer(self.made, np.uint8, self.size)

    def send_made(self, array: Bytes) -> None:
        self.channel.send(self.made)

    def receive(self) -> Bytes:
        return np.frombuffer(self.channel.recv(), np.uint8, self.size)

    def close_sender(self) -> None:
        del self.made


class PolledObjects(Objects):
    """Both sides look again and again."""

    def send_made(self, array: Bytes) -> None:
        while not self.channel.try_send(self.made):
            pass

    def receive(self) -> Bytes:
        receive = self.channel.try_recv
        while True:
            received = receive()
            if received is not None:
                return np.frombuffer(received, np.uint8, self.size)


class Handles(InArena):
    """multiprocessing.Queue, as for any array; what it pickles is a handle."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.queue = context.Queue(depth)

    def send_made(self, array: Bytes) -> None:
        self.queue.put(array)

    def receive(self) -> Bytes:
        array: Bytes = self.queue.get()
        return array

    def close_sender(self) -> None:
        self.queue.close()
        self.queue.join_thread()
