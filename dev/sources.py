"""List the sources of one folder for Meson, one relative path a line, sorted.

Meson wants sources named; this names them by the rules of the layout, so that a new
file needs no entry anywhere. Called by the meson.build files when they configure.

    python3 dev/sources.py KIND FOLDER    # code, package, or one of PROGRAMS
"""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE_SUFFIXES = {".py", ".pyi", ".typed", ".tcss", ".json", ".txt"}
PACKAGE_SUFFIXES |= {".html", ".css", ".js", ".parquet"}  # the lab's page and samples
# How the name of a source ends that is no part of the library, by kind.
PROGRAMS = {
    "tests": "_test",
    "benches": "_bench",
    "explorers": "_explore",
    "killers": "_killer",
    "fuzzers": "_fuzz",
    "chaos": "_chaos",
}


def belongs(kind: str, path: Path) -> bool:
    """Tell whether `path` is of the wanted kind."""
    if kind == "package":
        return path.suffix in PACKAGE_SUFFIXES
    if path.suffix != ".c":
        return False
    if kind == "code":
        return not path.stem.endswith(tuple(PROGRAMS.values()))
    return path.stem.endswith(PROGRAMS[kind])


def main(kind: str, folder: str) -> None:
    """Print the files of `folder` that are of the wanted kind."""
    root = Path(folder)
    for path in sorted(root.rglob("*")):
        if path.is_file() and belongs(kind, path):
            print(path.relative_to(root).as_posix())


if __name__ == "__main__":
    main(*sys.argv[1:])
