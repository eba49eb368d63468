"""`uslub trace`: what it prints, and that it is thin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.trace_lines import DATA, line, write
from uslub.lab.trace import open_trace
from uslub.tools.cli import main

MID = str(DATA / "mid-6.18.trace.parquet")


def test_convert_writes_a_compact_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(DATA / "ftrace-6.18.txt.zst")
    target = tmp_path / "out.trace.parquet"
    assert main(["trace", "convert", source, "-o", str(target)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{target}: 5,448 rows")
    assert "bytes a row" in said
    assert open_trace(target).header.cpus == 4


def test_info_tells_kernel_rows_and_checkpoints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trace", "info", "sample:linux-6.18"]) == 0
    said = capsys.readouterr().out
    for text in (
        "6.18.15+deb13-cloud-amd64, 4 CPUs, 2 nodes, caches apart",
        "since the kernel started, clock global",
        "lost       0 events",
        "free unknown            25",
        "page truth 5,",
        "boot (row 786,644)",
        "frees of NULL: 48,489",
        "implied frees: page given back: 6,852",
    ):
        assert text in said


def test_info_for_programs_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "info", "--json", MID]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["tool"], document["schema"]) == ("uslub trace info", 1)
    assert document["trace"]["events"] == 112_921
    assert [each["name"] for each in document["trace"]["checkpoints"]][:1] == ["boot"]


def test_info_lists_the_busiest_caches_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trace", "info", "--caches", MID]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(n for n, text in enumerate(lines) if text.startswith("cache "))
    allocs = [int(text.split()[4].replace(",", "")) for text in lines[head + 1 :]]
    assert len(allocs) == 256
    assert allocs == sorted(allocs, reverse=True)
    assert allocs[0] > 0


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--rows", "100:350"], 250),
        (["--time", "0:10ms"], None),
        (["--rows", "112000:"], 921),
    ],
)
def test_cut_takes_rows_or_times(
    words: list[str], rows: int | None, tmp_path: Path
) -> None:
    target = tmp_path / "c.trace.parquet"
    assert main(["trace", "cut", MID, *words, "-o", str(target)]) == 0
    header = open_trace(target).header
    if rows is None:
        assert 0 < header.span_ns < 10_000_000
    else:
        assert header.events == rows


@pytest.mark.parametrize(
    "words",
    [
        ["cut", MID, "--rows", "a:b", "-o", "x"],
        ["cut", MID, "--rows", "1:2", "--time", "1:2", "-o", "x"],
        ["cut", MID, "--rows", "1.5:2", "-o", "x"],
        ["cut", MID, "--cache", "unicorn", "-o", "x"],
        ["convert", MID, "-o", "x"],
        ["convert", MID, "-o", "x", "--level", "77"],
        ["info", "sample:none"],
    ],
)
def test_what_cannot_be_answered_is_one_line_and_status_2(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_loss_is_allowed_by_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "CPU:1 [LOST 5 EVENTS]\n"
    source = str(write(tmp_path / "t.txt", line("kmalloc", 0x1000), lost))
    assert main(["trace", "info", source]) == 2
    assert "dropped 5 events" in capsys.readouterr().err
    assert main(["trace", "info", "--allow-loss", source]) == 0
    assert "lost       5 events" in capsys.readouterr().out
