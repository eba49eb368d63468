"""The summary of the slabinfo tool (-T): all caches of an arena together.

Here: `totals` (numbers) and `totals_lines` (text). Pure: rows in, lines out. Only
caches that have slabs and objects take part, as in the kernel's tool; unlike there,
the average of PartObjs is an average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from uslub.tools.render import Row
from uslub.tools.slabinfo import Look
from uslub.tools.text import scaled


@dataclass(frozen=True)
class Spread:
    """One quantity over all caches, or over all objects."""

    average: int
    minimum: int
    maximum: int
    total: int


@dataclass(frozen=True)
class Totals:
    """What the caches of an arena come to."""

    caches: int
    aliases: int
    alias_targets: int
    active: int  #: caches that have slabs and objects
    memory: int
    loss: int
    objects: int
    objects_partial: int
    per_cache: dict[str, Spread]
    per_object: dict[str, Spread]  #: weighted by objects; no totals

    @property
    def memory_ratio(self) -> int:
        """Lost bytes in percent of used bytes."""
        return share(self.loss, self.memory - self.loss)

    @property
    def object_ratio(self) -> int:
        return share(self.objects_partial, self.objects)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def share(part: int, whole: int) -> int:
    return part * 100 // whole if whole else 0


PER_CACHE: dict[str, Callable[[Row], int]] = {
    "#Objects": lambda row: row.objects,
    "#Slabs": lambda row: row.slabs,
    "#PartSlab": lambda row: row.partial,
    "%PartSlab": lambda row: min(share(row.partial, row.slabs), 100),
    "PartObjs": lambda row: row.objects_partial,
    "% PartObj": lambda row: min(share(row.objects_partial, row.objects), 100),
    "Memory": lambda row: row.space,
    "Used": lambda row: row.used,
    "Loss": lambda row: row.loss,
}
PER_OBJECT: dict[str, Callable[[Row], int]] = {
    "Memory": lambda row: row.slab_size,
    "User": lambda row: row.object_size,
    "Loss": lambda row: row.slab_size - row.object_size,
}
#: A percentage of sums, where a sum of percentages would say nothing.
SHARES = {"%PartSlab": ("#PartSlab", "#Slabs"), "% PartObj": ("PartObjs", "#Objects")}
COUNTS = {"#Objects", "#Slabs", "#PartSlab", "PartObjs"}


def totals(rows: Sequence[Row]) -> Totals:
    """Sums and spreads over `rows`."""
    active = [row for row in rows if row.slabs and row.objects]
    per_cache = {
        name: spread([value(row) for row in active], [1] * len(active))
        for name, value in PER_CACHE.items()
    }
    for name, (part, whole) in SHARES.items():
        old = per_cache[name]
        total = share(per_cache[part].total, per_cache[whole].total)
        per_cache[name] = Spread(old.average, old.minimum, old.maximum, total)
    weights = [row.objects for row in active]
    merged = [row for row in rows if row.aliases]
    return Totals(
        caches=len(rows),
        aliases=sum(len(row.aliases) + 1 for row in merged),
        alias_targets=len(merged),
        active=len(active),
        memory=per_cache["Memory"].total,
        loss=per_cache["Loss"].total,
        objects=per_cache["#Objects"].total,
        objects_partial=per_cache["PartObjs"].total,
        per_cache=per_cache,
        per_object={
            name: spread([value(row) for row in active], weights)
            for name, value in PER_OBJECT.items()
        },
    )


def spread(values: Sequence[int], weights: Sequence[int]) -> Spread:
    total = sum(v * w for v, w in zip(values, weights, strict=True))
    if not values:
        return Spread(0, 0, 0, 0)
    return Spread(total // max(sum(weights), 1), min(values), max(values), total)


def totals_lines(sums: Totals, look: Look) -> list[str]:
    """The three blocks of -T."""
    amount = look.amount
    lines = [
        "Slabcache Totals",
        "-" * 16,
        f"Slabcaches : {sums.caches:>15}   Aliases  : "
        f"{f'{sums.aliases}->{sums.alias_targets}':>15}   Active:    {sums.active:>3}",
        f"Memory used: {amount(sums.memory):>15}   # Loss   : "
        f"{amount(sums.loss):>15}   MRatio: {sums.memory_ratio:>5}%",
        f"# Objects  : {scaled(sums.objects):>15}   # PartObj: "
        f"{scaled(sums.objects_partial):>15}   ORatio: {sums.object_ratio:>5}%",
        "",
    ]
    lines += spread_lines("Per Cache", sums.per_cache, look, with_total=True)
    lines += ["", *spread_lines("Per Object", sums.per_object, look, with_total=False)]
    return lines


def spread_lines(
    title: str, spreads: dict[str, Spread], look: Look, *, with_total: bool
) -> list[str]:
    heads = ["Average", "Min", "Max", *(["Total"] if with_total else [])]
    first = f"{title:<12}" + "".join(f" {head:>15}" for head in heads)
    lines = [first, "-" * len(first)]
    for name, s in spreads.items():
        numbers = [s.average, s.minimum, s.maximum, *([s.total] if with_total else [])]
        if name in SHARES:
            cells = [f"{number}%" for number in numbers]
        elif name in COUNTS:
            cells = [scaled(number) for number in numbers]
        else:
            cells = [look.amount(number) for number in numbers]
        lines.append(f"{name:<12}" + "".join(f" {cell:>15}" for cell in cells))
    return lines
