"""Records decisions of the model in the format of the kernel recordings.

Other sizes, more CPUs and other limits than the recordings at hand: what the engine
must agree with too. The model is held to the kernel's recordings by its own tests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from uslub.tools.decisions import SlabHeader
from uslub.tools.verify_model import ModelSlabs


@dataclass(frozen=True)
class Plan:
    """What to record."""

    size: int
    order: int
    cpus: int
    cpu_partial_slabs: int
    min_partial: int
    free0: int  #: at most the objects of a slab
    full: int  #: slabs that are full at the start
    events: int
    seed: int


class Recorder:
    """One recording while it is made."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.objects = (4096 << plan.order) // plan.size
        self.header = SlabHeader(
            size=plan.size,
            order=plan.order,
            objects=self.objects,
            cpu_partial_slabs=plan.cpu_partial_slabs,
            min_partial=plan.min_partial,
            free0=min(plan.free0, self.objects),
            off=1 + plan.full,
            cpus=plan.cpus,
        )
        self.model = ModelSlabs(self.header, "classic")
        self.random = random.Random(plan.seed)
        self.held: list[tuple[int, int]] = []
        self.seen: set[int] = set()
        self.freed: set[tuple[int, int]] = set()
        self.lines = [
            f"H size={plan.size} order={plan.order} objs={self.objects}"
            f" cpu_partial_slabs={plan.cpu_partial_slabs}"
            f" min_partial={plan.min_partial} free0={self.header.free0}"
            f" off={self.header.off} cpus={plan.cpus}"
        ]

    def record(self) -> str:
        """The whole file."""
        self._start()
        for _ in range(self.plan.events):
            self._step()
        return "\n".join(self.lines) + "\n"

    # The model's slab numbers are the recording's: full slabs 1.., the CPU slab 0.
    def _start(self) -> None:
        full = self.plan.full
        for number in range(1, full + 1):
            self.lines.append(f"U {number}")
            for _ in range(self.objects):
                slab, index = self.model.alloc(0)
                assert isinstance(slab, int)
                self.held.append(self._named((slab, index)))
        used = self.objects - self.header.free0
        for _ in range(max(used, 1)):
            slab, index = self.model.alloc(0)
            assert isinstance(slab, int)
            self.held.append(self._named((slab, index)))
        if used == 0:
            name = self.held.pop()
            self.model.free(0, *self._own(name))
        self.seen = set(range(full + 1))

    # Model slabs 0..full-1 are full, slab `full` is CPU 0's: number 0.
    def _named(self, at: tuple[int, int]) -> tuple[int, int]:
        slab, index = at
        full = self.plan.full
        return (slab if slab > full else (slab + 1) % (full + 1)), index

    def _own(self, at: tuple[int, int]) -> tuple[int, int]:
        slab, index = at
        full = self.plan.full
        return (slab if slab > full else (slab - 1) % (full + 1)), index

    def _step(self) -> None:
        cpu = self.random.randrange(self.plan.cpus)
        choice = self.random.random()
        wave = 0.75 if self.random.random() < 0.5 else 0.3
        if choice < 0.004:
            self._shrink()
        elif choice < 0.03:
            self.lines.append("C " + " ".join(map(str, self.model.counters())))
        elif self.held and self.random.random() > wave:
            self._free(cpu)
        else:
            self._alloc(cpu)

    def _alloc(self, cpu: int) -> None:
        slab, index = self.model.alloc(cpu)
        assert isinstance(slab, int)
        at = self._named((slab, index))
        if at[0] not in self.seen:
            kind = "N"
            self.seen.add(at[0])
        else:
            kind = "E" if at in self.freed else "S"
        self.held.append(at)
        self.lines.append(f"A {cpu} {at[0]} {at[1]} {kind}")

    def _free(self, cpu: int) -> None:
        at = self.held.pop(self.random.randrange(len(self.held)))
        self.model.free(cpu, *self._own(at))
        self.freed.add(at)
        self.lines.append(f"F {cpu} {at[0]} {at[1]}")

    def _shrink(self) -> None:
        order = sorted(range(self.plan.cpus), key=lambda _: self.random.random())
        steps = [f"{half}{cpu}" for cpu in order for half in "dp"]
        if self.random.random() < 0.5:  # all slabs first, then all chains
            steps.sort(key=lambda step: step[0])
        for step in steps:
            flush = self.model.flush_slab if step[0] == "d" else self.model.flush_chain
            flush(int(step[1:]))
        self.model.shrink_nodes()
        self.lines.append("S " + " ".join(steps))


def record(plan: Plan, path: Path) -> str:
    """Write the recording to `path`; returns its name."""
    path.write_text(Recorder(plan).record())
    return str(path)
