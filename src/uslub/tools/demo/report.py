"""What the demo came to: three rates side by side, sums, and the books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

import uslub
from uslub.tools.demo.course import Plan, Result
from uslub.tools.demo.pictures import Pixels

#: Bumped whenever a field of the JSON changes its name or meaning.
SCHEMA = 1
SHM = Path("/dev/shm")


@dataclass
class Report:
    """Everything that is said at the end."""

    plan: Plan
    credits: list[str]
    results: list[Result] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)  #: slabs left, by cache
    findings: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.results.append(result)

    @property
    def thumbnails(self) -> list[Pixels]:
        return self.results[0].thumbnails

    def close_books(self, arena: uslub.Arena) -> None:
        """After the last object: every cache gives its empty slabs back.

        A slab that is left then holds an object that nobody freed.
        """
        for cache in arena.caches():
            cache.shrink()
            self.live[cache.name] = cache.info().slabs
        self.findings = arena.validate()

    @property
    def common(self) -> list[int]:
        """Numbers of the frames that went every way."""
        numbers = [set(result.sums) for result in self.results]
        return sorted(set.intersection(*numbers))

    @property
    def sums_equal(self) -> bool:
        rows = [[r.sums[number] for number in self.common] for r in self.results]
        return bool(self.common) and all(row == rows[0] for row in rows)

    @property
    def accounted(self) -> bool:
        """Freed as often as handed out, and no slab left."""
        counts = [pair for result in self.results for pair in result.counts.values()]
        return all(a == b for a, b in counts) and not any(self.live.values())

    @property
    def sound(self) -> bool:
        clean = not self.findings and not self.left_behind
        return self.sums_equal and self.accounted and clean

    def table(self) -> Table:
        """Rates side by side."""
        plan = self.plan
        title = (
            f"{plan.width}x{plan.height} RGB, {plan.frame_bytes / 1e6:.1f} MB a frame"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("frames through")
        for name in ("frames", "seconds", "frames/s", "MB/s", "uslub is"):
            table.add_column(name, justify="right")
        first = self.results[0].frames_per_second
        for result in self.results:
            rate = result.frames_per_second
            table.add_row(
                result.name,
                str(result.frames),
                f"{result.seconds:.2f}",
                f"{rate:.1f}",
                f"{rate * plan.frame_bytes / 1e6:,.0f}",
                "" if result is self.results[0] else f"x {first / rate:.1f}",
            )
        return table

    def verdicts(self) -> Iterator[str]:
        """One line per thing that was checked."""
        counts = self.results[0].counts.items()
        books = ", ".join(f"{name} {made}/{freed}" for name, (made, freed) in counts)
        left = ", ".join(f"{name}: {n}" for name, n in self.live.items() if n)
        found = "clean" if not self.findings else "; ".join(self.findings[:3])
        sums, accounts = mark(self.sums_equal), mark(self.accounted)
        yield f"{sums} sums of {len(self.common)} frames are equal all three ways"
        yield f"{accounts} handed out/freed: {books}; slabs left: {left or 0}"
        yield f"{mark(not self.findings)} arena.validate(): {found}"
        names = ", ".join(self.left_behind) or "nothing"
        yield f"{mark(not self.left_behind)} left in /dev/shm: {names}"
        yield f"       pictures: {', '.join(self.credits)}"

    def to_json(self) -> str:
        """For programs."""
        legs = [
            {
                "name": result.name,
                "frames": result.frames,
                "seconds": round(result.seconds, 6),
                "frames_per_second": round(result.frames_per_second, 3),
                "objects": {name: list(pair) for name, pair in result.counts.items()},
            }
            for result in self.results
        ]
        answer = {
            "schema": SCHEMA,
            "width": self.plan.width,
            "height": self.plan.height,
            "frame_bytes": self.plan.frame_bytes,
            "workers": self.plan.workers,
            "ways": legs,
            "frames_compared": len(self.common),
            "sums_equal": self.sums_equal,
            "accounted": self.accounted,
            "slabs_left": self.live,
            "findings": self.findings,
            "left_behind": self.left_behind,
            "sound": self.sound,
            "pictures": self.credits,
        }
        return json.dumps(answer, indent=2, ensure_ascii=False)


def mark(good: bool) -> str:
    """A word, so that it reads without colours."""
    return "ok    " if good else "WRONG "


def left_behind(plan: Plan) -> list[str]:
    """Names of ours that are still in /dev/shm."""
    ours = (f"uslub.{plan.arena_name}", plan.segment_prefix)
    return sorted(p.name for p in SHM.glob("*") if p.name.startswith(ours))


def contact_sheet(thumbnails: list[Pixels], path: Path, columns: int = 6) -> None:
    """The thumbnails, in rows, as one picture."""
    height, width = thumbnails[0].shape[:2]
    rows = -(-len(thumbnails) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, small in enumerate(thumbnails):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = small
    Image.fromarray(sheet).save(path)
