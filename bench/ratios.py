"""One ratio with its target, and how it is made of two series.

A ratio is given twice: the median over rounds of the ratio within a round, and that of
the best figures (the calmest process on each side). A target is met if both meet it; if
only one does, the machine was too noisy for a word and the line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles

from rounds import Series


@dataclass(frozen=True)
class Line:
    """One ratio. `at_most` and `at_least`: the target; neither: for information."""

    what: str
    ours: str
    beside: str
    typical: float
    best: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:g}" if self.at_least is not None else ""

    @property
    def verdict(self) -> str:
        met = [self.meets(value) for value in (self.typical, self.best)]
        if not self.target:
            return ""
        if all(met):
            return "met"
        return "missed" if not any(met) else "undecided (noise)"

    def meets(self, value: float) -> bool:
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is None or value >= self.at_least


def span(ns: float) -> str:
    """A time in the unit that reads best."""
    for limit, unit, scale in ((1e3, "ns", 1), (1e6, "µs", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def compare(
    what: str,
    ours: Series,
    other: Series,
    at_most: float | None = None,
    at_least: float | None = None,
    *,
    upside_down: bool = False,
) -> Line:
    """ours / other; upside_down: how many times cheaper ours is."""
    # Round by round, as the two stood next to each other in time.
    typical = median(a / b for a, b in zip(ours.medians, other.medians, strict=True))
    best = ours.best / other.best
    ratios = [1 / typical, 1 / best] if upside_down else [typical, best]
    beside = f"{other.subject} {span(other.typical)}"
    return Line(what, span(ours.typical), beside, *ratios, at_most, at_least)


def percentile(series: Series, percent: int) -> float:
    """Of all samples of all processes together."""
    pooled = [value for samples in series.rounds for value in samples]
    if len(pooled) < 2:
        return pooled[0]
    return quantiles(pooled, n=100, method="inclusive")[percent - 1]
