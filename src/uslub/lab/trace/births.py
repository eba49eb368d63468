"""Where and when each object that may be alive was allocated, by its number.

    numbers   ... | older survivors, sorted | a window of WINDOW recent numbers |
                    found by bisection        found by subtraction

Numbers only grow, so the window moves; what survived in it joins the older ones, whose
dead are dropped. Memory grows with what is alive, not with the trace.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from uslub.lab.trace.batch import Array
from uslub.lab.trace.errors import TraceTruncated

#: Numbers that are kept by place: 2**18 are 5 MB, and most frees are of these.
WINDOW = 1 << 18

#: What is known of an object: time in units of the header, bytes of its slot, CPU.
COLUMNS = {"time": np.int64, "allocated": np.int32, "cpu": np.uint16}


class Births:
    """A map from numbers of objects to what was known when they were allocated.

    Args:
        path: Of the trace, for the text of an error.
        groups: Further columns, beside COLUMNS; 32-bit numbers.
        window: How many recent numbers are kept by place.
    """

    def __init__(
        self, path: Path, *, groups: tuple[str, ...] = (), window: int = WINDOW
    ) -> None:
        self.path, self.window = path, window
        self._kinds: dict[str, type] = {**COLUMNS, **dict.fromkeys(groups, np.int32)}
        self._first = 0  # the lowest number of the window
        self._recent = self._places(window)
        self._alive = np.zeros(window, bool)
        self._numbers: Array = np.zeros(0, np.int64)
        self._old = self._places(0)
        self._old_alive: Array = np.zeros(0, bool)

    def _places(self, size: int) -> dict[str, Array]:
        return {name: np.zeros(size, kind) for name, kind in self._kinds.items()}

    def __len__(self) -> int:
        """How many are alive."""
        return int(self._alive.sum() + self._old_alive.sum())

    @property
    def held(self) -> int:
        """Places in memory, the dead included."""
        return len(self._alive) + len(self._numbers)

    def add(self, numbers: Array, **columns: Array) -> None:
        """New objects, in rising order; above all that came before."""
        if not len(numbers):
            return
        last = int(numbers[-1])
        if last >= self._first + len(self._alive):
            self._move(int(numbers[0]), last)
        place = numbers - self._first
        dense = last - int(numbers[0]) + 1 == len(numbers)
        where = slice(int(place[0]), int(place[-1]) + 1) if dense else place
        for name, column in self._recent.items():
            column[where] = columns[name]
        self._alive[where] = True

    def take(self, numbers: Array) -> dict[str, Array]:
        """What is known of objects that end here; they are forgotten.

        Raises:
            TraceTruncated: One of them never began.
        """
        place = numbers - self._first
        recent = place >= 0
        whole = bool(recent.all())
        near = place if whole else place[recent]
        if len(near) and not (near.max() < self.window and self._alive[near].all()):
            raise self._damaged()
        self._alive[near] = False
        found = {name: column[near] for name, column in self._recent.items()}
        return found if whole else self._with_old(numbers, recent, found)

    def _with_old(
        self, numbers: Array, recent: Array, found: dict[str, Array]
    ) -> dict[str, Array]:
        far = numbers[~recent]
        place = np.searchsorted(self._numbers, far)
        inside = len(self._numbers) and place.max() < len(self._numbers)
        if not inside or not (
            (self._numbers[place] == far).all() and self._old_alive[place].all()
        ):
            raise self._damaged()
        self._old_alive[place] = False
        both = {}
        for name, column in found.items():
            both[name] = np.empty(len(numbers), column.dtype)
            both[name][recent] = column
            both[name][~recent] = self._old[name][place]
        return both

    # The window begins at `first` and holds at least up to `last`.
    def _move(self, first: int, last: int) -> None:
        keep = np.flatnonzero(self._old_alive)
        survived = np.flatnonzero(self._alive)
        numbers = (self._numbers[keep], survived + self._first)
        self._numbers = np.concatenate(numbers)
        for name, column in self._recent.items():
            self._old[name] = np.concatenate([self._old[name][keep], column[survived]])
        self._old_alive = np.ones(len(self._numbers), bool)
        self._alive[:] = False
        self._first = first
        if last - first >= self.window:
            self.window = last - first + 1
            self._alive = np.zeros(self.window, bool)
            self._recent = self._places(self.window)

    def _damaged(self) -> TraceTruncated:
        return TraceTruncated(
            f"{self.path}: a row ends an object that is not alive; the file is damaged:"
            " copy or convert it again"
        )
