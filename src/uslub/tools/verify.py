"""The engine behind the replay of recorded kernel decisions.

Here: `EngineSlabs`, one cache of an anonymous arena as `SlabBackend`; and `verify`,
which picks the right check for a file. Not here: the file formats and comparisons
(`uslub.tools.decisions`, `uslub.tools.sizes`), the model (`uslub.tools.verify_model`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from uslub.tools.decisions import (
    Counters,
    DecisionFileError,
    Handle,
    Object,
    Recording,
    Result,
    SlabHeader,
    SlabReplay,
    read_recording,
)
from uslub.tools.sizes import check_sizes, read_sizes

if TYPE_CHECKING:
    from uslub._engine import Object as EngineObject

PAGE = 4096
SIZE_MIN = 16 << 20


class EngineSlabs:
    """One cache of the engine; every object that is out is held here."""

    def __init__(self, header: SlabHeader, slabs_max: int) -> None:
        from uslub import Arena

        self.arena = Arena.create(
            None,
            max(slabs_max * (PAGE << header.order), SIZE_MIN),
            cpus=header.cpus,
            nodes=1,
        )
        self.cache = self.arena.cache(
            "replay",
            header.size,
            order=header.order,
            min_partial=header.min_partial,
            cpu_partial=header.cpu_partial,
        )
        self.cache.cpu_partial_slabs = header.cpu_partial_slabs
        if (self.cache.size, self.cache.objects_per_slab) != (
            header.size,
            header.objects,
        ):
            raise DecisionFileError(
                f"the engine makes slots of {self.cache.size} bytes,"
                f" {self.cache.objects_per_slab} in a slab of order {header.order};"
                f" the recording has {header.size} and {header.objects}"
            )
        self.held: dict[Object, EngineObject] = {}
        self.recorded: dict[Handle, int] = {}  #: recorded numbers of our slabs

    def alloc(self, cpu: int) -> Object:
        got = self.cache.alloc(cpu=cpu)
        key = (got.slab, got.index)
        if key in self.held:
            raise DecisionFileError(f"the engine handed out object {key} twice")
        self.held[key] = got
        return key

    def free(self, cpu: int, slab: Handle, index: int) -> None:
        assert isinstance(slab, int)
        gone = self.held.pop((slab, index))
        gone.free(cpu=cpu)

    def flush_slab(self, cpu: int) -> None:
        self.cache.flush_slab(cpu)

    def flush_chain(self, cpu: int) -> None:
        self.cache.flush_chain(cpu)

    def shrink_nodes(self) -> None:
        self.cache.shrink_nodes()

    def counters(self) -> Counters:
        info = self.cache.info()
        return Counters(
            slabs=info.slabs,
            partial=info.partial,
            cpu_slabs=info.cpu_slabs,
            chain=info.chain_slabs,
            objects=info.objects_total - info.partial_free,
        )

    def describe(self) -> str:
        """The cache, without the slabs that are full and on no list."""
        whole = self.cache.snapshot()
        shown = tuple(slab for slab in whole.slabs if slab.place != "full")
        left_out = len(whole.slabs) - len(shown)
        cache = dataclasses.replace(whole, slabs=shown)
        picture = dataclasses.replace(self.arena.snapshot(), caches=(cache,))
        numbers = [
            f"{slab.slab} is {number}"
            for slab in shown
            if (number := self.recorded.get(slab.slab, slab.slab)) != slab.slab
        ]
        lines = [str(picture), f"    and {left_out} full slabs"]
        if numbers:
            lines.append(f"slabs as the recording numbers them: {', '.join(numbers)}")
        return "\n".join(lines)

    def close(self) -> list[str]:
        """Check the invariants once more, then let everything go."""
        findings = self.arena.validate()
        while self.held:
            _, gone = self.held.popitem()
            gone.free(cpu=0)
        findings += self.arena.validate()
        self.arena.close()
        return findings


@dataclasses.dataclass
class Verdict:
    """One file: what the replay counted, and what `validate()` said at its end."""

    name: str
    result: Result
    findings: list[str] = dataclasses.field(default_factory=list)
    ended: str | None = None  #: why the file was not replayed to its end

    @property
    def good(self) -> bool:
        return not self.result.mismatches and not self.findings

    def line(self) -> str:
        checks, wrong = self.result.checks, self.result.mismatches
        return f"{self.name}: {checks} checks, {wrong} mismatches"


def verify(path: str | Path, backend: str, design: str = "classic") -> Verdict:
    """Check one recording of any kind.

    Args:
        path: A decision file, or a recording of sysfs (*.json).
        backend: "engine" or "model".
        design: Of the model; the engine is `classic`.

    Raises:
        DecisionFileError: The file cannot be used, or not with this backend.
        OSError: It cannot be read.
    """
    path = Path(path)
    with model_errors(path) if backend == "model" else nullcontext():
        return verify_file(path, backend, design)


@contextmanager
def model_errors(path: Path) -> Iterator[None]:
    """What the model refuses is a matter of the file, or of the design."""
    from uslub.model.errors import ModelError

    try:
        yield
    except ModelError as error:
        raise DecisionFileError(f"{path}: {error}") from error


def verify_file(path: Path, backend: str, design: str) -> Verdict:
    """The check that the file's kind asks for."""
    if path.suffix == ".json":
        return Verdict(path.name, verify_sizes(path, backend, design))
    recording = read_recording(path)
    header = recording.header
    if isinstance(header, SlabHeader):
        return verify_slabs(recording, header, backend, design)
    if backend == "engine":
        raise DecisionFileError(
            f"{path}: a recording of a cache with sheaves, which the engine does not"
            " have; replay it with --backend model --design 6.18"
        )
    from uslub.tools.verify_model import replay_decisions

    return Verdict(path.name, replay_decisions(path, design))


