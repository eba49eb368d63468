"""The lab's measurements give their peer the same events. Figures decide nothing."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from uslub.lab.trace import Kind, Trace, convert

ROOT = Path(__file__).resolve().parents[2]
CUT = ROOT / "tests" / "data" / "lab" / "boot-6.18.trace.parquet"
ALLOCS = (Kind.ALLOC, Kind.LARGE_ALLOC)


@pytest.fixture
def modules() -> Iterator[dict[str, ModuleType]]:
    """The modules of bench/python, which is no package."""
    folder = str(ROOT / "bench" / "python")
    sys.path.insert(0, folder)
    try:
        names = ("perf_data", "lab_traces")
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(folder)


def sums(trace: Trace) -> dict[str, int]:
    """What perf says of a trace, by our own columns."""
    found = dict.fromkeys(("requested", "allocated", "allocations"), 0)
    for chunk in trace.chunks():
        allocs = np.isin(chunk.kind, ALLOCS)
        found["requested"] += int(chunk.requested[allocs].sum())
        found["allocated"] += int(chunk.allocated[allocs].sum())
        found["allocations"] += int(allocs.sum())
    return found


def test_perf_reads_the_same_events(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    trace, data = Trace(CUT), tmp_path / "perf.data"
    written = modules["perf_data"].write(trace.chunks(), data)
    command = ["perf", "kmem", "-i", str(data), "--slab", "stat"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = sums(trace)
    said = done.stdout + done.stderr
    assert f"Total bytes requested: {expected['requested']}" in re.sub(r",", "", said)
    assert f"Total bytes allocated: {expected['allocated']}" in re.sub(r",", "", said)
    assert f"/{expected['allocations']}" in re.sub(r",", "", said)
    listed = subprocess.run(
        ["perf", "script", "-i", str(data), "-F", "event"],
        capture_output=True,
        text=True,
    )
    assert len(listed.stdout.splitlines()) == written


def test_the_text_that_is_imported_says_the_same(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    trace, text = Trace(CUT), tmp_path / "text.txt"
    lines = modules["lab_traces"].text(trace, text, 1_000_000)
    convert(text, tmp_path / "again.trace.parquet")
    again = Trace(tmp_path / "again.trace.parquet")
    assert sums(again) == sums(trace)
    assert again.header.events >= lines > 50_000


def test_a_long_trace_ends_with_nothing_alive(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    path = tmp_path / "long.trace.parquet"
    events = modules["lab_traces"].long_trace(Trace(CUT), path, 300_000)
    trace = Trace(path)
    assert events == trace.header.events >= 300_000
    kinds = np.concatenate([chunk.kind for chunk in trace.chunks()])
    freed = np.isin(kinds, (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE))
    assert np.isin(kinds, ALLOCS).sum() == freed.sum()
    times = np.concatenate([chunk.time for chunk in trace.chunks()])
    assert (np.diff(times) >= 0).all()
