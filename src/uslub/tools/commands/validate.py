"""`uslub validate`: check every invariant of an arena or a cache; repair nothing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

from uslub.errors import CorruptArena, LayoutMismatch
from uslub.tools.attach import attached, chosen, error_text, find_cache
from uslub.tools.text import count, style

SCHEMA = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub validate`."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="arena; none: every one"
    )
    parser.add_argument("cache", nargs="?", metavar="CACHE", help="none: all caches")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.epilog = (
        "An arena at work may look wrong for a moment: let it rest, or ask twice.\n"
        + (parser.epilog or "")
    )


def run(args: argparse.Namespace) -> int:
    """Print one sentence per finding; status 1 if there is any."""
    found = {name: look(name, args.cache) for name in chosen(args.name)}
    if args.json:
        arenas = [{"name": name, **asdict(look)} for name, look in found.items()]
        document = {"tool": "uslub validate", "schema": SCHEMA, "arenas": arenas}
        print(json.dumps(document, indent=2))
    else:
        for name, seen in found.items():
            print("\n".join(verdict(name, seen)))
    return int(any(seen.findings for seen in found.values()))


@dataclass(frozen=True)
class Look:
    """What one validation said, and how many others had the arena attached."""

    findings: list[str]
    others: int = 0


def look(name: str, cache: str | None) -> Look:
    """What is wrong with one arena; one that nobody could attach is a finding too."""
    try:
        with attached(name) as arena:
            target = arena if cache is None else find_cache(arena, cache)
            found = target.validate()
            others = sum(p.alive and not p.is_self for p in arena.processes())
            return Look(found, others)
    except (CorruptArena, LayoutMismatch) as error:
        return Look([error_text(error)])


def verdict(name: str, seen: Look) -> list[str]:
    """The findings of one arena, then how many there are."""
    lines = [f"{name}: {text}" for text in seen.findings]
    if not seen.findings:
        return [f"{name}: {style('sound', 'green')}"]
    total = style(count(len(seen.findings), "finding"), "red")
    if seen.others:
        users = count(seen.others, "process", "processes")
        total += f"; {users} may be at work in it: ask again when they rest"
    return [*lines, f"{name}: {total}"]
