"""torch.multiprocessing.Queue: a tensor's storage moves to a segment of its own.

Copied in: a tensor over the ordinary array; the queue makes a new segment and copies.
Made in place: tensors that were shared beforehand and are sent again and again, more
than can be under way; the file descriptor still travels with every message.
"""

from __future__ import annotations

from itertools import cycle
from multiprocessing.context import SpawnContext

import torch
import torch.multiprocessing

from .base import SOURCES, Bytes, Transport


class TorchQueue(Transport):
    """With the default sharing strategy, file_descriptor."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.queue = torch.multiprocessing.get_context("spawn").Queue(depth)

    def open_sender(self) -> None:
        super().open_sender()
        made = [torch.ones(self.size, dtype=torch.uint8) for _ in range(SOURCES)]
        self.made = cycle([tensor.share_memory_() for tensor in made])

    def make(self) -> Bytes:
        self.tensor = next(self.made)
        array: Bytes = self.tensor.numpy()
        return array

    def send(self, source: Bytes) -> None:
        self.queue.put(torch.from_numpy(source))

    def send_made(self, array: Bytes) -> None:
        self.queue.put(self.tensor)

    def receive(self) -> Bytes:
        array: Bytes = self.queue.get().numpy()
        return array

    def close_sender(self) -> None:
        self.queue.close()
        self.queue.join_thread()
