"""The model behind the replay loop of recorded kernel decisions.

Here: `replay_decisions`, and the two backends it drives. Not here: the file
format and the comparison (`uslub.tools.decisions`), which the engine uses too.
"""

from __future__ import annotations

from pathlib import Path

from uslub.model.arena import Arena
from uslub.model.design import Design
from uslub.model.errors import CacheError
from uslub.model.state import Position, Step
from uslub.tools.decisions import (
    Counters,
    Handle,
    Object,
    Result,
    SheafHeader,
    SlabHeader,
    read_recording,
    replay,
)

PAGES = 1 << 18  # enough for any recording


class ModelSlabs:
    """One cache of the model, as `uslub.tools.decisions.SlabBackend`."""

    def __init__(self, header: SlabHeader, design: str | Design) -> None:
        self.arena = Arena(cpus=header.cpus, pages_per_node=PAGES, design=design)
        self.cache = self.arena.cache(
            "replay",
            header.size,
            order=header.order,
            min_partial=header.min_partial,
            cpu_partial=header.cpu_partial,
        )
        if not self.cache.design.cpu_slabs:
            raise CacheError(
                f"design {self.cache.design.name!r} has no CPU slabs: replay this"
                " recording on 'classic', '6.8' or '6.18'"
            )
        self.cache.cpu_partial_slabs = header.cpu_partial_slabs
        if self.cache.objects != header.objects:
            raise CacheError(
                f"slots of {header.size} bytes give {self.cache.objects} objects per"
                f" slab of order {header.order}, the recording has {header.objects}"
            )

    def alloc(self, cpu: int) -> Object:
        return self.cache.alloc(cpu)

    def free(self, cpu: int, slab: Handle, index: int) -> None:
        assert isinstance(slab, int)
        self.cache.free((slab, index), cpu)

    def flush_slab(self, cpu: int) -> None:
        self.cache.flush_slab(cpu)

    def flush_chain(self, cpu: int) -> None:
        self.cache.flush_chain(cpu)

    def shrink_nodes(self) -> None:
        self.cache.shrink_nodes()

    def counters(self) -> Counters:
        cache = self.cache
        lists = [slab for node in cache.nodes for slab in node.partial]
        chain = sum(len(c.partial) for c in cache.cpus)
        total = sum(node.total_objects for node in cache.nodes)
        return Counters(
            slabs=sum(node.nr_slabs for node in cache.nodes),
            partial=len(lists),
            cpu_slabs=sum(c.slab is not None for c in cache.cpus) + chain,
            chain=chain,
            objects=total - sum(slab.objects - slab.inuse for slab in lists),
        )

    def describe(self) -> str:
        return str(self.arena.snapshot())


class ModelSheaves:
    """One cache with sheaves, as `uslub.tools.decisions.SheafBackend`."""

    def __init__(self, header: SheafHeader, design: str | Design) -> None:
        self.arena = Arena(
            cpus=header.cpus,
            nodes=header.nodes,
            pages_per_node=PAGES,
            design=design,
        )
        self.cache = self.arena.cache(header.name, 192, sheaf_capacity=header.capacity)
        if self.cache.sheaf_capacity != header.capacity:
            raise CacheError(
                f"design {self.cache.design.name!r} gives this cache sheaves of"
                f" {self.cache.sheaf_capacity}, the recording has {header.capacity}"
            )
        self.cache.max_full_sheaves = header.max_full
        self.cached: set[Position] = set()  # freed into a sheaf and still there
        self.arena.machine.watch = self._watch

    # Objects that a flush sends back to slabs are no longer known one by one.
    def _watch(self, step: Step) -> None:
        if step.function == "flush_sheaf":
            sheaves = [sheaf for c in self.cache.cpus for sheaf in (c.main, c.spare)]
            sheaves += [s for node in self.cache.nodes for s in node.barn.full]
            self.cached &= {at for sheaf in sheaves if sheaf for at in sheaf}

    def alloc(self, cpu: int) -> tuple[Handle, bool]:
        position = self.cache.alloc(cpu)
        refilled = position not in self.cached
        self.cached.discard(position)
        return position, refilled

    def free(self, cpu: int, handle: Handle) -> None:
        assert isinstance(handle, Position)
        self.cache.free(handle, cpu)
        main = self.cache.cpus[cpu].main
        if main and main[-1] == handle:
            self.cached.add(handle)

    def describe(self) -> str:
        lines = []
        for c in self.cache.cpus:
            spare = "none" if c.spare is None else str(len(c.spare))
            lines.append(f"cpu {c.number}: main {len(c.main)}, spare {spare}")
        for node in self.cache.nodes:
            full, empty = len(node.barn.full), len(node.barn.empty)
            lines.append(f"node {node.number}: barn {full} full, {empty} empty")
        return "\n".join(lines)


def replay_decisions(path: str | Path, design: str | Design = "classic") -> Result:
    """Replay one decision file on the model.

    Args:
        path: A decision file of either kind.
        design: A name or a `Design`. Recordings of CPU slabs agree with `classic`,
            `6.8` and `6.18`; recordings of sheaves always run on sheaves: where
            the design has none, `6.18` stands in.

    Raises:
        DecisionFileError, OSError: The file cannot be used.
        CacheError: The parameters cannot be had in this design.
    """
    recording = read_recording(path)
    return replay(
        recording,
        lambda header: ModelSlabs(header, design),
        lambda header: ModelSheaves(header, _with_sheaves(design)),
    )


def _with_sheaves(design: str | Design) -> str | Design:
    return design if design == "7.1" else "6.18"
