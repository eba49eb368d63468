"""`uslub bench`: run bench/run.py of the checkout this is called in."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from uslub.tools.attach import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whatever follows goes to bench/run.py."""
    parser.set_defaults(passes_on=True)
    parser.usage = "uslub bench [arguments of bench/run.py]"


def run(args: argparse.Namespace) -> int:
    """Run it with this interpreter; its exit status is ours."""
    script = find_script()
    if script is None:
        raise UsageError(
            "the measurements are part of the source tree, not of the installed"
            " package; in a checkout of uslub run `make bench` (bench/run.py)"
        )
    done = subprocess.run([sys.executable, str(script), *args.rest], check=False)
    return done.returncode


def find_script() -> Path | None:
    """bench/run.py of the checkout around the working folder or around this file."""
    for start in (Path.cwd(), Path(__file__).resolve()):
        for folder in (start, *start.parents):
            engine = folder / "libuslub" / "include" / "uslub" / "uslub.h"
            script = folder / "bench" / "run.py"
            if script.is_file() and engine.is_file():
                return script
    return None
