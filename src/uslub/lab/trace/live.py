"""What is alive: addresses with a value each, looked up and changed in bulk.

A sorted array of addresses and arrays of what belongs to them; one block of events
costs one merge. Used for objects (identity) and for pages (page truth).
"""

from __future__ import annotations

import numpy as np

from uslub.lab.trace.batch import Array


class Live:
    """A map from 64-bit keys to rows of values, in NumPy columns."""

    def __init__(self, **columns: type) -> None:
        self.keys: Array = np.zeros(0, np.uint64)
        self.columns: dict[str, Array] = {
            name: np.zeros(0, kind) for name, kind in columns.items()
        }

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Array) -> tuple[Array, Array]:
        """Where each key stands (clipped), and whether it is there."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        place = np.searchsorted(self.keys, keys)
        place = np.minimum(place, len(self.keys) - 1)
        return place, self.keys[place] == keys

    def between(self, start: Array, stop: Array) -> tuple[Array, Array]:
        """Places of all keys in each half-open range, and the range each is of."""
        first = np.searchsorted(self.keys, start)
        last = np.searchsorted(self.keys, stop)
        counts = last - first
        of_range = np.repeat(np.arange(len(counts)), counts)
        offset = np.arange(len(of_range)) - np.repeat(
            np.cumsum(counts) - counts, counts
        )
        return first[of_range] + offset, of_range

    def change(self, drop: Array, keys: Array, **values: Array) -> None:
        """Drop the places `drop`; add sorted new `keys` with their values."""
        keep = np.ones(len(self.keys), bool)
        keep[drop] = False
        held = self.keys[keep]
        place = np.searchsorted(held, keys)
        self.keys = np.insert(held, place, keys)
        for name, column in self.columns.items():
            self.columns[name] = np.insert(column[keep], place, values[name])
