"""Recorded kernel decisions: the file format, and the loop that replays them.

Here: a parser for the two kinds of decision file, and `replay`, which drives
anything that implements `SlabBackend` or `SheafBackend` through a recording and
compares every decision. Neither the engine nor the model is imported.

The formats. One event per line; the first line is the header.

    H size= order= objs= cpu_partial_slabs= min_partial= free0= off=
    U slab            full at the start
    A cpu slab idx E  this very object, which had been freed before
    A cpu slab idx S  a never-used object of this slab (which one is not known)
    A cpu slab idx N  an object of a new slab
    F cpu slab idx    free
    C slabs partial cpu_slabs chain objects    the kernel's counters here
    S d0 p0 d1 p1     a shrink: the order in which slabs (d) and chains (p) of
                      the CPUs were flushed, then the nodes

    H cache= capacity= max_full= cpus= nodes=  a cache with sheaves, all empty
    A cpu obj E       this very object
    A cpu obj R       an object that a refill brought
    F cpu obj

How objects are matched. A recording does not tell the index of a never-used
object, because the kernel shuffles new slabs. So recorded objects are bound to
the backend's objects when they are first seen; from then on the identity is
exact. After a wrong decision the recorded object is bound to what the backend
gave instead, so that the replay can go on and count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

Handle = Hashable
Object = tuple[Handle, int]


class DecisionFileError(ValueError):
    """A line that is not in the format; the text names file and line."""


class Counters(NamedTuple):
    """The sysfs counters of a C line."""

    slabs: int
    partial: int
    cpu_slabs: int  #: CPU slabs and slabs on chains
    chain: int  #: slabs on chains
    objects: int  #: all objects less the free ones on node lists


@dataclass(frozen=True, slots=True)
class SlabHeader:
    """Parameters of a recording of a cache with CPU slabs."""

    size: int  #: bytes per slot
    order: int
    objects: int  #: per slab
    cpu_partial_slabs: int
    min_partial: int
    free0: int  #: never-used objects left in the slab that CPU 0 owns
    off: int  #: what the kernel counted before the recording, see `Replay`
    cpus: int

    @property
    def cpu_partial(self) -> int:
        """Objects to ask for so that `cpu_partial_slabs` comes out."""
        return self.cpu_partial_slabs * self.objects // 2


@dataclass(frozen=True, slots=True)
class SheafHeader:
    """Parameters of a recording of a cache with sheaves."""

    name: str
    capacity: int
    max_full: int
    cpus: int
    nodes: int


class SlabBackend(Protocol):
    """What a SLUB must offer to be replayed: one cache, nothing in it yet.

    CPUs are numbered 0..cpus-1, all on one node. A slab is named by any hashable
    value that is not reused while the backend lives.
    """

    def alloc(self, cpu: int) -> Object:
        """Allocate on `cpu`; (slab, index of the object in it)."""

    def free(self, cpu: int, slab: Handle, index: int) -> None:
        """Free an object that `alloc` gave, on `cpu`."""

    def flush_slab(self, cpu: int) -> None:
        """Deactivate the CPU slab of `cpu`, if there is one."""

    def flush_chain(self, cpu: int) -> None:
        """Hand the chain of `cpu` to the node."""

    def shrink_nodes(self) -> None:
        """Discard empty slabs of the node list and sort the rest, no flush."""

    def counters(self) -> Counters:
        """The counters at this moment."""

    def describe(self) -> str:
        """The state in words, to explain the first mismatch."""


class SheafBackend(Protocol):
    """What a cache with sheaves must offer: everything empty at the start."""

    def alloc(self, cpu: int) -> tuple[Handle, bool]:
        """Allocate on `cpu`; (object, did a refill bring it since its last free?)."""

    def free(self, cpu: int, handle: Handle) -> None:
        """Free an object that `alloc` gave, on `cpu`."""

    def describe(self) -> str:
        """The state in words, to explain the first mismatch."""


class Event(NamedTuple):
    """One line: its number, its letter and the rest of its words."""

    line: int
    kind: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {' '.join((self.kind, *self.words))}"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One decision that came out differently."""

    event: Event
    expected: str
    got: str
    state: str  #: the backend just after

    def __str__(self) -> str:
        text = f"{self.event}\n  expected {self.expected}\n  got      {self.got}"
        return f"{text}\n  state after the event:\n{_indent(self.state, 4)}"


