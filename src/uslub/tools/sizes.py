"""Recorded sizes of a kernel's caches (sysfs-*.json), and checking them row by row.

Here: the file format, and `check_sizes`, which asks anything that implements
`SizesBackend` for the geometry of every cache, lets it create all of them, and sees
which share a cache. One check per row; a row is wrong if anything in it differs.
Neither the engine nor the model is imported (`uslub.tools.sizes_backends`).

What a recording does not tell, and what is done about it:
  - the order in which caches were created: they are created twice, those that share
    first and last, so that both sides of the merging rules are asked;
  - what each sharing name asked for: it asks for what the row has, less the
    alignment, which its oldest name asked for;
  - where an RCU cache keeps its free pointer: behind the object or, if the slot has
    no room there, inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from uslub.flags import Flags
from uslub.tools.decisions import DecisionFileError, Event, Result
from uslub.tools.render import ID_LETTERS, cache_id


class Sizes(NamedTuple):
    """What a row records and a backend computes; sizes are bytes."""

    slab_size: int
    align: int
    order: int
    objs_per_slab: int
    cpu_partial: int
    min_partial: int


@dataclass(frozen=True)
class SizesRow:
    """One cache directory of sysfs."""

    name: str  #: unique id if mergeable, else the cache's name
    names: tuple[str, ...]  #: every name that leads to it
    object_size: int
    sizes: Sizes
    flags: Flags
    has_ctor: bool
    usersize: int
    sheaf_capacity: int
    aliases: int
    defrag_ratio: int  #: percent

    @property
    def mergeable(self) -> bool:
        return self.name.startswith(":")

    @property
    def creatable(self) -> bool:
        """Can an arena hold a cache with these flags and this alignment?"""
        return not self.flags & ~CREATABLE and self.sizes.align <= ALIGN_MAX

    @property
    def never_merges(self) -> bool:
        """Must be told not to merge, since its reason has no counterpart here."""
        return not (self.mergeable or self.has_ctor or self.usersize)


#: A mapping begins on some page: an arena can promise no more.
ALIGN_MAX = 4096

CREATABLE = (
    Flags.HWCACHE_ALIGN
    | Flags.RECLAIM_ACCOUNT
    | Flags.CACHE_DMA
    | Flags.CACHE_DMA32
    | Flags.ACCOUNT
)


@dataclass(frozen=True)
class SizesFile:
    """A parsed recording."""

    path: Path
    cpus: int
    nodes: int
    page_size: int
    rows: tuple[SizesRow, ...]


@dataclass(frozen=True)
class Made:
    """A cache as a backend made it."""

    names: tuple[str, ...]  #: as asked for, oldest first
    refcount: int
    sizes: Sizes
    flags: int
    defrag_ratio: int  #: percent


class SizesBackend(Protocol):
    """What an allocator must offer to have its sizes checked."""

    def geometry(self, row: SizesRow, *, inside: bool) -> Sizes:
        """Sizes of such a cache; `inside`: an RCU cache chose its pointer's place."""

    def create(self, name: str, row: SizesRow, *, first: bool) -> None:
        """Create a cache that may merge; `first`: with the row's alignment."""

    def made(self) -> Sequence[Made]:
        """Every cache that `create` has led to."""


BackendFactory = Callable[[SizesFile], SizesBackend]


# -- reading -------------------------------------------------------------------------

LETTER_FLAGS = dict(ID_LETTERS)
ATTRIBUTE_FLAGS = {
    "hwcache_align": Flags.HWCACHE_ALIGN,
    "reclaim_account": Flags.RECLAIM_ACCOUNT,
    "cache_dma": Flags.CACHE_DMA,
    "destroy_by_rcu": Flags.TYPESAFE_BY_RCU,
    "sanity_checks": Flags.CONSISTENCY_CHECKS,
    "red_zone": Flags.RED_ZONE,
    "poison": Flags.POISON,
    "store_user": Flags.STORE_USER,
}


