"""Addresses of the kernel's code as function+offset, by /proc/kallsyms."""

from __future__ import annotations

import bisect
import re
from pathlib import Path

FUNCTION = re.compile(r"^([0-9a-f]+) [tTwW] (\S+)", re.MULTILINE)


class Symbols:
    """Looks up call sites; without a list, addresses stay numbers."""

    def __init__(self, text: str = "") -> None:
        pairs = [(int(at, 16), name) for at, name in FUNCTION.findall(text)]
        pairs = sorted(pair for pair in pairs if pair[0])  # 0: hidden from this user
        self._starts = [at for at, _ in pairs]
        self._names = [name for _, name in pairs]

    @classmethod
    def read(cls, path: Path) -> Symbols:
        """Of a file; none where it is not there or hides its addresses."""
        try:
            return cls(path.read_text(errors="replace"))
        except OSError:
            return cls()

    def __len__(self) -> int:
        return len(self._starts)

    def __call__(self, address: int) -> str:
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return f"{address:#x}"
        return f"{self._names[index]}+{address - self._starts[index]:#x}"
