"""The result of a replay as text: header, totals, caches, ground, bounds.

Words are those of slabinfo (Objects, Objsize, Space, Slabs/Part/Cpu, O/S, O, %Fr, %Ef)
and of `perf kmem stat` (internal fragmentation, ping-pong, cross-node).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from uslub.lab.replay import GroundReport, IntervalReport, Moment, Result
from uslub.lab.replay.ground import Compared
from uslub.tools.text import binary, columns, count, scaled, style

Record = dict[str, Any]


def percent(share: float) -> str:
    """0.0312 as "3.12 %"."""
    return f"{share * 100:.2f} %"


def header_text(result: Result) -> str:
    """What was replayed on what, and each share of what a trace does not show."""
    head = result.header
    settings = ", ".join(f"{name}={value}" for name, value in head["settings"].items())
    lines = [
        style(f"{head['kernel']} replayed on design {head['design']}", "bold")
        + f" ({head['design_is']})",
        f"  machine        {count(head['cpus'], 'CPU')},"
        f" {count(head['nodes'], 'node')}, {head['topology']}"
        + ("" if head["topology"] == "as traced" else " (a model, not a measurement)"),
        f"  tunables       {settings or 'as traced'}; caches {merged(head)}",
        f"  events         {head['events']:,}: {head['allocations']:,} allocations,"
        f" {head['frees']:,} frees in {count(head['caches'], 'cache')}",
        f"  mode           {head['mode']}; model in {head['model_runs_in']}",
    ]
    lines += shares_text(head)
    return "\n".join(lines)


def merged(head: Record) -> str:
    """Were caches merged, and by whom?"""
    if head["merge"] != "as traced":
        return "merged by the replay"
    if head["nomerge"]:
        return "not merged (slab_nomerge)"
    return f"merged as traced ({head['merged_aliases']} aliases)"


def shares_text(head: Record) -> list[str]:
    """One line for each thing that the trace does not show."""
    silent = ", ".join(head["rcu_caches"]) or "none"
    lines = [
        f"  before it      {count(head['initial_slabs'], 'slab')} seen by addresses,"
        f" {head['initial_objects_freed_later']:,} live objects freed later,"
        f" {head['initial_objects_unknown']:,} objects unknown (taken as"
        f" {head['untouched_objects']}), {head['initial_slabs_never_touched']:,} slabs"
        " never touched",
        f"  unknown frees  {head['unknown_frees']:,}"
        f" ({percent(head['unknown_frees_share'])} of frees);"
        f" nothing to free: {head['strays']:,} ({percent(head['strays_share'])})",
        f"  unseen frees   {head['implied_frees']:,} implied by the next use"
        f" ({percent(head['implied_frees_share'])} of allocations),"
        f" {head['delayed_frees']:,} after {head['rcu_delay']} (kfree_rcu);"
        f" caches: {silent}",
        f"  own objects    {head['own_objects_traced']:,} of tracer and allocator:"
        f" {head['own_objects']}"
        + (
            f" ({head['own_objects_left_out']:,} left out,"
            f" {head['own_objects_made']:,} made)"
            if head["own_objects"] == "made"
            else ""
        ),
        f"  nodes          {percent(head['node_hints_share'])} of allocations name one;"
        f" {percent(head['interleaved_share'])} of events are of tasks that interleave",
        f"  large kmalloc  {head['large_kmalloc']:,} requests straight to pages,"
        f" {binary(head['large_kmalloc_bytes_live'])} live at the end",
        f"  order          {head['order_inversions']:,} inversions mended;"
        f" lost events: {head['lost_events']:,}",
    ]
    lines.append(
        f"  error bars     slabs +-{percent(head['error_slabs_share'])}, partial slabs"
        f" +-{percent(head['error_partial_share'])} in all"
        + ("" if head["error_measured"] else " at least: no kernel measured this")
        + (f"; {percent(head['lost_share'])} lost" if head["lost_events"] else "")
    )
    if head["without_cache"]:
        lines.append(f"  no cache       {head['without_cache']:,} allocations left out")
    if head["sizes_guessed"]:
        names = head["sizes_guessed"]
        lines.append(
            f"  sizes guessed  {len(names)} caches, from the largest slot seen:"
            f" {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
        )
    return lines


def totals_text(result: Result) -> str:
    """The whole in a few lines."""
    all_of = result.totals
    get = all_of.get
    return "\n".join(
        (
            f"memory in slabs   {binary(get('memory_bytes', 0))} at the end,"
            f" {binary(get('peak_memory_bytes', 0))} at the peak;"
            f" {get('slabs', 0):,} slabs, {get('partial', 0):,} partial,"
            f" {get('cpu_slabs', 0):,} with CPUs",
            f"fragmentation     internal {percent(get('internal_fragmentation', 0.0))}"
            f" of bytes allocated, external"
            f" {percent(get('external_fragmentation', 0.0))} of slab memory",
            f"slabs             {get('new_slabs', 0):,} made,"
            f" {get('discarded_slabs', 0):,} given back",
            f"list_lock         {get('list_lock', 0):,} times;"
            f" barn locks {get('barn_lock', 0):,};"
            f" double-word CAS {get('double_cas', 0):,}",
            f"frees from afar   {get('remote_frees', 0):,} from another CPU"
            f" (ping-pong), {get('cross_node_frees', 0):,} from another node;"
            f" {get('line_transfers', 0):,} cache lines moved",
        )
    )


HEAD = (
    "Name",
    "Objects",
    "Objsize",
    "Space",
    "Slabs/Part/Cpu",
    "O/S",
    "O",
    "%Fr",
    "%Ef",
    "New",
    "Gone",
    "Locks",
    "Remote",
)


def caches_text(result: Result, limit: int, only: str | None = None) -> str:
    """One line per cache as the slabinfo tool has them, the largest first."""
    return table(result.to_records(), limit, only, "at the end")


def moment_text(moment: Moment, limit: int, only: str | None = None) -> str:
    """The same at another time."""
    joined = Result({}, moment.records, {}, {}).to_records()
    seconds = f"at {moment.time_ns / 1e9:.6f} s"
    name = "" if moment.name.replace(".", "").isdigit() else f" ({moment.name})"
    return table(joined, limit, only, f"{seconds}{name}, row {moment.row:,}")


def table(records: Iterable[Record], limit: int, only: str | None, when: str) -> str:
    """Records of whole caches, the largest first."""
    rows = [record for record in records if only in (None, record["cache"])]
    rows.sort(key=lambda record: (-record.get("memory_bytes", 0), record["cache"]))
    shown = rows[:limit]
    lines = [cache_line(record) for record in shown]
    more = len(rows) - len(shown)
    text = columns(HEAD, lines) if lines else "no cache"
    title = style(f"{count(len(rows), 'cache')} {when}", "bold")
    return f"{title}\n{text}" + (f"\n... {more} more (-N)" if more else "")


def cache_line(record: Record) -> tuple[str, ...]:
    """One line of slabinfo, and what a replay knows beyond it."""
    get = record.get
    slabs, partial = get("slabs", 0), get("partial", 0)
    space = get("memory_bytes", 0)
    used = get("live", 0) * get("slot_bytes", 0)
    return (
        record["cache"],
        str(get("live", 0)),
        str(get("object_bytes", 0)),
        scaled(space),
        f"{slabs}/{partial}/{get('cpu_slabs', 0)}",
        str(get("objects_per_slab", "-")),
        str(get("order", "-")),
        str(100 * partial // slabs if slabs else 0),
        str(100 * used // space if space else 100),
        str(get("new_slabs", 0)),
        str(get("discarded_slabs", 0)),
        str(get("list_lock", 0)),
        str(get("remote_frees", 0)),
    )


def ground_text(report: GroundReport, limit: int, only: str | None = None) -> str:
    """Prediction against the kernel's counters, checkpoint by checkpoint."""
    head: tuple[str, ...] = ("checkpoint", "caches", "exact", "within 1", "off")
    head += ("slabs", "kernel", "partial", "kernel", "cpu", "kernel", "growth error")
    pages = report.witness is not None
    lines = []
    for row in report.summary():
        line = [
            str(row[name])
            for name in (
                "checkpoint",
                "caches",
                "exact",
                "within_1",
                "off",
                "slabs",
                "real_slabs",
                "partial",
                "real_partial",
                "cpu_slabs",
                "real_cpu_slabs",
                "growth_error",
            )
        ]
        lines.append([*line, str(row.get("page_slabs", "-"))] if pages else line)
    text = columns((*head, "by pages") if pages else head, lines)
    title = style("predicted number of slabs beside the kernel's own counters", "bold")
    notes = [
        f"{len(report.calibrated)} caches had slabs before tracing that no event"
        " touches; their number is the kernel's at the first checkpoint",
        f"growth error: without {', '.join(sorted(report.rcu_caches)) or 'exceptions'}"
        + (" (freed out of sight)" if report.rcu_caches else ""),
    ]
    if pages:
        notes.append("by pages: slabs by page events alone, without those from before")
    if report.missing:
        notes.append(f"{report.missing} counters without a prediction")
    off = worst(report, limit, only)
    return "\n".join((title, text, *notes, *(["", off] if off else [])))


