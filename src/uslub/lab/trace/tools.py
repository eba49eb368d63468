"""Formats that have a tool of their own: trace.dat and perf.data, read as its text.

`trace-cmd report` and `perf script` know their files better than we could; they print
one event a line, which `text` reads. Raw addresses are asked for where the tool could
hash or shorten them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from uslub.lab.trace.errors import ToolMissing, TraceError
from uslub.lab.trace.files import PACKED, magic, open_bytes

#: Format to program, arguments before the file, and the Debian package.
TOOLS = {
    "trace.dat": ("trace-cmd", ("report", "-t", "-i"), "trace-cmd"),
    "perf.data": (
        "perf",
        (
            "script",
            "--ns",
            "-F",
            "comm,pid,cpu,time,event,trace",
            "--show-lost-events",
            "-i",
        ),
        "linux-perf",
    ),
}


@contextmanager
def text_of(path: Path, kind: str) -> Iterator[IO[bytes]]:
    """What the format's own tool prints of a file, as a stream.

    Raises:
        ToolMissing: The program is not installed.
        TraceError: It failed; the text quotes its last line.
    """
    program, arguments, package = TOOLS[kind]
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(
            f"{path}: a {kind} file, which only {program} can read, and it is not"
            f" installed; `apt-get install {package}`, or convert its text"
        )
    with _plain(path) as plain, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [found, *arguments, plain], stdout=subprocess.PIPE, stderr=complaints
        )
        assert process.stdout is not None
        try:
            yield process.stdout
            rest = process.stdout.read(1)
            status = process.wait()
            if status and not rest:
                raise TraceError(f"{path}: {program} failed: {_last(complaints)}")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


# The tools read plain files only; a packed one is unpacked for them.
@contextmanager
def _plain(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        packed = magic(file.read(16)) in PACKED
    if not packed:
        yield str(path)
        return
    with tempfile.NamedTemporaryFile(prefix="uslub-") as target:
        with open_bytes(path) as stream:
            shutil.copyfileobj(stream, target)
        target.flush()
        yield target.name


def _last(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it says nothing"
