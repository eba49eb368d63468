"""Records, frames, the table and the charts say what the outcomes say."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from lab import invented
from uslub.errors import BadArgument
from uslub.lab.compare import draw
from uslub.lab.compare.charts import CHARTS, changes, memory_over_time, trade
from uslub.lab.compare.outcome import by_cache
from uslub.lab.compare.table import caches_table, footnote, points_table


def shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_nodes_add_up_but_sizes_do_not() -> None:
    outcome = invented.comparison().outcomes[0]
    dentry = next(one for one in by_cache(outcome) if one["cache"] == "dentry")
    assert (dentry["slabs"], dentry["live"]) == (21, 10)
    assert (dentry["slab_bytes"], dentry["slot_bytes"]) == (4096, 192)
    assert "node" not in dentry


def test_the_base_is_the_point_that_changes_nothing() -> None:
    assert invented.comparison("cpu_partial=0,default,30").base == 1
    assert invented.comparison("cpu_partial=0,30").base == 0


def test_records_have_one_row_per_point_cache_and_moment() -> None:
    found = invented.comparison("cpu_partial=0,30")
    assert [one["cpu_partial"] for one in found.to_records()] == [0, 30]
    assert len(found.caches()) == 2 * len(invented.NAMES)
    assert len(found.caches(nodes=True)) == 4 * len(invented.NAMES)
    moments = found.series()
    assert len(moments) == 8 and moments[4]["point"] == "cpu_partial=30"


def test_frames_hold_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    found = invented.comparison("cpu_partial=0,30")
    frame = found.to_frame()
    assert list(frame["list_lock"]) == [1000, 900]
    assert len(found.to_frame("nodes")) == len(found.caches(nodes=True))
    with pytest.raises(BadArgument, match="there are points, caches"):
        found.to_frame("rows")


def test_the_csv_has_every_cache(tmp_path: Path) -> None:
    found = invented.comparison("cpu_partial=0,30")
    found.to_csv(tmp_path / "caches.csv")
    with (tmp_path / "caches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cache"] for row in rows] == list(invented.NAMES) * 2


def test_the_table_measures_against_the_base() -> None:
    found = invented.comparison("cpu_partial=default,0")
    lines = shown(points_table(found)).splitlines()
    assert "remote frees" not in lines[0]  # nobody counted them
    assert "1,000" in lines[1] and "%" not in lines[1]
    assert "900" in lines[2] and "-10%" in lines[2]


def test_caches_that_differ_most_come_first() -> None:
    found = invented.comparison("cpu_partial=0,30")
    lines = shown(caches_table(found, 2)).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("<img")  # slabs of 16 KiB, two more of them


def test_charts_hold_the_figures() -> None:
    found = invented.comparison("cpu_partial=default,0")
    line = memory_over_time(found)["layer"][1]["data"]["values"]
    assert [row["seconds"] for row in line[:4]] == [0, 0.5, 1.0, 1.5]
    marks = trade(found)["data"]["values"]
    assert [row["cost"] for row in marks] == [1000, 900]
    bars = {row["cache"]: row["kib"] for row in changes(found)["data"]["values"]}
    assert bars["dentry"] == 2 * 4  # one slab more on each of two nodes
    with pytest.raises(BadArgument, match="no replay counted 'speed'"):
        trade(found, "speed")


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_becomes_a_picture(chart: str, tmp_path: Path) -> None:
    found = invented.comparison("cpu_partial=default,0,30", names=["dentry", "filp"])
    draw(found, chart, tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    assert text.startswith("<svg") and "cpu_partial=30" in text
    with pytest.raises(BadArgument, match=r"end it in \.svg"):
        draw(found, chart, tmp_path / "chart.gif")
    with pytest.raises(BadArgument, match="there are memory, trade, changes"):
        draw(found, "pie", tmp_path / "chart.svg")


def test_an_axis_of_far_apart_costs_is_logarithmic() -> None:
    found = invented.comparison("cpu_partial=default,0")
    assert "type" not in trade(found)["layer"][0]["encoding"]["x"]["scale"]
    found.outcomes[1].totals["list_lock"] = 1_000_000  # as SLOB's
    assert trade(found)["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


def test_the_footnote_says_what_the_trace_does_not_show() -> None:
    found = invented.comparison("cpu_partial=default,0")
    found.outcomes[0].header["implied_frees_share"] = 0.025
    text = footnote(found)
    assert "1,485,542 events of 6.18.15" in text
    assert "freed unseen: 2.50%" in text and "unknown objects" not in text
