"""A Python worker of `make chaos`: what libuslub/chaos/worker_chaos.c does, in Python.

    python worker.py ARENA ORACLE_FD ARENA_BYTES SEED WAS

It goes on until it is killed or told to stop, or forks, execs or quits by itself.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from typing import Any

import uslub
from chaos.oracle import DEAD, EXECING, LIVE, WIRE, Oracle
from uslub import _wire

CACHES = ("small", "middle", "page", "big")
HOLDS = 200
BULK = 24
#: May happen to anybody in a crowd like this one.
FINE = (
    uslub.OutOfMemory,
    uslub.LimitReached,
    uslub.StaleHandle,
    uslub.CacheNotFound,
    uslub.CacheBusy,
    uslub.TimedOut,
)
FINE += tuple(getattr(uslub, name) for name in ("LockTimeout",) if hasattr(uslub, name))


class Hold:
    """One object, and how often this process holds it."""

    def __init__(self, obj: uslub.Object, serial: int, alone: bool) -> None:
        self.objs = [obj]
        self.offset, self.nbytes = obj.offset, obj.nbytes
        self.serial, self.alone = serial, alone


class Worker:
    """One process."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        name, fd, nbytes, seed, was = arguments
        self.oracle = Oracle(int(fd), int(nbytes))
        self.lib, self.at = self.oracle.lib, self.oracle.at
        self.random = random.Random(int(seed))
        if int(was) >= 0:
            self.oracle.head.chairs[int(was)].state = DEAD
        self.sit(0)
        self.begin("detach, attach")
        self.attach(name)
        self.holds: dict[int, Hold] = {}

    def sit(self, heir: int) -> None:
        self.chair: int = self.lib.chaos_sit(self.at, ord("P"), heir)
        if self.chair < 0:
            os._exit(0)
        self.record = self.oracle.head.chairs[self.chair]

    def attach(self, name: str) -> None:
        self.arena = uslub.Arena.attach(name)
        self.caches = [self.arena.cache(cache) for cache in CACHES]
        head = self.oracle.head
        self.channels = [
            _wire.channel(bytes(head.channel[i])) for i in range(head.channels)
        ]

    def begin(self, operation: str) -> None:
        number = self.oracle.number[operation]
        self.lib.chaos_begin(self.at, self.chair, 0, number)

    def complain(self, text: str) -> None:
        self.lib.chaos_complain(self.at, self.chair, text.encode()[:250])

    # --- what this process holds ---

    def keep(self, obj: uslub.Object) -> None:
        serial = self.lib.chaos_take(
            self.at, self.chair, obj.offset, obj.address, obj.nbytes
        )
        self.holds[obj.offset] = Hold(obj, serial, True)

    def keep_of_others(self, obj: uslub.Object, nbytes: int) -> None:
        if obj.offset in self.holds:
            self.holds[obj.offset].objs.append(obj)
            return
        serial = self.lib.chaos_join(
            self.at, self.chair, obj.offset, obj.address, nbytes
        )
        hold = self.holds[obj.offset] = Hold(obj, serial, False)
        hold.nbytes = nbytes

    def some(self, alone: bool = False) -> Hold | None:
        """One of ours, or None."""
        holds = [one for one in self.holds.values() if one.alone or not alone]
        return self.random.choice(holds) if holds else None

    def take_out(self, hold: Hold) -> uslub.Object:
        """One reference, already out of the oracle if it was the last."""
        obj = hold.objs.pop()
        if not hold.objs:
            del self.holds[hold.offset]
            self.lib.chaos_drop(
                self.at,
                self.chair,
                hold.offset,
                obj.address,
                hold.nbytes,
                hold.serial,
            )
        return obj

    def share(self, hold: Hold) -> uslub.Object:
        self.lib.chaos_share(self.at, self.chair, hold.offset)
        hold.alone = False
        return hold.objs[-1]

    # --- operations; each has its name in the oracle ---

    def alloc(self) -> None:
        self.keep(self.random.choice(self.caches).alloc())

    def free(self) -> None:
        if hold := self.some():
            obj = self.take_out(hold)
            if self.random.random() < 0.5:
                obj.free()

    def bulk_alloc(self) -> None:
        cache = self.random.choice(self.caches)
        for obj in cache.alloc_bulk(self.random.randint(1, BULK)):
            self.keep(obj)

    def bulk_free(self) -> None:
        cache = self.random.choice(self.caches)
        ours = [h for h in self.holds.values() if h.alone and h.objs[0].cache == cache]
        cache.free_bulk([self.take_out(hold) for hold in ours[:BULK]])

    def kmalloc(self) -> None:
        self.keep(self.arena.kmalloc(self.random.randint(8, 4000)))

    def large_kmalloc(self) -> None:
        self.keep(self.arena.kmalloc(self.random.randint(8193, 150_000)))

    def krealloc(self) -> None:
        hold = self.some(alone=True)
        if hold is None or hold.objs[0].cache in self.caches:
            return
        old = self.take_out(hold)
        try:
            new = self.arena.krealloc(old, self.random.randint(8, 9000))
        except FINE:
            self.keep(old)
            raise
        same = min(new.nbytes, hold.nbytes, 4096)
        if not self.lib.chaos_intact(new.address, same, hold.offset, hold.serial):
            self.complain("krealloc lost the contents")
        self.keep(new)

    def channel_send(self) -> None:
        if hold := self.some():
            channel = self.random.choice(self.channels)
            channel.send(self.share(hold), self.random.choice((0, 0.002)))

    def channel_receive(self) -> None:
        channel = self.random.choice(self.channels)
        obj = channel.recv(self.random.choice((0, 0.002)))
        self.keep_of_others(obj, obj.nbytes)

    def send(self) -> None:
        if hold := self.some():
            wire: Any = self.share(hold)._send()
            self.lib.chaos_put(self.at, self.chair, wire, 0)

    def receive(self) -> None:
        wire = ctypes.create_string_buffer(WIRE)
        origin = ctypes.c_uint32()
        if self.lib.chaos_get(self.at, self.chair, wire, origin, False):
            obj = self.arena._receive(wire.raw)
            self.keep_of_others(obj, obj.nbytes)

    def flush(self) -> None:
        self.random.choice(self.caches).flush()

    def shrink(self) -> None:
        self.random.choice(self.caches).shrink()

    def trim(self) -> None:
        self.arena.trim()

    def reap(self) -> None:
        start = time.monotonic_ns()
        reaped = self.arena.reap()
        took = time.monotonic_ns() - start
        self.record.reaped += reaped.processes
        self.record.reap_max_ns = max(self.record.reap_max_ns, took)

    def cache_create(self) -> None:
        name = f"temporary-{self.random.randrange(6)}"
        cache = self.arena.cache(name, 64, flags=uslub.SLAB_NO_MERGE)
        objs = cache.alloc_bulk(3)
        cache.free_bulk(objs)

    def cache_destroy(self) -> None:
        self.arena.cache(f"temporary-{self.random.randrange(6)}").destroy()

    # --- ends ---

    def fork(self) -> None:
        head = self.oracle.head
        if head.room == 0:
            return
        head.room -= 1
        for hold in self.holds.values():
            self.share(hold)
        if os.fork() == 0:
            heir = any(one.is_self for one in self.arena.processes())
            self.sit(1)
            self.random.seed(os.getpid())
            if not heir:  # there was no place for us: nothing is ours
                os._exit(0)
            for hold in self.holds.values():
                self.lib.chaos_join(
                    self.at,
                    self.chair,
                    hold.offset,
                    hold.objs[0].address,
                    hold.nbytes,
                )

    def exec(self) -> None:
        self.arguments[4] = str(self.chair)
        self.arguments[3] = str(self.random.getrandbits(32))
        self.record.state = EXECING
        try:
            os.execv(sys.executable, [sys.executable, __file__, *self.arguments])
        finally:
            self.record.state = LIVE

    def quit(self) -> None:
        if self.random.random() < 0.5:
            os._exit(0)
        objs = [self.take_out(hold) for hold in list(self.holds.values())]
        sys.exit(len(objs) < 0)  # the interpreter frees them as it ends

    def step(self, name: str) -> None:
        self.begin(name)
        try:
            getattr(self, name.replace(" ", "_"))()
        except FINE:
            self.record.refused += 1
        except uslub.Error as error:
            self.complain(f"{name}: {type(error).__name__}: {error}")


WEIGHTS = {
    "alloc": 300,
    "free": 300,
    "bulk alloc": 40,
    "bulk free": 60,
    "kmalloc": 100,
    "large kmalloc": 20,
    "krealloc": 40,
    "channel send": 60,
    "channel receive": 80,
    "send": 20,
    "receive": 30,
    "flush": 6,
    "shrink": 6,
    "trim": 3,
    "reap": 4,
    "cache create": 4,
    "cache destroy": 4,
    "fork": 0.2,
    "exec": 0.05,
    "quit": 0.05,
}


def main() -> None:
    """Work until the round is over."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = Worker(sys.argv[1:])
    except FINE:
        return
    weights = dict(WEIGHTS)
    if worker.oracle.head.calm:
        for name in ("fork", "exec", "quit"):
            del weights[name]
    names, shares = list(weights), list(weights.values())
    while not worker.oracle.head.stop:
        if len(worker.holds) > HOLDS:
            worker.step("free")
            worker.step("bulk free")
        worker.step(worker.random.choices(names, shares)[0])
    os._exit(0)


if __name__ == "__main__":
    main()
