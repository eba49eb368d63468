"""`uslub replay TRACE`: one trace on one design; what it costs, and how right it is.

Here: words of the command line, a progress bar, what is printed. The work is in
`uslub.lab.replay`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from uslub.errors import BadArgument
from uslub.lab.replay import (
    DESIGNS,
    SETTINGS,
    GroundReport,
    IntervalReport,
    Result,
    compare_ground,
    parse_settings,
    replay,
    replay_interval,
)
from uslub.lab.replay.ground import checkpoints_of
from uslub.lab.replay.replaying import MODES, OWN_OBJECTS, RCU_DELAY, opened
from uslub.lab.replay.witness import page_witness
from uslub.lab.trace import Checkpoint, TraceError, check_ground, load_ground
from uslub.tools.attach import UsageError, check_writable
from uslub.tools.explain_trace import find_cache
from uslub.tools.lab_replay_text import (
    caches_text,
    ground_text,
    header_text,
    interval_text,
    moment_text,
    totals_text,
)

SCHEMA = 1
EXAMPLES = """\
examples:
  uslub replay sample:linux-6.18
  uslub replay boot.txt.zst --design slab --cpus 2
  uslub replay boot.txt.zst --set cpu_partial=0,min_partial=10 --at 12.5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add = parser.add_argument
    add("trace", help="a trace of any format, or sample:NAME")
    add("--design", metavar="NAME", help=f"of {', '.join(DESIGNS)}; default: as traced")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=N,...",
        help=f"tunables of every cache: {', '.join(SETTINGS)}",
    )
    add("--cpus", type=int, metavar="N", help="fewer CPUs fold, more spread by task")
    add("--nodes", type=int, metavar="N", help="memory nodes")
    add("--nomerge", action="store_true", help="insist on caches that are not merged")
    add("--merge", action="store_true", help="merge what slab_nomerge kept apart")
    add("--ground", metavar="FILE", help="the kernel's own counters, to judge by")
    add(
        "--at",
        action="append",
        default=[],
        metavar="T",
        help="show every cache at a moment: seconds on the trace's clock, or the name"
        " of a checkpoint",
    )
    add("--cache", metavar="NAME", help="show this cache only")
    add("--mode", default="auto", metavar="MODE", help=f"one of {', '.join(MODES)}")
    add(
        "--rcu-delay",
        default=RCU_DELAY,
        metavar="T",
        help="when objects are freed that no event frees: 0, 1s, 5s ... after their"
        f" allocation, or reuse of their address (default: {RCU_DELAY})",
    )
    add(
        "--own-objects",
        default="auto",
        metavar="HOW",
        help="objects of the tracer and of the allocator itself: one of "
        f"{', '.join(OWN_OBJECTS)}",
    )
    add(
        "--interval",
        action="store_true",
        help="replay with everything unknown live, then free: bounds for each cache",
    )
    add("--allow-loss", action="store_true", help="replay a trace that lost events")
    add("-N", type=int, default=20, metavar="K", help="show the K largest caches")
    add("--json", metavar="FILE", nargs="?", const="-", help="one JSON object")
    add("--csv", metavar="FILE", help="write one row per cache and node")
    add("--quiet", action="store_true", help="no progress bar")
    parser.epilog = f"{EXAMPLES}\n{parser.epilog or ''}"


def run(args: argparse.Namespace) -> int:
    """Replay and print; exit status 0.

    Raises:
        UsageError: The trace, the ground file or a parameter cannot be used.
    """
    try:
        return answer(args)
    except (BadArgument, TraceError) as error:
        raise UsageError(str(error)) from error


