"""`uslub trace`: convert a trace, look into one, add it up, cut a part out of it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uslub.lab.record.errors import CannotRecord
from uslub.lab.trace import (
    Header,
    Trace,
    TraceError,
    cache_records,
    convert,
    cut,
    open_trace,
    sample,
)
from uslub.lab.trace.header import header_to_plain
from uslub.lab.trace.kinds import Kind
from uslub.tools.attach import UsageError
from uslub.tools.lab_stat import add_stat, run_stat
from uslub.tools.text import binary, columns, count

SCHEMA = 1
EPILOG = """\
A FILE is the text of ftrace, `perf script` or `trace-cmd report` (packed with zstd or
gzip or not), trace.dat, perf.data, a folder with trace_pipe_raw files, a compact trace,
or sample:NAME for one that comes with uslub. A ground file X.ground.json[.zst] beside
X.txt[.zst] is taken along.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub trace`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    add_convert(actions.add_parser("convert", help="make a compact trace of any other"))
    add_info(actions.add_parser("info", help="say what a trace holds"))
    add_cut(actions.add_parser("cut", help="take a window or some caches out of one"))
    add_stat(actions.add_parser("stat", help="what `perf kmem stat` says, and more"))
    parser.epilog = EPILOG + (parser.epilog or "")


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub trace convert`."""
    add = parser.add_argument
    add("file", metavar="FILE")
    add("-o", "--output", metavar="OUT", help="default: FILE.trace.parquet")
    add("--ground", metavar="GROUND", help="what the kernel said of itself, as JSON")
    add("--allow-loss", action="store_true", help="take it although events were lost")
    add("--no-pointers", action="store_true", help="leave addresses out")
    add("--level", type=int, default=9, metavar="N", help="zstd, 1 to 19 (default: 9)")
    add("--time-unit", type=int, default=1000, metavar="NS", help="default: 1000 ns")
    add("--quiet", action="store_true", help="no progress bar")


def add_info(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub trace info`."""
    add = parser.add_argument
    add("file", metavar="FILE")
    add("--allow-loss", action="store_true", help="take it although events were lost")
    add("--caches", action="store_true", help="a line for each cache")
    add("--json", action="store_true", help="for programs")


