"""Three ways for a frame to reach a worker.

Each makes a frame the way one would make it for that way: in an object of the arena, in
an array that will be pickled, in a SharedMemory segment. The courier never looks into
a frame; what differs is only where its bytes are born and how they get across.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING

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

    def answers(self, timeout: float) -> Iterator[tuple[int, int, Pixels]]:
        """Number, sum and thumbnail of frames that came back within `timeout` s."""
        for member, (_, number, total, small) in self.crew.collect(timeout):
            member.outstanding = max(0, member.outstanding - 1)
            yield number, total, small

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
    """Objects of the arena, through a Channel to the workers and one back."""

    name = "uslub"

    def __init__(self, arena: uslub.Arena, plan: Plan, crew: Crew) -> None:
        super().__init__(arena, plan, crew)
        # A frame fills a slab. As many empty slabs stay as frames can be under way, so
        # that their pages are not given back and faulted in again.
        room = plan.in_flight
        self.frames = arena.cache(
            "frame", plan.frame_bytes + work.RECORD.size, min_partial=room
        )
        self.to_workers = uslub.Channel(arena, room)
        self.from_workers = uslub.Channel(arena, room)
        self.sent = 0
        self.returned = 0

    def __enter__(self) -> Carrier:
        for member in self.crew.members:
            self.crew.send(member, ("channel", self.to_workers, self.from_workers))
        return self

    def __exit__(self, *details: object) -> None:
        """Nothing: whatever is left in the arena goes with it."""

    def send(self, number: int, reel: Reel) -> None:
        plan = self.plan
        frame = self.frames.alloc()
        reel.cut(number, pixels(frame, plan.height, plan.width))
        facts = (number, plan.width, plan.height, *reel.window(number))
        work.RECORD.pack_into(frame, plan.frame_bytes, *facts)
        self.sent += 1
        self.to_workers.send(frame)

    def answers(self, timeout: float) -> Iterator[tuple[int, int, Pixels]]:
        """The worker's own objects, made there, copied and freed here."""
        plan = self.plan
        for _ in self.crew.collect(0):
            raise DemoError("a worker sent a message where an object was expected")
        try:
            answers = self.from_workers.recv_many(plan.in_flight, timeout)
        except uslub.TimedOut:
            return
        for answer in answers:
            number, total = work.ANSWER.unpack_from(answer, plan.thumb_bytes)
            small = pixels(answer, plan.thumb_height, plan.thumb_width).copy()
            answer.free()
            self.returned += 1
            yield number, total, small

    def finish(self) -> None:
        self.to_workers.close()

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        made, back = self.sent, self.returned
        return {"frame": (made, back), "thumb": (back, back)}


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
