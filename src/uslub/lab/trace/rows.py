"""Finished rows of a trace, in columns: what the file holds and a `Chunk` gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from uslub.lab.trace.batch import Array

#: Columns of a trace's rows and their types: the interface of `Chunk`.
COLUMNS: dict[str, Any] = {
    "time": np.int64,
    "kind": np.uint8,
    "cpu": np.uint16,
    "cache": np.int32,
    "object": np.int64,
    "pointer": np.uint64,
    "requested": np.int32,
    "allocated": np.int32,
    "node": np.int16,
    "site": np.int32,
    "pid": np.int32,
    "flags": np.uint32,
}


@dataclass
class Rows:
    """Finished rows, one array per column of COLUMNS."""

    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.columns["time"])