def add_cut(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub trace cut`."""
    add = parser.add_argument
    add("file", metavar="FILE")
    add("-o", "--output", metavar="OUT", required=True)
    add("--rows", metavar="A:B", help="rows A to B, half open; either may be left out")
    add("--time", metavar="A:B", help="seconds since the trace began, or with unit ms")
    add(
        "--cache",
        action="append",
        metavar="NAME",
        help="only this one; may be repeated",
    )
    add("--no-pointers", action="store_true", help="leave addresses out")
    add("--allow-loss", action="store_true", help="take it although events were lost")


def run(args: argparse.Namespace) -> int:
    """Do it; 2 with one line if the trace cannot be used."""
    action: Callable[[argparse.Namespace], int] = {
        "convert": run_convert,
        "info": run_info,
        "cut": run_cut,
        "stat": statistics,
    }[args.action]
    with answerable():
        return action(args)


@contextmanager
def answerable() -> Iterator[None]:
    """A trace that cannot be used is a question that cannot be answered: status 2."""
    try:
        yield
    except (TraceError, CannotRecord) as error:
        raise UsageError(str(error)) from error


def source(name: str) -> Path:
    """A file, or a trace that comes with uslub for `sample:NAME`."""
    if not name:
        raise TraceError("no trace was named: expected a file, a folder or sample:NAME")
    return (
        sample(name.removeprefix("sample:"))
        if name.startswith("sample:")
        else Path(name)
    )


@contextmanager
def bar(text: str, *, quiet: bool = False) -> Iterator[Callable[[float], None] | None]:
    """A progress bar with the time left, on a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with shown:
        task = shown.add_task(text, total=1.0)
        yield lambda share: shown.update(task, completed=share)


def run_convert(args: argparse.Namespace) -> int:
    """`uslub trace convert`."""
    path = source(args.file)
    output = Path(args.output or f"{path}.trace.parquet")
    if not 1 <= args.level <= 19 or args.time_unit < 1:
        raise UsageError("--level is 1 to 19, --time-unit 1 or more ns")
    from uslub.lab.trace.importing import ground_beside

    with bar(f"converting {path.name}", quiet=args.quiet) as progress:
        header = convert(
            path,
            output,
            ground=args.ground or ground_beside(path),
            allow_loss=args.allow_loss,
            pointers=not args.no_pointers,
            level=args.level,
            time_unit_ns=args.time_unit,
            progress=progress,
        )
    print(written(output, header))
    return 0


def written(path: Path, header: Header) -> str:
    """One line about a file that was written."""
    size = path.stat().st_size
    each = size / max(header.events, 1)
    return (
        f"{path}: {header.events:,} rows, {binary(size)}, {each:.2f} bytes a row,"
        f" {header.span_ns / 1e9:.3f} s, {count(len(header.caches), 'cache')}"
    )


def run_cut(args: argparse.Namespace) -> int:
    """`uslub trace cut`."""
    if args.rows and args.time:
        raise UsageError("--rows and --time: give one of them")
    with open_trace(source(args.file), allow_loss=args.allow_loss) as trace:
        start, stop = window(trace, args)
        header = cut(
            trace,
            args.output,
            start=start,
            stop=stop,
            caches=args.cache,
            pointers=False if args.no_pointers else None,
        )
    print(written(Path(args.output), header))
    return 0


def window(trace: Trace, args: argparse.Namespace) -> tuple[int, int]:
    """The rows that --rows or --time name; all of them without either."""
    text = args.rows or args.time or ":"
    match = re.fullmatch(r"([\d.]*)(ms|s)?:([\d.]*)(ms|s)?", text)
    if match is None:
        raise UsageError(f"{text!r}: expected A:B, as in 1000:2000, 1.5:2 or 10ms:20ms")
    try:
        if not args.time:
            return int(match[1] or 0), int(match[3] or trace.header.events)
        start, stop = (
            nanoseconds(match[1], match[2]),
            nanoseconds(match[3], match[4]),
        )
    except ValueError:
        raise UsageError(
            f"{text!r}: rows are whole numbers, times are decimal"
        ) from None
    first = trace.header.start_ns
    return (
        0 if start is None else trace.row_at(first + start),
        trace.header.events if stop is None else trace.row_at(first + stop),
    )


def nanoseconds(number: str, unit: str | None) -> int | None:
    """`1.5` seconds or `20ms` as ns; None where nothing stands."""
    if not number:
        return None
    return round(float(number) * (1e6 if unit == "ms" else 1e9))


def run_info(args: argparse.Namespace) -> int:
    """`uslub trace info`."""
    with open_trace(source(args.file), allow_loss=args.allow_loss) as trace:
        if args.json:
            print(json.dumps(document(trace), indent=2))
        else:
            print("\n".join(lines(trace)))
            if args.caches:
                print(cache_table(trace))
    return 0


def statistics(args: argparse.Namespace) -> int:
    """`uslub trace stat`."""
    with open_trace(source(args.file), allow_loss=args.allow_loss) as trace:
        return run_stat(args, trace)


def document(trace: Trace) -> dict[str, Any]:
    """For `--json`: the header as it is, and the checkpoints' names and places."""
    plain = header_to_plain(trace.header)
    plain["page_truth"] = trace.table("slabs") is not None
    plain["checkpoints"] = [
        {
            "name": each.name,
            "time": each.time,
            "row": each.row,
            "caches": len(each.caches),
        }
        for each in trace.checkpoints
    ]
    return {"tool": "uslub trace info", "schema": SCHEMA, "trace": plain}


def lines(trace: Trace) -> list[str]:
    """What a reader wants to know first."""
    header = trace.header
    life = "since the kernel started" if header.whole_life else "from mid-life"
    kept = "addresses kept" if header.pointers else "no addresses"
    merged = "apart" if header.nomerge else "may be merged"
    found = [
        f"trace      {trace.path}",
        f"kernel     {header.kernel or 'not told'}, {count(header.cpus, 'CPU')},"
        f" {count(header.nodes, 'node')}, caches"
        f" {merged}",
        f"recorded   {header.span_ns / 1e9:.3f} s {life},"
        f" clock {header.clock or 'not told'}, {kept}",
        f"lost       {count(header.lost, 'event')}",
        f"rows       {header.events:,}",
    ]
    kinds = header.notes.get("rows by kind", {})
    for name, number in kinds.items():
        if number:
            share = number / max(header.events, 1)
            what = Kind[name].name.lower().replace("_", " ")
            found.append(f"  {what:<14}{number:>12,}  {share:7.3%}")
    found.append(f"caches     {len(header.caches)}")
    found.append(f"call sites {len(header.sites)}")
    slabs = trace.table("slabs")
    told = f"{len(slabs['cache']):,} slabs" if slabs else "none (no page events)"
    found.append(f"page truth {told}")
    marks = ", ".join(f"{each.name} (row {each.row:,})" for each in trace.checkpoints)
    found.append(f"checkpoints {marks or 'none'}")
    for name, value in header.notes.items():
        if name not in ("rows by kind", "source"):
            found.append(f"note       {name}: {noted(value)}")
    return found


def noted(value: Any) -> str:
    """A count with separators; anything else as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {noted(each)}" for name, each in value.items())
    return str(value)


def cache_table(trace: Trace) -> str:
    """Allocations and frees of each cache, the busiest first."""
    head = ("object_size", "size", "order", "allocs", "frees", "implied_frees", "live")
    records = sorted(cache_records(trace), key=lambda each: -int(each["allocs"]))
    rows = [
        [each["cache"], *("?" if each[n] is None else f"{each[n]:,}" for n in head)]
        for each in records
    ]
    shown = ["object", "slot", "order", "allocs", "frees", "implied", "live"]
    return columns(["cache", *shown], rows)
