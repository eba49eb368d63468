"""The kernel's own counters, read for checkpoints, and what it says of its caches.

Files of /sys/kernel/slab are opened once, before tracing starts, and read again through
the same descriptors: opening one costs the kernel about eight allocations, which would
be in the trace.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uslub.lab.trace.counters import COUNTERS
from uslub.lab.trace.ground import cache_info, nodes_of
from uslub.lab.trace.header import CacheInfo

SLAB = Path("/sys/kernel/slab")
READ = (*COUNTERS, "slabs_cpu_partial")
ATTRIBUTES = (
    "object_size", "slab_size", "align", "order", "objs_per_slab", "cpu_partial",
    "min_partial", "sheaf_capacity", "reclaim_account", "hwcache_align",
    "destroy_by_rcu", "cache_dma", "poison", "red_zone", "sanity_checks",
    "store_user", "trace",
)  # fmt: skip


def caches(root: Path = SLAB) -> tuple[CacheInfo, ...]:
    """Every cache with its attributes; merged ones once, with all their names.

    Empty where the kernel shows no caches (SLAB, SLOB, SLUB_TINY without sysfs).
    """
    if not root.is_dir():
        return ()
    names: dict[str, list[str]] = {}
    for path in sorted(root.iterdir()):
        names.setdefault(path.resolve().name, []).append(path.name)
    found = []
    for folder, aliases in names.items():
        values = {name: _text(root / folder / name) for name in ATTRIBUTES}
        first, *others = _first_name(folder, aliases)
        known = {name: value for name, value in values.items() if value}
        found.append(cache_info(first, known, tuple(others)))
    return tuple(sorted(found, key=lambda info: info.name))


# A merged cache's folder is `:0000512`; the name it was created under is not told, so
# the trace events name it by any of its names. The first by the alphabet stands for it.
def _first_name(folder: str, names: list[str]) -> list[str]:
    plain = sorted(name for name in names if name != folder)
    return plain or [folder]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cpu_nodes(root: Path = Path("/sys/devices/system/node")) -> tuple[int, ...]:
    """The node of each CPU; all on node 0 where the kernel shows no nodes."""
    lists = {
        path.name: _text(path / "cpulist")
        for path in sorted(root.glob("node*"))
        if re.match(r"node\d+$", path.name)
    }
    found = nodes_of(lists) if lists else ()
    return found or (0,) * (os.cpu_count() or 1)


class Counters:
    """Open descriptors of every counter of every cache."""

    def __init__(self, infos: tuple[CacheInfo, ...], root: Path = SLAB) -> None:
        self._files: dict[str, dict[str, int]] = {}
        self._make_room(len(infos) * len(READ) + 64)
        for info in infos:
            files = {}
            for name in READ:
                with suppress(OSError):
                    files[name] = os.open(root / info.name / name, os.O_RDONLY)
            if "slabs" in files:
                self._files[info.name] = files

    # Seven files a cache are more than the usual limit of 1024.
    @staticmethod
    def _make_room(wanted: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            with suppress(OSError, ValueError):
                limit = max(hard, wanted)
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limit))

    def __len__(self) -> int:
        return len(self._files)

    def checkpoint(self, name: str, write: Callable[[str], None]) -> None:
        """Read all counters, and have each cache's line written as soon as it is read.

        Args:
            name: Of the checkpoint; one word.
            write: Puts a line into the stream of events.
        """
        write(f"SNAPBEGIN {name} n={len(self._files)}")
        for cache, files in self._files.items():
            values = []
            for counter, file in files.items():
                with suppress(OSError):
                    text = os.pread(file, 4096, 0).decode().strip()
                    values.append(f"{counter}={','.join(text.split())}")
            if values:
                write(f"SNAP {cache} {' '.join(values)}")
        write(f"SNAPEND {name}")

    def close(self) -> None:
        """Close every descriptor."""
        for files in self._files.values():
            for file in files.values():
                os.close(file)
        self._files = {}
