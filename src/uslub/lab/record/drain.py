"""Emptying the kernel's buffer: pages of each CPU into a file of its own.

The descriptors do not block; `poll` waits until the kernel finds a buffer full enough
(`buffer_percent`), so almost every page read is a full one.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from uslub.lab.record.errors import CannotRecord

PAGES_A_TURN = 4096


class Drain:
    """Reads trace_pipe_raw of every CPU."""

    def __init__(self, instance: Path, folder: Path, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.bytes = 0
        self._poll = select.poll()
        self._pairs: dict[int, int] = {}
        for path in sorted((instance / "per_cpu").glob("cpu*/trace_pipe_raw")):
            target = folder / "per_cpu" / path.parent.name
            target.mkdir(parents=True)
            source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            self._pairs[source] = os.open(
                target / path.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
            )
            self._poll.register(source, select.POLLIN)
        if not self._pairs:
            raise CannotRecord(
                f"{instance}: no per_cpu/cpu*/trace_pipe_raw; expected one for each CPU"
            )

    def turn(self, timeout_s: float) -> None:
        """Wait until a buffer is full enough, or so long; then empty what is full."""
        for source, _ in self._poll.poll(timeout_s * 1000):
            self._copy(source, PAGES_A_TURN)

    def rest(self) -> None:
        """Everything that is left, half-full pages too. Tracing must be off."""
        for source in self._pairs:
            while self._copy(source, PAGES_A_TURN):
                pass

    # Pages until there is none, or `most`; a page without events is not kept.
    def _copy(self, source: int, most: int) -> int:
        target, copied = self._pairs[source], 0
        while copied < most:
            try:
                page = os.read(source, self.page_bytes)
            except BlockingIOError:
                break
            if not page:
                break
            copied += 1
            if int.from_bytes(page[8:12], "little"):
                page = page.ljust(self.page_bytes, b"\0")
                self._write(target, page)
        return copied

    def _write(self, target: int, page: bytes) -> None:
        try:
            done = os.write(target, page)
            while done < len(page):
                done += os.write(target, page[done:])
        except OSError as error:
            raise CannotRecord(
                f"the recorded pages cannot be kept: {error.strerror}; expected room"
                " for"
                " about 55 bytes an event beside the output: free some, or record less"
            ) from None
        self.bytes += len(page)

    def close(self) -> None:
        """Let go of the files; the instance can be removed only then."""
        for source, target in self._pairs.items():
            os.close(source)
            os.close(target)
        self._pairs = {}
