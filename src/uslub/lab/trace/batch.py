"""What every importer yields: raw rows in columns, before objects have an identity.

A `Batch` holds some hundred thousand events in the order of time. Strings (cache names,
call sites) are numbers given by a `Names` that lives as long as the import. The
importers (`text`, `ring`) know nothing of what follows; `assemble` nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: What a raw row is. The order is that of EVENTS in `vocabulary`.
KMALLOC, KFREE, CACHE_ALLOC, CACHE_FREE, PAGE_ALLOC, PAGE_FREE, MARK = range(7)

#: Columns of a batch and their types.
COLUMNS = {
    "time": np.int64,  # ns
    "cpu": np.uint16,
    "pid": np.int32,
    "event": np.uint8,
    "site": np.int32,  # -1: none
    "pointer": np.uint64,  # of a page event: the page frame number
    "requested": np.int64,  # of a page event: the order
    "allocated": np.int64,
    "node": np.int16,  # -1: any
    "flags": np.uint32,  # bits of `kinds`
    "name": np.int32,  # -1: the event names no cache
}


@dataclass
class Batch:
    """Raw rows; one array per column of COLUMNS, all of one length."""

    time: Array
    cpu: Array
    pid: Array
    event: Array
    site: Array
    pointer: Array
    requested: Array
    allocated: Array
    node: Array
    flags: Array
    name: Array
    marks: dict[int, str] = field(default_factory=dict)  # text of each MARK row

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: Array) -> Batch:
        """The rows of these indices; marks move with them."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        marks: dict[int, str] = {}
        if self.marks:
            for new in np.flatnonzero(columns["event"] == MARK):
                marks[int(new)] = self.marks[int(rows[new])]
        return Batch(**columns, marks=marks)


def empty(rows: int) -> Batch:
    """A batch of `rows` rows: everything zero, except what is -1 when unknown."""
    columns: dict[str, Any] = {
        name: np.zeros(rows, kind) for name, kind in COLUMNS.items()
    }
    for name in ("site", "node", "name"):
        columns[name][:] = -1
    return Batch(**columns)


def concatenate(batches: list[Batch]) -> Batch:
    """Several batches as one, in the order given."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in COLUMNS
    }
    marks: dict[int, str] = {}
    start = 0
    for batch in batches:
        marks |= {start + row: text for row, text in batch.marks.items()}
        start += len(batch)
    return Batch(**columns, marks=marks)


assert [each.name for each in fields(Batch)][:-1] == list(COLUMNS)


class Names:
    """Strings as numbers, in order of first appearance."""

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        for text in known:
            self.number(text)

    def number(self, text: str) -> int:
        """The number of `text`, a new one where it was not seen before."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class Origin:
    """What an importer learns beside the rows; filled while it yields batches."""

    kernel: str = ""
    clock: str = ""
    cpus: int = 0
    lost: int = 0
    recorder: int = 0  # pid of the program that recorded; 0 where not told
    foreign: dict[str, int] = field(default_factory=dict)  # other events, by name
    notes: dict[str, int] = field(default_factory=dict)
    lost_where: list[str] = field(default_factory=list)

    def note(self, what: str, count: int = 1) -> None:
        """Count an oddity; zero counts leave no trace."""
        if count:
            self.notes[what] = self.notes.get(what, 0) + int(count)