def read_sizes(path: str | Path) -> SizesFile:
    """Parse a recording of sysfs.

    Raises:
        DecisionFileError: Not such a file; the text says what is missing.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(read_row(name, row) for name, row in found["caches"].items())
        return SizesFile(
            path,
            int(found["cpus_present"]),
            int(found.get("nodes", 1)),
            int(found.get("page_size", 4096)),
            rows,
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise DecisionFileError(f"{path}: no recording of sysfs: {error}") from error
    except KeyError as error:
        raise DecisionFileError(f"{path}: no recording of sysfs: no {error}") from error


def read_row(name: str, row: dict[str, Any]) -> SizesRow:
    flags = Flags(0)
    for attribute, flag in ATTRIBUTE_FLAGS.items():
        flags |= flag if row.get(attribute) else Flags(0)
    if name.startswith(":") and "-" in name:  # letters stand before the dash only
        for letter in name[1:].split("-")[0]:
            flags |= LETTER_FLAGS[letter]
    if name.startswith(("kmalloc-", "dma-kmalloc-")):
        flags |= Flags.KMALLOC
    return SizesRow(
        name=name,
        names=tuple(row.get("alias_names") or [name]),
        object_size=row["object_size"],
        sizes=Sizes(*(int(row[field_name]) for field_name in Sizes._fields)),
        flags=flags,
        has_ctor=bool(row.get("has_ctor")),
        usersize=row.get("usersize", 0),
        sheaf_capacity=row.get("sheaf_capacity", 0),
        aliases=row.get("aliases", 0),
        defrag_ratio=row.get("remote_node_defrag_ratio", 100),
    )


# -- checking ------------------------------------------------------------------------


@dataclass
class Complaint:
    """What is wrong with one row."""

    expected: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)

    def differ(self, what: str, expected: object, got: object) -> None:
        """Note a difference, once."""
        if expected != got and f"{what} {got}" not in self.got:
            self.expected.append(f"{what} {expected}")
            self.got.append(f"{what} {got}")


def check_sizes(recording: SizesFile, make: BackendFactory) -> Result:
    """One check per row: sizes, limits, and with whom it shares its slabs."""
    result = Result(str(recording.path))
    complaints = {row.name: Complaint() for row in recording.rows}
    backend = make(recording)
    for row in recording.rows:
        check_geometry(row, backend, complaints[row.name])
    for sharing_first in (True, False):
        backend = make(recording)
        create_all(recording, backend, complaints, sharing_first=sharing_first)
        check_merging(recording, backend, complaints)
    for number, row in enumerate(recording.rows, 1):
        wrong = complaints[row.name]
        result.check(
            not wrong.got,
            Event(number, "row", (row.name,)),
            ", ".join(wrong.expected),
            ", ".join(wrong.got),
            describe(row),
        )
    return result


def check_geometry(row: SizesRow, backend: SizesBackend, wrong: Complaint) -> None:
    got = backend.geometry(row, inside=False)
    rcu = row.flags & Flags.TYPESAFE_BY_RCU and not row.has_ctor
    if rcu and got.slab_size > row.sizes.slab_size:
        got = backend.geometry(row, inside=True)
    for name, expected, value in zip(Sizes._fields, row.sizes, got, strict=True):
        wrong.differ(name, expected, value)
    if row.mergeable:
        wrong.differ("id", row.name, cache_id(row.flags, got.slab_size))


def create_all(
    recording: SizesFile,
    backend: SizesBackend,
    complaints: dict[str, Complaint],
    *,
    sharing_first: bool,
) -> None:
    rows = sorted(recording.rows, key=lambda row: row.mergeable != sharing_first)
    wishes = [(row, row.names[0], True) for row in rows]
    wishes += [(row, name, False) for row in rows for name in row.names[1:]]
    for row, name, first in wishes:
        try:
            backend.create(name, row, first=first)
        except Exception as error:  # a refusal is a finding about this row, not an end
            complaints[row.name].differ(f"cache {name}", "created", f"refused: {error}")


def check_merging(
    recording: SizesFile, backend: SizesBackend, complaints: dict[str, Complaint]
) -> None:
    owner = {name: cache for cache in backend.made() for name in cache.names}
    for row in recording.rows:
        wrong = complaints[row.name]
        if any(name not in owner for name in row.names):
            found = [name for name in row.names if name in owner]
            wrong.differ("names", list(row.names), found)
            continue
        cache = owner[row.names[0]]
        wrong.differ("names", sorted(row.names), sorted(cache.names))
        wrong.differ("aliases", row.aliases, cache.refcount - 1)
        wrong.differ("defrag_ratio", row.defrag_ratio, cache.defrag_ratio)
        if row.mergeable:
            made_id = cache_id(cache.flags, cache.sizes.slab_size)
            wrong.differ("id", row.name, made_id)
        if row.creatable:
            for name, expected, value in zip(
                Sizes._fields, row.sizes, cache.sizes, strict=True
            ):
                wrong.differ(f"created {name}", expected, value)


def describe(row: SizesRow) -> str:
    flags = [str(flag.name) for flag in Flags if row.flags & flag]
    return (
        f"object size {row.object_size}, align {row.sizes.align},"
        f" flags {'|'.join(flags) or 'none'}, constructor {row.has_ctor},"
        f" usersize {row.usersize}, sheaf capacity {row.sheaf_capacity}"
    )
