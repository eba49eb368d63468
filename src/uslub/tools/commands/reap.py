"""`uslub reap`: give back what dead processes held."""

from __future__ import annotations

import argparse
import dataclasses
import json

from uslub.tools.attach import attached


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the arena")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    with attached(args.name) as arena:
        reaped = arena.reap()
    if args.json:
        print(json.dumps(dataclasses.asdict(reaped)))
    else:
        print(
            f"{reaped.processes} dead processes settled, {reaped.objects} objects freed"
        )
        if reaped.waiting:
            print(f"{reaped.waiting} died inside the allocator: they stay as they are")
    return 1 if reaped.waiting else 0
