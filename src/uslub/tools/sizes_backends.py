"""The engine and the model behind `uslub.tools.sizes.check_sizes`.

Here: one adapter each. The module of a backend is imported when its adapter is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uslub.flags import Flags
from uslub.tools.decisions import DecisionFileError
from uslub.tools.sizes import ALIGN_MAX, Made, Sizes, SizesFile, SizesRow

#: Names of the arena's own caches (kmalloc) must not meet those of a recording.
OURS = "recorded:"


def asked_flags(row: SizesRow) -> Flags:
    """Flags of a cache to be created; the geometry-only ones cannot be."""
    flags = row.flags & ~Flags.KMALLOC
    if not row.creatable:
        flags &= ~(Flags.TYPESAFE_BY_RCU | Flags.CONSISTENCY_CHECKS | Flags.RED_ZONE)
        flags &= ~(Flags.POISON | Flags.STORE_USER)
    return flags


class EngineSizes:
    """`uslub.geometry` and an anonymous arena."""

    def __init__(self, recording: SizesFile) -> None:
        from uslub import Arena
        from uslub._engine import geometry

        self._geometry = geometry
        self.cpus = recording.cpus
        self.arena = Arena.create(
            None,
            "64MiB",
            cpus=max(recording.cpus, recording.nodes),
            nodes=recording.nodes,
            order_cpus=recording.cpus,
        )
        page_size = self.arena.info().page_size
        if page_size != recording.page_size:
            raise DecisionFileError(
                f"{recording.path}: recorded with pages of {recording.page_size} bytes,"
                f" this machine has {page_size}"
            )

    def geometry(self, row: SizesRow, *, inside: bool) -> Sizes:
        flags = row.flags & ~Flags.TYPESAFE_BY_RCU if inside else row.flags
        return sizes_of(
            self._geometry(
                row.object_size,
                align=row.sizes.align,
                flags=flags,
                ctor=row.has_ctor,
                usersize=row.usersize,
                cpus=self.cpus,
            )
        )

    def create(self, name: str, row: SizesRow, *, first: bool) -> None:
        wish = Flags.NO_MERGE if row.never_merges else Flags.MERGE
        self.arena.cache(
            OURS + name,
            row.object_size,
            align=min(row.sizes.align, ALIGN_MAX) if first else 0,
            flags=asked_flags(row) | wish,
            ctor=bytes(row.object_size) if row.has_ctor else None,
            usersize=row.usersize,
        )

    def made(self) -> Sequence[Made]:
        infos = [cache.info() for cache in self.arena.caches()]
        return [
            Made(
                names=tuple(n.removeprefix(OURS) for n in (info.name, *info.aliases)),
                refcount=info.refcount,
                sizes=sizes_of(info),
                flags=info.flags,
                defrag_ratio=info.defrag_ratio // 10,
            )
            for info in infos
            if info.name.startswith(OURS) or info.aliases
        ]


def sizes_of(found: Any) -> Sizes:
    """From `CacheInfo` or `Geometry`, which share these names."""
    return Sizes(
        slab_size=found.size,
        align=found.align,
        order=found.order,
        objs_per_slab=found.objects,
        cpu_partial=found.cpu_partial,
        min_partial=found.min_partial,
    )


class ModelSizes:
    """The executable model."""

    def __init__(self, recording: SizesFile, design: str) -> None:
        from uslub.model import arena, geometry

        self._geometry = geometry
        boot = geometry.Boot(cpus_present=recording.cpus, page_size=recording.page_size)
        self.boot = boot
        self.arena = arena.Arena(
            cpus=max(recording.cpus, recording.nodes),
            nodes=recording.nodes,
            boot=boot,
            design=design,
        )

    def geometry(self, row: SizesRow, *, inside: bool) -> Sizes:
        g, flags = self._geometry, self._flags(row.flags)
        align = g.calculate_alignment(flags, row.sizes.align, row.object_size)
        layout = g.calculate_sizes(
            row.object_size,
            align,
            flags,
            ctor=row.has_ctor,
            freeptr_offset=0 if inside else None,
        )
        order = g.calculate_order(layout.size, self.boot)
        return Sizes(
            layout.size,
            align,
            order,
            g.order_objects(order, layout.size, self.boot.page_size),
            g.cpu_partial(layout.size, flags, self.boot),
            g.min_partial(layout.size),
        )

    def create(self, name: str, row: SizesRow, *, first: bool) -> None:
        never = Flags.NO_MERGE if row.never_merges else Flags(0)
        self.arena.cache(
            name,
            row.object_size,
            align=row.sizes.align if first else 0,
            flags=self._flags(asked_flags(row) | never),
            ctor=row.has_ctor,
            usersize=row.usersize,
        )

    def made(self) -> Sequence[Made]:
        return [
            Made(
                names=(cache.name, *cache.aliases),
                refcount=cache.refcount,
                sizes=Sizes(
                    cache.layout.size,
                    cache.layout.align,
                    cache.order,
                    cache.objects,
                    cache.cpu_partial,
                    cache.min_partial,
                ),
                flags=self._own_flags(cache.flags),
                defrag_ratio=cache.defrag_ratio // 10,
            )
            for cache in self.arena.caches
        ]

    # The model has bits of its own; the names are the same.
    def _flags(self, flags: Flags) -> int:
        theirs = self._geometry.Flags
        names = [flag.name for flag in Flags if flags & flag and flag.name]
        return sum(int(theirs[name]) for name in names)

    def _own_flags(self, flags: int) -> int:
        names = [f.name for f in self._geometry.Flags if flags & f and f.name]
        return sum(int(Flags[name]) for name in names if name in Flags.__members__)