@dataclass(slots=True)
class Result:
    """What a replay found."""

    name: str
    checks: int = 0
    mismatches: int = 0
    first: Mismatch | None = None

    def line(self) -> str:
        """The one line that `uslub verify` prints."""
        return f"{self.name}: {self.checks} checks, {self.mismatches} mismatches"

    def check(
        self, good: bool, event: Event, expected: str, got: str, state: str | None
    ) -> None:
        """Count one decision; keep the first wrong one with the state."""
        self.checks += 1
        if not good:
            self.mismatches += 1
            if self.first is None:
                self.first = Mismatch(event, expected, got, state or "")


@dataclass(slots=True)
class Recording:
    """A parsed file."""

    path: Path
    header: SlabHeader | SheafHeader
    events: list[Event] = field(default_factory=list)
    full: list[int] = field(default_factory=list)  #: slabs of U lines


SlabFactory = Callable[[SlabHeader], SlabBackend]
SheafFactory = Callable[[SheafHeader], SheafBackend]


# parsing -------------------------------------------------------------------------


def read_recording(path: str | Path) -> Recording:
    """Parse a decision file of either kind.

    Raises:
        DecisionFileError: A line is not in the format.
        OSError: The file cannot be read.
    """
    path = Path(path)
    events = list(_events(path))
    if not events or events[0].kind != "H":
        raise DecisionFileError(f"{path}: no header line: expected 'H key=value ...'")
    pairs = dict(word.split("=", 1) for word in events[0].words if "=" in word)
    for event in events[1:]:
        if not _well_formed(event, "capacity" in pairs):
            raise DecisionFileError(f"{path}, {event}: not a line of this format")
    try:
        recording = Recording(path, _header(pairs, events))
    except (KeyError, ValueError) as error:
        raise DecisionFileError(f"{path}, line 1: bad header: {error}") from error
    for event in events[1:]:
        if event.kind == "U":
            recording.full.append(int(event.words[0]))
        else:
            recording.events.append(event)
    return recording


def _events(path: Path) -> Iterator[Event]:
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                yield Event(number, words[0], tuple(words[1:]))


def _header(pairs: dict[str, str], events: list[Event]) -> SlabHeader | SheafHeader:
    cpus = max((_cpu(event) for event in events), default=0) + 1
    cpus = max(cpus, int(pairs.get("cpus", 1)))
    if "capacity" in pairs:
        return SheafHeader(
            pairs.get("cache", "sheaves"),
            int(pairs["capacity"]),
            int(pairs.get("max_full", 10)),
            cpus,
            int(pairs.get("nodes", 1)),
        )
    return SlabHeader(
        size=int(pairs["size"]),
        order=int(pairs["order"]),
        objects=int(pairs["objs"]),
        cpu_partial_slabs=int(pairs["cpu_partial_slabs"]),
        min_partial=int(pairs["min_partial"]),
        free0=int(pairs["free0"]),
        off=int(pairs.get("off", 0)),
        cpus=cpus,
    )


# The highest CPU that an event names.
def _cpu(event: Event) -> int:
    if event.kind in "AF" and event.words:
        return int(event.words[0])
    if event.kind == "S":
        return max((int(step[1:]) for step in event.words), default=0)
    return 0


