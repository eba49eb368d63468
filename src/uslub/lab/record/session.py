"""A recording from beginning to end: `record()`.

    events on -> checkpoint "before" -> the load -> checkpoint "after" -> events off
    -> pages left in the buffer -> buffer removed -> conversion

The raw pages lie in a folder beside the output until they are converted.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uslub.lab.record.drain import Drain
from uslub.lab.record.errors import CannotRecord
from uslub.lab.record.sysfs import Counters, caches, cpu_nodes
from uslub.lab.record.tracefs import Instance, mounted
from uslub.lab.trace.cutting import cut
from uslub.lab.trace.folder import page_bytes
from uslub.lab.trace.ground import Ground
from uslub.lab.trace.header import CacheInfo, Header
from uslub.lab.trace.importing import convert
from uslub.lab.trace.store import Trace

BUFFER_KIB = 65536
TURN_S = 0.1
#: Signals that end a recording as Ctrl-C does.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class Recording:
    """What came of it."""

    path: Path
    header: Header
    lost: dict[str, int]  # per CPU
    status: int | None  # of the command
    seconds: float
    raw_bytes: int


def record(
    path: str | Path,
    *,
    command: Sequence[str] = (),
    duration_s: float | None = None,
    only: Sequence[str] = (),
    buffer_kib: int = BUFFER_KIB,
    every_s: float | None = None,
    told: Callable[[str], None] | None = None,
) -> Recording:
    """Record the running kernel into a compact file.

    Ends when the command ends, when the time is over, or at SIGINT, SIGTERM, SIGHUP or
    SIGQUIT, whichever comes first; what was recorded until then is kept.

    Args:
        path: The file to write.
        command: Program and arguments to run meanwhile.
        duration_s: Seconds.
        only: Names of caches; the trace is cut to them.
        buffer_kib: KiB of ring buffer for each CPU.
        every_s: Seconds between further checkpoints; None: first and last only.
        told: Called with a line for the reader at each stage.

    Raises:
        CannotRecord: Not root, no tracefs, no kmem events, no room, no such program.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CannotRecord(f"{path.parent}: no such folder; expected where to write")
    say = told or (lambda line: None)
    with ExitStack() as stack:
        root = stack.enter_context(mounted())
        raw = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        stack.callback(shutil.rmtree, raw, ignore_errors=True)
        session = _Session(root, raw, buffer_kib, only)
        session.capture(list(command), duration_s, every_s, say)
        say(f"converting {session.raw_bytes >> 20} MiB of events")
        with _deaf():
            header = session.write(path, only)
    return Recording(
        path, header, session.lost, session.status, session.seconds, session.raw_bytes
    )


