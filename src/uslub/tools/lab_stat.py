"""`uslub trace stat`: what `perf kmem stat --slab` says of a trace, and by cache."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from uslub.lab.trace import Trace
from uslub.lab.trace.kmem_stat import KEYS, By, Group, Stat, ordered, stat
from uslub.tools.attach import UsageError
from uslub.tools.text import columns

SCHEMA = 1
SORT = "frag,hit,bytes"
LINES = 20
UNITS = (("s", 1e9), ("ms", 1e6), ("us", 1e3))


def add_stat(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub trace stat`."""
    add = parser.add_argument
    add("file", metavar="FILE")
    add("--caller", action="store_true", help="a line for each call site")
    add(
        "--cache",
        "--alloc",
        action="store_true",
        help="a line for each cache (default); perf's --alloc goes by address",
    )
    keys = ", ".join(KEYS)
    add("-s", "--sort", metavar="KEYS", default=SORT, help=f"{keys}; default: {SORT}")
    add(
        "-l", "--line", type=int, default=LINES, metavar="N", help="0: all; default: 20"
    )
    add("--allow-loss", action="store_true", help="take it although events were lost")
    add("--json", action="store_true", help="for programs")


def run_stat(args: argparse.Namespace, trace: Trace) -> int:
    """`uslub trace stat`."""
    keys = args.sort.split(",")
    if strange := [key for key in keys if key not in KEYS]:
        raise UsageError(f"--sort {strange[0]!r}: expected some of {', '.join(KEYS)}")
    if args.line < 0:
        raise UsageError(f"-l {args.line}: expected a number of lines, 0 for all")
    shown: list[By] = []
    if args.caller:
        shown.append("caller")
    if args.cache or not args.caller:
        shown.append("cache")
    found = stat(trace, by=shown[0] if len(shown) == 1 else None)
    if args.json:
        print(json.dumps(document(found, shown, keys, args.line), indent=2))
        return 0
    for by in shown:
        print(table(found, by, keys, args.line))
        print()
    print("\n".join(summary(found)))
    return 0


def chosen(found: Stat, by: By, keys: Sequence[str], line: int) -> list[Group]:
    """The groups to show, in order."""
    return ordered(found.groups(by), keys)[: line or None]


def document(
    found: Stat, shown: Sequence[By], keys: Sequence[str], line: int
) -> dict[str, Any]:
    """For `--json`: fields of Stat and Group by their names."""
    plain: dict[str, Any] = {
        each.name: getattr(found, each.name)
        for each in fields(found)
        if each.name not in ("total", "callers", "caches")
    }
    plain["total"] = asdict(found.total)
    for by in shown:
        plain[f"{by}s"] = [asdict(each) for each in chosen(found, by, keys, line)]
    return {"tool": "uslub trace stat", "schema": SCHEMA, "stat": plain}


def table(found: Stat, by: By, keys: Sequence[str], line: int) -> str:
    """One line for each group; each size is bytes in all / bytes of one."""
    head = ["call site" if by == "caller" else "cache"]
    head += ["allocated/each", "requested/each", "hits", "ping-pong", "frag"]
    head += ["live", "live bytes", "peak bytes", "median life", "p99", "unseen"]
    groups = chosen(found, by, keys, line)
    text = columns(head, [cells(each) for each in groups])
    left = len(found.groups(by)) - len(groups)
    return f"{text}\n... {left} more (-l)" if left else text


def cells(group: Group) -> list[str]:
    """A line of the table."""
    each = max(group.hits, 1)
    return [
        group.name,
        f"{group.allocated_bytes}/{group.allocated_bytes // each}",
        f"{group.requested_bytes}/{group.requested_bytes // each}",
        f"{group.hits}",
        f"{group.pingpong}",
        f"{group.fragmentation:.3f}%",
        f"{group.live_objects}",
        f"{group.live_bytes}",
        f"{group.peak_bytes}",
        age(group.lifetime_median_ns),
        age(group.lifetime_p99_ns),
        f"{group.implied_frees}",
    ]


def age(ns: int | None) -> str:
    """A lifetime in the unit that reads best; its buckets have two digits at most."""
    if ns is None:
        return "-"
    for unit, scale in UNITS:
        if ns >= scale:
            return f"{ns / scale:.{0 if ns >= 10 * scale else 1}f} {unit}"
    return f"{ns} ns"


def summary(found: Stat) -> list[str]:
    """The lines that perf prints, with its words, and those it cannot."""
    total = found.total
    net = total.allocated_bytes - total.freed_bytes
    wasted = total.allocated_bytes - total.requested_bytes
    lines = [
        f"Total bytes requested: {total.requested_bytes:,}",
        f"Total bytes allocated: {total.allocated_bytes:,}",
        f"Total bytes freed:     {total.freed_bytes:,}",
        f"Net total bytes allocated: {net:,}",
        f"Total bytes wasted on internal fragmentation: {wasted:,}",
        f"Internal fragmentation: {total.fragmentation:.6f}%",
        f"Cross CPU allocations: {found.cross_node:,}/{total.hits:,}",
    ]
    life = f"median {age(total.lifetime_median_ns)}, p99 {age(total.lifetime_p99_ns)}"
    lines += [
        f"Live at the end: {total.live_objects:,} objects, {total.live_bytes:,} bytes",
        f"Live at the peak: {total.peak_objects:,} objects, {total.peak_bytes:,} bytes"
        f" ({found.peak_ns / 1e9:.3f} s)",
        f"Lifetime: {life}",
        f"Freed on another CPU: {total.pingpong:,} of {total.frees:,} frees",
        f"Frees out of sight: {total.implied_frees:,} implied,"
        f" {total.unknown_frees:,} of unknown objects",
    ]
    return lines
