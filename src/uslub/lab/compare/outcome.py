"""What is kept of one replay: plain data that JSON can hold.

A `Result` belongs to the replay; an `Outcome` is what a comparison shows of it and what
the store writes down. It is made where the replay ran (perhaps on another machine), so
that little travels. Relies on the mappings named in docs/design/06-lab.md, and keeps
every number it finds there: what is missing stays missing, it does not become 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uslub.lab.compare.grid import Point, Value
from uslub.lab.replay import Result

Record = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One point of the grid, replayed.

    Attributes:
        point: The parameters that were asked for.
        seconds: What the replay took where it ran.
        header: Of the trace and the replay: events, shares, parameters.
        totals: Over all caches: bytes, slabs, counters.
        series: Equally long lists by name; `time_ns` and totals at those times.
        caches: One record per cache and node.
    """

    point: Point
    seconds: float
    header: Record
    totals: Record
    series: dict[str, list[Any]]
    caches: list[Record]

    def to_json(self) -> Record:
        """Everything, as JSON has it."""
        return {
            "point": self.point.as_dict(),
            "seconds": self.seconds,
            "header": self.header,
            "totals": self.totals,
            "series": self.series,
            "caches": self.caches,
        }

    @classmethod
    def from_json(cls, data: Record) -> Outcome:
        """The reverse of `to_json`.

        Raises:
            KeyError, TypeError, AttributeError: Not what `to_json` writes.
        """
        point: dict[str, Value] = data["point"]
        return cls(
            point=Point(tuple(point.items())),
            seconds=float(data["seconds"]),
            header=dict(data["header"]),
            totals=dict(data["totals"]),
            series={name: list(column) for name, column in data["series"].items()},
            caches=[dict(record) for record in data["caches"]],
        )


def by_cache(outcome: Outcome) -> list[Record]:
    """The records of an outcome with the nodes of a cache added up.

    As `Result.to_records` does it, but that a list of SLOB's, which knows no objects,
    keeps the fragmentation that its nodes have.
    """
    found = Result({}, outcome.caches, {}, {}).to_records()
    for record in found:
        if "live" not in record and record.get("memory_bytes"):
            nodes = [one for one in outcome.caches if one["cache"] == record["cache"]]
            lost = sum(
                one["memory_bytes"] * one.get("external_fragmentation", 0.0)
                for one in nodes
            )
            record["external_fragmentation"] = lost / record["memory_bytes"]
    return found
