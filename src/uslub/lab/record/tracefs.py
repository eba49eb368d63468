"""The kernel's side of a recording: an instance of tracefs.

    with mounted() as root, Instance(root, ...) as instance:
        instance.start(); ...; instance.stop()

Whatever happens inside, leaving switches the events off, removes the instance and
unmounts what was mounted here. An instance whose process has died without that (kill
-9) carries its pid in its name and is removed by the next recording.
Linux: Documentation/trace/ftrace, "Instances"; the `trace` file says how many CPUs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from uslub.lab.record.errors import CannotRecord

#: Events without which there is nothing to replay.
NEEDED = ("kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free")
#: Recorded where the kernel has them.
WANTED = ("kmalloc_node", "kmem_cache_alloc_node", "mm_page_alloc", "mm_page_free")
PREFIX = "uslub-"
CLOCKS = ("mono", "global", "local")


def find_tracefs(mounts: Path = Path("/proc/mounts")) -> Path | None:
    """Where tracefs is mounted; None where it is not."""
    for line in mounts.read_text().splitlines():
        words = line.split()
        if len(words) > 2 and words[2] == "tracefs":
            return Path(words[1].replace("\\040", " "))
    inside = Path("/sys/kernel/debug/tracing")
    return inside if (inside / "instances").is_dir() else None


@contextmanager
def mounted() -> Iterator[Path]:
    """The root of tracefs, mounted for the time of the block if need be.

    Raises:
        CannotRecord: Not root, or the kernel has no tracefs.
    """
    if os.geteuid() != 0:
        raise CannotRecord(
            f"recording needs root and this is user {os.geteuid()}; expected the"
            " right to"
            " use tracefs: run `sudo uslub record ...`"
        )
    found = find_tracefs()
    if found is not None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        try:
            _run("mount", "-t", "tracefs", "nodev", folder)
        except CannotRecord as error:
            raise CannotRecord(
                f"tracefs is not mounted and cannot be ({error}); expected a kernel"
                " with"
                " CONFIG_FTRACE, in no container that hides it"
            ) from None
        try:
            yield Path(folder)
        finally:
            _run("umount", folder)


def _run(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", "") or str(error)
        raise CannotRecord(text.strip().splitlines()[-1]) from None


def remove_stale(root: Path) -> list[str]:
    """Remove instances of recordings whose process is gone; returns their names."""
    removed = []
    for path in sorted((root / "instances").glob(PREFIX + "*")):
        match = re.match(rf"{PREFIX}(\d+)$", path.name)
        if match and not Path("/proc", match[1]).exists():
            with suppress(OSError):
                path.rmdir()
                removed.append(path.name)
    return removed


class Instance:
    """A trace buffer of our own, made on entering and removed on leaving."""

    def __init__(self, root: Path, *, buffer_kib: int) -> None:
        self.root, self.buffer_kib = root, buffer_kib
        self.path = root / "instances" / f"{PREFIX}{os.getpid()}"
        self.events: list[str] = []
        self.clock = ""
        self._made = False

    def __enter__(self) -> Instance:
        if not (self.root / "instances").is_dir():
            raise CannotRecord(
                f"{self.root}: no instances of the trace buffer; expected a kernel"
                " since"
                " 3.10 with CONFIG_TRACING"
            )
        self._check_events()
        remove_stale(self.root)
        try:
            self.path.mkdir()
        except OSError as error:
            raise CannotRecord(
                f"{self.path}: {error.strerror}; expected to make a trace buffer of"
                " our own"
            ) from None
        self._made = True
        try:
            self._set_up()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    # The kernel must have the events; what it lacks is named before anything is made.
    def _check_events(self) -> None:
        have = self.root / "events" / "kmem"
        lacking = [name for name in NEEDED if not (have / name / "format").is_file()]
        if lacking:
            raise CannotRecord(
                f"{have}: this kernel has no event {', '.join(lacking)}; expected a"
                " kernel"
                " with CONFIG_EVENT_TRACING and the kmem trace events"
            )
        self.events = [
            name for name in (*NEEDED, *WANTED) if (have / name / "format").is_file()
        ]

    def _set_up(self) -> None:
        self.write("tracing_on", "0")
        self.write("options/overwrite", "0")  # drop the newest: the prefix stays whole
        for clock in CLOCKS:
            with suppress(CannotRecord):
                self.write("trace_clock", clock)
                self.clock = clock
                break
        self.write("buffer_size_kb", str(self.buffer_kib))
        with suppress(CannotRecord):
            self.write("buffer_percent", "25")  # since 5.0: wake readers by then
        for name in self.events:
            self.write(f"events/kmem/{name}/enable", "1")

    def filter(self, event: str, expression: str) -> None:
        """Have the kernel keep only some events of a kind."""
        self.write(f"events/kmem/{event}/filter", expression)

    def write(self, name: str, text: str) -> None:
        """Set one of the instance's files.

        Raises:
            CannotRecord: The kernel refuses.
        """
        try:
            (self.path / name).write_text(text)
        except OSError as error:
            raise CannotRecord(
                f"{self.path / name}: {error.strerror}, writing {text!r}; expected a"
                " kernel"
                " that can do this"
            ) from None

    def start(self) -> None:
        """Let events in."""
        self.write("tracing_on", "1")

    def stop(self) -> None:
        """Keep events out; what is in the buffer stays."""
        self.write("tracing_on", "0")

    def lost(self) -> dict[str, int]:
        """Events the kernel dropped, per CPU that did."""
        found = {}
        for path in sorted((self.path / "per_cpu").glob("cpu*/stats")):
            counts = re.findall(
                r"^(?:overrun|commit overrun|dropped events): (\d+)",
                path.read_text(),
                re.MULTILINE,
            )
            if total := sum(map(int, counts)):
                found[path.parent.name] = total
        return found

    def formats(self) -> dict[str, str]:
        """The descriptions that reading the pages takes, by path."""
        names = [f"events/kmem/{name}/format" for name in self.events]
        names += ["events/ftrace/print/format", "events/header_page"]
        texts = {}
        for name in names:
            path = self.root / name
            if path.is_file():
                texts[name] = path.read_text()
        return texts

    def remove(self) -> None:
        """Switch everything off and give the buffer back; may be called twice."""
        if not self._made:
            return
        for name in ("tracing_on", "events/enable"):
            with suppress(OSError):
                (self.path / name).write_text("0")
        self._made = False
        try:
            self.path.rmdir()
        except OSError as error:
            raise CannotRecord(
                f"{self.path}: {error.strerror}; the events are off, but the buffer"
                " stays:"
                " close what still reads it, then rmdir it"
            ) from None
