"""One cache as one row of numbers: what every table of `uslub info` is made of.

Here: `Row`, made from what a cache tells about itself (`row_from_info`) or from a
saved picture of it (`row_from_snapshot`, of the engine or of the model), and the
arithmetic of the kernel's slabinfo tool on it. Pure: no arena is touched.
Not here: how rows are laid out on a page (`uslub.tools.slabinfo`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uslub.flags import Flags
from uslub.info import CacheInfo
from uslub.snapshot import CacheSnapshot

#: Letters of a unique id, in the kernel's order.
ID_LETTERS = (
    ("d", Flags.CACHE_DMA),
    ("D", Flags.CACHE_DMA32),
    ("a", Flags.RECLAIM_ACCOUNT),
    ("F", Flags.CONSISTENCY_CHECKS),
    ("A", Flags.ACCOUNT),
)

#: Letters of the last column of the table, in the order of the slabinfo tool.
FLAG_LETTERS = (
    ("d", Flags.CACHE_DMA),
    ("A", Flags.HWCACHE_ALIGN),
    ("P", Flags.POISON),
    ("a", Flags.RECLAIM_ACCOUNT),
    ("Z", Flags.RED_ZONE),
    ("F", Flags.CONSISTENCY_CHECKS),
    ("U", Flags.STORE_USER),
)


@dataclass(frozen=True)
class NodeRow:
    """The slabs of one cache on one memory node."""

    node: int
    slabs: int
    partial: int


@dataclass(frozen=True)
class Row:
    """One cache in the words of sysfs; sizes are bytes."""

    name: str  #: the first name it was created under
    aliases: tuple[str, ...]  #: other names merged into it, oldest first
    object_size: int
    slab_size: int  #: stride between objects
    align: int
    order: int
    objs_per_slab: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    page_size: int
    slabs: int
    total_objects: int
    partial: int  #: slabs on node lists
    partial_free: int  #: free objects in those
    objects_partial: int  #: objects in use in those
    cpu_slabs: int  #: CPU slabs and slabs on chains
    chain_slabs: int  #: of those, on chains
    flags: Flags
    has_ctor: bool
    nodes: tuple[NodeRow, ...]
    stats: Mapping[str, int]

    @property
    def objects(self) -> int:
        """In use; what is free on CPU slabs and chains counts as in use."""
        return self.total_objects - self.partial_free

    @property
    def slab_bytes(self) -> int:
        return self.page_size << self.order

    @property
    def space(self) -> int:
        """Bytes of all slabs."""
        return self.slabs * self.slab_bytes

    @property
    def used(self) -> int:
        """Bytes that users asked for."""
        return self.objects * self.object_size

    @property
    def loss(self) -> int:
        return self.space - self.used

    @property
    def percent_partial(self) -> int:
        return percent(self.partial, self.slabs)

    @property
    def percent_used(self) -> int:
        return percent(self.used, self.space)

    @property
    def alloc_total(self) -> int:
        return self.stat("alloc_fastpath") + self.stat("alloc_slowpath")

    @property
    def free_total(self) -> int:
        return self.stat("free_fastpath") + self.stat("free_slowpath")

    @property
    def activity(self) -> int:
        return self.alloc_total + self.free_total

    @property
    def merged(self) -> bool:
        return bool(self.aliases)

    @property
    def id(self) -> str:
        """Unique id of a merged cache, as in sysfs; else the name."""
        return cache_id(self.flags, self.slab_size) if self.merged else self.name

    @property
    def flag_letters(self) -> str:
        letters = "".join(letter for letter, flag in FLAG_LETTERS if self.flags & flag)
        return ("*" if self.merged else "") + letters

    def stat(self, name: str) -> int:
        """One counter, summed over CPUs."""
        return self.stats.get(name, 0)

    def title(self, *, first_alias: bool = False) -> str:
        """The name in tables: an id where several names share it (`-f`: the first)."""
        return self.name if first_alias else self.id

    def answers_to(self, name: str) -> bool:
        return name in (self.name, self.id, *self.aliases)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for `--json`; flags as a list of names."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        fields["aliases"] = list(self.aliases)
        fields["flags"] = [flag.name for flag in Flags if self.flags & flag]
        fields["nodes"] = [dataclasses.asdict(node) for node in self.nodes]
        fields["stats"] = dict(self.stats)
        derived = ("id", "objects", "space", "used", "loss")
        return fields | {name: getattr(self, name) for name in derived}


def percent(part: int, whole: int) -> int:
    """Whole percent, rounded down; 100 of nothing, as the slabinfo tool has it."""
    return part * 100 // whole if whole else 100


def cache_id(flags: int, size: int) -> str:
    """The name of a mergeable cache in sysfs, for example ":aA-0000192"."""
    letters = "".join(letter for letter, flag in ID_LETTERS if flags & flag)
    return f":{letters}{'-' if letters else ''}{size:07d}"


def row_from_info(
    info: CacheInfo,
    *,
    page_size: int,
    stats: Mapping[str, int],
    nodes: Iterable[NodeRow] = (),
) -> Row:
    """A row from `cache.info()`, which costs the same however full the cache is."""
    return Row(
        name=info.name,
        aliases=info.aliases,
        object_size=info.object_size,
        slab_size=info.size,
        align=info.align,
        order=info.order,
        objs_per_slab=info.objects,
        min_partial=info.min_partial,
        cpu_partial=info.cpu_partial,
        cpu_partial_slabs=info.cpu_partial_slabs,
        page_size=page_size,
        slabs=info.slabs,
        total_objects=info.objects_total,
        partial=info.partial,
        partial_free=info.partial_free,
        objects_partial=max(info.partial * info.objects - info.partial_free, 0),
        cpu_slabs=info.cpu_slabs,
        chain_slabs=info.chain_slabs,
        flags=Flags(info.flags),
        has_ctor=info.has_ctor,
        nodes=tuple(nodes),
        stats=stats,
    )


def row_from_snapshot(
    cache: CacheSnapshot, *, page_size: int, flags: int = 0, has_ctor: bool = False
) -> Row:
    """The same from a picture of the cache; a picture does not tell the flags."""
    listed = {slab for node in cache.nodes for slab in node.partial}
    partial = [slab for slab in cache.slabs if slab.slab in listed]
    inuse = sum(slab.inuse for slab in partial)
    chain_slabs = sum(len(cpu.partial) for cpu in cache.cpus)
    return Row(
        name=cache.name,
        aliases=cache.aliases,
        object_size=cache.object_size,
        slab_size=cache.size,
        align=cache.align,
        order=cache.order,
        objs_per_slab=cache.objects,
        min_partial=cache.min_partial,
        cpu_partial=cache.cpu_partial,
        cpu_partial_slabs=cache.cpu_partial_slabs,
        page_size=page_size,
        slabs=sum(node.slabs for node in cache.nodes),
        total_objects=sum(node.objects for node in cache.nodes),
        partial=len(partial),
        partial_free=sum(slab.objects for slab in partial) - inuse,
        objects_partial=inuse,
        cpu_slabs=sum(cpu.slab is not None for cpu in cache.cpus) + chain_slabs,
        chain_slabs=chain_slabs,
        flags=Flags(flags),
        has_ctor=has_ctor,
        nodes=node_rows(cache),
        stats={name: sum(values) for name, values in cache.stats},
    )


def node_rows(cache: CacheSnapshot) -> tuple[NodeRow, ...]:
    """Slabs and partial slabs of each node of a picture."""
    return tuple(NodeRow(n.node, n.slabs, len(n.partial)) for n in cache.nodes)


def live_objects(cache: CacheSnapshot) -> int:
    """Objects that users hold: those in use less those waiting on CPU freelists."""
    waiting = sum(len(cpu.freelist) for cpu in cache.cpus)
    return max(sum(slab.inuse for slab in cache.slabs) - waiting, 0)