def answer(args: argparse.Namespace) -> int:
    """The same with the errors of the lab."""
    settings = parse_settings(args.set)
    check_words(args)
    quiet = args.quiet or args.json == "-"
    with telling("import", "%", quiet=quiet) as tell:
        trace = opened(
            args.trace,
            ground=args.ground,
            allow_loss=args.allow_loss,
            progress=None
            if tell is None
            else lambda share: tell(int(100 * share), 100),
        )
    if args.cache:
        args.cache = trace.header.caches[find_cache(trace, args.cache)].name
    truth: tuple[Checkpoint, ...] = trace.checkpoints
    if args.ground:
        ground = load_ground(args.ground)
        check_ground(trace, ground)
        truth = checkpoints_of(ground, trace.header)
        if not truth:
            raise BadArgument(
                f"{args.ground}: has no checkpoints to judge by; expected a ground file"
                " with `snapshots`"
            )
    common: dict[str, Any] = {
        "design": args.design,
        "settings": settings,
        "cpus": args.cpus,
        "nodes": args.nodes,
        "nomerge": args.nomerge,
        "merge": args.merge,
        "checkpoints": truth,
        "own_objects": args.own_objects,
        "allow_loss": args.allow_loss,
    }
    with telling("replay", "events", quiet=quiet) as tell:
        if args.interval:
            bounds = replay_interval(trace, progress=tell, **common)
            return show_interval(args, bounds)
        result = replay(
            trace,
            at=args.at,
            mode=args.mode,
            rcu_delay=args.rcu_delay,
            progress=tell,
            **common,
        )
    report = compare_ground(result, truth, trace.header) if truth else None
    if report is not None:
        report.witness = page_witness(trace, result, truth)
    show(args, result, report)
    return 0


def check_words(args: argparse.Namespace) -> None:
    """Refuse what says nothing together, and files that cannot be written.

    Raises:
        BadArgument: Naming it, before anything is replayed.
    """
    if args.merge and args.nomerge:
        raise BadArgument("replay: --merge and --nomerge: give one of them")
    if args.interval and args.at:
        raise BadArgument("replay: --interval has no moments: leave --at out")
    if args.N < 0:
        raise BadArgument(f"replay: -N {args.N}: give 0 or more")
    if args.design == "":
        raise BadArgument(f"replay: --design '': give one of {', '.join(DESIGNS)}")
    for name in (args.csv, args.json):
        if name is not None and name != "-":
            check_writable(name)


def show(args: argparse.Namespace, result: Result, report: GroundReport | None) -> None:
    """Print or write what was asked for."""
    if args.csv:
        write_csv(args.csv, result)
    if args.json:
        write_json(args.json, to_plain(result, report))
        return
    print(header_text(result))
    print()
    print(totals_text(result))
    for moment in result.moments:
        print()
        print(moment_text(moment, args.N, args.cache))
    print()
    print(caches_text(result, args.N, args.cache))
    if report is not None and report.rows:
        print()
        print(ground_text(report, args.N, args.cache))


def show_interval(args: argparse.Namespace, bounds: IntervalReport) -> int:
    """The same for bounds."""
    if args.json:
        rows = [
            {
                "checkpoint": row.checkpoint,
                "cache": row.cache,
                "low": row.low,
                "high": row.high,
                "real": row.real,
                "inside": row.holds,
            }
            for row in bounds.rows
        ]
        head = {"tool": "uslub replay", "schema": SCHEMA}
        write_json(args.json, {**head, "header": bounds.live.header, "interval": rows})
        return 0
    print(header_text(bounds.live))
    print()
    print(interval_text(bounds, args.N))
    return 0


def to_plain(result: Result, report: GroundReport | None) -> dict[str, Any]:
    """One JSON object."""
    plain: dict[str, Any] = {
        "tool": "uslub replay",
        "schema": SCHEMA,
        "header": result.header,
        "totals": result.totals,
        "caches": result.caches,
        "series": result.series,
        "moments": [
            {
                "name": moment.name,
                "time_ns": moment.time_ns,
                "row": moment.row,
                "caches": moment.records,
            }
            for moment in result.moments
        ],
    }
    if report is not None:
        plain["ground"] = {"summary": report.summary(), "rows": report.to_records()}
    return plain


def write_json(name: str, plain: dict[str, Any]) -> None:
    """To a file, or to standard output (`-`)."""
    if name == "-":
        json.dump(plain, sys.stdout, indent=1)
        print()
        return
    with open(name, "w", encoding="utf-8") as file:
        json.dump(plain, file, indent=1)


def write_csv(name: str, result: Result) -> None:
    """One row per cache and node; a column that a row does not have is empty."""
    import csv

    names = list(dict.fromkeys(name for record in result.caches for name in record))
    with open(name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(result.caches)


@contextmanager
def telling(
    what: str, of: str, *, quiet: bool
) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar with the time left, on a terminal; it goes when all is done."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int) -> None:
            said = f"{done:,} of {total:,} {of}"
            bar.update(task, completed=done, total=total, description=said)

        yield tell
