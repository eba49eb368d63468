"""Outcomes on disk, one file per point: what makes a sweep resumable.

A file's name is the SHA-256 of everything the outcome depends on: the bytes of the
trace, the parameters of the point, and the code that replays. So nothing has to be
invalidated, and several sweeps may share a folder. A file is written beside its place
and renamed: a run that is killed leaves whole files or none. A file that cannot be read
is replayed again and overwritten.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from uslub.lab.compare.grid import Point
from uslub.lab.compare.outcome import Outcome
from uslub.lab.replay import VERSION

#: Changes when `Outcome.to_json` does.
SCHEMA = 1
#: Packages whose text decides what a replay answers.
CODE = ("uslub.model", "uslub.lab.trace", "uslub.lab.replay")


def default_folder() -> Path:
    """Where outcomes are kept if nobody says: under $XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "uslub" / "compare"


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


@functools.cache
def code_version() -> str:
    """SHA-256 over the sources of `CODE`: another text, another answer."""
    found = hashlib.sha256(f"{SCHEMA} {VERSION}".encode())
    for name in CODE:
        package = importlib.import_module(name)
        assert package.__file__ is not None, name
        folder = Path(package.__file__).parent
        for path in sorted(folder.rglob("*.py")):
            found.update(path.relative_to(folder).as_posix().encode() + b"\0")
            found.update(path.read_bytes())
    return found.hexdigest()


class Store:
    """Outcomes for one trace in one folder."""

    def __init__(self, folder: Path, trace: str) -> None:
        """
        Args:
            folder: Made when the first outcome is saved.
            trace: Fingerprint of the trace.
        """
        self.folder = folder
        self.trace = trace

    def path(self, point: Point) -> Path:
        """The file of one point, there or not."""
        # The order of the axes is of no consequence to the replay.
        values = dict(sorted(point.as_dict().items()))
        named = {name: value for name, value in values.items() if value is not None}
        key = json.dumps([self.trace, code_version(), named])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json.gz"

    def load(self, point: Point) -> Outcome | None:
        """The outcome of a point; None if there is none, or none that can be read."""
        try:
            data = json.loads(gzip.decompress(self.path(point).read_bytes()))
            outcome = Outcome.from_json(data)
        except (
            OSError,
            EOFError,
            zlib.error,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):
            return None
        # Named in the order of this grid, defaults included.
        return replace(outcome, point=point)

    def save(self, outcome: Outcome) -> None:
        """Write one outcome, whole or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(outcome.to_json(), separators=(",", ":"), allow_nan=False)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(gzip.compress(text.encode(), mtime=0))
            os.replace(name, self.path(outcome.point))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def known(self, points: Iterable[Point]) -> dict[Point, Outcome]:
        """The outcomes that are there, of these points."""
        loaded = ((point, self.load(point)) for point in points)
        return {point: outcome for point, outcome in loaded if outcome is not None}
