"""`uslub info`: caches in the views of the kernel's slabinfo tool."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from uslub.errors import Error
from uslub.tools import slabinfo
from uslub.tools.attach import (
    UsageError,
    attached,
    cache_rows,
    chosen,
    error_text,
    find_cache,
    only,
)
from uslub.tools.render import Row
from uslub.tools.slabinfo import Look
from uslub.tools.text import style
from uslub.tools.totals import totals, totals_lines

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the slabinfo tool that make sense here, and a few of ours."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="arena; none: every one")
    add("cache", nargs="?", metavar="CACHE", help="name, alias, id or pattern")
    views = parser.add_argument_group("views").add_mutually_exclusive_group()
    add_view = views.add_argument
    add_view("-l", "--slabs", action="store_true", help="the table (the default)")
    add_view("-D", "--activity", action="store_true", help="counters of activity")
    add_view("-r", "--report", action="store_true", help="a report on each cache")
    add_view("-T", "--totals", action="store_true", help="the sums")
    add_view("-X", "--extended", action="store_true", help="sums and the largest")
    add_view("-n", "--numa", action="store_true", help="slabs per memory node")
    add_view("-a", "--aliases", action="store_true", help="names that share a cache")
    add_view("--proc", action="store_true", help="the format of /proc/slabinfo")
    add_view("--explain", action="store_true", help="what the columns mean")
    sorts = parser.add_argument_group("order").add_mutually_exclusive_group()
    for letter, by in (("S", "size"), ("A", "activity"), ("P", "partial")):
        sorts.add_argument(
            f"-{letter}",
            dest="sort",
            action="store_const",
            const=by,
            help=f"by {by}, largest first",
        )
    sorts.add_argument(
        "-L", dest="loss", action="store_true", help="by loss, and show it"
    )
    add("-i", "--inverted", action="store_true", help="the other way round")
    add("-N", "--lines", type=int, metavar="K", help="the first K lines")
    add("-e", "--empty", action="store_true", help="only caches without slabs")
    add("-z", "--zero", action="store_true", help="caches without slabs too")
    add("-U", "--unreclaim", action="store_true", help="no reclaimable caches")
    add("-f", "--first-alias", action="store_true", help="a name instead of an id")
    add("-1", "--1ref", dest="single", action="store_true", help="-a: lone names too")
    add("-B", "--bytes", action="store_true", help="sizes in plain bytes")
    add("--json", action="store_true", help="every number of the chosen caches")


def run(args: argparse.Namespace) -> int:
    """Print the view that was asked for."""
    if args.explain:
        print(slabinfo.LEGEND)
        return 0
    if args.proc and not args.json:
        names = [only(args.name, "--proc")]
    else:
        names = chosen(args.name)
    documents, status = [], 0
    for number, name in enumerate(names):
        try:
            arena, rows = gather(name, args)
        except Error as error:
            if len(names) == 1:
                raise
            print(f"uslub: {name}: {error_text(error)}", file=sys.stderr)
            status = 1
            continue
        if args.json:
            documents.append(document(arena, arrange(rows, args)))
            continue
        if len(names) > 1:
            print(("\n" if number else "") + style(f"arena {name}", "bold"))
        print("\n".join(view(rows, args)))
    if args.json:
        found = {"tool": "uslub info", "schema": SCHEMA, "arenas": documents}
        print(json.dumps(found, indent=2))
    return status


def gather(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], list[Row]]:
    """What the arena says, and its caches as rows, in order of creation."""
    with attached(name) as arena:
        about = {"name": name}
        info = arena.info()
        for key in ("page_size", "cpus", "nodes", "size", "committed", "free_pages"):
            about[key] = getattr(info, key)
        caches = matching(arena.caches(), args.cache) if args.cache else arena.caches()
        if not caches:
            caches = [find_cache(arena, args.cache)] if args.cache else []
        walk = args.numa or args.json or args.report or len(caches) == 1
        return about, cache_rows(arena, caches, with_nodes=walk)


def matching(caches: Sequence[Any], wanted: str) -> list[Any]:
    """The cache of that name, or those with a name that the pattern occurs in."""
    exact = [c for c in caches if wanted in (c.name, *c.aliases)]
    if exact:
        return exact
    try:
        pattern = re.compile(wanted, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"{wanted!r} is no pattern: {error}") from error
    return [c for c in caches if any(map(pattern.search, (c.name, *c.aliases)))]


def arrange(rows: Sequence[Row], args: argparse.Namespace) -> list[Row]:
    """The rows that were asked for, in the order that was asked for."""
    if args.unreclaim:
        rows = [row for row in rows if "a" not in row.flag_letters]
    if args.empty:
        rows = [row for row in rows if not row.slabs]
    elif not (args.zero or args.cache or args.proc):
        rows = [row for row in rows if row.slabs]
    by = "loss" if args.loss else args.sort
    if not args.proc or by:
        rows = slabinfo.ordered(
            rows, by or "name", inverted=args.inverted, first_alias=args.first_alias
        )
    return list(rows[: max(args.lines, 1)] if args.lines is not None else rows)


def view(rows: list[Row], args: argparse.Namespace) -> list[str]:
    """The lines of one arena."""
    look = Look(args.bytes or args.extended, args.loss, args.first_alias)
    shown = arrange(rows, args)
    if args.proc:
        return slabinfo.proc(shown)
    if args.aliases:
        found = slabinfo.aliases(rows, single=args.single, inverted=args.inverted)
        return found or ["no cache has more than one name; -1 shows single names too"]
    if args.totals:
        return totals_lines(totals(rows), look)
    if args.extended:
        return extended(rows, args, look)
    if args.numa:
        return slabinfo.numa(shown, plain_bytes=args.bytes)
    if not shown:
        return [nothing(rows, args)]
    if args.report or plain_report(shown, args):
        return [line for row in shown for line in slabinfo.report(row, look)][1:]
    if args.activity:
        return bold_head(slabinfo.activity(shown, look))
    return bold_head(slabinfo.table(shown, look))


def plain_report(shown: list[Row], args: argparse.Namespace) -> bool:
    """Like the slabinfo tool: one cache in the plain table becomes a report."""
    return bool(args.cache and len(shown) == 1 and not args.activity and not args.slabs)


def bold_head(lines: list[str]) -> list[str]:
    return [style(lines[0], "bold"), *lines[1:]]


def nothing(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """Why there is no line to show."""
    if args.empty:
        return "every cache has slabs"
    if rows and not args.unreclaim:
        return f"none of the {len(rows)} caches has slabs; -z shows them all the same"
    return "no such caches" if rows else "no caches"


def extended(rows: list[Row], args: argparse.Namespace, look: Look) -> list[str]:
    """Sums, then the first caches by size, by loss and by partial slabs (-X)."""
    lines = totals_lines(totals(rows), look)
    limit = 1 if args.lines is None else max(args.lines, 1)
    busy = [row for row in rows if row.slabs]
    for by in ("size", "loss", "partial"):
        chosen_rows = slabinfo.ordered(busy, by)[:limit]
        kind = Look(look.plain_bytes, by == "loss", look.first_alias)
        lines += ["", f"Slabs sorted by {by}", "-" * (16 + len(by))]
        lines += slabinfo.table(chosen_rows, kind)
    return lines


def document(arena: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """One arena for `--json`."""
    return {
        "arena": arena,
        "caches": [row.to_dict() for row in rows],
        "totals": totals(rows).to_dict(),
    }
