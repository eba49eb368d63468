"""What Python brings: Queue, Pipe, and one SharedMemory segment for each message."""

from __future__ import annotations

from multiprocessing.context import SpawnContext
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from .base import Bytes, Transport


class Queue(Transport):
    """multiprocessing.Queue: pickled by a thread, through a pipe."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.queue = context.Queue(depth)

    def send(self, source: Bytes) -> None:
        self.queue.put(source)

    def receive(self) -> Bytes:
        array: Bytes = self.queue.get()
        return array

    def close_sender(self) -> None:
        self.queue.close()
        self.queue.join_thread()


class Pickled(Transport):
    """Pipe().send(): pickled, one writer and one reader, no lock."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.reader, self.writer = context.Pipe(duplex=False)

    def send(self, source: Bytes) -> None:
        self.writer.send(source)

    def receive(self) -> Bytes:
        array: Bytes = self.reader.recv()
        return array


class RawBytes(Pickled):
    """Pipe().send_bytes(): no pickling, received into one buffer that stays mapped."""

    def open_receiver(self) -> None:
        self.buffer = np.ones(self.size, np.uint8)

    def send(self, source: Bytes) -> None:
        self.writer.send_bytes(source)

    def receive(self) -> Bytes:
        self.reader.recv_bytes_into(self.buffer)
        return self.buffer


class Segments(Transport):
    """A new SharedMemory for each message, its name through a pipe.

    The sender creates, fills and closes it; the receiver attaches, closes, unlinks.
    """

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.reader, self.writer = context.Pipe(duplex=False)
        self.room = context.Semaphore(depth)

    def open_sender(self) -> None:
        super().open_sender()
        self.memory: SharedMemory | None = None

    def make(self) -> Bytes:
        self.room.acquire()
        self.close_last()
        self.memory = SharedMemory(create=True, size=self.size)
        # frombuffer, not ndarray(buffer=): close() is refused while a view exists.
        return np.frombuffer(self.memory.buf, np.uint8, self.size)

    def send(self, source: Bytes) -> None:
        np.copyto(self.make(), source)
        self.post()

    def send_made(self, array: Bytes) -> None:
        self.post()

    def post(self) -> None:
        assert self.memory is not None
        self.writer.send_bytes(self.memory.name.encode())

    def close_last(self) -> None:
        """One message later, when nobody looks at it any more."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    def receive(self) -> Bytes:
        self.taken = SharedMemory(self.reader.recv_bytes().decode())
        return np.frombuffer(self.taken.buf, np.uint8, self.size)

    def done(self) -> None:
        self.taken.close()
        self.taken.unlink()
        self.room.release()

    def close_sender(self) -> None:
        self.close_last()
