"""From any trace to the compact form, and opening what is there.

`convert()` reads a source block by block and writes row groups as they fill, so memory
does not grow with the trace. `open_trace()` does the same behind the reader's back for
sources that are not compact, into a file that is used again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from uslub.lab.trace.assemble import Assembler
from uslub.lab.trace.batch import (
    CACHE_ALLOC,
    CACHE_FREE,
    Batch,
    Names,
    Origin,
    concatenate,
)
from uslub.lab.trace.errors import EventsLost, NotATrace, PointersHashed, TraceError
from uslub.lab.trace.files import magic, not_onto_itself, open_bytes
from uslub.lab.trace.folder import read_folder
from uslub.lab.trace.ground import Ground, load_ground
from uslub.lab.trace.header import Header
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.matching import compare
from uslub.lab.trace.pages import find_base
from uslub.lab.trace.store import LEVEL, Trace, Writer
from uslub.lab.trace.text import HIDDEN, read_text
from uslub.lab.trace.tools import TOOLS, text_of
from uslub.lab.trace.truth import table_of

SUFFIX = ".trace.parquet"
TIME_UNIT_NS = 1000
#: Traces that come with the package.
SAMPLES = Path(__file__).parents[1] / "data"
#: What a file that cannot be used is called in the error text.
KINDS = {"binary": "binary data", "compact": "a compact trace already"}
#: Called now and then with the share of the source that was read, 0 to 1.
Progress = Callable[[float], None]


def open_trace(
    path: str | Path,
    *,
    ground: str | Path | None = None,
    allow_loss: bool = False,
    progress: Progress | None = None,
) -> Trace:
    """Open a trace of any format.

    A source that is not compact is converted first: into a file beside it, or in the
    temporary folder where that cannot be written; the next call uses that file.

    Args:
        path: Compact file, or anything `convert` reads.
        ground: Its ground file; by default the one beside it (`X.ground.json.zst`).
        allow_loss: Take a trace although the kernel dropped events.
        progress: Told how far a conversion is.

    Raises:
        TraceError: The text says what is wrong; see `uslub.lab.trace.errors`.
    """
    if not str(path):
        raise TraceError("no trace was named: expected a file, a folder or sample:NAME")
    path = Path(path)
    path = path if path.name else path.resolve()  # "." and "/" have no name
    if kind_of(path) == "compact":
        trace = Trace(path)
        _check_loss(str(path), trace.header.lost, allow_loss)
        return trace
    beside = ground if ground is not None else ground_beside(path)
    target = _cache_file(path, beside)
    if not _fresh(target, path):
        convert(path, target, ground=beside, allow_loss=allow_loss, progress=progress)
    trace = Trace(target)
    _check_loss(str(path), trace.header.lost, allow_loss)
    return trace


def convert(
    source: str | Path,
    target: str | Path,
    *,
    ground: str | Path | Ground | None = None,
    allow_loss: bool = False,
    pointers: bool = True,
    level: int = LEVEL,
    time_unit_ns: int = TIME_UNIT_NS,
    progress: Progress | None = None,
) -> Header:
    """Convert a trace into a compact file.

    Args:
        source: Text of ftrace, perf script or trace-cmd (packed or not).
        target: The file to write; replaced when the whole trace was read.
        ground: What the kernel said of itself: names, CPUs and nodes come from there.
        allow_loss: Take a trace although the kernel dropped events.
        pointers: Keep addresses (about half a byte per event).
        level: zstd level of the columns, 1 to 19.
        time_unit_ns: Resolution of the times that are kept. The order of events is
            that of the rows, whatever the unit; 1 costs another byte or two an event.
        progress: Told how far it is, 0 to 1.

    Returns:
        The header of the file that was written.

    Raises:
        TraceError: And no file was written.
    """
    source, target = Path(source), Path(target)
    not_onto_itself(source, target)
    if ground is not None and not isinstance(ground, Ground):
        ground = load_ground(ground)
    names, sites, origin = Names(), Names(), Origin()
    formats = ground.formats if ground else None
    with ExitStack() as stack:
        stack.enter_context(_named(source))
        rows = stack.enter_context(
            batches(source, names, sites, origin, formats=formats, progress=progress)
        )
        head, rest = _head(rows, source)
        _check_pointers(head, source, origin)
        assembler = Assembler(
            names,
            sites,
            origin,
            caches=ground.caches if ground else (),
            nodes=_nodes(ground),
            page_base=find_base(head),
        )

        def writer_of(path: Path, at_level: int) -> Writer:
            return stack.enter_context(
                Writer(
                    path, time_unit_ns=time_unit_ns, pointers=pointers, level=at_level
                )
            )

        # Without names in its allocations the trace is written twice; see `unnamed`.
        twice = bool(((head.event == CACHE_ALLOC) & (head.name < 0)).any())
        first = target.with_name(f".{target.name}.first-{os.getpid()}")
        stack.callback(first.unlink, missing_ok=True)
        writer = writer_of(first, 1) if twice else writer_of(target, level)
        writer.add(assembler.block(head))
        for batch in rest:
            writer.add(assembler.block(batch))
        if ground is not None and ground.lost > origin.lost:
            origin.lost = ground.lost
            origin.lost_where.append(f"ring statistics of {ground.path}: {ground.lost}")
        _check_loss(str(source), origin.lost, allow_loss, origin.lost_where)
        header = _header(assembler, ground, writer, pointers, source)
        if ground is not None:
            compare(str(source), header, assembler.checkpoints, ground)
        if twice:
            writer.finish(header, assembler.checkpoints)
            writer = writer_of(target, level)
            assembler.unnamed.rewrite(first, writer)
            header = _header(assembler, ground, writer, pointers, source)
        writer.finish(header, assembler.checkpoints, **_tables(assembler, header))
    return header


# What goes wrong deep inside is told with the name of the file it is about.
@contextmanager
def _named(source: Path) -> Iterator[None]:
    try:
        yield
    except TraceError as error:
        if str(source) in str(error):
            raise
        raise type(error)(f"{source}: {error}") from None


def _tables(assembler: Assembler, header: Header) -> dict[str, Any]:
    pages = assembler.pages
    if pages.base is None:
        return {}
    slabs = pages.slabs()
    cache = assembler.unnamed.of_pages(slabs.cache)
    keep = cache >= 0
    node = pages.nodes(slabs, header.cpu_node)
    columns = (cache, node, slabs.order, slabs.birth, slabs.death)
    return {"slabs": table_of(*(each[keep] for each in columns))}


# The kernel prints a hash of 32 bits for %p unless told otherwise, or `ptrval`.
def _check_pointers(head: Batch, source: Path, origin: Origin) -> None:
    objects = head.pointer[(head.event <= CACHE_FREE) & (head.pointer > 4096)]
    if origin.notes.get(HIDDEN):
        shown = "printed as ptrval"
    elif len(objects) and not (objects >> np.uint64(32)).any():
        shown = f"such as {int(objects[0]):#018x}"
    else:
        return
    raise PointersHashed(
        f"{source}: addresses are hashed ({shown}), so nothing tells on which slab an"
        " object lies; expected raw ones: `echo 0 > options/hash-ptr` before reading"
        " the"
        " buffer, or use `uslub record`"
    )


def sample(name: str) -> Path:
    """A whole-life trace that comes with uslub, by name: "linux-6.18", "linux-7.3".

    Raises:
        TraceError: There is none of that name; the text lists those there are.
    """
    path = SAMPLES / f"{name}{SUFFIX}"
    if not path.is_file():
        known = sorted(
            each.name.removesuffix(SUFFIX) for each in SAMPLES.glob(f"*{SUFFIX}")
        )
        raise TraceError(
            f"no sample trace {name!r}; there is {', '.join(known) or 'none'}"
        )
    return path


def kind_of(path: Path) -> str:
    """What a path holds: "compact", "text", "trace.dat", "perf.data", "binary", ...

    Raises:
        TraceError: There is nothing, or nothing that may be read.
        NotATrace: It is empty.
    """
    if path.is_dir():
        return "folder"
    with open_bytes(path) as stream:
        head = stream.read(4096)
    if not head:
        raise NotATrace(f"{path}: empty; expected a trace")
    return magic(head)


@contextmanager
def batches(
    source: Path,
    names: Names,
    sites: Names,
    origin: Origin,
    *,
    formats: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Iterator[Batch]]:
    """Raw rows of a source, whatever its format.

    Args:
        source: A file or a folder.
        names, sites, origin: Filled while the rows are read.
        formats: Descriptions of events, for binary pages that come without.
        progress: Told the share that was read.

    Raises:
        NotATrace: Nothing that is known here.
        ToolMissing: Its own tool is not installed.
    """
    kind = kind_of(source)
    with ExitStack() as stack:
        if kind == "folder" or (kind == "binary" and formats):
            opened = read_folder(source, names, sites, origin, formats)
            yield stack.enter_context(opened)
            return
        if kind in TOOLS:
            stream = stack.enter_context(text_of(source, kind))
        elif kind == "text":
            stream = stack.enter_context(open_bytes(source))
        else:
            raise NotATrace(
                f"{source}: {KINDS.get(kind, kind)}, no trace that is known here;"
                " expected text of ftrace, perf script or trace-cmd, trace.dat,"
                " perf.data, a folder with trace_pipe_raw files, or a compact file"
            )
        rows = read_text(stream, str(source), names, sites, origin)
        yield _told(rows, stream, source, progress)


def _told(
    rows: Iterator[Batch], stream: Any, source: Path, progress: Progress | None
) -> Iterator[Batch]:
    size = max(source.stat().st_size, 1)
    for batch in rows:
        yield batch
        if progress is not None and hasattr(stream, "done"):
            progress(stream.done())
        elif progress is not None and stream.seekable():
            progress(stream.tell() / size)


# The first batches as one: enough rows to find the address of page 0.
def _head(rows: Iterator[Batch], source: Path) -> tuple[Batch, Iterator[Batch]]:
    held: list[Batch] = []
    for batch in rows:
        held.append(batch)
        if sum(map(len, held)) >= 1 << 17:
            break
    if not held:
        raise NotATrace(
            f"{source}: no kmem event in it; expected kmalloc, kfree,"
            " kmem_cache_alloc and"
            " kmem_cache_free events"
        )
    return (held[0] if len(held) == 1 else concatenate(held)), rows


def _nodes(ground: Ground | None) -> int:
    return max(ground.cpu_node, default=0) + 1 if ground else 1


def _header(
    assembler: Assembler,
    ground: Ground | None,
    writer: Writer,
    pointers: bool,
    source: Path,
) -> Header:
    origin, counts = assembler.origin, assembler.counts
    frees = int(counts[[Kind.FREE, Kind.FREE_UNKNOWN]].sum())
    unknown = int(counts[Kind.FREE_UNKNOWN])
    cpus = max(origin.cpus, ground.cpus if ground else 0)
    cpu_node = ground.cpu_node if ground else ()
    notes: dict[str, Any] = dict(sorted(origin.notes.items()))
    notes["rows by kind"] = {kind.name: int(counts[kind]) for kind in Kind}
    if origin.foreign:
        notes["other events, left out"] = dict(sorted(origin.foreign.items()))
    if origin.lost_where:
        notes["lost"] = origin.lost_where[:100]
    if assembler.pages.conflicts:
        notes["objects that disagree with their page's cache"] = (
            assembler.pages.conflicts
        )
    notes["source"] = stamp(source)
    return Header(
        kernel=origin.kernel or (ground.kernel if ground else ""),
        cpus=cpus,
        cpu_node=tuple(cpu_node) + (0,) * (cpus - len(cpu_node)),
        clock=origin.clock or (ground.clock if ground else ""),
        whole_life=assembler.start_ns < 10**9 and unknown * 200 <= frees,
        nomerge=ground.nomerge if ground else False,
        caches=tuple(assembler.caches.infos),
        sites=tuple(assembler.sites.texts),
        events=assembler.rows,
        start_ns=assembler.start_ns,
        span_ns=(assembler.last_ns or 0) - assembler.start_ns,
        lost=origin.lost,
        time_unit_ns=writer.unit,
        page_base=assembler.pages.base,
        pointers=pointers,
        notes=notes,
    )


def _check_loss(
    source: str, lost: int, allow: bool, where: list[str] | None = None
) -> None:
    if lost and not allow:
        places = f" ({'; '.join(where[:4])})" if where else ""
        raise EventsLost(
            f"{source}: the kernel dropped {lost} events{places}; expected none: record"
            " with larger buffers, or allow the loss and take wider error bars"
        )


# -- files made behind the reader's back ----------------------------------------------


def stamp(source: Path) -> dict[str, Any]:
    """What tells whether a source is still the one that was converted."""
    files = [source, *source.rglob("*")] if source.is_dir() else [source]
    stats = [each.stat() for each in files]
    return {
        "name": source.name,
        "size": sum(each.st_size for each in stats),
        "mtime_ns": max(each.st_mtime_ns for each in stats),
    }


def ground_beside(path: Path) -> Path | None:
    """`X.ground.json.zst` or `X.ground.json` of a trace `X.txt.zst`, if it is there."""
    name = path.name
    for packing in (".zst", ".gz", ".xz", ".bz2"):
        name = name.removesuffix(packing)
    for suffix in (".txt", ".dat", ".data", ".raw"):
        name = name.removesuffix(suffix)
    for suffix in (".ground.json.zst", ".ground.json"):
        if (found := path.with_name(name + suffix)).is_file():
            return found
    return None


def _cache_file(path: Path, ground: str | Path | None) -> Path:
    # Another ground file makes another trace, so its name goes into the file's.
    mark = (
        ""
        if ground is None or Path(ground) == ground_beside(path)
        else "-" + _digest(str(Path(ground).resolve()))
    )
    if os.access(path.parent, os.W_OK):
        return path.with_name(f"{path.name}{mark}{SUFFIX}")
    folder = Path(tempfile.gettempdir()) / f"uslub-traces-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise TraceError(f"{folder}: belongs to another user; set TMPDIR")
    return folder / f"{path.name}-{_digest(str(path.resolve()))}{mark}{SUFFIX}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _fresh(target: Path, source: Path) -> bool:
    if not target.is_file():
        return False
    try:
        with Trace(target) as trace:
            return bool(trace.header.notes.get("source") == stamp(source))
    except TraceError:
        return False
