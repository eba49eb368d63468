"""Processes for a test to command: started, forked, killed, and never left behind.

`Crew` listens on a socket; `Crew.start()` starts an interpreter with member.py, and
`Hand.fork()` makes one of its children obey as well. Every wait has a bound.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

MEMBER = Path(__file__).with_name("member.py")
PATIENCE_SECONDS = 60


class Raised(Exception):
    """A member's command raised; `name` is the class of the error."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Hand:
    """One member, seen from the test."""

    def __init__(self, crew: Crew, conn: Connection) -> None:
        self.crew, self.conn = crew, conn
        self.pid: int = self.wait()
        self.life = os.pidfd_open(self.pid)

    def wait(self) -> Any:
        if not self.conn.poll(PATIENCE_SECONDS):
            raise AssertionError(f"no answer in {PATIENCE_SECONDS} s")
        return self.conn.recv()

    def tell(self, verb: str, *words: Any) -> None:
        """Give a command; `hear()` has the answer."""
        self.conn.send((verb, *words))

    def hear(self) -> Any:
        kind, *answer = self.wait()
        if kind == "raised":
            raise Raised(*answer)
        return answer[0]

    def do(self, verb: str, *words: Any) -> Any:
        """Give a command and wait for its answer.

        Raises:
            Raised: The command raised in the member.
        """
        self.tell(verb, *words)
        return self.hear()

    def fork(self) -> Hand:
        """A child of this member, that holds what it holds."""
        self.do("fork")
        return self.crew.accept()

    def leave(self) -> None:
        """End as an interpreter ends; returns when the process is gone."""
        self.do("exit")
        self.gone()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.gone()

    def gone(self) -> None:
        if not select.select([self.life], [], [], PATIENCE_SECONDS)[0]:
            raise AssertionError(f"process {self.pid} did not end")
        self.conn.close()
        os.close(self.life)
        self.crew.hands.remove(self)


class Crew:
    """All members of a test."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="uslub-crew-")
        self.listener = Listener(str(Path(self.folder.name, "socket")), "AF_UNIX")
        self.hands: list[Hand] = []
        self.started: list[subprocess.Popen[bytes]] = []

    def accept(self) -> Hand:
        """The member that connects next."""
        socket = self.listener._listener._socket  # type: ignore[attr-defined]
        if not select.select([socket], [], [], PATIENCE_SECONDS)[0]:
            raise AssertionError(f"no member connected in {PATIENCE_SECONDS} s")
        hand = Hand(self, self.listener.accept())
        self.hands.append(hand)
        return hand

    def start(self) -> Hand:
        """A member in a new interpreter."""
        command = [sys.executable, str(MEMBER), str(self.listener.address)]
        self.started.append(subprocess.Popen(command))
        return self.accept()

    def close(self) -> None:
        """Kill who is still there."""
        for hand in list(self.hands):
            hand.kill()
        for process in self.started:
            process.wait(PATIENCE_SECONDS)
        self.listener.close()
        self.folder.cleanup()
