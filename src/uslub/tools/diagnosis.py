"""What is wrong with an arena, and what to do: `uslub doctor` without its printing.

The look is from outside: it takes no part in the arena, waits for nobody and repairs
nothing, so an arena that cannot be attached, or whose users are stopped, can be
diagnosed too. Whether a process is stopped is read from /proc, for people only: no
decision of the engine depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from uslub.errors import CorruptArena, LayoutMismatch
from uslub.info import Health, ProcessInfo, ThreadInfo
from uslub.tools.attach import error_text, helping
from uslub.tools.text import count

#: Operations during which ThreadInfo.cache is the cache concerned.
SLOW = ("alloc, slow path", "flush", "shrink", "repair")


@dataclass(frozen=True)
class Participant:
    """One process that takes part."""

    slot: int
    pid: int
    state: str  #: "alive", "stopped", "dead"; "unknown": alive, perhaps stopped
    threads: tuple[ThreadInfo, ...]  #: that have been in the arena

    @property
    def who(self) -> str:
        """For sentences."""
        return f"process {self.pid}" if self.pid else f"the child in slot {self.slot}"

    @property
    def locks(self) -> int:
        """That its threads hold, or are about to take."""
        return sum(thread.locks for thread in self.threads)

    @property
    def busy(self) -> list[ThreadInfo]:
        """Threads in the middle of something."""
        return [each for each in self.threads if each.operation or each.locks]


@dataclass(frozen=True)
class Diagnosis:
    """One arena at one moment."""

    name: str
    error: str | None = None  #: why it could not be looked at; nothing else is known
    health: Health | None = None
    participants: tuple[Participant, ...] = ()
    doubtful: tuple[str, ...] = ()  #: caches that will be rebuilt once more

    @property
    def findings(self) -> list[str]:
        """A sentence for each thing that is wrong: what it means, what to do."""
        if self.error is not None:
            return [self.error]
        found = [*poison(self), *doubts(self)]
        for one in self.participants:
            found += person(one, self)
        return found


def diagnose(name: str) -> Diagnosis:
    """Look at one arena.

    Raises:
        ArenaNotFound: With the names that come near.
        SystemCallFailed: It belongs to somebody else.
    """
    from uslub._engine import _examine

    try:
        with helping(name):
            health, processes, threads, doubtful = _examine(name)
    except (CorruptArena, LayoutMismatch) as error:
        return Diagnosis(name, error=error_text(error))
    participants = tuple(
        Participant(
            process.slot,
            process.pid,
            state_of(process),
            tuple(thread for thread in threads if thread.process == process.slot),
        )
        for process in processes
    )
    return Diagnosis(name, None, health, participants, tuple(doubtful))


# -- alive, stopped or dead --------------------------------------------------------


def state_of(process: ProcessInfo) -> str:
    """What the kernel says of a process, if it can be asked for this very one.

    Dead or alive is certain: the engine asks for a lock that dies with the process.
    """
    if not process.alive:
        return "dead"
    if not process.pid_namespace or process.pid_namespace != own_namespace():
        return "unknown"
    try:
        with open(f"/proc/{process.pid}/stat", encoding="ascii", errors="replace") as f:
            letter, start_time = read_stat(f.read())
    except (OSError, ValueError):
        return "unknown"
    if start_time != process.start_time:  # somebody else has that number now
        return "unknown"
    return "stopped" if letter in "Tt" else "alive"


def read_stat(text: str) -> tuple[str, int]:
    """State letter and start time (clock ticks from boot) of a /proc/PID/stat.

    Raises:
        ValueError: It is no such text.
    """
    fields = text[text.rindex(")") + 1 :].split()
    if len(fields) < 20:
        raise ValueError(text)
    return fields[0], int(fields[19])


def own_namespace() -> int:
    """Of pids; 0 where that cannot be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


# -- findings ----------------------------------------------------------------------


def poison(seen: Diagnosis) -> Iterator[str]:
    health = seen.health
    if health is None:
        return
    if health.poisoned:
        yield (
            "the arena is poisoned: recovery met pages that it cannot explain, and"
            " nothing new begins in it; read what you need, then"
            f" `uslub unlink {seen.name}` and make it anew"
        )
    if health.poisoned_slabs or health.poisoned_objects:
        yield (
            f"{count(health.poisoned_slabs, 'slab')} and"
            f" {count(health.poisoned_objects, 'object')} are poisoned: they contradict"
            " themselves, as after a stray write; nobody gets them any more, the rest"
            " goes on"
        )


def doubts(seen: Diagnosis) -> Iterator[str]:
    for name in seen.doubtful:
        yield (
            f"cache {name!r} is in doubt: a free object of it may not be found before"
            " it is rebuilt once more, which happens by itself;"
            f" `uslub reap {seen.name}` tries now"
        )
    if seen.health is not None and seen.health.pages_doubtful:
        yield (
            "the counters of free pages are in doubt: they are made anew by themselves;"
            f" `uslub reap {seen.name}` tries now"
        )


def person(one: Participant, seen: Diagnosis) -> list[str]:
    if one.state == "dead":
        return [dead(one, seen)]
    found = [
        f"thread {thread.tid} of {one.who} ended inside a call ({doing(thread)}): it is"
        f" settled by itself; `uslub reap {seen.name}` does it now"
        for thread in one.threads
        if thread.dead
    ]
    if one.state == "stopped" and one.busy:
        found.append(stopped(one))
    return found


def dead(one: Participant, seen: Diagnosis) -> str:
    inside = f" (in the middle of: {doings(one)})" if one.busy else ""
    blocked = [other for other in seen.participants if in_the_way(other)]
    text = f"{one.who} is dead and not settled{inside}: what it held goes back "
    if blocked:
        names = " and ".join(other.who for other in blocked)
        return f"{text}at the latest when {names}, which is stopped, goes on or ends"
    return (
        f"{text}when somebody attaches or the arena is full;"
        f" `uslub reap {seen.name}` does it now"
    )


def in_the_way(one: Participant) -> bool:
    """May it keep others from being settled?"""
    repairing = any(thread.operation == "repair" for thread in one.threads)
    return one.state == "stopped" and (one.locks > 0 or repairing)


def stopped(one: Participant) -> str:
    todo = f"continue it (kill -CONT {one.pid}) or end it (kill -KILL {one.pid})"
    if any(thread.operation == "repair" for thread in one.threads):
        return f"{one.who} is stopped in the middle of a repair: the dead wait; {todo}"
    if one.locks:
        held = "a lock" if one.locks == 1 else f"{one.locks} locks"
        return (
            f"{one.who} is stopped and holds {held} ({doings(one)}): others go around"
            " it, but flush, shrink and what concerns whole caches may be a"
            f" LockTimeout; {todo}"
        )
    return (
        f"{one.who} is stopped in the middle of: {doings(one)}; nobody waits for it,"
        f" but what it has in hand stays there; {todo}"
    )


def doing(thread: ThreadInfo) -> str:
    """What a thread is in the middle of."""
    if thread.operation in SLOW and thread.cache is not None:
        return f"{thread.operation} of {thread.cache!r}"
    return thread.operation or ("holding a lock" if thread.locks else "between calls")


def doings(one: Participant) -> str:
    """The same of all threads of a process; "-": nothing."""
    return "; ".join(unique([doing(thread) for thread in one.busy])) or "-"


def unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