def _well_formed(event: Event, sheaf: bool) -> bool:
    numbers, letters = {
        "U": (1, ""),
        "A": (2, "ER") if sheaf else (3, "ESN"),
        "F": (2, "") if sheaf else (3, ""),
        "C": (5, ""),
        "S": (len(event.words), ""),
    }.get(event.kind, (-1, ""))
    if event.kind == "S":
        return all(w[:1] in "dp" and w[1:].isdigit() for w in event.words)
    if len(event.words) != numbers + bool(letters):
        return False
    tail = event.words[numbers:]
    return all(w.isdigit() for w in event.words[:numbers]) and all(
        word in letters for word in tail
    )


# replaying ---------------------------------------------------------------------


def replay(
    recording: Recording, slabs: SlabFactory, sheaves: SheafFactory | None = None
) -> Result:
    """Drive a fresh backend through a recording.

    Args:
        recording: From `read_recording`.
        slabs: Makes the backend for a recording with CPU slabs.
        sheaves: The same for a recording with sheaves; None: not supported.

    Raises:
        DecisionFileError: The recording contradicts itself, or needs sheaves.
    """
    if isinstance(recording.header, SlabHeader):
        return SlabReplay(recording, slabs(recording.header)).run()
    if sheaves is None:
        raise DecisionFileError(f"{recording.path}: this backend has no sheaves")
    return SheafReplay(recording, sheaves(recording.header)).run()


class SlabReplay:
    """The state of one replay: recorded slabs and objects, and the backend's.

    `off` in the header is what the kernel counted as slabs at the start: the slab
    of CPU 0, the full ones of U lines and full ones that no event touches. A
    recording that counts only the last kind is recognised by its first C line.
    """

    def __init__(self, recording: Recording, backend: SlabBackend) -> None:
        assert isinstance(recording.header, SlabHeader)
        self.recording = recording
        self.header = recording.header
        self.backend = backend
        self.result = Result(str(recording.path))
        self.slab_of: dict[int, Handle] = {}  # recorded slab -> backend's
        self.number_of: dict[Handle, int] = {}  # and back
        self.held: dict[tuple[int, int], Object | None] = {}  # None: freed
        self.known: dict[Object, tuple[int, int]] = {}  # and back, also when freed
        self.unnamed: dict[int, list[Object]] = {}  # held since before the recording
        self.unlisted = 0

    def run(self) -> Result:
        """Set the start up, then every event in order."""
        self._start()
        steps = {
            "A": self._alloc,
            "F": self._free,
            "C": self._compare,
            "S": self._shrink,
        }
        for event in self.recording.events:
            steps[event.kind](event)
        return self.result

    # The listed full slabs, then the slab of CPU 0 with `free0` objects left.
    def _start(self) -> None:
        header, seen = self.header, self.recording.full
        for number in seen:
            self._fill(number, header.objects)
        used = header.objects - header.free0
        self._fill(0, max(used, 1))
        if used == 0:
            held = self.unnamed[0].pop()
            self.backend.free(0, *held)
        listed = 1 + len(seen)
        first = self.recording.events[:1]
        total = max(header.off, listed)
        if first and first[0].kind == "C" and int(first[0].words[0]) != total:
            total = header.off + listed
        self.unlisted = total - listed

    def _fill(self, number: int, count: int) -> None:
        held = [self.backend.alloc(0) for _ in range(count)]
        slab = held[0][0]
        if any(other != slab for other, _ in held):
            raise DecisionFileError(
                f"{self.result.name}: {count} objects do not fit one slab of the"
                f" backend: the header says {self.header.objects}"
            )
        self.slab_of[number], self.number_of[slab] = slab, number
        self.unnamed[number] = held

    def _alloc(self, event: Event) -> None:
        cpu, number, index = (int(w) for w in event.words[:3])
        slab, at = self.backend.alloc(cpu)
        got = self.known.get((slab, at))
        kind = event.words[3]
        if slab not in self.number_of:
            good, text = kind == "N", "an object of a new slab"
            if good:
                self._bind_slab(number, slab)
        elif got is None:
            good = kind == "S" and self.number_of[slab] == number
            text = f"a never-used object of slab {self.number_of[slab]}"
        else:
            good = kind == "E" and got == (number, index)
            text = f"object {got[1]} of slab {got[0]}"
        expected = {
            "E": f"object {index} of slab {number}",
            "S": f"a never-used object of slab {number}",
            "N": "an object of a new slab",
        }[kind]
        self._check(good, event, expected, text)
        self._bind((number, index), (slab, at))

    def _bind_slab(self, number: int, slab: Handle) -> None:
        old = self.slab_of.get(number)
        if old is not None:
            self.number_of.pop(old, None)
        self.slab_of[number], self.number_of[slab] = slab, number

    def _bind(self, recorded: tuple[int, int], held: Object) -> None:
        self.held[recorded], self.known[held] = held, recorded

    def _free(self, event: Event) -> None:
        cpu, number, index = (int(w) for w in event.words)
        if (number, index) not in self.held and self.unnamed.get(number):
            self._bind((number, index), self.unnamed[number].pop())
        held = self.held.get((number, index))
        if held is None:
            raise DecisionFileError(
                f"{self.result.name}, {event}: nobody holds this object"
            )
        self.held[number, index] = None
        self.backend.free(cpu, *held)

    def _compare(self, event: Event) -> None:
        want = Counters(*(int(w) for w in event.words))
        got = self.backend.counters()
        got = got._replace(
            slabs=got.slabs + self.unlisted,
            objects=got.objects + self.unlisted * self.header.objects,
        )
        self._check(got == want, event, _fields(want), _fields(got))

    def _shrink(self, event: Event) -> None:
        for step in event.words:
            flush = {"d": self.backend.flush_slab, "p": self.backend.flush_chain}
            flush[step[0]](int(step[1:]))
        self.backend.shrink_nodes()

    def _check(self, good: bool, event: Event, expected: str, got: str) -> None:
        wanted = not good and self.result.first is None
        state = self.backend.describe() if wanted else None
        self.result.check(good, event, expected, got, state)


