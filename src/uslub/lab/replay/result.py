"""What a replay answers: plain data that can be pickled, printed and compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """One cache of the model at the moment when the kernel's counters were read."""

    checkpoint: int
    cache: int  #: index in the trace's header
    row: int
    slabs: tuple[int, ...]  #: per node, as are the others
    partial: tuple[int, ...]
    cpu_slabs: tuple[int, ...]


@dataclass(frozen=True)
class Moment:
    """Everything at one time.

    Attributes:
        name: What was asked for.
        time_ns: On the trace's clock.
        row: Rows before it.
        records: As `Result.caches`.
    """

    name: str
    time_ns: int
    row: int
    records: list[Record]


@dataclass
class Result:
    """One trace on one design.

    Attributes:
        header: Of the trace and the replay: parameters, and each share of what the
            trace does not show.
        caches: One record per cache and node; node -1: counters of the whole cache.
        totals: Sums over all caches; `peak_memory_bytes` of the series.
        series: Equally long lists by name; `time_ns` and totals at those times.
        by_cache: Slabs of each cache at the times of `series`, by its name.
        moments: What was asked for by `at`.
        predictions: What the model had when the kernel's counters were read.
    """

    header: Record
    caches: list[Record]
    totals: Record
    series: dict[str, list[int]]
    by_cache: dict[str, list[int]] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)

    def to_records(self) -> list[Record]:
        """One record per cache, its nodes added up and its counters joined."""
        fixed = (
            "slab_bytes",
            "slot_bytes",
            "object_bytes",
            "order",
            "objects_per_slab",
        )
        found: dict[str, Record] = {}
        for record in self.caches:
            into = found.setdefault(record["cache"], {"cache": record["cache"]})
            for name, value in record.items():
                if name in ("cache", "node", "external_fragmentation"):
                    continue
                if name in fixed or name not in into or isinstance(value, str):
                    into[name] = value
                else:
                    into[name] += value
        for record in found.values():
            held = record.get("slabs", 0) * record.get("slab_bytes", 0)
            used = record.get("live", 0) * record.get("slot_bytes", 0)
            record["external_fragmentation"] = 1 - used / held if held else 0.0
        return list(found.values())

    def to_frame(self, table: str = "caches") -> pandas.DataFrame:
        """A data frame; needs pandas.

        Args:
            table: "caches" (one row per cache), "nodes" (per cache and node) or
                "series" (per moment).

        Raises:
            ImportError: pandas is not installed.
            ValueError: No such table.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_frame() needs pandas, which is not installed; install it with"
                " `pip install pandas`, or take to_records()",
                name="pandas",
            ) from error
        if table == "series":
            return pandas.DataFrame(self.series)
        if table not in ("caches", "nodes"):
            raise ValueError(f"no table {table!r}: take caches, nodes or series")
        rows = self.to_records() if table == "caches" else self.caches
        return pandas.DataFrame(rows)
