"""What is seen meanwhile: bars and a table on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from uslub.tools.demo.carriers import Carrier
    from uslub.tools.demo.report import Report

PICTURES_PER_SECOND = 8
LINES_PER_SECOND = 1


class Screen:
    """Progress of the courses. Drawing happens in this thread, never in another."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr if quiet else sys.stdout)
        self.quiet = quiet
        self.live: Live | None = None
        self.lines: dict[str, str] = {}
        self.last = 0.0
        self.total = 0

    def __enter__(self) -> Screen:
        if self.console.is_terminal and not self.quiet:
            self.live = Live(console=self.console, auto_refresh=False)
            self.live.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def say(self, text: str) -> None:
        """Something about the preparations."""
        if self.live is not None:
            self.live.update(Text(text, style="dim"), refresh=True)
        elif self.console.is_terminal and not self.quiet:
            print(f"\r{text:<60}\r", end="", flush=True)

    def begin(self, way: Carrier) -> None:
        """A course begins."""
        self.last = time.monotonic()
        self.total = way.plan.frames

    def update(self, way: Carrier, frames: int, seconds: float) -> None:
        """So far."""
        pace = PICTURES_PER_SECOND if self.live else LINES_PER_SECOND
        now = time.monotonic()
        if now - self.last < 1 / pace:
            return
        self.last = now
        self.draw(way, frames, seconds)

    def end(self, way: Carrier, frames: int, seconds: float) -> None:
        """The course is over."""
        self.draw(way, frames, seconds)

    def draw(self, way: Carrier, frames: int, seconds: float) -> None:
        """The present state, as a picture or as a line."""
        rate = frames / seconds if seconds else 0.0
        text = f"{way.name:<22}{frames:>6} of {self.total} frames {rate:>8.1f} frames/s"
        self.lines[way.name] = text
        if self.live is not None:
            done = min(40, 40 * frames // self.total)
            bar = Text("█" * done + "─" * (40 - done), style="green")
            rows = [Text(line) for line in self.lines.values()]
            self.live.update(Group(*rows, bar, caches_table(way)), refresh=True)
        elif not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)

    def show(self, report: Report) -> None:
        """The end."""
        self.console.print()
        self.console.print(report.table())
        for line in report.verdicts():
            self.console.print(line, highlight=False, soft_wrap=True)


def caches_table(way: Carrier) -> Table:
    """The caches of the arena, as they are now."""
    title = f"arena {way.plan.arena_name} (see also: uslub info {way.plan.arena_name})"
    table = Table(title=title, title_justify="left", title_style="dim")
    table.add_column("cache")
    for name in ("bytes", "order", "slabs", "in use", "alloc", "free", "fast path"):
        table.add_column(name, justify="right")
    for cache in way.arena.caches():
        info, stats = cache.info(), cache.stats()
        alloc = stats["alloc_fastpath"] + stats["alloc_slowpath"]
        free = stats["free_fastpath"] + stats["free_slowpath"]
        fast = stats["alloc_fastpath"] + stats["free_fastpath"]
        share = f"{100 * fast / max(1, alloc + free):.0f} %"
        numbers = (info.object_size, info.order, info.slabs, alloc - free, alloc, free)
        table.add_row(info.name, *(f"{number:,}" for number in numbers), share)
    return table
