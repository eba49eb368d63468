"""What a sweep found, as records and data frames.

`Comparison` is what `compare()` returns: the outcomes in the order of the grid, and the
three tables one wants of them: one row per point, one per point and cache, one per
point and moment. Records are plain dictionaries; frames need pandas and say so.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uslub.errors import BadArgument
from uslub.lab.compare.outcome import Outcome, Record, by_cache

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Comparison:
    """The outcomes of a grid.

    Attributes:
        trace: The path that was replayed.
        outcomes: One per point, in the order of the grid.
        reused: How many of them came from the store.
    """

    trace: str
    outcomes: tuple[Outcome, ...]
    reused: int = 0

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def base(self) -> int:
        """Index of the point that the others are measured against: the first one that
        changes nothing, or else the first."""
        for index, outcome in enumerate(self.outcomes):
            if all(value is None for _, value in outcome.point.values):
                return index
        return 0

    @property
    def parameters(self) -> tuple[str, ...]:
        """The axes of the grid; a point may lack one that its design does not have."""
        named = (name for outcome in self.outcomes for name in outcome.point.as_dict())
        return tuple(dict.fromkeys(named))

    def to_records(self) -> list[Record]:
        """One record per point: its parameters, `seconds`, and its totals."""
        return [
            {**named(outcome), "seconds": outcome.seconds, **outcome.totals}
            for outcome in self.outcomes
        ]

    def caches(self, *, nodes: bool = False) -> list[Record]:
        """One record per point and cache, its parameters first.

        Args:
            nodes: One record for each node instead of their sums.
        """
        return [
            {**named(outcome), **record}
            for outcome in self.outcomes
            for record in (outcome.caches if nodes else by_cache(outcome))
        ]

    def series(self) -> list[Record]:
        """One record per point and moment: its parameters, `time_ns`, totals then."""
        found = []
        for outcome in self.outcomes:
            names = list(outcome.series)
            columns = (outcome.series[name] for name in names)
            for row in zip(*columns, strict=True):
                found.append({**named(outcome), **dict(zip(names, row, strict=True))})
        return found

    def to_csv(self, path: Path) -> None:
        """Write one row per point and cache, with a head, as text with commas.

        Raises:
            OSError: The file cannot be written.
        """
        rows = self.caches()
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)

    def to_frame(self, table: str = "points") -> pandas.DataFrame:
        """One of the tables as a data frame.

        Args:
            table: "points", "caches", "nodes" or "series".

        Raises:
            BadArgument: No such table.
            ImportError: pandas is not installed; `to_records()` and its like need none.
        """
        tables = {
            "points": self.to_records,
            "caches": self.caches,
            "nodes": lambda: self.caches(nodes=True),
            "series": self.series,
        }
        if table not in tables:
            known = ", ".join(tables)
            raise BadArgument(f"comparison: no table {table!r}; there are {known}")
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_frame() needs pandas, which cannot be imported; install it with"
                " `pip install pandas`, or use to_records(), caches() and series()",
                name="pandas",
            ) from error
        return pandas.DataFrame.from_records(tables[table]())


def named(outcome: Outcome) -> dict[str, Any]:
    """The point's label and parameters."""
    return {"point": outcome.point.label, **outcome.point.as_dict()}