def verify_sizes(path: Path, backend: str, design: str) -> Result:
    from uslub.tools.sizes_backends import EngineSizes, ModelSizes

    if backend == "engine":
        return check_sizes(read_sizes(path), EngineSizes)
    return check_sizes(read_sizes(path), lambda file: ModelSizes(file, design))


def verify_slabs(
    recording: Recording, header: SlabHeader, backend: str, design: str
) -> Verdict:
    """Replay a recording of a cache with CPU slabs."""
    if backend == "model":
        from uslub.tools.verify_model import ModelSlabs

        return run_replay(SlabReplay(recording, ModelSlabs(header, design)))
    engine = EngineSlabs(header, slabs_needed(recording, header))
    replay = SlabReplay(recording, engine)
    engine.recorded = replay.number_of
    verdict = run_replay(replay)
    verdict.findings += engine.close()
    return verdict


def slabs_needed(recording: Recording, header: SlabHeader) -> int:
    """Slabs that can exist at once, with some to spare for wrong decisions.

    No more than were ever new; and each holds a live object, or is kept by a CPU, a
    chain or `min_partial`.
    """
    new = live = live_max = 0
    for event in recording.events:
        if event.kind == "A":
            live += 1
            live_max = max(live_max, live)
            new += event.words[3] == "N"
        elif event.kind == "F":
            live -= 1
    listed = 1 + len(recording.full)
    kept = header.cpus * (header.cpu_partial_slabs + 2) + header.min_partial
    return 64 + listed + min(2 * new, live_max + listed * header.objects + 2 * kept)


# After a wrong decision the rest of a recording may ask for the impossible, such as
# freeing what was never handed out: then the replay ends there and says so.
def run_replay(replay: SlabReplay) -> Verdict:
    verdict = Verdict(replay.recording.path.name, replay.result)
    try:
        replay.run()
    except Exception as error:
        if replay.result.first is None:
            raise
        verdict.ended = f"the replay ended early: {error}"
    return verdict
