"""The plots, as SVG. Whiskers and bands are the quartiles of the processes' medians."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rounds import Samples, Series
from verdicts import PEERS, overheads, size_name
from verdicts_sharing import size_word
from workloads.recovery import ARENAS, ASKED, ASKED_NS, LOCKS
from workloads.recovery import SIZES as OBJECTS
from workloads.sharing import SIZES

COLOURS = {
    "uslub": "#c0392b",
    "uslub (static)": "#e08a80",
    "glibc": "#7f8c8d",
    "mimalloc": "#2980b9",
    "jemalloc": "#27ae60",
    "tcmalloc": "#8e44ad",
    "mutex + free list": "#b7950b",
    "mimalloc heaps": "#2980b9",
}
STYLE = {
    "svg.hashsalt": "uslub",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
}
STYLE |= {"axes.spines.right": False, "figure.constrained_layout.use": True}


def bars(axes: Axes, series: Sequence[Series], unit: float, name: str) -> None:
    """One bar per subject."""
    for row, one in enumerate(series):
        low, high = one.spread
        error = [[(one.typical - low) / unit], [(high - one.typical) / unit]]
        own = "uslub" in one.subject or one.subject.startswith(("cache.", "arena."))
        colour = COLOURS.get(one.subject, "#c0392b" if own else "#7f8c8d")
        axes.barh(row, one.typical / unit, xerr=error, color=colour, ecolor="#444")
        axes.text(high / unit, row, f"  {one.typical / unit:.3g}", va="center")
    axes.set_yticks(range(len(series)), [one.subject for one in series])
    axes.invert_yaxis()
    axes.set_xlabel(name)


def curves(axes: Axes, series: Sequence[Series], title: str) -> None:
    """Cost against n, one line per subject."""
    for subject in dict.fromkeys(one.subject for one in series):
        own = sorted(
            (s for s in series if s.subject == subject), key=lambda s: s.params["n"]
        )
        n = [one.params["n"] for one in own]
        colour = COLOURS.get(subject, "#000000")
        width = 2.0 if subject == "uslub" else 1.2
        label, style = subject, "-"
        if own and own[0].params.get("pattern") == "walk":
            label, style, colour = "only touching", ":", "#000000"
        axes.plot(
            n, [s.typical for s in own], style, marker="o", markersize=3, color=colour,
            label=label, linewidth=width,
        )  # fmt: skip
        low, high = zip(*(one.spread for one in own), strict=True)
        axes.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", title=title, ylim=(0, None), ylabel="ns per alloc + free")
    axes.legend(fontsize=7)


def save(figure: plt.Figure, folder: Path, name: str) -> str:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return f"{name}.svg"


def pair(samples: Samples, folder: Path) -> str:
    names = ("one thread", "a second thread sleeps", "two threads at once")
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.8))
    for threads, name in enumerate(names):
        rows = sorted(samples.find("pair", threads=threads), key=lambda s: s.typical)
        bars(axes[threads], rows, 1, "ns per alloc + touch + free, 64 B")
        axes[threads].set_title(name)
    return save(figure, folder, "pair")


def live(samples: Samples, folder: Path) -> str:
    names = {
        "pair": "hot pair, n others live",
        "random": "random replacement among n",
        "fill": "allocate n, free n",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    for place, (pattern, name) in zip(axes, names.items(), strict=True):
        rows = samples.find("live", pattern=pattern)
        if pattern == "random":
            rows += samples.find("live", pattern="walk")
            rows.sort(key=lambda s: s.params["pattern"])
            walk = [s for s in rows if s.params["pattern"] == "walk"]
            curves(place, [s for s in rows if s not in walk], name)
            n = [s.params["n"] for s in walk]
            touching = [s.typical for s in walk]
            place.plot(n, touching, ":", color="black", label="only touching")
            place.legend(fontsize=7)
            place.set_yscale("log")
            place.set_ylim(5, None)
        else:
            curves(place, rows, name)
        place.set_xlabel("live objects n")
    return save(figure, folder, "live")


def caches(samples: Samples, folder: Path) -> str:
    names = {
        "robin": "n caches in turn",
        "burst": "16 pairs each, in turn",
        "one": "n exist, one is used",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    for place, (pattern, name) in zip(axes, names.items(), strict=True):
        curves(place, samples.find("caches", pattern=pattern), name)
        place.set_xlabel("caches n")
    return save(figure, folder, "caches")


def large(samples: Samples, folder: Path) -> str:
    figure, axes = plt.subplots(1, 2, figsize=(11, 2.4))
    rows = [s for s in samples.find("large", depth=4) if s.metric == "ns"]
    mapped = samples.get("large", "uslub", "mapped_ns", depth=4)
    rows.append(Series("large", {}, "memcpy, mapped", "ns", mapped.rounds))
    bars(axes[0], sorted(rows, key=lambda s: s.typical), 1e3, "µs, C, four alive")
    bars(axes[1], samples.find("python large"), 1e3, "µs, Python")
    for place in axes:
        place.set_title("6.2 MB, new each time, written in full")
    axes[1].set_xscale("log")
    return save(figure, folder, "large")


def handoff(samples: Samples, folder: Path) -> str:
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.6))
    both = [s for s in samples.find("handoff", mode="turns") if s.metric == "take_ns"]
    bars(axes[0], both, 1, "ns per object: allocate")
    both = [s for s in samples.find("handoff", mode="turns") if s.metric == "give_ns"]
    bars(axes[1], both, 1, "ns per object: (adopt and) free")
    bars(axes[2], samples.find("python handoff"), 1e3, "µs per object, Python")
    axes[2].set_xscale("log")
    return save(figure, folder, "handoff")


def micro(samples: Samples, folder: Path) -> str:
    figure, axes = plt.subplots(figsize=(7, 2.6))
    bars(axes, samples.find("python micro"), 1, "ns per operation, Python")
    axes.set_xscale("log")
    return save(figure, folder, "python")


def memory(samples: Samples, folder: Path) -> str:
    rows = overheads(samples)
    figure, axes = plt.subplots(figsize=(7, 3))
    names = [size_name(row.size) for row in rows]
    # Below a hundred-thousandth it is a matter of pages, and log has no zero.
    ours = [max(row.ours, 1e-5) for row in rows]
    axes.plot(names, ours, "o-", color=COLOURS["uslub"], label="uslub", linewidth=2)
    for peer in PEERS:
        if all(peer in row.peers for row in rows):
            values = [max(row.peers[peer], 1e-5) for row in rows]
            axes.plot(
                names, values, "o-", color=COLOURS[peer], label=peer, markersize=3
            )
    axes.set(yscale="log", ylabel="bytes beside the payload\nper live byte")
    axes.set_xlabel("object size")
    axes.legend(fontsize=7)
    return save(figure, folder, "memory")


def transfer(samples: Samples, folder: Path) -> str:
    """Rates above, latencies below, by size."""
    figure, axes = plt.subplots(2, len(SIZES), figsize=(14, 7))
    for column, size in enumerate(SIZES):
        found = samples.find("transfer", size=size, way="made")
        questions = (("ns", "µs per message"), ("latency_ns", "µs, latency"))
        for row, (metric, name) in enumerate(questions):
            rows = [one for one in found if one.metric == metric]
            place = axes[row][column]
            bars(place, sorted(rows, key=lambda s: s.typical), 1e3, name)
            place.set_xscale("log")
            place.set_title(f"{size_word(size)}, made in place")
    return save(figure, folder, "transfer")


def sharing(samples: Samples, folder: Path) -> str:
    """DataLoader, one table to four workers, many processes."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 3))
    rows = [
        Series("", {}, f"{one.subject}, {one.params['workers']}", "ns", one.rounds)
        for one in samples.find("loader")
    ]
    bars(axes[0], rows, 1e6, "ms per batch, DataLoader with 1 and 2 workers")
    rows = [
        Series("", {}, f"{one.params['table']}, {one.subject}", "ns", one.rounds)
        for one in samples.find("frames")
    ]
    bars(axes[1], rows, 1e6, "ms per worker, table of 60 MB")
    axes[1].set_xscale("log" if rows else "linear")
    curves(axes[2], [one for one in samples.find("crowd") if one.metric == "ns"], "")
    axes[2].set(xlabel="processes on one arena", ylabel="ns per object, both sides")
    return save(figure, folder, "sharing")


