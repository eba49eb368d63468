"""One-line breakages of the engine, each of which its tests must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change: `old` stands in the file exactly once."""

    name: str
    path: str
    old: str
    new: str
