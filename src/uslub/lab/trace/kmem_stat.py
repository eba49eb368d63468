"""What `perf kmem stat` says of a trace, and what it does not: caches, life, peaks.

`stat(trace)` reads the rows once, chunk by chunk, and adds them up by call site and by
cache. A free is told by its object's number who allocated it: `Births` keeps that of
what may still be alive. There is no Python statement per event.

Relies on `store`. How the answer is printed: `uslub.tools.lab_stat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from uslub.lab.trace.batch import Array
from uslub.lab.trace.births import Births
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.store import ENDS, Trace
from uslub.lab.trace.sums import Sums, bucket_of, percent, quantiles

#: Columns of the file that are looked at; each costs time.
READ = (
    "step", "kind", "cpu", "cache", "age", "requested", "allocated", "node", "site",
)  # fmt: skip

ALLOCATES = (Kind.ALLOC, Kind.LARGE_ALLOC)

#: What a group is called whose name nobody told, and objects that are on no slab.
UNKNOWN = "(unknown)"
LARGE = "(large kmalloc)"

#: glibc keeps freed memory for its next use, up to twice the largest piece ever freed.
#: Without one of this size, the arrays of every chunk are mapped and cleared anew.
KEPT_BYTES = 24 << 20

#: Fields of Group that are plain sums, by the same names in Sums.
SUMMED = (
    "hits", "requested_bytes", "allocated_bytes", "pingpong", "frees", "freed_bytes",
    "implied_frees", "unknown_frees",
)  # fmt: skip

By = Literal["caller", "cache"]


@dataclass(frozen=True)
class Group:
    """Sums over the objects of one call site or one cache, or of all.

    Bytes are those of slots (`allocated`), but for `requested_bytes`. Lifetimes are of
    objects whose free was seen, from buckets an eighth of a power of two wide; None
    where no free was.
    """

    name: str
    hits: int  # allocations
    requested_bytes: int
    allocated_bytes: int
    fragmentation: float  # percent of allocated bytes that nobody asked for
    pingpong: int  # freed on another CPU than the one that allocated
    frees: int  # seen, of objects whose allocation is in the trace
    freed_bytes: int  # by these
    implied_frees: int  # not seen: the address was handed out again, or its page freed
    unknown_frees: int  # of objects from before the trace; a call site has none
    live_objects: int  # at the end, of those allocated in the trace
    live_bytes: int
    peak_objects: int  # the most at one moment
    peak_bytes: int  # likewise, not always at the same moment
    lifetime_median_ns: int | None
    lifetime_p99_ns: int | None


@dataclass(frozen=True)
class Stat:
    """The answer of `stat`.

    Attributes:
        kernel: Release, "" where nobody told.
        events: Rows that are allocations or frees that an event showed.
        total: All objects as one group.
        cross_node: Allocations that asked for a node other than that of their CPU:
            the "Cross CPU allocations" of perf.
        peak_ns: When the most bytes lived, from the first row.
        callers: By call site, largest fragmentation first, as perf sorts; empty where
            it was not asked for.
        caches: By cache, likewise.
    """

    kernel: str
    events: int
    total: Group
    cross_node: int
    peak_ns: int
    callers: tuple[Group, ...]
    caches: tuple[Group, ...]

    def groups(self, by: By = "cache") -> tuple[Group, ...]:
        """Those of one kind."""
        return self.callers if by == "caller" else self.caches

    def to_records(self, by: By = "cache") -> list[dict[str, Any]]:
        """The groups as mappings, by field name of `Group`."""
        return [asdict(each) for each in self.groups(by)]

    def to_frame(self, by: By = "cache") -> Any:
        """The groups as a pandas data frame; pandas must be installed."""
        import pandas

        return pandas.DataFrame(self.to_records(by))


def stat(trace: Trace, *, by: By | None = None) -> Stat:
    """Add a trace up, by call site and by cache.

    Memory does not grow with the trace but with what lives at one moment: about 30
    bytes an object, beside some 20 MB.

    Args:
        trace: Any; its rows are read once, from the first to the last.
        by: Only by the one; None: both, which takes a little longer.

    Returns:
        Counts, bytes and ns. Where `perf kmem stat --slab` has the same number, it is
        the same: frees that no event showed are not among the frees and freed bytes.

    Raises:
        TraceTruncated: The file ends before its rows do, or is damaged.
    """
    reading = Reading(trace, by)
    np.empty(KEPT_BYTES, np.uint8)
    for start, objects, columns in trace.groups(READ):
        reading.add(start, objects, columns)
    return reading.answer()


def among(kind: Array, kinds: Iterable[Kind]) -> Array:
    """Where one of these kinds stands; a comparison of bytes each is the fastest."""
    found = np.zeros(len(kind), bool)
    for each in kinds:
        found |= kind == each
    return found


class Reading:
    """A trace on its way to a `Stat`."""

    def __init__(self, trace: Trace, by: By | None) -> None:
        self.header = header = trace.header
        longest = header.span_ns // header.time_unit_ns + 1
        names: dict[By, list[str]] = {
            "caller": [UNKNOWN, *header.sites],
            "cache": [UNKNOWN, *(each.name for each in header.caches), LARGE],
        }
        self.sums = {
            key: Sums(each, longest) for key, each in names.items() if by in (None, key)
        }
        self.births = Births(trace.path, groups=tuple(self.sums))
        self.node_of = np.zeros(1 << 16, np.int16)
        self.node_of[: len(header.cpu_node)] = header.cpu_node
        self.live, self.peak = [0, 0], [0, 0]  # objects, bytes
        self.cross_node = self.peak_time = self.unknown_frees = 0

    def add(self, start: int, objects: int, column: dict[str, Array]) -> None:
        """One row group.

        Args:
            start: Time of its first row, in units of the header.
            objects: Begun before it.
            column: READ, as on disk.
        """
        kind = column["kind"]
        if not len(kind):
            return
        allocates, unknown = among(kind, ALLOCATES), kind == Kind.FREE_UNKNOWN
        number = np.cumsum(allocates | unknown)
        number += objects
        time = np.cumsum(column["step"])
        time += start
        born, ended = np.flatnonzero(allocates), np.flatnonzero(among(kind, ENDS))
        known = self._allocations(born, column)
        self.births.add(number[born] - 1, time=time[born], **known)
        gone = self.births.take(number[ended] - column["age"][ended])
        self._frees(ended, gone, column, time)
        self._alive(born, ended, known, gone, time)
        self.unknown_frees += int(np.count_nonzero(unknown))
        if "cache" in self.sums:
            sums = self.sums["cache"]
            sums.unknown_frees += sums.count(column["cache"][unknown] + 1)

    # Count allocations; what their frees will want to know of them.
    def _allocations(self, born: Array, column: dict[str, Array]) -> dict[str, Array]:
        known = {name: column[name][born] for name in ("allocated", "cpu")}
        if "caller" in self.sums:
            known["caller"] = column["site"][born] + 1
        if "cache" in self.sums:
            known["cache"] = cache = column["cache"][born] + 1
            cache[column["kind"][born] == Kind.LARGE_ALLOC] = (
                len(self.sums["cache"]) - 1
            )
        sizes = (
            column["requested"][born].astype(float),
            known["allocated"].astype(float),
        )
        for name, sums in self.sums.items():
            sums.allocated(known[name], *sizes)
        node = column["node"][born]
        asked = np.flatnonzero(node >= 0)
        other = node[asked] != self.node_of[known["cpu"][asked]]
        self.cross_node += int(np.count_nonzero(other))
        return known

    # Count frees: those seen with their lifetimes, the others by themselves.
    def _frees(
        self,
        ended: Array,
        gone: dict[str, Array],
        column: dict[str, Array],
        time: Array,
    ) -> None:
        silent = column["kind"][ended] == Kind.IMPLIED_FREE
        age = bucket_of(time[ended] - gone["time"])
        moved = column["cpu"][ended] != gone["cpu"]
        if not silent.any():
            silent = None
        seen = slice(None) if silent is None else ~silent
        size = gone["allocated"][seen].astype(float)
        age, moved = age[seen], np.flatnonzero(moved[seen])
        for name, sums in self.sums.items():
            if silent is not None:
                sums.implied_frees += sums.count(gone[name][silent])
            sums.freed(gone[name][seen], size, moved, age)

    # What lives after each row: all of it, and that of each group.
    def _alive(
        self,
        born: Array,
        ended: Array,
        known: dict[str, Array],
        gone: dict[str, Array],
        time: Array,
    ) -> None:
        changes = np.zeros((2, len(time)), np.int64)
        changes[0, born], changes[0, ended] = 1, -1
        changes[1, born], changes[1, ended] = known["allocated"], -gone["allocated"]
        for which, change in enumerate(changes):
            running = np.cumsum(change)
            row = int(running.argmax())
            high = self.live[which] + int(running[row])
            if high > self.peak[which]:
                self.peak[which] = high
                self.peak_time = int(time[row]) if which else self.peak_time
            self.live[which] += int(running[-1])
        for name, sums in self.sums.items():
            group = np.zeros(len(time), np.uint16 if len(sums) < 1 << 16 else np.int32)
            group[born], group[ended] = known[name], gone[name]
            sums.alive(group, *changes)

    def answer(self) -> Stat:
        """What was added up."""
        header = self.header
        total = self._total()
        groups = {name: self._groups(sums) for name, sums in self.sums.items()}
        return Stat(
            kernel=header.kernel,
            events=total.hits + total.frees + total.unknown_frees,
            total=total,
            cross_node=self.cross_node,
            peak_ns=max(self.peak_time * header.time_unit_ns - header.start_ns, 0),
            callers=groups.get("caller", ()),
            caches=groups.get("cache", ()),
        )

    # Every object is in one group of each kind, so any kind adds up to all.
    def _total(self) -> Group:
        sums = next(iter(self.sums.values()))
        columns = {name: [int(getattr(sums, name).sum())] for name in SUMMED}
        columns["unknown_frees"] = [self.unknown_frees]
        for number, what in enumerate(("objects", "bytes")):
            columns[f"live_{what}"] = [self.live[number]]
            columns[f"peak_{what}"] = [self.peak[number]]
        lives = sums.lives.sum(0, keepdims=True, dtype=np.int64)
        return self._made(["total"], columns, lives)[0]

    def _groups(self, sums: Sums) -> tuple[Group, ...]:
        used = np.flatnonzero(sums.hits + sums.unknown_frees)
        columns = {name: getattr(sums, name)[used].tolist() for name in SUMMED}
        for number, what in enumerate(("objects", "bytes")):
            columns[f"live_{what}"] = sums.live[number, used].tolist()
            columns[f"peak_{what}"] = sums.peak[number, used].tolist()
        names = [sums.names[index] for index in used.tolist()]
        return tuple(ordered(self._made(names, columns, sums.lives[used])))

    def _made(
        self, names: list[str], columns: dict[str, list[int]], lives: Array
    ) -> list[Group]:
        unit = self.header.time_unit_ns
        life = {
            f"lifetime_{name}_ns": [
                None if each is None else each * unit
                for each in quantiles(lives, share)
            ]
            for name, share in (("median", 0.5), ("p99", 0.99))
        }
        sizes = zip(columns["requested_bytes"], columns["allocated_bytes"], strict=True)
        every: dict[str, Sequence[Any]] = {
            "name": names,
            "fragmentation": [percent(*each) for each in sizes],
            **columns,
            **life,
        }
        rows = zip(*every.values(), strict=True)
        return [Group(**dict(zip(every, row, strict=True))) for row in rows]


#: What `ordered` can sort by, and the field of Group.
KEYS = {
    "frag": "fragmentation",
    "hit": "hits",
    "bytes": "allocated_bytes",
    "pingpong": "pingpong",
    "lifetime": "lifetime_median_ns",
    "live": "live_bytes",
    "peak": "peak_bytes",
}


def ordered(
    groups: Iterable[Group], keys: Sequence[str] = ("frag", "hit", "bytes")
) -> list[Group]:
    """Groups by these keys, the largest first; the first key counts most.

    Raises:
        KeyError: A key is not in KEYS.
    """
    fields = [KEYS[key] for key in keys]

    def rank(group: Group) -> list[float]:
        values = [getattr(group, field) for field in fields]
        return [-1 if value is None else value for value in values]

    return sorted(groups, key=rank, reverse=True)
