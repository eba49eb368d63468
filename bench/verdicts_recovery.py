"""The lines of crash safety: what it gives back, how fast, and what it costs.

Recovery has a target in milliseconds: its ratio is the time over the target. A stopped
holder is set beside a stopped process that holds no lock: on a machine with neighbours
a maximum is theirs as much as ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from ratios import Line, compare, span
from rounds import Samples, Series
from workloads.recovery import ASKED, ASKED_NS, LOCKS

HELD = {
    "slot": "lock of our CPU slot",
    "list": "list lock",
    "cache": "cache_lock",
    "reaper": "reaper's byte",
}
CALLS = ("alloc", "free")


def victim(one: Series) -> str:
    """Whom the series is about."""
    p = one.params
    inside = " at work" if p["at"] == "work" else ""
    return f"{p['mib']:,} MiB, {p['n']:,} objects of {p['size']:,} B{inside}"


def time_lines(samples: Samples) -> Iterator[Line]:
    """The largest of each arena, and the one that was asked for."""
    rows = [one for one in samples.find("recovery") if one.metric == "ns"]
    warm = [one for one in samples.find("recovery") if one.metric == "warm_ns"]
    for one in rows:
        p = one.params
        asked = (p["mib"], p["size"], p["n"]) == ASKED
        same = [
            r for r in rows if all(r.params[k] == p[k] for k in ("mib", "size", "at"))
        ]
        if asked or p["n"] == max(r.params["n"] for r in same):
            ratios = (one.typical / ASKED_NS, one.best / ASKED_NS)
            limit = 1.0 if asked else None
            what = f"Recovery: killed, {victim(one)}"
            again = next(span(r.typical) for r in warm if r.params == p)
            beside = f"again {again}" + (f", asked {span(ASKED_NS)}" if asked else "")
            yield Line(what, span(one.typical), beside, *ratios, at_most=limit)


def stopped_lines(samples: Samples) -> Iterator[Line]:
    """The slowest call while a holder is stopped."""
    rows = {
        (one.params["lock"], one.metric): one
        for one in samples.find("stopped")
        if one.metric.endswith("_ns")
    }
    for lock in LOCKS[1:]:
        for call in CALLS:
            metric = f"{call}_max_ns"
            if (lock, metric) in rows:
                ours, none = rows[lock, metric], rows["none", metric]
                what = f"Stopped holder of the {HELD[lock]}: slowest {call}"
                line = compare(what, ours, none)
                beside = f"no lock held {span(none.typical)}"
                yield Line(what, line.ours, beside, line.typical, line.best)


def price_lines(samples: Samples) -> Iterator[Line]:
    """A pair with intents and owner tags over one without."""
    words = {0: "one thread", 2: "two threads at once"}
    for threads, word in words.items():
        rows = {one.subject: one for one in samples.find("price", threads=threads)}
        if rows:
            what = f"C pair, 64 B, {word}: with crash safety over without"
            yield compare(what, rows["uslub"], rows["uslub, no crash safety"])


def recovery_lines(samples: Samples) -> list[Line]:
    """All of them."""
    return [
        *time_lines(samples),
        *stopped_lines(samples),
        *price_lines(samples),
    ]
