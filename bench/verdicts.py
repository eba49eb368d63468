"""From samples to lines with a target: what was asked, what came out, met or missed.

What a line is: ratios.py. The lines of several processes: verdicts_sharing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ratios import Line, compare, span
from rounds import Samples, Series
from verdicts_recovery import recovery_lines
from verdicts_sharing import sharing_lines
from workloads.native import CACHE_PATTERNS, FRAME, LIVE_PATTERNS

PEERS = ("glibc", "mimalloc", "jemalloc", "tcmalloc")


def cheapest(series: list[Series]) -> Series:
    """The best of the peers."""
    return min((one for one in series if one.subject in PEERS), key=lambda s: s.typical)


def growth(series: list[Series], key: Callable[[Series], float]) -> float:
    """Dearest over cheapest, along the sizes."""
    values = [key(one) for one in series]
    return max(values) / min(values)


def flat(samples: Samples, what: str, workload: str, pattern: str, asked: bool) -> Line:
    """How much the cost grows along n; beside it, the steadiest peer."""
    rows = samples.find(workload, pattern=pattern)
    ours = [one for one in rows if one.subject == "uslub"]
    peers = sorted({one.subject for one in rows} - {"uslub"})
    grown = {
        peer: growth([s for s in rows if s.subject == peer], lambda s: s.typical)
        for peer in peers
    }
    beside = ", ".join(f"{peer} x {value:.2f}" for peer, value in grown.items())
    low = min(ours, key=lambda s: s.typical).typical
    high = max(ours, key=lambda s: s.typical).typical
    ratios = [growth(ours, lambda s: s.typical), growth(ours, lambda s: s.best)]
    sizes = [one.params["n"] for one in ours]
    what = f"{what}, n = {min(sizes):,} to {max(sizes):,}"
    text = f"{span(low)} to {span(high)}"
    return Line(what, text, beside, *ratios, at_most=1.5 if asked else None)


def native_lines(samples: Samples) -> Iterator[Line]:
    """What bench/c measured."""
    names = {0: "one thread", 1: "an idle second thread", 2: "two threads at once"}
    for threads, name in names.items():
        rows = samples.find("pair", threads=threads)
        ours = next(one for one in rows if one.subject == "uslub")
        limit = 2.5 if threads < 2 else None
        yield compare(
            f"C: alloc + free, 64 B, hot; {name}", ours, cheapest(rows), limit
        )
    for depth, moving in ((1, 1), (4, 1), (1, 0)):
        ours = samples.get("large", "uslub", depth=depth, moving=moving)
        mapped = samples.get("large", "uslub", "mapped_ns", depth=depth, moving=moving)
        where = "" if moving else ", source at a fixed, unlucky distance"
        what = f"C: 6.2 MB object written in full, new each time; {depth} alive{where}"
        line = compare(what, ours, mapped, 1.3)
        beside = f"memcpy into mapped memory {span(mapped.typical)}"
        yield Line(what, line.ours, beside, line.typical, line.best, 1.3)
    for mode, metric in (("turns", "take_ns"), ("turns", "give_ns"), ("stream", "ns")):
        part = {"take_ns": "allocate", "give_ns": "adopt + free", "ns": "both at once"}
        rows = [s for s in samples.find("handoff", mode=mode) if s.metric == metric]
        ours = next(one for one in rows if one.subject == "uslub")
        what = f"C: allocate here, free in another process, 64 B; {part[metric]}"
        line = compare(what, ours, cheapest(rows))
        beside = f"{line.beside} (threads of one process)"
        yield Line(what, line.ours, beside, line.typical, line.best)


def flat_lines(samples: Samples) -> Iterator[Line]:
    """Cost against n."""
    said = {
        "pair": "hot pair while n others live",
        "random": "random replacement among n",
        "fill": "allocate n, then free n",
        "robin": "n caches in turn",
        "burst": "n caches in turn, 16 pairs each",
        "one": "n caches exist, one is used",
    }
    for pattern in LIVE_PATTERNS:
        asked = pattern == "pair"
        yield flat(samples, f"C, flat: {said[pattern]}", "live", pattern, asked)
    for pattern in CACHE_PATTERNS:
        yield flat(samples, f"C, flat: {said[pattern]}", "caches", pattern, True)


def python_lines(samples: Samples) -> Iterator[Line]:
    """What bench/python measured."""
    ours = samples.get("python micro", "cache.alloc()")
    other = samples.get("python micro", "bytearray(64)")
    yield compare("Python: cache.alloc() and drop, 64 B", ours, other, 0.5)
    other = samples.get("python micro", "SharedMemory")
    what = "Python: the same, times cheaper than SharedMemory create + close + unlink"
    yield compare(what, ours, other, at_least=500, upside_down=True)
    ours = samples.get("python large", "cache.alloc()")
    for subject in ("mapped", "mapped, huge pages"):
        mapped = samples.get("python large", subject)
        what = "Python: 6.2 MB object written in full, new each time"
        yield compare(what, ours, mapped, 1.3)
    mapped = samples.get("python large", "mapped")
    for subject in ("arena.ndarray()", "SharedMemory"):
        one = samples.get("python large", subject)
        yield compare(f"Python: the same, {subject}", one, mapped)
    ours = samples.get("python handoff", "uslub handles, Pipe")
    for one in samples.find("python handoff"):
        if one is not ours:
            yield compare(
                "Python: made here, freed in another process, 64 B", ours, one
            )


def model_lines(samples: Samples) -> Iterator[Line]:
    """Decisions a second of the executable model, and its growth."""
    for one in samples.find("model"):
        what = f"Model, design {one.subject}: decisions a second"
        if one.subject == "memory":
            what = "Model: resident memory after ten times as many decisions"
            yield Line(what, "", "after the first tenth", one.typical, one.best, 1.05)
        else:
            rates = [1e9 / one.typical, 1e9 / one.best]
            asked = 300_000 if one.subject == "classic" else None
            yield Line(what, f"{span(one.typical)} each", "", *rates, at_least=asked)


#: Events and lines a second that the lab is asked for, on one core.
REPLAYED, IMPORTED = 500_000, 300_000
#: Peak memory over twenty times as many events. Buffers that are bounded, but not yet
#: full after the shorter trace, are a fifth of a small process.
FLAT = 1.25


def lab_lines(samples: Samples) -> Iterator[Line]:
    """What bench/python/lab.py measured."""
    for one in samples.find("lab replay"):
        what = f"Lab: events a second replayed on one core, design {one.subject}"
        rates = [1e9 / one.typical, 1e9 / one.best]
        traced = one.subject == "6.18"
        beside = "as traced" if traced else "what if"
        asked = REPLAYED if traced else None
        yield Line(what, f"{span(one.typical)} each", beside, *rates, at_least=asked)
    for one in samples.find("lab import"):
        what = "Lab: lines a second imported from ftrace text"
        rates = [1e9 / one.typical, 1e9 / one.best]
        yield Line(what, f"{span(one.typical)} each", "", *rates, at_least=IMPORTED)
    if samples.find("lab peer"):
        ours = samples.get("lab peer", "uslub replay")
        perf = samples.get("lab peer", "perf kmem stat")
        what = "Lab: the same events, whole processes, per event"
        yield compare(what, ours, perf, 1.0)
    if any(one.subject == "uslub trace stat" for one in samples.find("lab peer")):
        perf = samples.get("lab peer", "perf kmem stat")
        ours = samples.get("lab peer", "uslub trace stat")
        what = "Lab: perf kmem stat --slab against uslub trace stat, same events,"
        yield compare(f"{what} whole processes, per event", ours, perf, 1.0)
    peaks = [one for one in samples.find("lab memory") if one.subject == "uslub"]
    if peaks:
        few, many = sorted(peaks, key=lambda one: one.params["asked"])
        sizes = [f"{one.params['asked']:,}" for one in (few, many)]
        what = f"Lab: peak memory, {sizes[1]} events over {sizes[0]}"
        text = [f"{one.typical / 2**20:.0f} MiB" for one in (many, few)]
        ratio = many.typical / few.typical
        yield Line(what, *text, ratio, ratio, at_most=FLAT)


def lines(samples: Samples) -> list[Line]:
    """All of them."""
    return [
        *native_lines(samples),
        *flat_lines(samples),
        *python_lines(samples),
        *model_lines(samples),
        *sharing_lines(samples),
        *recovery_lines(samples),
        *lab_lines(samples),
    ]


@dataclass(frozen=True)
class Overhead:
    """Memory beside the payload, for one size of object."""

    size: int
    count: int
    ours: float  #: bytes beside the payload per live byte
    slots: float  #: of those, rounding of the object size
    constant: int  #: bytes of an arena with no cache
    peers: dict[str, float]


def overheads(samples: Samples) -> list[Overhead]:
    """One row per size."""
    found = []
    for full in samples.find("memory"):
        if full.subject != "uslub" or full.metric != "full":
            continue

        def value(metric: str, subject: str = "uslub", at: Series = full) -> float:
            return samples.get("memory", subject, metric, **at.params).typical

        payload, size = value("payload"), full.params["size"]
        peers = {
            peer: (value("full", peer) - value("empty", peer) - payload) / payload
            for peer in PEERS
            if any(s.subject == peer for s in samples.find("memory", **full.params))
        }
        beside = (full.typical - payload) / payload
        slots = (value("stride") - size) / size
        count = full.params["n"]
        empty = int(value("empty"))
        found.append(Overhead(size, count, beside, slots, empty, peers))
    return found


def size_name(size: int) -> str:
    return "6.2 MB" if size == FRAME else f"{size:,} B"
