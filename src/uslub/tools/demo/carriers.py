"""Three ways for a frame to reach a worker.

Each makes a frame the way one would make it for that way: in an object of the arena, in
an array that will be pickled, in a SharedMemory segment. The courier never looks into
a frame; what differs is only where its bytes are born and how they get across.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any

import numpy as np

import uslub
from uslub.tools.demo import work
from uslub.tools.demo.crew import Crew, DemoError, Member
from uslub.tools.demo.pictures import Pixels, Reel, pixels

if TYPE_CHECKING:
    from uslub.tools.demo.course import Plan


class Carrier(ABC):
    """One way; used as a context manager around its course."""

    name: str

    def __init__(self, arena: uslub.Arena, plan: Plan, crew: Crew) -> None:
        self.arena, self.plan, self.crew = arena, plan, crew

    def __enter__(self) -> Carrier:
        return self

    @abstractmethod
    def __exit__(self, *details: object) -> None:
        """Leave nothing behind."""

    @abstractmethod
    def send(self, number: int, reel: Reel) -> None:
        """Make frame `number` and send it off."""

    def thumbnail(self, received: Any) -> Pixels:
        """What came back for a frame, as an array of our own."""
        array: Pixels = received
        return array

    def finish(self) -> None:
        """No more frames will come."""
        return

    def idlest(self) -> Member:
        """The worker with the fewest frames in its hands."""
        return min(self.crew.members, key=lambda member: member.outstanding)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Objects handed out and freed, by cache."""
        return {}


class Objects(Carrier):
    """Objects of the arena: only two handles go through the pipe."""

    name = "uslub"

    def __init__(self, arena: uslub.Arena, plan: Plan, crew: Crew) -> None:
        super().__init__(arena, plan, crew)
        # A frame fills a slab. As many empty slabs stay as frames can be under way, so
        # that their pages are not given back and faulted in again.
        self.frames = arena.cache("frame", plan.frame_bytes, min_partial=plan.in_flight)
        self.records = arena.cache("record", work.RECORD.size)
        self.thumbs = arena.cache("thumb", plan.thumb_bytes)
        self.sent = 0
        self.returned = 0

    def __exit__(self, *details: object) -> None:
        """Nothing: whatever is left in the arena goes with it."""

    def send(self, number: int, reel: Reel) -> None:
        plan = self.plan
        frame, record = self.frames.alloc(), self.records.alloc()
        reel.cut(number, pixels(frame, plan.height, plan.width))
        facts = (number, plan.width, plan.height, *reel.window(number))
        work.RECORD.pack_into(record, 0, *facts)
        member = self.idlest()
        member.outstanding += 1
        self.sent += 1
        self.crew.send(member, ("objects", frame.move(), record.move()))

    def thumbnail(self, received: uslub.Handle) -> Pixels:
        """The worker's own object, made there, copied and freed here."""
        self.returned += 1
        with self.arena.adopt(received) as small:
            plan = self.plan
            return pixels(small, plan.thumb_height, plan.thumb_width).copy()

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        made, back = self.sent, self.returned
        return {"frame": (made, back), "record": (made, back), "thumb": (back, back)}


class Pickles(Carrier):
    """Arrays through one multiprocessing.Queue."""

    name = "multiprocessing.Queue"

    def __enter__(self) -> Carrier:
        for member in self.crew.members:
            self.crew.send(member, ("queue",))
        return self

    def __exit__(self, *details: object) -> None:
        """The queue is the crew's and goes with it."""

    def send(self, number: int, reel: Reel) -> None:
        # A fresh array each time: the queue pickles it later, in a thread of its own.
        frame = np.empty((self.plan.height, self.plan.width, 3), np.uint8)
        reel.cut(number, frame)
        self.crew.queue.put((number, frame))

    def finish(self) -> None:
        for _ in self.crew.members:
            self.crew.queue.put(None)


class Segments(Carrier):
    """One multiprocessing.shared_memory.SharedMemory per frame."""

    name = "SharedMemory each"

    def __init__(self, arena: uslub.Arena, plan: Plan, crew: Crew) -> None:
        super().__init__(arena, plan, crew)
        self.under_way: set[str] = set()

    def __enter__(self) -> Carrier:
        # SharedMemory does not reserve what it promises: a full /dev/shm is a SIGBUS.
        disk = os.statvfs("/dev/shm")
        free = disk.f_bavail * disk.f_frsize
        wanted = (self.plan.in_flight + 2) * self.plan.frame_bytes
        if free < wanted:
            raise DemoError(
                f"/dev/shm has {free / 1e6:.0f} MB left, one SharedMemory per frame "
                f"may need {wanted / 1e6:.0f} MB; make it larger or try --size 640x360"
            )
        return self

    def __exit__(self, *details: object) -> None:
        for name in self.under_way:
            try:
                segment = SharedMemory(name)
            except FileNotFoundError:
                continue  # its worker was done with it
            segment.close()
            segment.unlink()

    def send(self, number: int, reel: Reel) -> None:
        name = f"{self.plan.segment_prefix}{number}"
        segment = SharedMemory(name, create=True, size=self.plan.frame_bytes)
        self.under_way.add(name)
        frame = pixels(segment.buf, self.plan.height, self.plan.width)
        reel.cut(number, frame)
        del frame
        segment.close()
        member = self.idlest()
        member.outstanding += 1
        self.crew.send(member, ("segment", number, name))


CARRIERS: tuple[type[Carrier], ...] = (Objects, Pickles, Segments)
