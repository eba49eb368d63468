"""What crash safety does and costs: recovery, stopped holders, the price of a pair.

Peers there are none: no allocator here can be asked to give back what a dead process
had. So recovery stands beside its target, a stopped holder of a lock beside a stopped
process that holds none, and the pair beside the same engine built without intents and
owner tags (US_NO_CRASH_SAFETY).
"""

from __future__ import annotations

from rounds import Samples, Watch, ask
from subjects import Subjects

from workloads.native import measure

#: MiB of the arena, bytes of an object, live objects of the dead process.
ARENAS = (64, 256, 1024)
SIZES = (64, 1024)
LIVE = (1_000, 10_000, 100_000, 1_000_000)
SMALL = ((64, 64, 1_000), (64, 1024, 1_000))
#: Of an arena, what objects may fill.
ROOM = 0.75
#: What the issue asks about: MiB, bytes, objects, and nanoseconds at most.
ASKED = (1024, 64, 1_000_000)
ASKED_NS = 100e6
LOCKS = ("none", "slot", "list", "cache", "reaper")


def grid() -> list[tuple[int, int, int]]:
    """Whatever fits."""
    return [
        (mib, size, n)
        for mib in ARENAS
        for size in SIZES
        for n in LIVE
        if n * size <= ROOM * mib * 2**20
    ]


def recovery(samples: Samples, subjects: Subjects, small: bool) -> None:
    """One process killed: between two calls, or at work inside the allocator."""
    with Watch(samples, "recovery"):
        for _ in range(1 if small else 5):
            for mib, size, n in SMALL if small else grid():
                for at in ("rest", "work"):
                    if at == "work" and size != SIZES[0]:
                        continue
                    params = {"mib": mib, "size": size, "n": n, "at": at}
                    options = {**params, "batches": 2 if small else 5}
                    measure(samples, "recovery", params, [subjects.uslub], options)


def stopped(samples: Samples, subjects: Subjects, small: bool) -> None:
    """A holder of each lock is stopped; what a call of the others takes."""
    with Watch(samples, "stopped"):
        for _ in range(1 if small else 9):
            for lock in LOCKS:
                command = [subjects.stopped, lock, str(20_000 if small else 400_000)]
                for metric, values in ask(command).items():
                    samples.add("stopped", {"lock": lock}, "uslub", metric, values)


def price(samples: Samples, subjects: Subjects, small: bool) -> None:
    """64 bytes: allocate, touch, free; with crash safety and without, in turn."""
    both = (subjects.uslub, subjects.unsafe)
    with Watch(samples, "price"):
        for _ in range(3 if small else 41):
            for threads in (0, 2):
                options = {"threads": threads, "batches": 10 if small else 20}
                measure(samples, "price", {"threads": threads}, both, options, "pair")


ALL = (recovery, stopped, price)
