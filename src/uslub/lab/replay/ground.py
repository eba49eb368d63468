"""Prediction against the kernel's own counters, at every checkpoint.

`compare_ground` sets what the model had beside what the kernel counted, per checkpoint,
cache and node. Slabs that were there before tracing and that no event touches cannot be
predicted; for caches with initial slabs their number is taken from the first checkpoint
and is constant from then on. Those caches are exact at the first checkpoint by
construction, so the report says how many they are, and counts without them too.

Here too: `replay_interval`, for captures that begin in the middle of a kernel's life.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from uslub.lab.replay.replaying import replay
from uslub.lab.replay.result import Prediction, Record, Result
from uslub.lab.replay.witness import Witness
from uslub.lab.trace import Checkpoint, Ground, GroundMismatch, Header, Trace

COUNTERS = ("slabs", "partial", "cpu_slabs")


@dataclass(frozen=True)
class Compared:
    """One cache at one checkpoint; tuples are per node."""

    checkpoint: int
    cache: str
    slabs: tuple[int, ...]  #: predicted, with the untouched ones
    real_slabs: tuple[int, ...]
    partial: tuple[int, ...]
    real_partial: tuple[int, ...]
    cpu_slabs: tuple[int, ...]
    real_cpu_slabs: tuple[int, ...]
    untouched: tuple[int, ...]
    reason: str  #: known causes of an error; "" where none is known

    @property
    def error(self) -> int:
        """Predicted minus real number of slabs."""
        return sum(self.slabs) - sum(self.real_slabs)

    @property
    def verdict(self) -> str:
        """`exact`, `within 1` or `off`."""
        return ("exact", "within 1")[abs(self.error)] if abs(self.error) < 2 else "off"

    @property
    def exact_by_node(self) -> bool:
        """Is each node's number right?"""
        return self.slabs == self.real_slabs


@dataclass
class GroundReport:
    """All comparisons of one replay.

    Attributes:
        names: Of the checkpoints.
        rows: By checkpoint, then in the order of the trace's caches.
        rcu_caches: Whose objects are freed out of sight; left out of `growth_error`.
        calibrated: Caches whose untouched slabs come from the first checkpoint.
    """

    names: tuple[str, ...]
    rows: list[Compared]
    rcu_caches: frozenset[str] = frozenset()
    calibrated: frozenset[str] = frozenset()
    missing: int = 0  #: counters for which there is no prediction
    witness: Witness | None = None  #: slabs by page events, where asked for

    def at(self, checkpoint: int) -> list[Compared]:
        """The rows of one checkpoint."""
        return [row for row in self.rows if row.checkpoint == checkpoint]

    def checkpoints(self) -> list[int]:
        """Those that have rows."""
        return sorted({row.checkpoint for row in self.rows})

    def growth_error(self, checkpoint: int) -> int:
        """Sum over caches of |error of the growth since the first checkpoint|.

        Without caches freed out of sight.
        """
        points = self.checkpoints()
        first = {row.cache: row.error for row in self.at(points[0])} if points else {}
        return sum(
            abs(row.error - first[row.cache])
            for row in self.at(checkpoint)
            if row.cache in first and row.cache not in self.rcu_caches
        )

    def summary(self) -> list[Record]:
        """One record per checkpoint."""
        found = []
        for checkpoint in self.checkpoints():
            rows = self.at(checkpoint)
            verdicts = [row.verdict for row in rows]
            free = [row for row in rows if row.cache not in self.calibrated]
            record: Record = {
                "checkpoint": self.names[checkpoint] or str(checkpoint),
                "caches": len(rows),
                "exact": verdicts.count("exact"),
                "within_1": verdicts.count("within 1"),
                "off": verdicts.count("off"),
                "exact_by_node": sum(row.exact_by_node for row in rows),
                "uncalibrated": len(free),
                "uncalibrated_exact": sum(row.verdict == "exact" for row in free),
                "growth_error": self.growth_error(checkpoint),
            }
            for name in COUNTERS:
                record[name] = sum(sum(getattr(row, name)) for row in rows)
                record[f"real_{name}"] = sum(
                    sum(getattr(row, f"real_{name}")) for row in rows
                )
            if self.witness is not None:
                record["page_slabs"] = self.witness.total(checkpoint)
            found.append(record)
        return found

    def to_records(self) -> list[Record]:
        """One record per checkpoint, cache and node."""
        found = []
        for row in self.rows:
            for node in range(len(row.slabs)):
                record: Record = {
                    "checkpoint": self.names[row.checkpoint] or str(row.checkpoint),
                    "cache": row.cache,
                    "node": node,
                    "verdict": row.verdict,
                    "reason": row.reason,
                    "untouched": row.untouched[node],
                }
                if self.witness is not None:
                    key = (row.checkpoint, row.cache)
                    record["page_slabs"] = self.witness.slabs.get(key)
                for name in COUNTERS:
                    record[name] = getattr(row, name)[node]
                    record[f"real_{name}"] = getattr(row, f"real_{name}")[node]
                found.append(record)
        return found


