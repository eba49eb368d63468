"""faster-fifo: bytes copied through a ring in shared memory, under a mutex.

As it comes (pickled), and with pickling replaced by the cheapest that its interface
takes: bytes out, an array over bytes in.
"""

from __future__ import annotations

from multiprocessing.context import SpawnContext
from queue import Empty, Full

import faster_fifo
import numpy as np

from .base import Bytes, Transport

OVERHEAD = 4096  # beside the array: what pickle adds, and the queue for each message


class Pickled(Transport):
    """With its defaults."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.queue = self.new_queue((size + OVERHEAD) * depth)

    def new_queue(self, size: int) -> faster_fifo.Queue:
        return faster_fifo.Queue(size, self.depth)

    def open_receiver(self) -> None:
        # Otherwise the first message of this size is refused for want of a buffer.
        self.queue.reallocate_msg_buffer((self.size + OVERHEAD) * self.depth)

    def send(self, source: Bytes) -> None:
        while True:
            try:
                return self.queue.put(source)
            except Full:  # ten seconds without room: the receiver says why
                continue

    def receive(self) -> Bytes:
        while True:
            try:
                # One message: get_many() would hide the queue's own depth.
                array: Bytes = self.queue.get()
                return array
            except Empty:
                continue


def as_bytes(array: Bytes) -> bytes:
    return array.tobytes()  # it takes nothing else


def as_array(message: bytes) -> Bytes:
    return np.frombuffer(message, np.uint8)


class RawBytes(Pickled):
    """Without pickle."""

    def new_queue(self, size: int) -> faster_fifo.Queue:
        return faster_fifo.Queue(size, self.depth, loads=as_array, dumps=as_bytes)
