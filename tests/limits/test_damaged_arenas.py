"""Bit-flipped arenas: an exception or an answer, never a crash, a hang, a wild access.

A child process damages copies of one arena, a few bits each, and uses them: attach,
receive, reap, validate, info, allocate, free, shrink. It prints the number of the image
before it begins, so that a death or a hang names its image.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import os, random, sys
    import uslub

    sys.unraisablehook = lambda what: None  # objects of an arena that is damaged

    first, count = int(sys.argv[1]), int(sys.argv[2])
    good = uslub.Arena.create(size="1MiB", cpus=2, nodes=1)
    small, big = good.cache("small", 64), good.cache("big", 5000)
    odd = good.cache("odd", 100, flags=uslub.Flags.FREELIST_RANDOM)
    held = [c.alloc() for c in (small, big, odd) for _ in range(40)]
    del held[::3]
    channel = uslub.Channel(good, 4)
    for obj in held[:3]:
        channel.send(obj)
    wires = [obj._send() for obj in held[2:6]]
    channel_wire = channel._send_handle()
    whole = os.pread(good.fileno(), os.fstat(good.fileno()).st_size, 0)
    used = [i for i, byte in enumerate(whole) if byte]

    def share(arena):
        taken = [arena._receive(wire) for wire in wires]
        there = uslub.Channel._open(arena, channel_wire)
        taken += there.recv_many(4, timeout=0.01)
        for obj in taken:
            bytes(obj)
            there.send(obj, timeout=0)

    def use(arena):
        try:
            share(arena)
        except uslub.Error:
            pass
        arena.reap()
        arena.validate()
        arena.info()
        mine = []
        for name in ("small", "big", "odd"):
            cache = arena.cache(name)
            cache.info()
            for _ in range(20):
                mine.append(cache.alloc())
            cache.snapshot()
        mine.append(arena.kmalloc(100))
        mine.append(arena.kmalloc(30000))
        while mine:
            mine.pop(len(mine) // 2).free()
        for name in ("small", "big", "odd"):
            arena.cache(name).shrink()
        arena.trim()

    for number in range(first, first + count):
        print(number, flush=True)
        chance = random.Random(number)
        image = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 20))):
            at = chance.choice(used) if chance.random() < 0.8 else (
                chance.randrange(len(image)))
            image[at] ^= 1 << chance.randrange(8)
        file = os.memfd_create("damaged")
        os.write(file, image)
        try:
            with uslub.Arena.attach(file) as arena:
                use(arena)
        except uslub.Error:
            pass
        finally:
            os.close(file)
    os._exit(0)
    """
)


def run(first: int, count: int, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, str(first), str(count)],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    images = done.stdout.split()
    assert done.returncode == 0, (images[-1:], done.stderr[-3000:])
    assert len(images) == count


def test_a_few_flipped_bits_are_survived() -> None:
    run(0, 300, 60)


@pytest.mark.check
@pytest.mark.parametrize("part", range(8))
def test_many_flipped_bits_are_survived(part: int) -> None:
    run(1000 + part * 2500, 2500, 300)
