"""`uslub shrink`: flush all CPUs, discard empty slabs, return pages to the system."""

from __future__ import annotations

import argparse
import json

from uslub.tools.attach import attached, find_cache, only
from uslub.tools.text import binary, count

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub shrink`."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="arena; none: the only one"
    )
    parser.add_argument("cache", nargs="?", metavar="CACHE", help="none: all caches")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Shrink, trim, and say what came of it."""
    name = only(args.name, "shrink")
    with attached(name) as arena:
        all_caches = arena.caches()
        caches = [find_cache(arena, args.cache)] if args.cache else all_caches
        before, committed = sum(c.info().slabs for c in caches), arena.info().committed
        for cache in caches:
            cache.shrink()
        arena.trim()
        slabs = before - sum(cache.info().slabs for cache in caches)
        given_back = max(committed - arena.info().committed, 0)
    if args.json:
        result = {"name": name, "caches": len(caches), "slabs": slabs}
        result |= {"bytes": given_back, "tool": "uslub shrink", "schema": SCHEMA}
        print(json.dumps(result))
    else:
        print(
            f"{name}: {slabs} of {count(before, 'slab')} discarded,"
            f" {binary(given_back)} given back to the system"
        )
    return 0
