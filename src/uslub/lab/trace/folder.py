"""A folder of binary pages: a copy of what tracefs shows, one raw file per CPU.

    per_cpu/cpu0/trace_pipe_raw ...   pages (also cpu0.raw, raw.cpu0; each also .zst)
    events/kmem/kmalloc/format ...    how this kernel's events look
    events/header_page                size of a page; 4096 where it is missing
    kallsyms                          names of call sites, optional
    about.json                        kernel, clock, losses; written by `uslub record`

Linux: Documentation/trace/ftrace, per_cpu/cpu*/trace_pipe_raw.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from uslub.lab.trace.batch import Batch, Names, Origin
from uslub.lab.trace.errors import NotATrace, TraceError
from uslub.lab.trace.files import open_bytes
from uslub.lab.trace.formats import FIELD, Format, parse_format
from uslub.lab.trace.ring import Decoder, merged, read_ring
from uslub.lab.trace.symbols import Symbols

RAW_NAME = re.compile(
    r"(?:cpu(\d+)/trace_pipe_raw|cpu(\d+)\.raw|raw\.?cpu(\d+))(?:\.zst)?$"
)
PAGE_BYTES = 4096


def raw_files(folder: Path) -> dict[int, Path]:
    """The raw file of each CPU; of a single file, the CPU that its name tells, or 0."""
    if folder.is_file():
        match = re.search(r"cpu(\d+)", folder.as_posix())
        return {int(match[1]) if match else 0: folder}
    found = {}
    for path in sorted(folder.rglob("*")):
        match = RAW_NAME.search(path.as_posix())
        if match and path.is_file():
            found[int(next(filter(None, match.groups())))] = path
    return found


def page_bytes(folder: Path) -> int:
    """Size of a page, as `header_page` tells."""
    for path in sorted(folder.rglob("header_page")):
        for match in FIELD.finditer(path.read_text()):
            if match["name"] == "data":
                return int(match["offset"]) + int(match["size"])
    return PAGE_BYTES


def formats_of(texts: Mapping[str, str], what: str) -> list[Format]:
    """The events we use, of their descriptions.

    Raises:
        NotATrace: None of them is ours.
        UnknownFields: One lacks a field we need.
    """
    found = [form for text in texts.values() if (form := parse_format(text))]
    if not any(form.event < 6 for form in found):
        raise NotATrace(
            f"{what}: no format of a kmem event; expected events/kmem/*/format, without"
            " which binary pages cannot be read"
        )
    return found


@contextmanager
def read_folder(
    folder: Path,
    names: Names,
    sites: Names,
    origin: Origin,
    formats: Mapping[str, str] | None = None,
) -> Iterator[Iterator[Batch]]:
    """Raw rows of all CPUs, in the order of time.

    Args:
        folder: The folder, or the raw file of one CPU.
        names, sites, origin: Filled while the rows are read.
        formats: Descriptions of events where the folder has none.

    Raises:
        NotATrace: No raw files, or no formats.
    """
    files = raw_files(folder)
    if not files:
        raise NotATrace(
            f"{folder}: no trace_pipe_raw in it; expected per_cpu/cpu*/trace_pipe_raw"
            " beside events/kmem/*/format"
        )
    texts = {str(path): path.read_text() for path in sorted(folder.rglob("format"))}
    forms = formats_of(texts or formats or {}, str(folder))
    _tell(folder, origin)
    origin.cpus = max(origin.cpus, max(files) + 1)
    decoder = Decoder(forms, names, sites, origin, Symbols.read(folder / "kallsyms"))
    size = page_bytes(folder)
    with ExitStack() as stack:
        streams = [
            read_ring(
                stack.enter_context(open_bytes(path)), cpu, decoder, size, str(path)
            )
            for cpu, path in sorted(files.items())
        ]
        yield merged(streams)


def _tell(folder: Path, origin: Origin) -> None:
    path = folder / "about.json"
    if not path.is_file():
        return
    try:
        about: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise TraceError(f"{path}: no JSON ({error}); record the trace again") from None
    origin.kernel, origin.clock = about.get("kernel", ""), about.get("clock", "")
    origin.recorder = int(about.get("recorder", 0))
    for cpu, lost in sorted(about.get("lost", {}).items()):
        if lost:
            origin.lost += int(lost)
            origin.lost_where.append(f"{cpu}: {lost}")
