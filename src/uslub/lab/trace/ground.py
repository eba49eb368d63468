"""Ground files: what the kernel said about itself beside a trace.

A ground file is JSON (zstd or plain): all attributes of all caches, the counters at
several checkpoints, which boot it was. docs/reference/trace-format.md lists the keys
that are read; others are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uslub.lab.trace.counters import truth
from uslub.lab.trace.errors import NotATrace, TraceError
from uslub.lab.trace.files import open_bytes
from uslub.lab.trace.header import CacheInfo, Checkpoint

#: Attributes of a cache that are flags.
FLAGS = (
    "reclaim_account",
    "hwcache_align",
    "destroy_by_rcu",
    "cache_dma",
    "poison",
    "red_zone",
    "sanity_checks",
    "store_user",
    "trace",
)


@dataclass(frozen=True)
class Ground:
    """The kernel's own word on a trace."""

    path: str
    kernel: str
    cpus: int
    cpu_node: tuple[int, ...]
    cmdline: str
    caches: tuple[CacheInfo, ...]
    checkpoints: tuple[Checkpoint, ...]  # cache indexes are those of `caches` here
    formats: dict[str, str]
    lost: int
    boot: dict[str, Any]  # what tells one boot from another: kernel, clocks

    @property
    def nomerge(self) -> bool:
        """Were caches kept apart?"""
        return "slab_nomerge" in self.cmdline or "slub_nomerge" in self.cmdline

    @property
    def clock(self) -> str:
        """The trace clock of the kernel's command line, "" where it names none."""
        match = re.search(r"\btrace_clock=(\w+)", self.cmdline)
        return match[1] if match else ""


def load_ground(path: str | Path) -> Ground:
    """Read a ground file.

    Raises:
        NotATrace: No JSON, or JSON without caches and snapshots.
        TraceError: It cannot be read.
    """
    name = str(path)
    with open_bytes(path) as stream:
        data = stream.read()
    try:
        plain = json.loads(data)
        caches, snapshots = plain["caches"], plain.get("snapshots", [])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise NotATrace(
            f"{name}: no ground file; expected JSON with `caches` and `snapshots`, as"
            " beside the shipped traces"
        ) from None
    try:
        return from_plain(name, plain, caches, snapshots)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(
            f"{name}: a ground file that cannot be read ({type(error).__name__}:"
            f" {error}); record it again"
        ) from None


def from_plain(
    name: str, plain: dict[str, Any], caches: dict[str, Any], snapshots: list[Any]
) -> Ground:
    """The ground of a JSON document."""
    cpu_node = nodes_of(plain.get("cpu_nodes", {}))
    nodes = max(cpu_node, default=0) + 1
    infos = tuple(merged_caches(caches, plain.get("aliases") or {}))
    index = {name: at for at, info in enumerate(infos) for name in info.aliases}
    index |= {info.name: at for at, info in enumerate(infos)}
    # Caches that were destroyed before the end are in no list but that of a snapshot.
    for snapshot in snapshots:
        for cache in snapshot["caches"]:
            if cache not in index:
                index[cache] = len(infos)
                infos += (CacheInfo(name=cache),)
    return Ground(
        path=name,
        kernel=release(plain.get("uname", "")),
        cpus=len(cpu_node),
        cpu_node=cpu_node,
        cmdline=plain.get("cmdline", ""),
        caches=infos,
        checkpoints=tuple(checkpoint(each, index, nodes) for each in snapshots),
        formats=plain.get("formats", {}),
        lost=lost_events(plain.get("ring_stats", "")),
        boot={
            "kernel": release(plain.get("uname", "")),
            "checkpoints": [
                [each.get("tag", ""), nanoseconds(each["t_begin"])]
                for each in snapshots
            ],
        },
    )


def merged_caches(
    caches: dict[str, Any], aliases: dict[str, str]
) -> Iterator[CacheInfo]:
    """Each cache once, with all its names, in the order of their names.

    Merged caches stand in sysfs under an id (`:0000512`) to which their names are
    links. The file may list them by the id, by a name, or by several names.
    """
    names: dict[str, set[str]] = {}
    for name in caches:
        names.setdefault(aliases.get(name, name), set()).add(name)
    for alias, target in aliases.items():
        real = aliases.get(target, target)
        names.setdefault(real, set()).update((alias, target))
    found = []
    for target, every in names.items():
        listed = [name for name in (target, *sorted(every)) if name in caches]
        if listed:
            plain = sorted(name for name in every if not name.startswith(":"))
            name = target if target in plain or not plain else plain[0]
            others = tuple(sorted((every | {target}) - {name}))
            found.append(cache_info(name, caches[listed[0]], others))
    yield from sorted(found, key=lambda info: info.name)


def checkpoint(plain: dict[str, Any], index: dict[str, int], nodes: int) -> Checkpoint:
    """One snapshot; times are seconds of the trace clock."""
    caches = {}
    for cache, values in sorted(plain["caches"].items()):
        texts = {name: joined(value) for name, value in values.items() if name != "t"}
        time = nanoseconds(values.get("t", plain["t_begin"]))
        caches[index[cache]] = truth(texts, nodes, time=time, row=-1)
    return Checkpoint(
        plain.get("tag", ""),
        nanoseconds(plain["t_begin"]),
        -1,
        dict(sorted(caches.items())),
    )


def joined(value: Any) -> str:
    """`{"total": 10, "N0": 8, "N1": 2}` as the kernel prints it; texts stay."""
    if not isinstance(value, dict):
        return str(value)
    rest = [f"{name}={each}" for name, each in value.items() if name != "total"]
    return " ".join([str(value.get("total", 0)), *rest])


def cache_info(
    name: str, values: dict[str, Any], aliases: tuple[str, ...] = ()
) -> CacheInfo:
    """Attributes of one cache, as sysfs names them."""
    return CacheInfo(
        name=name,
        object_size=number(values.get("object_size")),
        size=number(values.get("slab_size")),
        align=number(values.get("align")),
        order=number(values.get("order")),
        objects_per_slab=number(values.get("objs_per_slab")),
        cpu_partial=number(values.get("cpu_partial")),
        min_partial=number(values.get("min_partial")),
        sheaf_capacity=number(values.get("sheaf_capacity")),
        flags=tuple(flag for flag in FLAGS if number(values.get(flag))),
        aliases=aliases,
    )


def number(value: Any) -> int | None:
    """The first number of an attribute; None where there is none."""
    match = re.match(r"\s*(-?\d+)", str(value))
    return int(match[1]) if match else None


def nanoseconds(seconds: float) -> int:
    """Seconds with six decimals, without the error of a binary fraction."""
    return round(float(seconds) * 1_000_000) * 1000


def release(uname: str) -> str:
    """`Linux (none) 6.18.15 #1 ...` as `6.18.15`."""
    words = uname.split()
    return words[2] if len(words) > 2 else ""


def nodes_of(cpu_nodes: dict[str, str]) -> tuple[int, ...]:
    """`{"node0": "0-1", "node1": "2-3"}` as (0, 0, 1, 1)."""
    found: dict[int, int] = {}
    for node, cpus in cpu_nodes.items():
        for part in str(cpus).split(","):
            if part.strip():
                first, _, last = part.partition("-")
                for cpu in range(int(first), int(last or first) + 1):
                    found[cpu] = int(node.removeprefix("node"))
    return tuple(found.get(cpu, 0) for cpu in range(max(found, default=-1) + 1))


def lost_events(ring_stats: str) -> int:
    """Overrun and dropped events of all CPUs."""
    found = re.findall(r"(?:overrun|dropped events): (\d+)", ring_stats)
    return sum(map(int, found))
