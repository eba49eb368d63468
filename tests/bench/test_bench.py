"""`make bench`, small: it works and its files are complete. Figures decide nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
PLOTS = {"pair", "live", "caches", "large", "python", "handoff", "memory"}
PLOTS |= {"transfer", "sharing", "recovery"}


@pytest.fixture
def modules() -> Iterator[dict[str, ModuleType]]:
    """The modules of bench/, which is no package."""
    sys.path.insert(0, str(BENCH))
    try:
        yield {name: importlib.import_module(name) for name in ("rounds", "verdicts")}
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.check
@pytest.mark.timeout(300)
def test_a_small_run_leaves_every_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="requirements/bench.txt")
    pytest.importorskip("uslub._engine", reason="the extension is not built")
    environment = {**os.environ, "BENCH": "small"}
    run = [sys.executable, str(BENCH / "run.py"), "--out", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.svg")} == PLOTS
    env = json.loads((tmp_path / "env.json").read_text())
    assert env["small"] and env["cpu"]["model"] and env["compiler"]
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert all(one["rounds"] and all(one["rounds"]) for one in samples["series"])
    workloads = {one["workload"] for one in samples["series"]}
    assert workloads == {one["workload"] for one in samples["loads"]}
    assert "smoke, not measurements" in (tmp_path / "summary.md").read_text()


def test_a_series_speaks_through_the_medians_of_its_processes(
    modules: dict[str, ModuleType],
) -> None:
    rounds = [[9.0, 1.0, 2.0], [4.0], [3.0]]
    series = modules["rounds"].Series("w", {}, "uslub", "ns", rounds)
    assert series.medians == [2.0, 4.0, 3.0]
    assert (series.best, series.typical) == (2.0, 3.0)
    low, high = series.spread
    assert 2.0 <= low <= 3.0 <= high <= 4.0


@pytest.mark.parametrize(
    ("typical", "best", "verdict"),
    [(2.4, 2.5, "met"), (2.6, 2.6, "missed"), (2.6, 2.4, "undecided (noise)")],
)
def test_a_target_is_met_only_if_both_ratios_meet_it(
    modules: dict[str, ModuleType], typical: float, best: float, verdict: str
) -> None:
    line = modules["verdicts"].Line("pair", "", "", typical, best, at_most=2.5)
    assert line.verdict == verdict


def test_a_line_without_a_target_has_no_verdict(modules: dict[str, ModuleType]) -> None:
    line = modules["verdicts"].Line("pair", "", "", 9.0, 9.0)
    assert (line.target, line.verdict) == ("", "")
