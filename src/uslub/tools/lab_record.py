"""`uslub record`: capture a running kernel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from uslub.lab.record import record
from uslub.tools.attach import UsageError
from uslub.tools.lab_trace import answerable, written
from uslub.tools.text import count

EPILOG = """\
Needs root. Ends when COMMAND ends, when the time is over, or with Ctrl-C. The events go
through a trace buffer of their own, which is gone afterwards, as is everything else but
FILE. Exit status: that of COMMAND if it failed; 1 if events were lost.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub record`."""
    add = parser.add_argument
    add("-o", "--output", metavar="FILE", required=True, help="compact trace to write")
    add("--duration", type=float, metavar="S", help="seconds to record")
    add(
        "--cache",
        action="append",
        default=[],
        metavar="NAME",
        help="only this cache; may be repeated",
    )
    add(
        "--buffer",
        type=int,
        default=64,
        metavar="MIB",
        help="for each CPU (default: 64)",
    )
    add("--every", type=float, metavar="S", help="further checkpoints, S seconds apart")
    add("command", nargs="*", metavar="COMMAND", help="after --: what to run meanwhile")
    parser.epilog = EPILOG + (parser.epilog or "")


def run(args: argparse.Namespace) -> int:
    """Record; the command's exit status, or 1 where events were lost."""
    for name, value in (("--duration", args.duration), ("--every", args.every)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} {value:g}: expected a time above 0 s")
    if not 1 <= args.buffer <= 16384:
        raise UsageError(
            f"--buffer {args.buffer}: expected 1 to 16384 MiB for each CPU"
        )
    with answerable():
        done = record(
            Path(args.output),
            command=args.command,
            duration_s=args.duration,
            only=args.cache,
            buffer_kib=args.buffer * 1024,
            every_s=args.every,
            told=lambda line: print(f"uslub: {line}", file=sys.stderr),
        )
    print(written(done.path, done.header))
    if done.lost:
        total = sum(done.lost.values())
        where = ", ".join(f"{cpu} {lost}" for cpu, lost in done.lost.items())
        print(
            f"uslub: {count(total, 'event')} lost ({where}); record with a larger"
            " --buffer,"
            " or read the trace with --allow-loss",
            file=sys.stderr,
        )
        return done.status or 1
    return done.status or 0
