"""Child: messages from this process to another, by one transport.

    transfer.py TRANSPORT MESSAGES MILLISECONDS [SIZE ...]

For each size, each way to make a message ("copied": from an ordinary array; "made": in
place, eight bytes written) and each question:

- latency: one message at a time to a receiver that waits. From before the sender's call
  to after the receiver has looked at one byte of each page, by the machine's monotonic
  clock. Between two messages the sender waits PAUSE_SECONDS, so that a receiver that
  sleeps has fallen asleep. MESSAGES of them at most, some milliseconds at most.
- rate: one after another, at most DEPTH under way, for that many MILLISECONDS.

The receiver checks every sequence number and looks at one byte of each 4 KiB page.
Transports that poll are pinned, sender and receiver to a CPU each; nobody else is.
Prints one JSON object: "SIZE copied latency_ns" etc.: nanoseconds (per message).
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import struct
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np
from transports import entry, load
from transports.base import Bytes, Transport

PAGE = 4096
DEPTH = 8
WARM = 2 * DEPTH  # messages before anything counts
RATE_MESSAGES_MIN = WARM + DEPTH  # however slow it is
LATENCY_MESSAGES_MIN = 8
LATENCY_COLD = 3  # messages
PAUSE_SECONDS = 50e-6
NUMBER = struct.Struct("<q")  # at the start of a message
LAST = 1 << 62  # in the sequence number of a phase's last message
SIZES = (4096, 1 << 20, 1920 * 1080 * 3)
WAYS = ("copied", "made")
QUESTIONS = ("latency_ns", "ns")


class Acknowledgement:
    """The receiver is through with a message: said in the way its transport waits."""

    def __init__(self, context: SpawnContext, polls: bool) -> None:
        self.count = context.RawValue("q", 0) if polls else None
        self.semaphore = context.Semaphore(0)
        self.seen = 0

    def give(self) -> None:
        if self.count is None:
            self.semaphore.release()
        else:
            self.count.value += 1

    def take(self) -> None:
        if self.count is None:
            self.semaphore.acquire()
        else:
            while self.count.value == self.seen:
                pass
            self.seen += 1


def stay_on(place: int) -> None:
    """Pin this process to one of the CPUs that it may use."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[place % len(cpus)]})


def look(transport: Transport, expected: int) -> bool:
    """Receive a message and look at it; whether it was the last of its phase."""
    array = transport.receive()
    (found,) = NUMBER.unpack_from(array)
    np.add.reduce(array[::PAGE])
    if found & ~LAST != expected or array.nbytes != transport.size:
        raise RuntimeError(
            f"message {expected} of {transport.size} bytes: got number"
            f" {found & ~LAST}, {array.nbytes} bytes"
        )
    return bool(found & LAST)


def receiver(
    conn: Connection, transports: list[Transport], ack: Acknowledgement, polls: bool
) -> None:
    """Phase after phase, as the sender asks."""
    if polls:
        stay_on(1)
    for transport in transports:
        transport.open_receiver()
    conn.send("ready")
    clock = time.perf_counter_ns
    while (phase := conn.recv()) is not None:
        index, question = phase
        transport, expected, last = transports[index], 0, False
        conn.send("waiting")
        if question == "latency_ns":
            stamps = []
            while not last:
                last = look(transport, expected)
                stamps.append(clock())
                transport.done()
                ack.give()
                expected += 1
            conn.send(stamps)
        else:
            start = 0
            while not last:
                last = look(transport, expected)
                transport.done()
                expected += 1
                if expected == WARM:
                    start = clock()
            conn.send((clock() - start) / (expected - WARM))
    for transport in transports:
        transport.close_receiver()


def put(transport: Transport, way: str, number: int, source: Bytes | None) -> None:
    """Send the message of this number."""
    if source is not None:
        NUMBER.pack_into(source, 0, number)
        transport.send(source)
    else:
        array = transport.make()
        NUMBER.pack_into(array, 0, number)
        transport.send_made(array)


def latency(
    transport: Transport, way: str, ack: Acknowledgement, most: int, seconds: float
) -> list[int]:
    """When each message was sent, in nanoseconds."""
    stamps = []
    end = time.perf_counter() + seconds
    last = False
    while not last:
        number = len(stamps)
        late = time.perf_counter() > end and number >= LATENCY_MESSAGES_MIN
        last = late or number == most + LATENCY_COLD - 1
        source = next(transport.sources) if way == "copied" else None
        stamps.append(time.perf_counter_ns())
        put(transport, way, number | (LAST if last else 0), source)
        ack.take()
        pause = time.perf_counter() + PAUSE_SECONDS
        while time.perf_counter() < pause:
            pass
    return stamps


def rate(transport: Transport, way: str, seconds: float) -> None:
    """One after another."""
    end = time.perf_counter() + seconds
    number, last = 0, False
    while not last:
        last = time.perf_counter() > end and number >= RATE_MESSAGES_MIN
        source = next(transport.sources) if way == "copied" else None
        put(transport, way, number | (LAST if last else 0), source)
        number += 1


def measure(
    transports: list[Transport],
    ack: Acknowledgement,
    conn: Connection,
    most: int,
    seconds: float,
) -> dict[str, list[float]]:
    """Every phase; the receiver is ready."""
    found: dict[str, list[float]] = {}
    for index, transport in enumerate(transports):
        for way, question in itertools.product(WAYS, QUESTIONS):
            conn.send((index, question))
            conn.recv()
            if question == "latency_ns":
                sent = latency(transport, way, ack, most, 2 * seconds)
                pairs = zip(sent, conn.recv(), strict=True)
                samples = [got - at for at, got in pairs][LATENCY_COLD:]
            else:
                rate(transport, way, seconds)
                samples = [round(conn.recv(), 1)]
            found[f"{transport.size} {way} {question}"] = samples
    return found


def main(name: str, most: int, seconds: float, sizes: tuple[int, ...]) -> None:
    context = multiprocessing.get_context("spawn")
    polls = entry(name).polls
    kind = load(name)
    transports = [kind(context, size, DEPTH) for size in sizes]
    ack = Acknowledgement(context, polls)
    conn, theirs = context.Pipe()
    words: Any = (theirs, transports, ack, polls)
    process = context.Process(target=receiver, args=words, daemon=True)
    process.start()
    theirs.close()
    opened = []
    try:
        if polls:
            stay_on(0)
        conn.recv()
        for transport in transports:
            transport.open_sender()
            opened.append(transport)
        found = measure(transports, ack, conn, most, seconds)
        conn.send(None)
        process.join()
    finally:
        process.kill()  # has ended, unless something is wrong
        process.join()
        for transport in opened:
            transport.close_sender()
    if process.exitcode != 0:
        raise RuntimeError(f"{name}: the receiver ended with {process.exitcode}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]) / 1e3,
        tuple(map(int, sys.argv[4:])) or SIZES,
    )
