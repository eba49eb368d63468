"""Who carries a message from one process to another: one small class each.

`ENTRIES` names them all without importing any, so that a peer that is not installed can
be named as missing. `load` imports one. All classes keep the interface of `base`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from .base import Transport


@dataclass(frozen=True)
class Entry:
    """One way to carry a message."""

    name: str
    place: str  #: module and class
    module: str | None = None  #: what it needs that Python does not bring
    package: str | None = None  #: its name on PyPI
    polls: bool = False  #: the receiver never sleeps; both sides are pinned

    @property
    def missing(self) -> bool:
        return self.module is not None and importlib.util.find_spec(self.module) is None


QUEUE = "multiprocessing.Queue"
SEGMENTS = "SharedMemory per message"
RING = "ring, semaphores"
RING_POLLED = "ring, polled"
CHANNEL = "uslub Channel"
CHANNEL_POLLED = "uslub Channel, polled"
HANDLES = "uslub array, multiprocessing.Queue"

ENTRIES = (
    Entry(CHANNEL, "own:Objects"),
    Entry("uslub Channel, arrays", "own:Arrays"),
    Entry(QUEUE, "standard:Queue"),
    Entry(HANDLES, "own:Handles"),
    Entry("Pipe, pickled", "standard:Pickled"),
    Entry("Pipe, bytes", "standard:RawBytes"),
    Entry(SEGMENTS, "standard:Segments"),
    Entry(RING, "rings:Ring"),
    Entry("faster-fifo", "fifo:Pickled", "faster_fifo", "faster-fifo"),
    Entry("faster-fifo, bytes", "fifo:RawBytes", "faster_fifo", "faster-fifo"),
    Entry("torch queue", "torch_queue:TorchQueue", "torch", "torch"),
    Entry("pyzmq ipc", "zmq_ipc:ZmqIpc", "zmq", "pyzmq"),
    Entry("iceoryx2, event", "iceoryx:Woken", "iceoryx2", "iceoryx2"),
    Entry(CHANNEL_POLLED, "own:PolledObjects", polls=True),
    Entry(RING_POLLED, "rings:PolledRing", polls=True),
    Entry("iceoryx2, polled", "iceoryx:Polled", "iceoryx2", "iceoryx2", True),
)


def entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        KeyError: There is none; the text lists those that exist.
    """
    for one in ENTRIES:
        if one.name == name:
            return one
    raise KeyError(f"no transport {name!r}; there are {[e.name for e in ENTRIES]}")


def load(name: str) -> type[Transport]:
    """The class of this name; imports what it needs."""
    module, kind = entry(name).place.split(":")
    found: type[Transport] = getattr(
        importlib.import_module(f".{module}", __name__), kind
    )
    return found
