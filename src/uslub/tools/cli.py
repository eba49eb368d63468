"""The `uslub` command: which command was named, and how errors are shown.

Exit status: 0 all is well; 1 something is wrong (an error, a finding, a mismatch);
2 asked in a way that cannot be answered. A command's module is imported when that
command runs, so that one that lacks an optional part does not disturb the others.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from uslub.errors import Error
from uslub.tools.attach import UsageError, error_text
from uslub.tools.text import style

#: Name, module, what it does.
COMMANDS = (
    ("ls", "uslub.tools.commands.ls", "list the arenas in shared memory"),
    ("info", "uslub.tools.commands.info", "show caches as the slabinfo tool does"),
    ("validate", "uslub.tools.commands.validate", "check every invariant of an arena"),
    ("shrink", "uslub.tools.commands.shrink", "give unused slabs and pages back"),
    ("doctor", "uslub.tools.commands.doctor", "who is dead, stopped or in doubt"),
    ("reap", "uslub.tools.commands.reap", "give back what dead processes held"),
    ("unlink", "uslub.tools.commands.unlink", "take an arena's name away"),
    ("verify", "uslub.tools.commands.verify", "replay what a real kernel decided"),
    ("replay", "uslub.tools.lab_replay", "a trace of a kernel, on any slab allocator"),
    ("compare", "uslub.tools.lab_compare", "one trace on many designs and tunables"),
    ("explain", "uslub.tools.explain", "show how SLUB works, step by step"),
    ("record", "uslub.tools.lab_record", "capture the slab events of a kernel"),
    ("trace", "uslub.tools.lab_trace", "convert, show and cut recorded traces"),
    ("demo", "uslub.tools.demo", "real pictures through one shared heap"),
    ("bench", "uslub.tools.commands.bench", "measure (in a checkout)"),
)

#: Optional part, modules of others that it needs.
EXTRAS = (
    ("demo", ("skimage", "PIL", "imageio")),
    ("lab", ("numpy", "pyarrow", "vl_convert")),
)

EPILOG = "exit status: 0 all is well, 1 something is wrong, 2 wrong usage"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `uslub`; None: those of this process.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(words)
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except UsageError as error:
        return complain(str(error), 2)
    except (Error, OSError) as error:
        if isinstance(error, BrokenPipeError):
            return broken_pipe()
        return complain(one_line(error), 1)
    except ImportError as error:
        return complain(f"{error}; {advice(error.name or 'uslub')}", 1)
    except KeyboardInterrupt:
        return 130


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments, with the function to call in `run`."""
    wanted = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="uslub",
        description="The SLUB slab allocator of Linux, in shared memory.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print it and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module, text in COMMANDS:
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == wanted:
            register(command, name, module)
    args, rest = parser.parse_known_args(words)
    if rest and not getattr(args, "passes_on", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args


def register(parser: argparse.ArgumentParser, name: str, module: str) -> None:
    """Give the command its arguments and its function."""
    loaded = load(name, module)
    if hasattr(loaded, "add_arguments"):
        loaded.add_arguments(parser)
    parser.set_defaults(run=loaded.run)


def load(name: str, module: str) -> ModuleType:
    """Import the module of a command.

    Raises:
        UsageError: It, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or str(error)
        if missing == module:
            text = f"`uslub {name}` is not part of this installation"
        else:
            text = f"`uslub {name}` needs {missing}, which cannot be imported ({error})"
        raise UsageError(f"{text}; {advice(missing)}") from error


def advice(missing: str) -> str:
    """What to do about a module that is not there."""
    if missing.startswith("uslub"):
        return "build it with `make build` in a checkout, or install the whole package"
    extra = next(
        (name for name, needs in EXTRAS if missing.split(".")[0] in needs), None
    )
    return f"install it with `pip install {f'uslub[{extra}]' if extra else missing}`"


class Version(argparse.Action):
    """`--version`: looked up only when asked for, because that takes 20 ms."""

    def __call__(
        self, parser: argparse.ArgumentParser, *_: object, **__: object
    ) -> None:
        print(f"uslub {version()}")
        parser.exit()


def version() -> str:
    """Of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("uslub")
    except PackageNotFoundError:
        return "(not installed)"


def one_line(error: BaseException) -> str:
    """The text of an error, without the wrapping that some classes add."""
    if isinstance(error, OSError) and not isinstance(error, Error) and error.strerror:
        return (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        )
    return error_text(error)


def complain(text: str, status: int) -> int:
    """One line for the reader, no traceback."""
    print(f"{style('uslub:', 'red', sys.stderr)} {text}", file=sys.stderr)
    return status


# Whoever read our output has gone, as `| head` does; nobody is left to tell.
def broken_pipe() -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    return 1
