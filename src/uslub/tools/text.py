"""Plain text: columns, sizes, and colour where a terminal wants it.

Relies on nothing of uslub. Colour is used on terminals only, and not where
NO_COLOR is set or TERM is "dumb".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def wants_colour(stream: TextIO) -> bool:
    """May escape sequences be written to `stream`?"""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def style(text: str, name: str, stream: TextIO | None = None) -> str:
    """`text` in one of STYLES, if `stream` (standard output) is for that."""
    if not wants_colour(stream or sys.stdout):
        return text
    return f"\x1b[{STYLES[name]}m{text}\x1b[0m"


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first `left` to the left, the others to the right."""
    table = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines[0] = style(lines[0], "bold")
    return "\n".join(lines)


def scaled(value: int) -> str:
    """12345678 as "12.3M": the slabinfo tool's decimal steps, rounded down."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if value > unit:
            tenths = value // (unit // 10)
            return f"{tenths // 10}.{tenths % 10}{letter}"
    return str(value)


def binary(value: int) -> str:
    """1073741824 as "1.0 GiB"."""
    if value < 1024:
        return f"{value} B"
    amount = float(value)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 slab", "2 slabs", "2 caches"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
