"""One replay from trace to result: `replay`, and `prepare` for those who step.

Here: the order in which the parts work, and the header of the result, which says for
each thing that a trace cannot show how large its share is. Relies on every other module
of this package but `ground`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from uslub.lab.replay.build import Machine, build
from uslub.lab.replay.feed import Feed, parse_delay
from uslub.lab.replay.measure import cache_records, slob_records, sums
from uslub.lab.replay.own import OwnObjects
from uslub.lab.replay.result import Moment, Record, Result
from uslub.lab.replay.run import Progress, Replayer
from uslub.lab.replay.seeds import UNTOUCHED, Planted, plant
from uslub.lab.replay.settings import (
    DESIGNS,
    VERSION,
    BadSetting,
    Settings,
    check_design,
    design_of,
)
from uslub.lab.replay.survey import Survey, survey
from uslub.lab.replay.topology import make_topology
from uslub.lab.trace import (
    CacheInfo,
    Checkpoint,
    EventsLost,
    Trace,
    open_trace,
    page_truth,
    sample,
)

BEFORE_NS = 100_000_000  # a checkpoint this near the start counts as before it
OWN_NOTE = "objects of the allocator and the tracer"  # the import's word
#: Two boots of one 6.12 kernel under one load, in slabs and in partial slabs.
NOISE_SLABS, NOISE_PARTIAL = 0.01, 0.08
RCU_DELAY = "1s"  # between the measured extremes; docs/design/06-lab.md
OWN_OBJECTS = ("auto", "traced", "made")
MODES = ("auto", "whole life", "seeded", "warm-up")


@dataclass
class Prepared:
    """A replay that has not run yet; `replayer.run()` runs it, or step by step."""

    trace: Trace
    replayer: Replayer
    machine: Machine
    header: Record
    survey: Survey
    planted: Planted
    warm_up: int = 0


def replay(
    trace: Trace | str | Path,
    design: str | None = None,
    settings: Settings | None = None,
    *,
    cpus: int | None = None,
    nodes: int | None = None,
    nomerge: bool = False,
    merge: bool = False,
    at: float | str | Sequence[float | str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run the model over a trace.

    Args:
        trace: From `open_trace`, or a path for it.
        design: A name of `DESIGNS`; None: the traced kernel's.
        settings: Tunables that differ from the trace's.
        cpus: CPUs of the replayed machine; fewer fold, more spread by task.
        nodes: Memory nodes of the replayed machine.
        nomerge: Insist on unmerged caches; the trace must have them.
        merge: Merge caches as a kernel without `slab_nomerge` would.
        at: Moments to describe in full: seconds on the trace's clock, or names of
            checkpoints.
        progress: Called with rows done and rows in all.
        **options: See `prepare`.

    Returns:
        Records, series, totals, and a header with every share and parameter.

    Raises:
        BadSetting: A parameter that cannot be replayed; the text says why.
        EventsLost: Events are missing and `allow_loss` is not given.
        TraceError: The trace cannot be read.
    """
    ready = prepare(
        trace,
        design,
        settings,
        cpus=cpus,
        nodes=nodes,
        nomerge=nomerge,
        merge=merge,
        progress=progress,
        **options,
    )
    moments = []
    asked = [at] if isinstance(at, int | float | str) else list(at or ())
    times = sorted((moment_time(ready.trace, each), str(each)) for each in asked)
    for time_ns, name in times:
        ready.replayer.run(until_ns=time_ns)
        row, now = ready.replayer.row, ready.replayer.time_ns
        moments.append(Moment(name, now, row, records_of(ready)))
    ready.replayer.run()
    return finish(ready, moments)


