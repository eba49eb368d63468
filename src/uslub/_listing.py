"""Which arenas there are. Names only: no arena is opened."""

from __future__ import annotations

import os

DIRECTORY = "/dev/shm"
PREFIX = "uslub."


def arenas() -> list[str]:
    """Names of the arenas in /dev/shm, sorted; those of other users too."""
    try:
        names = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []
    return sorted(name[len(PREFIX) :] for name in names if name.startswith(PREFIX))
