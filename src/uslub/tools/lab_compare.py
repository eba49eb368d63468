"""`uslub compare TRACE`: many replays side by side.

Here: words of the command line, a progress bar, what is printed and written. The work
is in `uslub.lab.compare`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from uslub.errors import BadArgument
from uslub.lab.compare import (
    BadGrid,
    Comparison,
    SweepFailed,
    compare,
    draw,
    page,
)
from uslub.lab.compare.charts import CHARTS
from uslub.lab.compare.grid import axes
from uslub.lab.compare.store import default_folder
from uslub.lab.compare.sweep import Progress as Tell
from uslub.lab.compare.table import caches_table, footnote, points_table
from uslub.lab.replay import DESIGNS
from uslub.lab.trace.errors import TraceError
from uslub.tools.attach import UsageError, check_writable, error_text

SCHEMA = 1

EXAMPLES = """\
examples:
  uslub compare sample:linux-6.18 --grid cpu_partial=0,30,default
  uslub compare boot.txt.zst --grid design=6.18,7.1,slab --grid cpus=2,4 --html a.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("trace", help="a trace of any format, or sample:NAME")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="an axis; several are combined, every value with every other. Names: "
        f"{', '.join(axes())}. Designs: {', '.join(DESIGNS)}. Value 'default': as in"
        " the trace",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page for a browser")
    parser.add_argument(
        "--plot",
        action="append",
        default=[],
        metavar="CHART=FILE",
        help=f"write a chart ({', '.join(CHARTS)}) as .svg, .png or .pdf",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--csv", metavar="FILE", help="write one row per point and cache"
    )
    parser.add_argument(
        "-N",
        type=int,
        default=10,
        metavar="K",
        help="show the K caches that differ most",
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--store",
        metavar="FOLDER",
        help=f"keep outcomes there (default: {default_folder()})",
    )
    parser.add_argument(
        "--no-store", action="store_true", help="neither use nor keep outcomes"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="replay even what is kept already"
    )
    parser.add_argument(
        "--allow-loss", action="store_true", help="replay a trace that lost events"
    )
    parser.epilog = (
        f"{EXAMPLES}\nAll points leave out the tracer's own objects, which no design"
        f" can change: `uslub replay --own-objects made` agrees.\n\n"
        f"{parser.epilog or ''}"
    )


def run(args: argparse.Namespace) -> int:
    """Replay, print, write.

    Raises:
        UsageError: The trace or the grid cannot be used, or a file name.
    """
    try:
        plots = [plot_word(word) for word in args.plot]
        if args.N < 0:
            raise BadArgument(f"compare: -N {args.N}: give 0 or more")
        for name in (args.html, args.csv, *(path for _, path in plots)):
            if name is not None:
                check_writable(name)
        if args.store and Path(args.store).exists() and not Path(args.store).is_dir():
            raise BadArgument(f"--store {args.store}: not a folder; name one")
        with telling(quiet=args.json) as tell:
            found = compare(
                args.trace,
                args.grid,
                jobs=args.jobs,
                store=None if args.no_store else args.store or True,
                fresh=args.fresh,
                allow_loss=args.allow_loss,
                progress=tell,
            )
    except (BadGrid, BadArgument, TraceError, SweepFailed) as error:
        raise UsageError(error_text(error)) from error
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename}: no such file or folder") from error
    except IsADirectoryError as error:
        raise UsageError(f"{error.filename}: a folder; name a trace") from error
    write(found, args, plots)
    if args.json:
        print(as_json(found))
    else:
        show(found, args.N)
    return 0


def plot_word(word: str) -> tuple[str, Path]:
    """`memory=over-time.svg` as chart and file.

    Raises:
        BadArgument: Not of that form, no such chart or format.
    """
    chart, equals, name = word.partition("=")
    path = Path(name)
    if not equals or chart not in CHARTS or path.suffix not in (".svg", ".png", ".pdf"):
        raise BadArgument(
            f"--plot {word}: expected CHART=FILE, a chart of {', '.join(CHARTS)} and a"
            " file that ends in .svg, .png or .pdf"
        )
    return chart, path


def write(
    found: Comparison, args: argparse.Namespace, plots: list[tuple[str, Path]]
) -> None:
    """The files that were asked for."""
    if args.html:
        Path(args.html).write_text(page(found), encoding="utf-8")
    for chart, path in plots:
        draw(found, chart, path)
    if args.csv:
        found.to_csv(Path(args.csv))


def show(found: Comparison, most: int) -> None:
    """The tables, as wide as they need to be where nobody looks at a terminal."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(points_table(found))
    if most > 0 and len(found) > 1:
        console.print()
        console.print(caches_table(found, most))
    console.print(f"\n{footnote(found)}", style="dim", soft_wrap=True)
    if found.reused:
        console.print(
            f"{found.reused} of {len(found)} points had been replayed before"
            " (--fresh replays them again)",
            style="dim",
        )


def as_json(found: Comparison) -> str:
    """Everything for programs."""
    return json.dumps(
        {
            "tool": "uslub compare",
            "schema": SCHEMA,
            "trace": found.trace,
            "reused": found.reused,
            "points": [outcome.to_json() for outcome in found.outcomes],
        },
        allow_nan=False,
    )


@contextmanager
def telling(quiet: bool) -> Iterator[Tell | None]:
    """A progress bar with time left, on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = Progress(
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("points", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
