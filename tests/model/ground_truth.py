"""Where the recordings of real kernels are, and how to skip without them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = (REPOSITORY / "tests" / "data", REPOSITORY.parent / "shared" / "ground-truth")


def find(name: str) -> Path:
    """A recording by its relative name; skips the test where it is not here."""
    places = PLACES
    if "USLUB_GROUND_TRUTH" in os.environ:
        places = (Path(os.environ["USLUB_GROUND_TRUTH"]), *PLACES)
    for place in places:
        if (place / name).exists():
            return place / name
    pytest.skip(f"{name} is not here: set USLUB_GROUND_TRUTH")
