"""What is known of a trace beside its rows: kernel, caches, checkpoints, oddities.

Plain frozen dataclasses, as passed to the replay; their JSON form is part of the file
format (docs/reference/trace-format.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class CacheInfo:
    """One cache of the traced kernel; None where nothing told us."""

    name: str
    object_size: int | None = None  # bytes asked for when it was created
    size: int | None = None  # bytes of a slot
    align: int | None = None
    order: int | None = None
    objects_per_slab: int | None = None
    cpu_partial: int | None = None
    min_partial: int | None = None
    sheaf_capacity: int | None = None
    flags: tuple[str, ...] | None = None  # reclaim_account, destroy_by_rcu, ...
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """A trace in a few words. Times are ns, sizes bytes."""

    kernel: str  # release, "" where unknown
    cpus: int
    cpu_node: tuple[int, ...]  # node of each CPU
    clock: str
    whole_life: bool  # tracing began with the kernel
    nomerge: bool  # caches were not merged (slab_nomerge)
    caches: tuple[CacheInfo, ...]
    sites: tuple[str, ...]  # call sites, as function+offset
    events: int  # number of rows
    start_ns: int  # clock of the first row
    span_ns: int  # from the first row to the last
    lost: int  # events the kernel dropped
    time_unit_ns: int = 1
    page_base: int | None = None  # address of page frame 0 in the direct map
    pointers: bool = True  # the column `pointer` of objects was kept
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many nodes the machine has."""
        return max(self.cpu_node, default=0) + 1

    def cache_index(self, name: str) -> int:
        """Where a cache stands in `caches`, by name or alias.

        Raises:
            KeyError: There is none of that name.
        """
        for index, cache in enumerate(self.caches):
            if cache.name == name:
                return index
        for index, cache in enumerate(self.caches):
            if name in cache.aliases:
                return index
        raise KeyError(name)


@dataclass(frozen=True)
class CacheTruth:
    """The kernel's counters of one cache at one moment, per node."""

    time: int  # ns, on the trace's clock
    row: int  # replay the rows before this one, then compare; -1: by time
    slabs: tuple[int, ...]
    partial: tuple[int, ...]
    objects: tuple[int, ...]
    total_objects: tuple[int, ...]
    cpu_slabs: tuple[int, ...]
    objects_partial: tuple[int, ...] = ()
    cpu_partial: dict[int, int] = field(default_factory=dict)  # CPU: slabs on its chain
    cpu_partial_slabs: int = 0  # on all chains


@dataclass(frozen=True)
class Checkpoint:
    """The kernel's counters of all caches, read one after the other."""

    name: str
    time: int  # ns, when the first cache was read
    row: int  # -1: by time
    caches: dict[int, CacheTruth]  # by index in header.caches


def header_to_plain(header: Header) -> dict[str, Any]:
    """As JSON values; caches without the fields nobody knows."""
    plain = asdict(header)
    plain["caches"] = [
        {
            name: value
            for name, value in asdict(cache).items()
            if value is not None and (name, value) != ("aliases", ())
        }
        for cache in header.caches
    ]
    return plain


def header_from_plain(plain: dict[str, Any]) -> Header:
    """The inverse of `header_to_plain`; fields of later versions are passed over."""
    known = {each for each in Header.__dataclass_fields__}
    values = {name: value for name, value in plain.items() if name in known}
    values["caches"] = tuple(cache_from_plain(cache) for cache in plain["caches"])
    values["cpu_node"] = tuple(plain["cpu_node"])
    values["sites"] = tuple(plain["sites"])
    return Header(**values)


def cache_from_plain(plain: dict[str, Any]) -> CacheInfo:
    """One cache from its JSON form."""
    known = {each for each in CacheInfo.__dataclass_fields__}
    values = {name: value for name, value in plain.items() if name in known}
    for name in ("flags", "aliases"):
        if name in values:
            values[name] = tuple(values[name])
    return CacheInfo(**values)


def checkpoint_to_plain(checkpoint: Checkpoint) -> dict[str, Any]:
    """As JSON values: one list per cache, in the order of CacheTruth's fields."""
    rows = []
    for index, truth in sorted(checkpoint.caches.items()):
        chains = [list(pair) for pair in sorted(truth.cpu_partial.items())]
        rows.append(
            [
                index,
                truth.time,
                truth.row,
                list(truth.slabs),
                list(truth.partial),
                list(truth.objects),
                list(truth.total_objects),
                list(truth.cpu_slabs),
                list(truth.objects_partial),
                chains,
                truth.cpu_partial_slabs,
            ]
        )
    return {
        "name": checkpoint.name,
        "time": checkpoint.time,
        "row": checkpoint.row,
        "caches": rows,
    }


def checkpoint_from_plain(plain: dict[str, Any]) -> Checkpoint:
    """The inverse of `checkpoint_to_plain`."""
    caches = {}
    for index, time, row, *per_node, chains, chained in plain["caches"]:
        slabs, partial, objects, total, cpu_slabs, free = map(tuple, per_node)
        caches[index] = CacheTruth(
            time=time,
            row=row,
            slabs=slabs,
            partial=partial,
            objects=objects,
            total_objects=total,
            cpu_slabs=cpu_slabs,
            objects_partial=free,
            cpu_partial=dict(map(tuple, chains)),
            cpu_partial_slabs=chained,
        )
    return Checkpoint(plain["name"], plain["time"], plain["row"], caches)
