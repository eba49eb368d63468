"""One way of carrying frames, from the first frame to the last."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from uslub.tools.demo.carriers import Carrier
from uslub.tools.demo.crew import Crew
from uslub.tools.demo.pictures import PICTURES_MAX, Pixels, Reel
from uslub.tools.demo.screen import Screen
from uslub.tools.demo.work import STEP

IN_HAND = 4  # frames that a worker has at most
#: Part of the time limit that each way may use; a pickled frame takes the longest.
SHARES = {"uslub": 0.2, "multiprocessing.Queue": 0.5, "SharedMemory each": 0.3}
THUMBNAILS = 24


@dataclass(frozen=True)
class Plan:
    """What was asked for. Sizes are pixels unless they say bytes."""

    frames: int
    seconds: float
    workers: int
    width: int
    height: int
    pid: int = field(default_factory=os.getpid)

    @property
    def frame_bytes(self) -> int:
        return self.width * self.height * 3

    @property
    def plate_width(self) -> int:
        return self.width * 5 // 4

    @property
    def plate_height(self) -> int:
        return self.height * 5 // 4

    @property
    def thumb_width(self) -> int:
        return self.width // STEP

    @property
    def thumb_height(self) -> int:
        return self.height // STEP

    @property
    def thumb_bytes(self) -> int:
        return self.thumb_width * self.thumb_height * 3

    @property
    def arena_name(self) -> str:
        return f"demo-{self.pid}"

    @property
    def segment_prefix(self) -> str:
        return f"uslub-demo-{self.pid}-"

    @property
    def in_flight(self) -> int:
        """Frames that may be under way at once."""
        return self.workers * IN_HAND

    @property
    def arena_bytes(self) -> int:
        """Address space; memory is committed as it is used."""
        return (64 << 20) + 4 * self.frame_bytes * (PICTURES_MAX + self.in_flight)


@dataclass(frozen=True)
class Result:
    """What one course came to."""

    name: str
    frames: int
    seconds: float
    sums: dict[int, int]  #: by frame number
    counts: dict[str, tuple[int, int]]  #: objects handed out and freed, by cache
    thumbnails: list[Pixels]

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


class Course:
    """Frames go out as workers have room, and answers come back."""

    def __init__(
        self, way: Carrier, reel: Reel, plan: Plan, crew: Crew, screen: Screen
    ) -> None:
        self.way, self.reel, self.plan = way, reel, plan
        self.crew, self.screen = crew, screen
        self.sums: dict[int, int] = {}
        self.thumbnails: list[Pixels] = []
        self.sent = 0

    def run(self) -> Result:
        """All frames, or as many as the time allows."""
        room = self.plan.in_flight
        start = time.perf_counter()
        limit = start + self.plan.seconds * SHARES[self.way.name]
        self.screen.begin(self.way)
        while not self.over(limit):
            while self.may_send(room, limit):
                self.way.send(self.sent, self.reel)
                self.sent += 1
            self.receive()
            self.screen.update(self.way, len(self.sums), time.perf_counter() - start)
        seconds = time.perf_counter() - start
        self.way.finish()
        self.screen.end(self.way, len(self.sums), seconds)
        counts = self.way.counts
        sums, small = self.sums, self.thumbnails
        return Result(self.way.name, len(sums), seconds, sums, counts, small)

    def over(self, limit: float) -> bool:
        """Has everything that was sent come back, with nothing more to send?"""
        if len(self.sums) < self.sent or self.sent == 0:
            return False
        return self.sent == self.plan.frames or time.perf_counter() > limit

    def may_send(self, room: int, limit: float) -> bool:
        """Is there another frame, and a worker for it?"""
        if self.sent >= self.plan.frames or self.sent - len(self.sums) >= room:
            return False
        return self.sent == 0 or time.perf_counter() <= limit

    def receive(self) -> None:
        """Whatever has come; waits for it if no frame can be sent meanwhile."""
        for number, total, small in self.way.answers(0.25):
            self.sums[number] = total
            if number % max(1, self.plan.frames // THUMBNAILS) == 0:
                self.thumbnails.append(small)