class SheafReplay:
    """The same for sheaves: objects have no slab, refills bring unknown ones."""

    def __init__(self, recording: Recording, backend: SheafBackend) -> None:
        self.recording = recording
        self.backend = backend
        self.result = Result(str(recording.path))
        self.held: dict[int, Handle] = {}  # recorded object -> backend's
        self.name: dict[Handle, int] = {}  # and back, also while it is cached

    def run(self) -> Result:
        """Every event in order."""
        for event in self.recording.events:
            if event.kind == "A":
                self._alloc(event)
            elif event.kind == "F":
                self._free(event)
        return self.result

    def _alloc(self, event: Event) -> None:
        cpu, number = int(event.words[0]), int(event.words[1])
        handle, refilled = self.backend.alloc(cpu)
        if refilled:
            good, got = event.words[2] == "R", "an object that a refill brought"
        else:
            good = event.words[2] == "E" and self.name.get(handle) == number
            got = f"object {self.name.get(handle)}"
        expected = f"object {number}"
        if event.words[2] == "R":
            expected = "an object that a refill brought"
        wanted = not good and self.result.first is None
        state = self.backend.describe() if wanted else None
        self.result.check(good, event, expected, got, state)
        self.held[number], self.name[handle] = handle, number

    def _free(self, event: Event) -> None:
        cpu, number = int(event.words[0]), int(event.words[1])
        if number not in self.held:
            raise DecisionFileError(
                f"{self.result.name}, {event}: nobody holds this object"
            )
        self.backend.free(cpu, self.held.pop(number))


def _fields(counters: Counters) -> str:
    return ", ".join(f"{k} {v}" for k, v in counters._asdict().items())


def _indent(text: str, width: int) -> str:
    return "\n".join(" " * width + line for line in text.splitlines())