class _Session:
    """One capture: what is known before, and what is found out."""

    def __init__(
        self, root: Path, raw: Path, buffer_kib: int, only: Sequence[str]
    ) -> None:
        self.root, self.raw, self.buffer_kib = root, raw, buffer_kib
        self.caches = caches()
        self.only = [self._known(name) for name in only]
        self.lost: dict[str, int] = {}
        self.status: int | None = None
        self.seconds = 0.0
        self.raw_bytes = 0
        self.clock = ""

    def _known(self, name: str) -> CacheInfo:
        for info in self.caches:
            if name in (info.name, *info.aliases):
                return info
        raise CannotRecord(
            f"this kernel has no cache {name!r}; `ls /sys/kernel/slab` lists those it"
            " has"
        )

    def capture(
        self,
        command: list[str],
        duration_s: float | None,
        every_s: float | None,
        say: Callable[[str], None],
    ) -> None:
        """Everything that happens while the buffer exists."""
        with ExitStack() as stack:
            instance = stack.enter_context(
                Instance(self.root, buffer_kib=self.buffer_kib)
            )
            self.clock = instance.clock
            self._keep_formats(instance)
            self._filters(instance)
            counters = Counters(self.only_or_all())
            stack.callback(counters.close)
            drain = Drain(instance.path, self.raw, page_bytes(self.raw))
            stack.callback(drain.close)
            marker = os.open(instance.path / "trace_marker", os.O_WRONLY)
            stack.callback(os.close, marker)

            def write(line: str) -> None:
                with suppress(OSError):
                    os.write(marker, line.encode())

            for lacking in self._lacking(instance):
                say(lacking)
            began = time.monotonic()
            with _heard() as ended:
                instance.start()
                try:
                    counters.checkpoint("before", write)
                    say("recording" + (f": {' '.join(command)}" if command else ""))
                    self._load(
                        command, duration_s, every_s, ended, drain, counters, write
                    )
                finally:
                    with _deaf():
                        drain.turn(0)
                        counters.checkpoint("after", write)
                        instance.stop()
                        self.seconds = time.monotonic() - began
                        drain.rest()
                        self.lost = instance.lost()
                        self.raw_bytes = drain.bytes

    # What this kernel does not show, and what the trace will therefore lack.
    def _lacking(self, instance: Instance) -> list[str]:
        found = []
        if not self.caches:
            found.append("no /sys/kernel/slab: there will be no checkpoints")
        if not {"mm_page_alloc", "mm_page_free"} <= set(instance.events):
            found.append("no mm_page events: there will be no page truth")
        return found

    def only_or_all(self) -> tuple[CacheInfo, ...]:
        """The caches whose counters are read."""
        return tuple(self.only) or self.caches

    def _keep_formats(self, instance: Instance) -> None:
        for name, text in instance.formats().items():
            target = self.raw / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    # Where the event names its cache, the kernel itself can leave the others out.
    def _filters(self, instance: Instance) -> None:
        if not self.only:
            return
        names = [name for info in self.only for name in (info.name, *info.aliases)]
        text = " || ".join(f'name == "{name}"' for name in dict.fromkeys(names))
        described = (self.raw / "events/kmem/kmem_cache_alloc/format").read_text()
        if "char[] name" in described and len(text) < 4000:
            for event in ("kmem_cache_alloc", "kmem_cache_free"):
                with suppress(CannotRecord):
                    instance.filter(event, text)

    # Run the load and empty the buffer until it is over.
    def _load(
        self,
        command: list[str],
        duration_s: float | None,
        every_s: float | None,
        ended: list[int],
        drain: Drain,
        counters: Counters,
        write: Callable[[str], None],
    ) -> None:
        began, taken = time.monotonic(), 1
        process = _started(command) if command else None
        try:
            while not ended:
                drain.turn(TURN_S)
                past = time.monotonic() - began
                if process is not None and process.poll() is not None:
                    break
                if duration_s is not None and past >= duration_s:
                    break
                if every_s and past >= taken * every_s:
                    counters.checkpoint(f"{taken * every_s:g}s", write)
                    taken += 1
        finally:
            if process is not None:
                self.status = _ended_status(process)

    def write(self, path: Path, only: Sequence[str]) -> Header:
        """Convert the pages; the raw folder is not needed afterwards."""
        about: dict[str, Any] = {
            "kernel": os.uname().release,
            "clock": self.clock,
            "lost": self.lost,
            "recorder": os.getpid(),
        }
        (self.raw / "about.json").write_text(json.dumps(about))
        with suppress(OSError):
            (self.raw / "kallsyms").write_bytes(Path("/proc/kallsyms").read_bytes())
        ground = _ground(self.caches)
        if not only:
            return convert(self.raw, path, ground=ground, allow_loss=True)
        whole = self.raw / "whole.trace.parquet"
        convert(self.raw, whole, ground=ground, allow_loss=True, level=1)
        with Trace(whole) as trace:
            return cut(trace, path, caches=[info.name for info in self.only])


def _ground(infos: tuple[CacheInfo, ...]) -> Ground:
    cpu_node = cpu_nodes()
    return Ground(
        path="this kernel",
        kernel=os.uname().release,
        cpus=len(cpu_node),
        cpu_node=cpu_node,
        cmdline=Path("/proc/cmdline").read_text().strip(),
        caches=infos,
        checkpoints=(),
        formats={},
        lost=0,
        boot={"kernel": os.uname().release, "checkpoints": []},
    )


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise CannotRecord(
            f"{command[0]}: {error.strerror}; expected a program to run while recording"
        ) from None


# The command gets the end told, and a moment to take it.
def _ended_status(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@contextmanager
def _heard() -> Iterator[list[int]]:
    """Signals of ENDING are collected instead of ending the process."""
    got: list[int] = []

    def note(number: int, _: Any) -> None:
        got.append(number)

    with _handlers(note):
        yield got


@contextmanager
def _deaf() -> Iterator[None]:
    """Signals of ENDING wait until the block, which cleans up, is through."""
    waiting: list[int] = []
    with _handlers(lambda number, _: waiting.append(number)):
        yield


@contextmanager
def _handlers(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {}
    for number in ENDING:
        with suppress(ValueError):  # not the main thread: signals go elsewhere
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
