"""`uslub compare`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from uslub.lab.trace import Trace, cut
from uslub.tools.cli import advice, main

DATA = Path(__file__).resolve().parents[1] / "data" / "lab"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a short trace, and a store that the tests share."""
    path = tmp_path_factory.mktemp("cli")
    source = Trace(DATA / "caches-6.18.trace.parquet")
    cut(source, path / "dentry.trace.parquet", caches=["dentry"], level=1)
    return path


def uslub(folder: Path, *words: str) -> int:
    store = ["--store", str(folder / "store"), "--jobs", "1"]
    return main(["compare", str(folder / "dentry.trace.parquet"), *store, *words])


def test_the_table_has_a_row_per_point(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert uslub(folder, "--grid", "cpu_partial=default,0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["cpu_partial", "memory", "peak"]
    assert lines[1].startswith("default") and "%" not in lines[1]
    assert lines[2].startswith("0 ") and lines[2].count("%") >= 5
    assert lines[4].startswith("KiB at the end")
    assert lines[5].startswith("dentry")
    assert uslub(folder, "--grid", "cpu_partial=default,0", "-N", "0") == 0
    again = capsys.readouterr().out
    assert "KiB" not in again
    assert "2 of 2 points had been replayed before" in again


def test_json_is_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert uslub(folder, "--grid", "cpu_partial=default,0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tool"], found["schema"]) == ("uslub compare", 1)
    assert [one["point"] for one in found["points"]] == [
        {"cpu_partial": None},
        {"cpu_partial": 0},
    ]
    assert {one["cache"] for one in found["points"][0]["caches"]} == {"dentry"}


def test_the_files_are_written(folder: Path, tmp_path: Path) -> None:
    grid = ["--grid", "cpu_partial=default,0"]
    files = {name: tmp_path / name for name in ("a.html", "m.svg", "t.png", "c.csv")}
    plots = [f"memory={files['m.svg']}", f"--plot=trade={files['t.png']}"]
    more = ["--html", str(files["a.html"]), "--csv", str(files["c.csv"])]
    assert uslub(folder, *grid, *more, "--plot", *plots) == 0
    assert files["a.html"].read_text().startswith("<!doctype html>")
    assert files["m.svg"].read_text().startswith("<svg")
    assert files["t.png"].read_bytes().startswith(b"\x89PNG")
    with files["c.csv"].open(newline="") as file:
        assert [row["cache"] for row in csv.DictReader(file)] == ["dentry"] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "cpu_partail=0"], "did you mean 'cpu_partial'?"),
        (["--grid", "design=slap"], "did you mean 'slab'?"),
        (["--grid", "cpus"], "not of the form name=value,value"),
        (["--grid", "design=slob", "--grid", "order=1"], "no design of this grid"),
        (["--grid", "cpus=5000", "--no-store"], "grid point cpus=5000"),
        (["--plot", "pie=a.svg"], "expected CHART=FILE"),
        (["--plot", "memory=a.gif"], "ends in .svg, .png or .pdf"),
        (["--jobs", "0"], "0 jobs"),
    ],
)
def test_a_bad_question_is_one_line_and_status_2(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert uslub(folder, *words) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert said in heard.err and heard.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--html", "--csv", "--plot"])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_replayed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    where = str(tmp_path / "no" / "page.svg")
    word = f"memory={where}" if option == "--plot" else where
    assert uslub(folder, "--grid", "cpu_partial=0", option, word) == 2
    said = capsys.readouterr()
    assert f"{where}: cannot be written" in said.err and said.out == ""


def test_what_the_lab_needs_is_installed_as_one_part() -> None:
    for missing in ("pyarrow", "pyarrow.parquet", "vl_convert", "numpy"):
        assert "pip install uslub[lab]" in advice(missing)
    assert "uslub[demo]" in advice("PIL")
