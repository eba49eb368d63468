"""iceoryx2: publish and subscribe in shared memory; messages are chunks on loan.

Its receiver polls by nature; `Woken` adds an event of iceoryx2 for each message, which
is how its own examples sleep. A publisher without room tries again in a loop (its
strategy RetryUntilDelivered) in both.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import uuid
from multiprocessing.context import SpawnContext
from pathlib import Path

import iceoryx2
import numpy as np

from .base import Bytes, Transport


class Polled(Transport):
    """The receiver looks again and again."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        super().__init__(context, size, depth)
        self.service = f"ub{uuid.uuid4().hex[:8]}"  # socket names are short
        self.root = Path(tempfile.gettempdir(), self.service)

    def open_node(self) -> None:
        """With files of our own, since some of them outlive the last node."""
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        config = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(str(self.root))
        config.global_cfg.prefix = iceoryx2.FileName.new(f"{self.service}_")
        builder = iceoryx2.NodeBuilder.new().config(config)
        self.node = builder.create(iceoryx2.ServiceType.Ipc)

    def close_sender(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        for path in Path("/dev/shm").glob(f"{self.service}_*"):
            path.unlink(missing_ok=True)

    def builder(self, suffix: str) -> iceoryx2.ServiceBuilder:
        name = iceoryx2.ServiceName.new(f"{self.service}/{suffix}")
        return self.node.service_builder(name)

    def open_frames(self) -> iceoryx2.PortFactoryPublishSubscribe:
        builder = self.builder("frames").publish_subscribe(
            iceoryx2.Slice[ctypes.c_uint8]
        )
        builder = builder.enable_safe_overflow(False).history_size(0)
        builder = builder.subscriber_max_buffer_size(self.depth)
        builder = builder.subscriber_max_borrowed_samples(2).max_subscribers(1)
        self.frames = builder.open_or_create()
        return self.frames

    def open_sender(self) -> None:
        super().open_sender()
        self.open_node()
        publisher = self.open_frames().publisher_builder()
        publisher = publisher.initial_max_slice_len(self.size).max_loaned_samples(2)
        retry = iceoryx2.BackpressureStrategy.RetryUntilDelivered
        self.publisher = publisher.backpressure_strategy(retry).create()

    def open_receiver(self) -> None:
        self.open_node()
        self.subscriber = self.open_frames().subscriber_builder().create()

    def make(self) -> Bytes:
        self.loan = self.publisher.loan_slice_uninit(self.size)
        return self.view(self.loan)

    def view(self, sample: object) -> Bytes:
        """Valid while the sample is held, which is for us to see to."""
        memory = ctypes.c_uint8 * self.size
        return np.frombuffer(memory.from_address(sample.payload_ptr), np.uint8)

    def send(self, source: Bytes) -> None:
        np.copyto(self.make(), source)
        self.post()

    def send_made(self, array: Bytes) -> None:
        self.post()

    def post(self) -> None:
        self.loan.assume_init().send()

    def receive(self) -> Bytes:
        receive = self.subscriber.receive
        while True:
            sample = receive()
            if sample is not None:
                self.sample = sample
                return self.view(sample)

    def done(self) -> None:
        del self.sample


class Woken(Polled):
    """The receiver sleeps until the sender's event."""

    def open_events(self) -> iceoryx2.PortFactoryEvent:
        self.events = self.builder("events").event().open_or_create()
        return self.events

    def open_sender(self) -> None:
        super().open_sender()
        self.notifier = self.open_events().notifier_builder().create()

    def open_receiver(self) -> None:
        super().open_receiver()
        self.listener = self.open_events().listener_builder().create()

    def post(self) -> None:
        super().post()
        self.notifier.notify()

    def receive(self) -> Bytes:
        while True:
            sample = self.subscriber.receive()
            if sample is not None:
                self.sample = sample
                return self.view(sample)
            self.listener.blocking_wait()