def checkpoints_of(ground: Ground, header: Header) -> tuple[Checkpoint, ...]:
    """The ground's checkpoints with the cache numbers of a trace.

    Raises:
        GroundMismatch: Another kernel, other CPUs, other times: not this boot.
    """
    last = header.start_ns + header.span_ns
    inside = [each for each in ground.checkpoints if each.time <= last]
    trouble = ""
    if ground.kernel and header.kernel and ground.kernel != header.kernel:
        trouble = f"it is of kernel {ground.kernel}, the trace of {header.kernel}"
    elif ground.cpus and ground.cpus != header.cpus:
        trouble = f"it has {ground.cpus} CPUs, the trace {header.cpus}"
    elif ground.checkpoints and not inside:
        trouble = "all of its checkpoints are later than the trace's last event"
    if trouble:
        raise GroundMismatch(
            f"ground file {ground.path} is of another boot: {trouble}; give the one"
            " that was recorded with the trace"
        )
    index = {info.name: at for at, info in enumerate(header.caches)}
    return tuple(
        replace(
            each,
            caches={
                index[ground.caches[cache].name]: truth
                for cache, truth in each.caches.items()
                if ground.caches[cache].name in index
            },
        )
        for each in inside
    )


def compare_ground(
    result: Result, checkpoints: Sequence[Checkpoint], header: Header
) -> GroundReport:
    """Set predictions beside the kernel's counters.

    Args:
        result: Of a replay that was given these checkpoints.
        checkpoints: The kernel's counters, by cache of `header`.
        header: Of the trace.

    Returns:
        The report; counters without a prediction are counted in `missing`.
    """
    predicted = {(each.checkpoint, each.cache): each for each in result.predictions}
    untouched, calibrated = calibrate(result, checkpoints, header, predicted)
    rcu = set(result.header["rcu_caches"])
    report = GroundReport(
        tuple(each.name for each in checkpoints),
        [],
        frozenset(rcu),
        frozenset(header.caches[index].name for index in calibrated),
    )
    for number, checkpoint in enumerate(checkpoints):
        for index, truth in sorted(checkpoint.caches.items()):
            have = predicted.get((number, index))
            if have is None:
                report.missing += 1
                continue
            name = header.caches[index].name
            nodes = len(truth.slabs)
            extra = untouched.get(index, (0,) * nodes)
            report.rows.append(
                Compared(
                    checkpoint=number,
                    cache=name,
                    slabs=tuple(
                        count + more
                        for count, more in zip(
                            fit(have.slabs, nodes), extra, strict=True
                        )
                    ),
                    real_slabs=truth.slabs,
                    partial=fit(have.partial, nodes),
                    real_partial=truth.partial,
                    cpu_slabs=fit(have.cpu_slabs, nodes),
                    real_cpu_slabs=truth.cpu_slabs,
                    untouched=extra,
                    reason=reason(name, rcu, calibrated, index, result),
                )
            )
    return report


def fit(values: tuple[int, ...], nodes: int) -> tuple[int, ...]:
    """The same for another number of nodes: the last one gets what is left."""
    if len(values) == nodes:
        return values
    padded = (*values, *(0,) * nodes)
    return (*padded[: nodes - 1], sum(values[nodes - 1 :]))