def opened(
    trace: Trace | str | Path,
    *,
    ground: str | None = None,
    allow_loss: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """The trace itself, of a path, or of `sample:NAME` for one that comes with uslub.

    Raises:
        TraceError: It cannot be read; the text says why.
    """
    if not isinstance(trace, str | Path):
        return trace
    name = str(trace)
    path = sample(name.removeprefix("sample:")) if name.startswith("sample:") else name
    return open_trace(path, ground=ground, allow_loss=allow_loss, progress=progress)


def moment_time(trace: Trace, at: float | str) -> int:
    """Nanoseconds on the trace's clock of a moment asked for.

    Raises:
        BadSetting: Neither seconds within the trace nor a checkpoint's name.
    """
    header = trace.header
    named = {point.name: point for point in trace.checkpoints}
    if isinstance(at, str) and at in named:
        return max(truth.time for truth in named[at].caches.values())
    first, last = header.start_ns / 1e9, (header.start_ns + header.span_ns) / 1e9
    known = f", or a checkpoint: {', '.join(named)}" if named else ""
    try:
        seconds = float(str(at).removesuffix("s"))
    except ValueError:
        raise BadSetting(
            f"no moment {at!r}: give seconds from {first:.6f} to {last:.6f}{known}"
        ) from None
    if not first <= seconds <= last + 1e-6:
        raise BadSetting(
            f"moment {seconds} s is not in the trace, which goes from {first:.6f} to"
            f" {last:.6f} s{known}"
        )
    return round(seconds * 1e9)


def prepare(
    trace: Trace | str | Path,
    design: str | None = None,
    settings: Settings | None = None,
    *,
    cpus: int | None = None,
    nodes: int | None = None,
    nomerge: bool = False,
    merge: bool = False,
    mode: str = "auto",
    untouched: str = "live",
    rcu_delay: str = RCU_DELAY,
    warm_up: float = 10.0,
    stop: int | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    before: Checkpoint | None = None,
    allow_loss: bool = False,
    own_objects: str = "auto",
    progress: Progress | None = None,
) -> Prepared:
    """Everything up to the first event; arguments as for `replay`, and these.

    Args:
        mode: How to treat what was there before the first row: `whole life` (little
            was: start with what addresses show), `seeded` (the same, and the counters
            of the checkpoint `before`), `warm-up` (start empty; the first `warm_up`
            percent of the rows only fill the caches), `auto` (by the trace).
        untouched: Objects of a touched slab of which nothing is known: `live`, `free`.
        rcu_delay: When objects are freed that no event frees: so long after their
            allocation (`0`, `5s`), or when their address is handed out again (`reuse`).
        warm_up: Percent of the rows.
        stop: Replay the rows before this one. (Rows that begin later are another
            trace: `uslub.lab.trace.cut`, which keeps the addresses of what is freed.)
        checkpoints: The kernel's counters to predict; None: those of the trace.
        before: Counters at the first row; None: the trace's first checkpoint, if it was
            read in the first twentieth of a trace that begins in mid-life.
        allow_loss: Replay although events are missing.
        own_objects: What to do with objects of the tracer and of the allocator itself:
            `traced` replays them, `made` leaves them out and makes those that the
            allocator of this replay needs, `auto` replays them where nothing but the
            trace's own parameters is asked for. To set designs side by side: `made`,
            with which each design also allocates what lived before the first row.
    """
    trace = opened(trace, allow_loss=allow_loss)
    header = trace.header
    if header.lost and not allow_loss:
        raise EventsLost(
            f"the trace lacks {header.lost:,} events that the kernel dropped, so every"
            " count after them is off: record with larger buffers, or replay with"
            " --allow-loss (allow_loss=True) and take wider error bars"
        )
    # A text may not say of which kernel it is; then the design has to be named.
    traced = design_of(header.kernel) if header.kernel or not design else design
    design = check_design(design or traced)
    settings = settings or Settings()
    check_choice("mode", mode, MODES)
    check_choice("untouched", untouched, UNTOUCHED)
    check_choice("own_objects", own_objects, OWN_OBJECTS)
    delay_ns = parse_delay(rcu_delay)
    if nomerge and not header.nomerge:
        raise BadSetting(
            "caches were merged when this trace was made, so their events cannot be"
            " told apart: replay without --nomerge, or record with slab_nomerge"
        )
    unknown = max(1, header.cpus) - len(header.cpu_node)
    topology = make_topology((*header.cpu_node, *(0,) * unknown), cpus, nodes)
    stop = header.events if stop is None else min(stop, header.events)
    points = tuple(trace.checkpoints if checkpoints is None else checkpoints)
    if mode == "auto":
        mode = "whole life" if header.whole_life else "seeded"
    seed = mode != "warm-up"
    header = replace(header, caches=with_orders(trace))
    orders = [info.order or 0 for info in header.caches]
    found = survey(trace, orders, stop=stop, seed=seed)
    machine = build(
        header,
        design,
        traced,
        settings,
        topology,
        merge=merge,
        slot_sizes=found.slot_sizes,
    )
    held: dict[int, Any] = {}
    if before is None and mode == "seeded":
        before = first_counters(points, header.start_ns, header.span_ns)
    truth = before.caches if before is not None and mode == "seeded" else None
    anew = own_objects == "made"
    planted = plant(
        machine,
        found.blocks,
        held,
        untouched=untouched,
        before=truth,
        anew=anew,
        infos=header.caches,
    )
    make_own = own_objects == "made" or (own_objects == "auto" and not machine.base)
    feed = Feed(
        trace,
        topology,
        found,
        delay_ns=delay_ns,
        drop_own=make_own,
        sizes=machine.slob is not None,
    )
    own = None
    if make_own and machine.slob is None and design != "slab":
        names = [info.name for info in header.caches]
        own = OwnObjects(machine, names, feed.shares.accounted)
    replayer = Replayer(
        trace,
        machine,
        feed,
        held,
        stop=stop,
        checkpoints=points,
        own=own,
        progress=progress,
    )
    record = {
        "kernel": header.kernel,
        "design": design,
        "design_is": DESIGNS[design],
        "traced_design": traced,
        "as_traced": machine.base,
        "settings": settings.named(),
        "mode": mode,
        "untouched_objects": untouched,
        "rcu_delay": rcu_delay,
        "own_objects": "made" if make_own else "traced",
        "merge": "merged by the replay" if merge else "as traced",
        "nomerge": header.nomerge,
        "whole_life": header.whole_life,
        "cpus": topology.cpus,
        "nodes": topology.nodes,
        "topology": topology.kind,
        "model_runs_in": f"{platform.python_implementation()}"
        f" {platform.python_version()}",
        "replay_version": VERSION,
    }
    return Prepared(
        trace,
        replayer,
        machine,
        record,
        found,
        planted,
        warm_up=int(stop * warm_up / 100) if mode == "warm-up" else 0,
    )


def with_orders(trace: Trace) -> tuple[CacheInfo, ...]:
    """The header's caches; an order that it does not know is the commonest one of the
    pages that became slabs of that cache."""
    infos = trace.header.caches
    if all(info.order is not None for info in infos) or trace.table("slabs") is None:
        return infos
    truth = page_truth(trace)
    found = []
    for index, info in enumerate(infos):
        orders = truth.order[truth.cache == index]
        if info.order is None and len(orders):
            info = replace(info, order=int(np.bincount(orders).argmax()))
        found.append(info)
    return tuple(found)


def first_counters(
    points: Sequence[Checkpoint], start_ns: int, span_ns: int
) -> Checkpoint | None:
    """The first checkpoint, if the kernel began to read it near the trace's start."""
    until = start_ns + max(span_ns // 20, BEFORE_NS)
    for point in points:
        if point.caches:
            first = min(truth.time for truth in point.caches.values())
            return point if start_ns <= first <= until else None
    return None


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of `known`."""
    if value not in known:
        raise BadSetting(f"{name} {value!r}: choose one of {', '.join(known)}")


def records_of(ready: Prepared) -> list[Record]:
    """Every cache as it is now."""
    slob = ready.machine.slob
    records = [] if slob is None else slob_records(slob)
    infos, shares = ready.trace.header.caches, ready.replayer.feed.shares
    for index, cache in ready.machine.distinct():
        new = cache_records(infos[index].name, cache)
        asked, given = int(shares.requested[index]), int(shares.allocated[index])
        new[0] |= {"requested_bytes": asked, "allocated_bytes": given}
        new[0]["internal_fragmentation"] = 1 - asked / given if given else 0.0
        new[0]["allocations"] = int(shares.allocations[index])
        records += new
    return records


def finish(ready: Prepared, moments: list[Moment]) -> Result:
    """The result of a replay that has run to its end."""
    replayer = ready.replayer
    replayer.add_point(replayer.time_ns)
    records = records_of(ready)
    totals = sums(records)
    series = replayer.series
    totals["memory_bytes"] = series["memory_bytes"][-1]
    totals["peak_memory_bytes"] = max(series["memory_bytes"])
    totals["peak_slabs"] = max(series["slabs"])
    totals["large_bytes"] = replayer.large_bytes
    totals["peak_large_bytes"] = replayer.large_peak
    asked = totals.get("requested_bytes", 0)
    given = totals.get("allocated_bytes", 0)
    totals["internal_fragmentation"] = 1 - asked / given if given else 0.0
    live = totals["live_bytes"]
    totals["external_fragmentation"] = (
        1 - live / totals["memory_bytes"] if totals["memory_bytes"] else 0.0
    )
    names = [ready.trace.header.caches[index].name for index, _ in replayer.distinct]
    return Result(
        header={**ready.header, **shares_of(ready)},
        caches=records,
        totals=totals,
        series=series,
        by_cache=dict(zip(names, replayer.by_cache, strict=True)),
        moments=moments,
        predictions=[
            each for each in replayer.predictions if each.row >= ready.warm_up
        ],
    )


def shares_of(ready: Prepared) -> Record:
    """What the trace does not show, and how much of it there is."""
    header, replayer = ready.trace.header, ready.replayer
    shares, planted = replayer.feed.shares, ready.planted
    allocs, frees = max(shares.allocs, 1), max(shares.frees, 1)
    names = [info.name for info in header.caches]
    silent = np.flatnonzero(ready.survey.silent_sites)
    idle = np.flatnonzero(shares.allocations[: len(names)] == 0).tolist()
    older = older_caches(ready.trace, ready.survey)
    rcu = [names[at] for at in rcu_caches(ready)]
    return {
        "events": replayer.row - replayer.start,
        "allocations": shares.allocs,
        "frees": shares.frees,
        "lost_events": header.lost,
        "initial_slabs": planted.slabs,
        "initial_objects_freed_later": planted.live,
        "initial_objects_unknown": planted.untouched,
        "initial_slabs_never_touched": planted.never_touched,
        "initial_caches": sorted(names[at] for at in {*planted.caches, *idle, *older}),
        "unknown_frees": shares.unknown,
        "unknown_frees_share": shares.unknown / frees,
        "strays": replayer.strays,
        "strays_share": replayer.strays / frees,
        "implied_frees": shares.implied,
        "implied_frees_share": shares.implied / allocs,
        "delayed_frees": shares.delayed,
        "silent_sites": [header.sites[at] for at in silent if at < len(header.sites)],
        "rcu_caches": rcu,
        "without_cache": shares.no_cache,
        "own_objects_left_out": shares.own,
        "own_objects_made": 0 if replayer.own is None else replayer.own.made,
        "own_objects_traced": header.notes.get(OWN_NOTE, 0),
        "node_hints_share": shares.node_hints / allocs,
        "interleaved_share": shares.interleaved / max(shares.allocs + shares.frees, 1),
        "large_kmalloc": shares.large,
        "large_kmalloc_bytes_live": replayer.large_bytes,
        **error_bars(ready),
        "order_inversions": header.notes.get("order inversions mended", 0),
        "sizes_guessed": list(ready.machine.guessed),
        "caches": len(replayer.distinct),
        "merged_aliases": sum(len(info.aliases) for info in header.caches),
    }


def error_bars(ready: Prepared) -> Record:
    """By how much totals may be off: what two boots of one kernel differ by, and what
    was lost. Where no kernel ran what was replayed, that is the least."""
    header = ready.trace.header
    lost = header.lost / max(header.events + header.lost, 1)
    return {
        "lost_share": lost,
        "error_slabs_share": NOISE_SLABS + lost,
        "error_partial_share": NOISE_PARTIAL + lost,
        "error_measured": ready.machine.base,
    }


def older_caches(trace: Trace, found: Survey) -> set[int]:
    """Caches that handed out an object before a page became their first slab."""
    if trace.table("slabs") is None:
        return set()
    truth = page_truth(trace)
    births = np.full(len(found.first_rows), np.iinfo(np.int64).max, np.int64)
    np.minimum.at(births, truth.cache, truth.birth)
    older = (births < 0) | (found.first_rows < births)
    return set(np.flatnonzero(older[: len(trace.header.caches)]).tolist())


def rcu_caches(ready: Prepared) -> list[int]:
    """Caches with objects that no event frees, enough to matter: 1 in 20, or silent."""
    shares = ready.replayer.feed.shares
    implied = shares.implied_by_cache[:-1] + shares.silent_by_cache[:-1]
    return np.flatnonzero(
        implied * 20 > np.maximum(shares.allocations[:-1], 100)
    ).tolist()
