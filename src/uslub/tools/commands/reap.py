"""`uslub reap`: give back what dead processes held, mend what they were doing."""

from __future__ import annotations

import argparse
import dataclasses
import json

from uslub.info import Reaped
from uslub.tools.attach import attached, helping, only
from uslub.tools.text import count

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub reap`."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="arena; none: the only one"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Reap, and say what came of it; 1 if something could not be settled."""
    name = only(args.name, "reap")
    reaped = reap(name)
    if args.json:
        result = {"name": name, **dataclasses.asdict(reaped)}
        print(json.dumps(result | {"tool": "uslub reap", "schema": SCHEMA}))
    else:
        print("\n".join(f"{name}: {text}" for text in report(name, reaped)))
    return 1 if reaped.waiting else 0


def reap(name: str) -> Reaped:
    """Reap, and count what the attaching before it has reaped, too."""
    from uslub._engine import _examine

    with helping(name):
        before, *_ = _examine(name)
    with attached(name) as arena:
        reaped = arena.reap()
        after = arena.health()
    return dataclasses.replace(
        reaped,
        **{
            what: getattr(after, what) - getattr(before, what)
            for what in ("processes", "objects", "threads", "caches")
        },
    )


def report(name: str, reaped: Reaped) -> list[str]:
    """What was done, then what could not be done, why, and what helps."""
    who = count(reaped.processes, "dead process", "dead processes")
    if reaped.threads:
        who += f" and {count(reaped.threads, 'thread')} that ended inside a call"
    done = [f"{who} settled", f"{count(reaped.objects, 'object')} freed"]
    if reaped.caches:
        done.append(f"{count(reaped.caches, 'cache')} rebuilt")
    lines = [", ".join(done)]
    if reaped.waiting:
        lines.append(
            f"{count(reaped.waiting, 'dead process has', 'dead processes have')} to"
            " wait: a lock of a cache concerned is held by a process that is stopped;"
            f" continue or end that one, which `uslub doctor {name}` names"
        )
    if reaped.doubtful:
        lines.append(
            f"{count(reaped.doubtful, 'cache')} will be rebuilt once more, by itself:"
            " others were at work in it; until then a free object may not be found"
        )
    return lines
