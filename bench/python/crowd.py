"""Child: how many processes share one arena, and what an operation costs then.

    crowd.py PROCESSES MILLISECONDS

Allocate here, free there: processes 2k and 2k + 1 are a pair with a Channel each way.
Either allocates 64-byte objects, writes a byte into each, sends them in lists of LIST
to the other, and drops what comes from there after a look at it. So every process
allocates, and every object is freed by another process than its maker. One process
alone sends to itself. All start at once and stop after MILLISECONDS; the arena is made
by the first of them, so that PROCESSES is all that share it.

Printed is one JSON object. "ns": wall time times the CPUs that can be busy, by the
number of objects that all received: what an allocation there and its free here cost.
"cpu_ns": the CPU time of all processes by the same number.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import sys
import time
from multiprocessing.connection import Connection

import uslub

SIZE = 64
LIST = 32
CAPACITY = 4 * LIST
ROOM = "64MiB"
PATIENCE_SECONDS = 60
STAMP = 7


def member(conn: Connection, name: str, index: int, count: int, seconds: float) -> None:
    """Sends and receives by turns until time is up; then drains."""
    if index == 0:
        arena = uslub.Arena.create(name, ROOM)
        channels = [uslub.Channel(arena, CAPACITY) for _ in range(count)]
        for _ in range(1, count):
            conn.send_bytes(pickle.dumps((arena, channels)))
    else:
        arena, channels = pickle.loads(conn.recv_bytes())
    out, inn = channels[index], channels[index ^ 1 if count > 1 else index]
    cache = arena.cache("message", SIZE)
    conn.send("ready")
    conn.recv()
    cpu, end = time.process_time(), time.perf_counter() + seconds
    received = 0
    with contextlib.suppress(uslub.ChannelClosed):
        while time.perf_counter() < end:
            give(out, cache)
            received += take(inn, LIST)
        out.close()
        while True:
            received += take(inn, 1)
    out.close()
    conn.send((received, time.process_time() - cpu))
    conn.recv()


def give(out: uslub.Channel, cache: uslub.Cache) -> None:
    """Send a list of new objects."""
    objects = cache.alloc_bulk(LIST)
    for obj in objects:
        memoryview(obj)[0] = STAMP
    out.send_many(objects, timeout=PATIENCE_SECONDS)


def take(inn: uslub.Channel, least: int) -> int:
    """Receive at least so many, and drop them; how many they were."""
    taken = 0
    while taken < least:
        objects = inn.recv_many(LIST, timeout=PATIENCE_SECONDS)
        for obj in objects:
            if memoryview(obj)[0] != STAMP:
                raise RuntimeError(f"{obj!r} arrived with other contents")
        taken += len(objects)
    return taken


def measure(conns: list[Connection]) -> tuple[float, int, float]:
    """Seconds, objects received, CPU seconds."""
    for conn in conns[1:]:
        conn.send_bytes(conns[0].recv_bytes())
    for conn in conns:
        conn.recv()
    start = time.perf_counter()
    for conn in conns:
        conn.send("go")
    answers = [conn.recv() for conn in conns]
    seconds = time.perf_counter() - start
    for conn in conns:
        conn.send("end")
    received, cpu = zip(*answers, strict=True)
    return seconds, sum(received), sum(cpu)


def main(count: int, seconds: float) -> None:
    if count != 1 and (count < 2 or count % 2):
        raise SystemExit(
            f"crowd.py: {count} processes are no pairs; give 1, 2, 4, 6 ..."
        )
    context = multiprocessing.get_context("spawn")
    name = f"bench-crowd-{os.getpid()}"
    conns, processes = [], []
    try:
        for i in range(count):
            conn, theirs = context.Pipe()
            words = (theirs, name, i, count, seconds)
            process = context.Process(target=member, args=words, daemon=True)
            process.start()
            theirs.close()
            conns.append(conn)
            processes.append(process)
        wall, received, cpu = measure(conns)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()  # has ended, unless something is wrong
        with contextlib.suppress(uslub.ArenaNotFound):
            uslub.Arena.unlink(name)
    cpus = min(count, len(os.sched_getaffinity(0)))
    found = {"ns": [wall * cpus / received * 1e9], "cpu_ns": [cpu / received * 1e9]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) / 1e3)
