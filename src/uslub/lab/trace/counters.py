"""The kernel's own counters as it prints them: `358 N0=349 N1=9`, `73(7) C2=21(2)`.

Two sources hold the same numbers: SNAP lines that a recorder wrote into the trace, and
ground files. Both become `CacheTruth`.
"""

from __future__ import annotations

import re
from typing import Any

from uslub.lab.trace.header import CacheTruth

#: Counters of a cache that a checkpoint holds.
COUNTERS = (
    "slabs",
    "partial",
    "objects",
    "total_objects",
    "cpu_slabs",
    "objects_partial",
)
PER_NODE = re.compile(r"N(\d+)=(\d+)")
PER_CPU = re.compile(r"C(\d+)=\d+\((\d+)\)")


def per_node(text: str, nodes: int) -> tuple[int, ...]:
    """`7 N0=4 N1=3`, `7,N0=4,N1=3` or `7` as one number per node.

    A total without nodes is counted on node 0, a node beyond `nodes` (a text without
    a ground file tells of CPUs, not of nodes) on the last one: sums stay right.
    """
    values = [0] * nodes
    found = PER_NODE.findall(text)
    for node, value in found:
        values[min(int(node), nodes - 1)] += int(value)
    total = re.match(r"\s*(\d+)", text)
    if not found and total is not None:
        values[0] = int(total[1])
    return tuple(values)


def chains(text: str) -> tuple[dict[int, int], int]:
    """`73(7) C2=21(2) C3=52(5)` as slabs on the chain of each CPU, and their sum."""
    match = re.match(r"\s*\d+\((\d+)\)", text)
    of_cpu = {int(cpu): int(slabs) for cpu, slabs in PER_CPU.findall(text)}
    return of_cpu, int(match[1]) if match else 0


def truth(values: dict[str, Any], nodes: int, *, time: int, row: int) -> CacheTruth:
    """The counters of one cache, each as the text the kernel printed.

    Args:
        values: Counter name to text (`slabs`, ..., `slabs_cpu_partial`).
        nodes: How many numbers a tuple gets.
        time: ns.
        row: Of the trace; -1 where only the time is known.
    """
    chain, chained = chains(str(values.get("slabs_cpu_partial", "0(0)")))
    numbers = {name: per_node(str(values.get(name, "0")), nodes) for name in COUNTERS}
    return CacheTruth(
        time=time, row=row, cpu_partial=chain, cpu_partial_slabs=chained, **numbers
    )


def snap_fields(text: str) -> tuple[str, dict[str, str]] | None:
    """`SNAP dentry slabs=63,N0=59,N1=4 ...` as the cache's name and its counters.

    Returns None for a mark that is none of ours or was cut off.
    """
    match = re.match(r"SNAP (.+?) (slabs=.*)$", text)
    if match is None:
        return None
    return match[1], dict(
        word.split("=", 1) for word in match[2].split() if "=" in word
    )