def recovery(samples: Samples, folder: Path) -> str:
    """Time against live objects, by arena; and the slowest calls."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.2))
    for place, size in zip(axes[:2], OBJECTS, strict=True):
        for mib, colour in zip(ARENAS, ("#e08a80", "#c0392b", "#6e2018"), strict=True):
            for style, at in (("-", "rest"), (":", "work")):
                rows = [
                    one
                    for one in samples.find("recovery", mib=mib, size=size, at=at)
                    if one.metric == "ns"
                ]
                n = [one.params["n"] for one in rows]
                label = f"{mib:,} MiB" + (", killed at work" if style == ":" else "")
                if rows:
                    times = [one.typical / 1e6 for one in rows]
                    place.plot(n, times, style, marker="o", markersize=3, label=label,
                               color=colour)  # fmt: skip
        place.set(xscale="log", yscale="log", title=f"objects of {size:,} B")
        place.set(xlabel="live objects of the killed process", ylabel="ms until back")
        place.legend(fontsize=7)
    axes[0].plot([ASKED[2]], [ASKED_NS / 1e6], "k_", markersize=14)
    found = {
        (one.params["lock"], one.metric): one
        for one in samples.find("stopped")
        if one.metric.endswith("max_ns")
    }
    rows = [
        Series("", {}, f"{lock}, {call}", "ns", found[lock, f"{call}_max_ns"].rounds)
        for lock in LOCKS
        for call in ("alloc", "free")
    ]
    bars(axes[2], rows, 1e6, "ms, slowest call beside a stopped holder")
    return save(figure, folder, "recovery")


ALL = (pair, live, caches, large, micro, handoff, memory, transfer, sharing, recovery)


def draw(samples: Samples, folder: Path) -> list[str]:
    """Every plot; the names of the files."""
    with plt.rc_context(STYLE):
        return [function(samples, folder) for function in ALL]
