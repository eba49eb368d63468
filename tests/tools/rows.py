"""Rows and small recordings that the tests of the tools share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from uslub.flags import Flags
from uslub.tools.render import NodeRow, Row

DATA = Path(__file__).resolve().parents[1] / "data"
CLASSIC = (
    "default_a.txt",
    "default_shrink.txt",
    "cps0_min1.txt",
    "cps4_min20.txt",
)

FRAME = Row(
    name="frame",
    aliases=(),
    object_size=6_220_800,
    slab_size=6_220_800,
    align=8,
    order=11,
    objs_per_slab=1,
    min_partial=10,
    cpu_partial=6,
    cpu_partial_slabs=12,
    page_size=4096,
    slabs=8,
    total_objects=8,
    partial=2,
    partial_free=2,
    objects_partial=0,
    cpu_slabs=1,
    chain_slabs=0,
    flags=Flags.HWCACHE_ALIGN,
    has_ctor=False,
    nodes=(NodeRow(0, 5, 2), NodeRow(1, 3, 0)),
    stats={},
)

MESSAGE = dataclasses.replace(
    FRAME,
    name="message",
    aliases=("reply", "signal"),
    object_size=60,
    slab_size=64,
    order=0,
    objs_per_slab=64,
    slabs=10,
    total_objects=640,
    partial=4,
    partial_free=100,
    objects_partial=156,
    cpu_slabs=3,
    chain_slabs=1,
    flags=Flags.MERGE | Flags.RECLAIM_ACCOUNT,
    nodes=(NodeRow(0, 10, 4),),
    stats={
        "alloc_fastpath": 900,
        "alloc_slowpath": 100,
        "free_fastpath": 300,
        "free_slowpath": 160,
        "alloc_slab": 12,
        "free_slab": 2,
        "cpu_partial_free": 7,
        "cmpxchg_double_fail": 3,
        "deactivate_full": 1,
        "deactivate_to_head": 3,
    },
)

EMPTY = dataclasses.replace(
    FRAME,
    name="Empty",
    slabs=0,
    total_objects=0,
    partial=0,
    partial_free=0,
    cpu_slabs=0,
    flags=Flags(0),
    nodes=(NodeRow(0, 0, 0),),
)

# One slab of two slots: CPU 0 uses its free object up, frees one of slab 0 on CPU 1,
# which puts the slab on CPU 1's chain, and gets it back there.
SMALL = """\
H size=2048 order=0 objs=2 cpu_partial_slabs=4 min_partial=5 free0=1 off=1
A 0 0 1 S
A 0 1 0 N
F 1 0 1
C 2 0 2 1 4
A 1 0 1 E
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def sysfs_row(**changes: Any) -> dict[str, Any]:
    """A mergeable row that is right; `changes` make it wrong."""
    row: dict[str, Any] = {
        "object_size": 64,
        "slab_size": 64,
        "align": 8,
        "order": 0,
        "objs_per_slab": 64,
        "cpu_partial": 120,
        "min_partial": 5,
        "aliases": 1,
        "alias_names": ["one", "two"],
        "remote_node_defrag_ratio": 100,
    }
    return row | changes