def calibrate(
    result: Result,
    checkpoints: Sequence[Checkpoint],
    header: Header,
    predicted: dict[tuple[int, int], Prediction],
) -> tuple[dict[int, tuple[int, ...]], set[int]]:
    """Slabs per node that no event touches, for caches that had slabs at the start.

    Only for a replay of a whole life; a seeded one has them in the model.
    """
    if result.header["mode"] != "whole life" or not result.header["as_traced"]:
        return {}, set()
    initial = set(result.header["initial_caches"])
    untouched: dict[int, tuple[int, ...]] = {}
    calibrated = set()
    for index, info in enumerate(header.caches):
        if info.name not in initial:
            continue
        for number, checkpoint in enumerate(checkpoints):
            truth, have = checkpoint.caches.get(index), predicted.get((number, index))
            if truth is None or have is None:
                continue
            slabs = fit(have.slabs, len(truth.slabs))
            # A node on which more is predicted than there is makes up for another.
            differences = [
                real - mine for real, mine in zip(truth.slabs, slabs, strict=True)
            ]
            missing = max(0, sum(differences))
            extra = []
            for difference in differences:
                extra.append(min(max(0, difference), missing))
                missing -= extra[-1]
            untouched[index] = tuple(extra)
            if any(extra):
                calibrated.add(index)
            break
    return untouched, calibrated


def reason(
    name: str, rcu: set[str], calibrated: set[int], index: int, result: Result
) -> str:
    """Why this cache may be off."""
    known = []
    if name in rcu:
        known.append("objects freed out of sight (kfree_rcu, bulk)")
    if index in calibrated:
        known.append("slabs from before tracing")
    if name in result.header["sizes_guessed"]:
        known.append("sizes guessed")
    return "; ".join(known)


@dataclass
class Interval:
    """Bounds of one cache at one checkpoint, over all nodes."""

    checkpoint: int
    cache: str
    low: int
    high: int
    real: int | None = None

    @property
    def holds(self) -> bool:
        """Is the kernel's number between the bounds?"""
        return self.real is None or self.low <= self.real <= self.high


@dataclass
class IntervalReport:
    """What a capture from the middle of a life can say."""

    live: Result
    free: Result
    rows: list[Interval] = field(default_factory=list)

    def share_inside(self, checkpoint: int) -> float:
        """Of the caches of one checkpoint, how many have their truth inside."""
        rows = [row for row in self.rows if row.checkpoint == checkpoint]
        return sum(row.holds for row in rows) / len(rows) if rows else 1.0

    @property
    def width(self) -> int:
        """Sum of all intervals of the last checkpoint."""
        last = max((row.checkpoint for row in self.rows), default=0)
        return sum(row.high - row.low for row in self.rows if row.checkpoint == last)


def replay_interval(
    trace: Trace,
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    **options: Any,
) -> IntervalReport:
    """Replay twice: unknown objects live, and unknown objects free.

    Args:
        trace: From `open_trace`.
        checkpoints: To predict, and to judge by; None: the trace's own.
        **options: As for `replay`.

    Returns:
        Both results, and per checkpoint and cache the interval that they span. The
        choices of when unseen frees happen (`rcu_delay`) widen it too, and so does
        each lost event.
    """
    points = tuple(trace.checkpoints if checkpoints is None else checkpoints)
    results = [
        replay(
            trace,
            checkpoints=points,
            untouched=untouched,
            rcu_delay=delay,
            mode="seeded",
            **options,
        )
        for untouched, delay in (("live", "reuse"), ("free", "0"))
    ]
    report = IntervalReport(results[0], results[1])
    both = [
        {(p.checkpoint, p.cache): sum(p.slabs) for p in r.predictions} for r in results
    ]
    for number, checkpoint in enumerate(points):
        for index, truth in sorted(checkpoint.caches.items()):
            if any((number, index) not in each for each in both):
                continue
            bounds = sorted(each[number, index] for each in both)
            slack = math.ceil(bounds[1] * results[0].header["lost_share"])
            report.rows.append(
                Interval(
                    number,
                    trace.header.caches[index].name,
                    max(0, bounds[0] - slack),
                    bounds[1] + slack,
                    sum(truth.slabs),
                )
            )
    return report
