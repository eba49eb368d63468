"""Finding arenas by name, with help for those who mistyped.

Relies on the package itself (`uslub.Arena`), imported when an arena is opened and not
before, so that the command line starts without the engine.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from uslub._listing import DIRECTORY, arenas
from uslub.errors import ArenaNotFound, CacheNotFound
from uslub.tools.render import NodeRow, Row, node_rows, row_from_info

if TYPE_CHECKING:
    from uslub._engine import Arena, Cache


class UsageError(Exception):
    """Asked in a way that cannot be answered: exit status 2."""


def check_writable(name: str | Path) -> None:
    """Can a file of this name be written?

    Raises:
        UsageError: No.
    """
    path = Path(name)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{name}: cannot be written; expected a file in a folder")


def error_text(error: BaseException) -> str:
    """What an error says, without the errno that classes with an OSError parent add."""
    return str(error.args[-1]) if error.args else type(error).__name__


def suggestion(name: str, known: Sequence[str]) -> str:
    """ "; did you mean 'frames'?", or nothing where no name comes near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(repr(other) for other in near)}?"
    return ""


@contextmanager
def attached(name: str) -> Iterator[Arena]:
    """The arena of that name, for the time of a ``with`` block.

    Raises:
        ArenaNotFound: With the names that come near.
    """
    from uslub import Arena

    with helping(name):
        arena = Arena.attach(name)
    with arena:
        yield arena


@contextmanager
def helping(name: str) -> Iterator[None]:
    """Names that come near, for whoever asks for an arena that is not there."""
    try:
        yield
    except ArenaNotFound as error:
        help_text = suggestion(name, arenas())
        raise ArenaNotFound(f"{error_text(error)}{help_text}") from None


def chosen(name: str | None) -> list[str]:
    """The arena that was named, or else all there are.

    Raises:
        ArenaNotFound: None was named and there is none.
    """
    if name is not None:
        return [name]
    names = arenas()
    if not names:
        raise ArenaNotFound(
            f"there is no arena in {DIRECTORY}: uslub.Arena.create(NAME, size=...)"
            " makes one, and `uslub demo` shows one at work"
        )
    return names


def only(name: str | None, what: str) -> str:
    """The arena that was named, or the only one there is.

    Raises:
        UsageError: There are several: `what` is for one at a time.
    """
    names = chosen(name)
    if len(names) > 1:
        raise UsageError(f"{what} is for one arena; name one of {', '.join(names)}")
    return names[0]


def find_cache(arena: Arena, name: str) -> Cache:
    """The cache of that name, alias or id.

    Raises:
        CacheNotFound: With the names that come near.
    """
    caches = arena.caches()
    page_size = arena.info().page_size
    for cache in caches:
        with suppress(CacheNotFound):
            if cache_row(cache, page_size).answers_to(name):
                return cache
    known = [each for cache in caches for each in (cache.name, *cache.aliases)]
    raise CacheNotFound(
        f"arena {arena.name!r} has no cache {name!r}{suggestion(name, known)};"
        f" `uslub info -z {arena.name}` lists those it has"
    )


def cache_rows(
    arena: Arena, caches: Sequence[Cache], *, with_nodes: bool = False
) -> list[Row]:
    """Caches as rows; those that were destroyed meanwhile are left out."""
    rows, page_size = [], arena.info().page_size
    for cache in caches:
        with suppress(CacheNotFound):
            rows.append(cache_row(cache, page_size, with_nodes=with_nodes))
    return rows


def cache_row(cache: Cache, page_size: int, *, with_nodes: bool = False) -> Row:
    """One cache as a row; slabs per node cost a walk over the cache."""
    nodes: tuple[NodeRow, ...] = ()
    if with_nodes:
        nodes = node_rows(cache.snapshot())
    return row_from_info(
        cache.info(),
        page_size=page_size,
        stats=cache.stats(),
        nodes=nodes,
    )