def worst(report: GroundReport, limit: int, only: str | None) -> str:
    """The caches that are off at the last checkpoint, or the one asked for."""
    points = report.checkpoints()
    rows = report.at(points[-1]) if points else []
    if only is not None:
        rows = [row for row in report.rows if row.cache == only]
    else:
        rows = [row for row in rows if row.error or not row.exact_by_node]
        rows.sort(key=lambda row: (-abs(row.error), row.cache))
    if not rows:
        return ""
    names = report.names
    lines = [
        (names[row.checkpoint] or str(row.checkpoint), row.cache, *numbers(row))
        for row in rows[:limit]
    ]
    head = ("checkpoint", "cache", "verdict", "slabs by node", "kernel", "partial")
    return columns((*head, "kernel", "known reason"), lines, left=3)


def numbers(row: Compared) -> tuple[str, ...]:
    """The cells of one comparison."""
    return (
        row.verdict,
        "/".join(map(str, row.slabs)),
        "/".join(map(str, row.real_slabs)),
        "/".join(map(str, row.partial)),
        "/".join(map(str, row.real_partial)),
        row.reason or "-",
    )


def interval_text(bounds: IntervalReport, limit: int) -> str:
    """Bounds per cache at the last checkpoint, the widest first."""
    if not bounds.rows:
        return "no checkpoint to judge by"
    last = max(row.checkpoint for row in bounds.rows)
    rows = [row for row in bounds.rows if row.checkpoint == last]
    wide = sorted(rows, key=lambda row: (row.holds, row.low - row.high, row.cache))
    lines = [
        (
            row.cache,
            str(row.low),
            str(row.high),
            "-" if row.real is None else str(row.real),
            "yes" if row.holds else "no",
        )
        for row in wide[:limit]
    ]
    inside = sum(row.holds for row in rows)
    title = f"{inside} of {len(rows)} caches inside their bounds at the last checkpoint"
    head = ("cache", "untouched free", "untouched live", "kernel", "inside")
    return f"{style(title, 'bold')}\n{columns(head, lines)}"
