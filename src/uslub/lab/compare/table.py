"""One table for a terminal: a row per point of the grid.

Sums are over all caches at the end of the trace, but for the peak. What is smaller or
larger than at the base point is said in per cent. Relies on rich.
"""

from __future__ import annotations

from rich.table import Table

from uslub.lab.compare.comparison import Comparison
from uslub.lab.compare.grid import said
from uslub.lab.compare.outcome import Record

#: Field of the totals, head of the column.
COLUMNS = (
    ("memory_bytes", "memory"),
    ("peak_memory_bytes", "peak"),
    ("slabs", "slabs"),
    ("partial", "partial"),
    ("list_lock", "list lock"),
    ("double_cas", "double CAS"),
    ("line_transfers", "line transfers"),
)
#: Share in the header, in words.
SHARES = (
    ("implied_frees_share", "of allocations, freed unseen:"),
    ("unknown_frees_share", "of frees, of unknown objects:"),
)
#: Measured: two boots of the same 6.12 kernel had 3,222 and 3,199 slabs, 160 and 148
#: partial ones.
NOISE = "Two boots of one kernel differ by 1 % in slabs, 8 % in partial slabs."
MIB = 1 << 20


def points_table(comparison: Comparison) -> Table:
    """The table; columns that no replay filled are left out."""
    records = comparison.to_records()
    base = records[comparison.base]
    names = comparison.parameters
    shown = [
        (field, head)
        for field, head in COLUMNS
        if any(one.get(field) is not None for one in records)
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names or ["point"]:
        table.add_column(name)
    for _, head in shown:
        table.add_column(head, justify="right", no_wrap=True)
    for one in records:
        cells = [said(one[name]) if name in one else "-" for name in names]
        cells = cells or [str(one["point"])]
        for field, _ in shown:
            cells.append(figure(field, one.get(field)) + change(one, base, field))
        table.add_row(*cells)
    return table


def footnote(comparison: Comparison) -> str:
    """What was replayed, and below which difference a difference means nothing."""
    header = comparison.outcomes[comparison.base].header
    kernel = header.get("kernel") or "an unknown kernel"
    words = [f"{header['events']:,} events of {kernel}"]
    for name, text in SHARES:
        if header.get(name):
            words.append(f"{text} {header[name]:.2%}")
    return f"{'; '.join(words)}. {NOISE}"


def figure(field: str, value: object) -> str:
    """A number as people read it."""
    if not isinstance(value, int | float):
        return "?"
    if field.endswith("_bytes"):
        return f"{value / MIB:,.2f} MiB"
    return f"{value:,}"


def change(one: Record, base: Record, field: str) -> str:
    """Against the base, in per cent and of one width; blank at the base itself."""
    was, now = base.get(field), one.get(field)
    text = ""
    if one is not base and was and now is not None:
        percent = 100 * (now - was) / was
        text = f"{percent:+.1f}%" if abs(percent) < 10 else f"{percent:+.0f}%"
        if now >= 10 * was:
            text = f"x{now / was:,.0f}"
    return f"{text:>7}"


def caches_table(comparison: Comparison, most: int = 10) -> Table:
    """The caches whose memory differs most over the points, one column per point."""
    held: dict[str, list[int | None]] = {}
    for index, outcome in enumerate(comparison.outcomes):
        for record in outcome.caches:
            row = held.setdefault(record["cache"], [None] * len(comparison))
            if "memory_bytes" in record:  # SLOB holds its pages for all caches
                row[index] = (row[index] or 0) + record["memory_bytes"]
    known = {cache: [v for v in row if v is not None] for cache, row in held.items()}
    spread = {cache: max(row) - min(row) if row else 0 for cache, row in known.items()}
    chosen = sorted(held, key=lambda cache: (-spread[cache], cache))[:most]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("KiB at the end")
    for outcome in comparison.outcomes:
        table.add_column(outcome.point.label, justify="right")
    for cache in chosen:
        cells = ["?" if v is None else f"{v / 1024:,.0f}" for v in held[cache]]
        table.add_row(cache, *cells)
    return table
