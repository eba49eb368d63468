"""pyzmq, PUSH to PULL over an ipc socket, without a copy on the Python side."""

from __future__ import annotations

import uuid
from multiprocessing.context import SpawnContext

import numpy as np
import zmq

from .base import Bytes, Transport


class ZmqIpc(Transport):
    """Half of the messages under way wait on either side; the kernel holds some more.

    copy=False: a large message is written from the sender's array. Small ones are
    copied (zmq.COPY_THRESHOLD), which is faster for them.
    """

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.address = f"ipc://@uslub-bench-{uuid.uuid4()}"  # abstract: leaves no file

    def open_socket(self, kind: int) -> zmq.Socket[bytes]:
        self.context = zmq.Context()
        socket = self.context.socket(kind)
        socket.sndhwm = socket.rcvhwm = self.depth // 2
        return socket

    def open_sender(self) -> None:
        super().open_sender()
        self.socket = self.open_socket(zmq.PUSH)
        self.socket.connect(self.address)

    def open_receiver(self) -> None:
        self.socket = self.open_socket(zmq.PULL)
        self.socket.bind(self.address)

    def send(self, source: Bytes) -> None:
        self.socket.send(source, copy=False)

    def receive(self) -> Bytes:
        return np.frombuffer(self.socket.recv(copy=False), np.uint8)

    def close_receiver(self) -> None:
        self.socket.close(0)
        self.context.term()

    def close_sender(self) -> None:
        self.socket.close(0)
        self.context.term()
