"""`uslub ls`: the arenas in shared memory, one line each."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from uslub._listing import DIRECTORY, arenas
from uslub.errors import ArenaNotFound, CacheNotFound, Error
from uslub.tools.attach import attached, error_text
from uslub.tools.render import live_objects
from uslub.tools.text import binary, columns, style

if TYPE_CHECKING:
    from uslub import Cache

SCHEMA = 1


@dataclass(frozen=True)
class Line:
    """One arena; sizes are bytes. `error`: why it could not be looked at."""

    name: str
    size: int = 0
    committed: int = 0
    live_objects: int = 0
    caches: int = 0
    alive: int = 0  #: participants
    dead: int = 0
    processes: tuple[tuple[int, bool], ...] = ()  #: pid, is it alive
    error: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub ls`."""
    parser.add_argument(
        "-p", "--processes", action="store_true", help="and who has them attached"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Print the list; status 1 if an arena in it cannot be read."""
    lines = [line for line in map(look, arenas()) if line]
    if args.json:
        found = [document(line) for line in lines]
        print(json.dumps({"tool": "uslub ls", "schema": SCHEMA, "arenas": found}))
    elif lines:
        print(table(lines))
        if args.processes:
            print("\n".join(people(lines)))
    else:
        print(f"no arenas in {DIRECTORY}")
    return int(any(line.error for line in lines))


def look(name: str) -> Line | None:
    """Attach, count, detach; what the look itself adds is taken off again."""
    try:
        with attached(name) as arena:
            info, caches = arena.info(), arena.caches()
            others = [p for p in arena.processes() if not p.is_self]
            return Line(
                name=name,
                size=info.size,
                committed=info.committed,
                live_objects=sum(live(cache) for cache in caches),
                caches=len(caches),
                alive=sum(p.alive for p in others),
                dead=sum(not p.alive for p in others),
                processes=tuple((p.pid, p.alive) for p in others),
            )
    except ArenaNotFound:  # it went away since the list was made
        return None
    except (Error, OSError) as error:
        return Line(name=name, error=error_text(error))


def live(cache: Cache) -> int:
    """Objects that users hold; 0 of a cache that was destroyed meanwhile."""
    with suppress(CacheNotFound):
        if cache.info().slabs:
            return live_objects(cache.snapshot())
    return 0


def document(line: Line) -> dict[str, Any]:
    """One arena for `--json`."""
    processes = [{"pid": pid, "alive": alive} for pid, alive in line.processes]
    return asdict(line) | {"processes": processes}


def people(lines: list[Line]) -> list[str]:
    """The participants of each arena."""
    return [
        f"{line.name}: pid {pid} {'alive' if alive else style('dead', 'red')}"
        for line in lines
        for pid, alive in line.processes
    ]


def table(lines: list[Line]) -> str:
    """The arenas that can be read, then those that cannot."""
    head = ("NAME", "SIZE", "COMMITTED", "LIVE", "CACHES", "ALIVE", "DEAD")
    rows = [
        (
            line.name,
            binary(line.size),
            binary(line.committed),
            str(line.live_objects),
            str(line.caches),
            str(line.alive),
            str(line.dead),
        )
        for line in lines
        if line.error is None
    ]
    parts = [columns(head, rows)] if rows else []
    broken = [line for line in lines if line.error is not None]
    parts += [f"{line.name}: {style(line.error or '', 'red')}" for line in broken]
    return "\n".join(parts)
