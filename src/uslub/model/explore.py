"""Every interleaving of a few threads, and the shortest one that goes wrong.

Here: a breadth-first search over schedules. A thread is a generator that yields
the name of its next atomic step before it takes it; between two yields nothing
can come in between. Equal situations (same shared state, same points and local
values in all threads) are visited once. Not here: what the threads do (`races`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

Steps = Generator[str, None, Any]


class Violation(Exception):
    """A claim that a step, or the end state, has broken."""


@dataclass(slots=True)
class Thread:
    """A generator, the CPU it runs on, and the name of its next step."""

    name: str
    cpu: int
    body: Steps
    next: str | None = None  #: None: it has finished

    def advance(self) -> None:
        """Take the next step, and find out which comes after it."""
        self.next = next(self.body, None)


class Race(Protocol):
    """A shared world and the threads that race in it."""

    threads: list[Thread]

    def key(self) -> Hashable:
        """The shared state, comparable."""

    def may_run(self, thread: Thread) -> bool:
        """Is this thread not held up by another one?"""

    def check_end(self) -> None:
        """All threads have finished; raises Violation if anything is lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found."""

    states: int  #: different situations visited
    schedule: tuple[str, ...] = ()  #: the shortest bad interleaving, step by step
    violation: str = ""

    @property
    def good(self) -> bool:
        return not self.violation

    def __str__(self) -> str:
        if self.good:
            return f"no interleaving goes wrong ({self.states} states)"
        lines = [f"{n:3}. {step}" for n, step in enumerate(self.schedule, 1)]
        return "\n".join([*lines, f"     {self.violation}"])


def explore(make: Callable[[], Race], *, states_max: int = 200_000) -> Outcome:
    """Search all interleavings of a race.

    Args:
        make: Builds the race anew, always the same.
        states_max: Give up beyond so many situations.

    Raises:
        RuntimeError: More than `states_max` situations.
    """
    seen: set[Hashable] = set()
    queue: deque[tuple[int, ...]] = deque([()])
    while queue:
        schedule = queue.popleft()
        race = replay(make, schedule)
        for number, thread in enumerate(race.threads):
            if thread.next is None or not race.may_run(thread):
                continue
            longer = (*schedule, number)
            try:
                after = replay(make, longer)
                if all(t.next is None for t in after.threads):
                    after.check_end()
            except Violation as violation:
                return Outcome(len(seen), describe(make, longer), str(violation))
            key = (after.key(), tuple(where(t.body) for t in after.threads))
            if key not in seen:
                seen.add(key)
                queue.append(longer)
        if len(seen) > states_max:
            raise RuntimeError(f"more than {states_max} states: make the race smaller")
    return Outcome(len(seen))


def replay(make: Callable[[], Race], schedule: tuple[int, ...]) -> Race:
    """The situation after these steps; thread numbers in order."""
    race = make()
    for thread in race.threads:
        thread.advance()
    for number in schedule:
        race.threads[number].advance()
    return race


def describe(make: Callable[[], Race], schedule: tuple[int, ...]) -> tuple[str, ...]:
    """The steps of a schedule in words."""
    lines = []
    race = make()
    for thread in race.threads:
        thread.advance()
    for number in schedule:
        thread = race.threads[number]
        lines.append(f"{thread.name} (cpu {thread.cpu}): {thread.next}")
        try:
            thread.advance()
        except Violation:
            break
    return tuple(lines)


def where(body: Any) -> Hashable:
    """Where a generator stands: line by line inwards, with its simple locals."""
    frames = []
    while body is not None and getattr(body, "gi_frame", None) is not None:
        frame = body.gi_frame
        values = tuple(
            (name, value)
            for name, value in sorted(frame.f_locals.items())
            if isinstance(value, (int, str, tuple, type(None)))
        )
        frames.append((frame.f_code.co_name, frame.f_lasti, values))
        body = body.gi_yieldfrom
    return tuple(frames)
