"""A process that does what a test tells it, one command at a time.

    python member.py ADDRESS

It connects to ADDRESS (a `multiprocessing` listener of the test), says its pid, and
then answers commands: `(verb, arguments ...)` with `("done", value)` or `("raised",
name of the error, text)`. What it holds of an object is a list of Python references
under the object's number, which stands in the object's first eight bytes as well.
After `fork` the child connects by itself and obeys, too. When its connection ends, it
ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from multiprocessing.connection import Client, Connection
from typing import Any

import numpy as np

import uslub

OBJECT_BYTES = 64
ARRAY_BYTES = 100
VIEW_BYTES = 50


def number_in(reference: Any) -> int:
    """The number at the start of an object, an array, or a view of either."""
    return int.from_bytes(bytes(memoryview(reference)[:8]), "little")


def sendable(reference: Any) -> Any:
    """A view of bytes is sent as the object that it looks at."""
    return reference.obj if isinstance(reference, memoryview) else reference


class Member:
    """The state of one process, and a method for each command."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.arena: uslub.Arena | None = None
        self.channels: list[uslub.Channel] = []
        self.refs: dict[int, list[Any]] = {}
        self.connect()

    def connect(self) -> None:
        self.conn: Connection = Client(self.address)
        self.conn.send(os.getpid())

    def serve(self) -> None:
        """Obey until told to go, or until the test has gone."""
        while True:
            try:
                verb, *words = self.conn.recv()
            except EOFError:
                return
            if verb == "exit":
                self.conn.send(("done", None))
                return
            try:
                answer = ("done", getattr(self, verb)(*words))
            except Exception as error:
                answer = ("raised", type(error).__name__, str(error))
            if answer != ("done", "I am the child"):
                self.conn.send(answer)

    # --- the arena ---

    def attach(self, name: str, channels: list[bytes]) -> None:
        self.arena = uslub.Arena.attach(name)
        self.cache = self.arena.cache("thing", OBJECT_BYTES)
        self.channels = [pickle.loads(handle) for handle in channels]

    def close(self) -> None:
        """What is held stays valid; nothing new begins."""
        assert self.arena is not None
        self.channels.clear()
        self.arena.close()
        del self.arena, self.cache

    # --- objects ---

    def keep(self, number: int, reference: Any) -> None:
        self.refs.setdefault(number, []).append(reference)

    def make(self, kind: str, number: int) -> None:
        assert self.arena is not None
        made: Any
        if kind == "object":
            made = self.cache.alloc()
            memoryview(made)[:8] = number.to_bytes(8, "little")
        else:
            made = self.arena.ndarray(ARRAY_BYTES, np.uint8)
            made[:8].view(np.int64)[0] = number
        self.keep(number, made)

    def view(self, number: int, which: int) -> None:
        """One more reference, that keeps the object although it is not it."""
        reference = self.choose(number, which)
        if isinstance(reference, np.ndarray):
            self.keep(number, reference[:VIEW_BYTES])
        else:
            self.keep(number, memoryview(reference))

    def choose(self, number: int, which: int) -> Any:
        return self.refs[number][which]

    def drop(self, number: int, which: int) -> None:
        references = self.refs[number]
        del references[which]
        if not references:
            del self.refs[number]
        gc.collect(0)

    def drop_all(self) -> None:
        self.refs.clear()
        gc.collect()

    def held(self) -> dict[int, int]:
        """How many references to which object; each shows the number it should."""
        for number, references in self.refs.items():
            for reference in references:
                found = number_in(reference)
                if found != number:
                    raise AssertionError(f"object {number} reads {found}")
        return {number: len(references) for number, references in self.refs.items()}

    # --- between processes ---

    def pickled(self, number: int, which: int) -> bytes:
        return pickle.dumps(sendable(self.choose(number, which)))

    def unpickled(self, handle: bytes, number: int) -> None:
        received = pickle.loads(handle)
        found = number_in(received)
        if found != number:
            raise AssertionError(f"received {found}, expected {number}")
        self.keep(number, received)

    def send(self, channel: int, number: int, which: int) -> bool:
        reference = sendable(self.choose(number, which))
        return self.channels[channel].try_send(reference)

    def recv(self, channel: int) -> int | None:
        """The number of what came; None: nothing was there."""
        received = self.channels[channel].try_recv()
        if received is None:
            return None
        number = number_in(received)
        self.keep(number, received)
        return number

    def move(self, number: int) -> bytes:
        """The only reference goes; whoever adopts the handle has the object."""
        handle = self.refs[number][0].move()
        del self.refs[number]
        return pickle.dumps(handle)

    def adopt(self, handle: bytes, number: int) -> None:
        assert self.arena is not None
        received = self.arena.adopt(pickle.loads(handle))
        if number_in(received) != number:
            raise AssertionError(f"adopted {number_in(received)}, expected {number}")
        self.keep(number, received)

    # --- life ---

    def fork(self) -> str | None:
        """The child has a connection of its own, and all that the parent has."""
        if os.fork() != 0:
            return None
        self.conn.close()
        self.connect()
        return "I am the child"


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    Member(sys.argv[1]).serve()


if __name__ == "__main__":
    main()
