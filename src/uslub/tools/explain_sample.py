"""A small excerpt of a kernel's whole-life trace, for two of the explanations.

Here: `read_sample`, and the program that made the excerpt from a full trace:

    zstd -dc --long=27 qemu-boot-6.18-nomerge.txt.zst |
        python -m uslub.tools.explain_sample > boot-6.18-sample.txt

Lines of the excerpt: ``K size count`` how often kmalloc was asked for `size` bytes
in the whole trace; ``C number size name`` a cache; ``A cpu cache object`` and
``F cpu object`` allocations and frees of a window, in order, with the CPU that
made them. Frees of objects from before the window are left out. Not here: traces
in general (that is the lab's work).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE = Path(__file__).parent / "data" / "boot-6.18-sample.txt"
WINDOW_START = 1_000_000  # a line where all four CPUs start and end processes
WINDOW_EVENTS = 12_000
LINE = re.compile(r"\[(\d+)\] .*? (\w+): (?:call_site=\S+ )?.*?ptr=(\S+)(.*)")


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """One allocation (`cache` is a number) or free (`cache` is None)."""

    cpu: int
    object: int
    cache: int | None


@dataclass(slots=True)
class Sample:
    """What the excerpt holds."""

    kmalloc: dict[int, int] = field(default_factory=dict)  #: bytes asked -> how often
    caches: dict[int, tuple[str, int]] = field(default_factory=dict)  #: name, bytes
    events: list[SampleEvent] = field(default_factory=list)


def read_sample(path: Path = SAMPLE) -> Sample:
    """Parse the excerpt.

    Raises:
        OSError: It cannot be read.
    """
    sample = Sample()
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *words = line.split()
        if kind == "K":
            sample.kmalloc[int(words[0])] = int(words[1])
        elif kind == "C":
            sample.caches[int(words[0])] = (words[2], int(words[1]))
        elif kind == "A":
            event = SampleEvent(int(words[0]), int(words[2]), int(words[1]))
            sample.events.append(event)
        elif kind == "F":
            sample.events.append(SampleEvent(int(words[0]), int(words[1]), None))
    return sample


def excerpt(trace: Iterable[str]) -> Iterator[str]:
    """The lines of an excerpt, from the lines of a text trace."""
    asked: Counter[int] = Counter()
    caches: dict[str, int] = {}
    live: dict[str, int] = {}
    window: list[str] = []
    objects = 0
    for number, line in enumerate(trace):
        match = LINE.search(line)
        if match is None:
            continue
        cpu, event, pointer, rest = match.groups()
        if event == "kmalloc":
            asked[int(value(rest, "bytes_req"))] += 1
        if number < WINDOW_START or len(window) >= WINDOW_EVENTS:
            continue
        if event == "kmem_cache_alloc":
            name = f"{value(rest, 'bytes_alloc')} {value(rest, 'name')}"
            cache = caches.setdefault(name, len(caches))
            live[pointer] = objects
            window.append(f"A {int(cpu)} {cache} {objects}")
            objects += 1
        elif event == "kmem_cache_free" and pointer in live:
            window.append(f"F {int(cpu)} {live.pop(pointer)}")
    yield "# Excerpt of qemu-boot-6.18-nomerge.txt: Linux 6.18, 4 CPUs, 2 nodes,"
    yield "# slab_nomerge. Made by: python -m uslub.tools.explain_sample"
    yield from (f"K {size} {count}" for size, count in sorted(asked.items()))
    yield from (f"C {cache} {name}" for name, cache in caches.items())
    yield from window


def value(text: str, key: str) -> str:
    """The word behind ``key=``."""
    return text.split(f"{key}=", 1)[1].split(" ", 1)[0].strip()


if __name__ == "__main__":
    for out in excerpt(sys.stdin):
        print(out)
