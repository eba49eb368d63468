"""The worker processes: started fresh, watched, and gone when the `with` block ends.

Each worker has a pipe of its own. A queue shared by several readers is no use here: its
lock dies with a reader that is killed while it waits, and everybody else hangs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uslub.tools.demo.course import Plan

START_SECONDS = 60.0
STOP_SECONDS = 2.0


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass
class Member:
    """One worker process, as the demo sees it."""

    number: int
    process: SpawnProcess
    conn: Connection
    outstanding: int = 0


class Crew:
    """All workers, as a context manager."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        context = multiprocessing.get_context("spawn")
        self.context = context
        self.queue: Queue[Any] = context.Queue()
        self.members: list[Member] = []

    def __enter__(self) -> Crew:
        try:
            for number in range(self.plan.workers):
                self.members.append(self.start(number))
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()

    def start(self, number: int) -> Member:
        """Spawn one worker; it attaches to the arena by name."""
        from uslub.tools.demo import work

        ours, theirs = self.context.Pipe()
        args = (theirs, self.queue, self.plan, self.plan.arena_name)
        name = f"uslub-demo-{number}"
        process = self.context.Process(
            target=work.main, args=args, name=name, daemon=True
        )
        process.start()
        theirs.close()
        return Member(number, process, ours)

    def await_ready(self) -> None:
        """Wait until every worker has attached."""
        deadline, ready = time.monotonic() + START_SECONDS, 0
        while ready < len(self.members):
            if time.monotonic() > deadline:
                raise DemoError(f"workers did not start within {START_SECONDS:.0f} s")
            ready += sum(1 for _ in self.collect(1.0))
            self.say(f"{ready} of {len(self.members)} workers have attached")

    def collect(self, timeout: float) -> Iterator[tuple[Member, tuple[Any, ...]]]:
        """Messages that have come, or come within `timeout` seconds.

        Raises:
            DemoError: A worker failed or died.
        """
        by_conn = {member.conn: member for member in self.members}
        by_end = {member.process.sentinel: member for member in self.members}
        for source in wait([*by_conn, *by_end], timeout):
            if isinstance(source, Connection):
                yield by_conn[source], self.receive(by_conn[source])
            elif isinstance(source, int) and not by_end[source].conn.poll():
                raise DemoError(self.obituary(by_end[source]))

    def receive(self, member: Member) -> tuple[Any, ...]:
        """One message of one worker."""
        try:
            message: tuple[Any, ...] = member.conn.recv()
        except (EOFError, ConnectionResetError):
            raise DemoError(self.obituary(member)) from None
        if message[0] == "error":
            raise DemoError(f"worker {member.number} failed:\n{message[1]}")
        return message

    def send(self, member: Member, message: tuple[Any, ...]) -> None:
        """To one worker; its death is told as such."""
        try:
            member.conn.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise DemoError(self.obituary(member)) from None

    def obituary(self, member: Member) -> str:
        """What became of a worker that should be there."""
        member.process.join(STOP_SECONDS)
        code = member.process.exitcode
        how = f"exited with {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return (
            f"worker {member.number} (process {member.process.pid}) {how} with "
            f"{member.outstanding} frames in its hands; the arena has been unlinked"
        )

    def stop(self) -> None:
        """Ask, then insist. Nobody is left afterwards."""
        for member in self.members:
            with contextlib.suppress(OSError):
                member.conn.send(("stop",))
            member.conn.close()
        deadline = time.monotonic() + STOP_SECONDS
        for member in self.members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
        self.members.clear()
        self.queue.cancel_join_thread()
        self.queue.close()
