"""Counts, bytes, peaks and lifetimes of many groups at once, in columns.

A group is a call site, a cache, or everything; rows name theirs by number. Sums are
exact: they are added in doubles per chunk (below 2**53 there) and as integers after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from uslub.lab.trace.batch import Array

#: Of a double: the bits of the mantissa that a bucket does not look at, so that eight
#: buckets make a power of two; and the bucket of 1, of which 0 has the one below.
SHIFT = 52 - 3
ONE = (1023 << 3) - 1


def bucket_of(values: Array) -> Array:
    """The bucket of each value (not negative); values below 16 have their own."""
    bits = values.astype(np.float64).view(np.int64)
    bits >>= SHIFT
    bits -= ONE
    return np.maximum(bits, 0, out=bits)


def middle_of(buckets: Array) -> Array:
    """The value in the middle of each bucket."""
    low, high = (
        np.ceil((np.maximum(buckets, 1) + (ONE + end) << SHIFT).view(np.float64))
        for end in (0, 1)
    )
    return np.where(buckets > 0, (low + high - 1) // 2, 0).astype(np.int64)


def percent(requested: int, allocated: int) -> float:
    """Bytes that nobody asked for, in percent of those allocated."""
    return 100.0 - 100.0 * requested / allocated if allocated else 0.0


class Sums:
    """Columns of sums, one place for each group.

    Args:
        names: Of the groups.
        longest: The largest lifetime that can occur, in the unit of `freed`.
    """

    def __init__(self, names: Sequence[str], longest: int) -> None:
        self.names = names
        size = len(names)
        self.buckets = int(bucket_of(np.array([longest]))[0]) + 1
        zeros = [np.zeros(size, np.int64) for _ in range(8)]
        self.hits, self.requested_bytes, self.allocated_bytes = zeros[:3]
        self.pingpong, self.frees, self.freed_bytes = zeros[3:6]
        self.implied_frees, self.unknown_frees = zeros[6:8]
        self.live = np.zeros((2, size), np.int64)  # objects, bytes
        self.peak = np.zeros((2, size), np.int64)
        self.lives = np.zeros((size, self.buckets), np.uint32)

    def __len__(self) -> int:
        return len(self.names)

    def count(self, group: Array) -> Array:
        """How many rows each group has."""
        return np.bincount(group, minlength=len(self))

    def weigh(self, group: Array, weight: Array) -> Array:
        """The sum over the rows of each group."""
        return np.bincount(group, weight, len(self)).astype(np.int64)

    def allocated(self, group: Array, requested: Array, allocated: Array) -> None:
        """Allocations; sizes in bytes, as doubles."""
        self.hits += self.count(group)
        self.requested_bytes += self.weigh(group, requested)
        self.allocated_bytes += self.weigh(group, allocated)

    def freed(self, group: Array, size: Array, moved: Array, age: Array) -> None:
        """Frees that were seen.

        Args:
            group: Of the object.
            size: Of the slot, in bytes, as doubles.
            moved: Places in `group` of those freed on another CPU.
            age: Bucket of the lifetime.
        """
        self.frees += self.count(group)
        self.freed_bytes += self.weigh(group, size)
        self.pingpong += self.count(group[moved])
        place = group.astype(np.int64) * self.buckets
        place += np.minimum(age, self.buckets - 1)
        np.add.at(self.lives.reshape(-1), place, np.uint32(1))

    def alive(self, group: Array, *changes: Array) -> None:
        """Rows in the order of time, each of which makes its group grow or shrink.

        Args:
            group: Of the row; 16-bit numbers are sorted fastest.
            changes: By how many objects, by how many bytes.
        """
        order = np.argsort(group, kind="stable")
        counts = self.count(group)
        present = np.flatnonzero(counts)
        stop = np.cumsum(counts[present])
        start = stop - counts[present]
        for which, change in enumerate(changes):
            running = np.cumsum(change[order])
            before = running[start] - change[order[start]]
            live, peak = self.live[which], self.peak[which]
            high = np.maximum.reduceat(running, start) - before + live[present]
            peak[present] = np.maximum(peak[present], high)
            live[present] += running[stop - 1] - before


def quantiles(counts: Array, share: float) -> list[int | None]:
    """The middle of the bucket in which a share of the values is reached.

    Args:
        counts: Of values in each bucket, a line for each group.
        share: Above 0, at most 1.

    Returns:
        One for each group; None where there are no values.
    """
    below = np.cumsum(counts, axis=1, dtype=np.int64)
    rank = np.ceil(below[:, -1:] * share)
    found = middle_of((below < rank).sum(axis=1)).tolist()
    known = rank[:, 0] > 0
    return [value if some else None for value, some in zip(found, known, strict=True)]
