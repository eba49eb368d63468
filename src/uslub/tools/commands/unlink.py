"""`uslub unlink`: take the name of an arena away; who has it attached keeps it."""

from __future__ import annotations

import argparse

from uslub._listing import arenas
from uslub.errors import ArenaNotFound
from uslub.tools.attach import error_text, suggestion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub unlink`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="arena")


def run(args: argparse.Namespace) -> int:
    """Unlink each; the first that is not there is an error."""
    from uslub import Arena

    for name in args.names:
        try:
            Arena.unlink(name)
        except ArenaNotFound as error:
            help_text = suggestion(name, arenas())
            raise ArenaNotFound(f"{error_text(error)}{help_text}") from None
        print(f"{name}: unlinked")
    return 0
