"""Child: 64-byte objects made here and freed in another process, from Python.

    handoff.py SAMPLES BURST

Each sample is BURST messages through a pipe (or queue), in lists of LIST, and the
answer that the last has been freed. Prints one JSON object: nanoseconds per message.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import uslub

LIST = 32


def consumer(conn: Connection, queue: Any, name: str) -> None:
    """Frees what comes, as its kind needs; answers "end"."""
    arena = uslub.Arena.attach(name)
    conn.send("ready")
    while True:
        match conn.recv():
            case "end":
                conn.send("done")
            case "stop":
                return
            case ("objects", handles):
                for handle in handles:
                    arena.adopt(handle)  # and dropped: freed
            case ("bytes", _):
                pass  # unpickled, and gone
            case ("segments", names):
                for each in names:
                    memory = SharedMemory(each)
                    memory.close()
                    memory.unlink()
            case ("queue", count):
                for _ in range(count):
                    queue.get()
                conn.send("done")


def senders(
    arena: uslub.Arena, conn: Connection, queue: Any
) -> dict[str, Callable[[int], None]]:
    """What sends `count` messages, by subject; all but the queue in lists."""
    cache = arena.cache("message", 64)

    def objects(count: int) -> None:
        for _ in range(count // LIST):
            conn.send(("objects", [cache.alloc().move() for _ in range(LIST)]))
        conn.send("end")

    def plain(count: int) -> None:
        for _ in range(count // LIST):
            conn.send(("bytes", [bytearray(64) for _ in range(LIST)]))
        conn.send("end")

    def segments(count: int) -> None:
        for _ in range(count // LIST):
            made = [SharedMemory(create=True, size=64) for _ in range(LIST)]
            conn.send(("segments", [memory.name for memory in made]))
            for memory in made:
                memory.close()
        conn.send("end")

    def queued(count: int) -> None:
        conn.send(("queue", count))
        for _ in range(count):
            queue.put(bytearray(64))

    return {
        "uslub handles, Pipe": objects,
        "bytearray(64) pickled, Pipe": plain,
        "bytearray(64), Queue": queued,
        "SharedMemory each, Pipe": segments,
    }


def main(samples: int, burst: int) -> None:
    context = multiprocessing.get_context("spawn")
    conn, theirs = context.Pipe()
    queue = context.Queue()
    name = f"bench-{os.getpid()}"
    arena = uslub.Arena.create(name, "64MiB")
    found: dict[str, list[float]] = {}
    try:
        process = context.Process(
            target=consumer, args=(theirs, queue, name), daemon=True
        )
        process.start()
        theirs.close()
        conn.recv()
        subjects = senders(arena, conn, queue)
        for i in range(-1, samples):
            for subject, send in subjects.items():
                count = burst // 8 if "SharedMemory" in subject else burst
                start = time.perf_counter_ns()
                send(count)
                conn.recv()
                spent = time.perf_counter_ns() - start
                if i >= 0:
                    found.setdefault(subject, []).append(round(spent / count, 1))
        conn.send("stop")
        process.join(5)
    finally:
        uslub.Arena.unlink(name)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
