"""`uslub reap`: give back what dead processes held."""

from __future__ import annotations

import argparse
import dataclasses
import json

from uslub.tools.attach import attached, only
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
    with attached(name) as arena:
        reaped = arena.reap()
    if args.json:
        result = {"name": name, **dataclasses.asdict(reaped)}
        print(json.dumps(result | {"tool": "uslub reap", "schema": SCHEMA}))
    else:
        print(
            f"{name}: {count(reaped.processes, 'dead process', 'dead processes')}"
            f" settled, {count(reaped.objects, 'object')} freed"
        )
        if reaped.waiting:
            print(
                f"{name}: {reaped.waiting} died inside the allocator; what they held"
                " stays"
            )
    return 1 if reaped.waiting else 0
