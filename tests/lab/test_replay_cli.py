"""`uslub replay` and `uslub explain --from`: words in, text and status out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uslub.tools.cli import main

DATA = Path(__file__).parents[1] / "data" / "lab"
CACHES = str(DATA / "caches-6.18.trace.parquet")
NEW = str(DATA / "caches-7.3.trace.parquet")
MID = str(DATA / "mid-6.18.trace.parquet")

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds; what it prints."""

    def call(*words: str) -> str:
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that is refused with status 2; what it says."""

    def call(*words: str) -> str:
        assert main(list(words)) == 2
        found = capsys.readouterr()
        assert "Traceback" not in found.err and found.err.startswith("uslub: ")
        return found.err

    return call


def test_a_replay_prints_shares_totals_caches_and_the_ground(run: Run) -> None:
    text = run("replay", CACHES, "-N", "3")
    for word in (
        "replayed on design 6.18",
        "4 CPUs, 2 nodes, as traced",
        "unknown frees",
        "unseen frees",
        "kfree_rcu",
        "own objects",
        "large kmalloc",
        "lost events: 0",
        "model in CPython",
        "Slabs/Part/Cpu",
        "list_lock",
        "ping-pong",
        "predicted number of slabs beside the kernel's own counters",
        "growth error",
        "by pages",
    ):
        assert word in text, word
    assert "dentry" in text and "... 5 more (-N)" in text


def test_parameters_reach_the_replay(run: Run) -> None:
    words = ("--design", "classic", "--set", "cpu_partial=0", "--cpus", "2")
    plain = json.loads(run("replay", CACHES, *words, "--nodes", "1", "--json"))
    head = plain["header"]
    assert (head["design"], head["cpus"], head["nodes"]) == ("classic", 2, 1)
    assert head["settings"] == {"cpu_partial": 0}
    # A chain of one slab is always allowed: the next one drains it.
    chains = [record.get("chain", 0) for record in plain["caches"]]
    assert max(chains) <= 2 < plain["totals"]["cpu_partial_drain"]
    assert plain["series"]["time_ns"] and plain["caches"]


def test_one_cache_at_one_moment(run: Run) -> None:
    text = run("replay", CACHES, "--cache", "dentry", "--at", "files")
    assert text.count("\ndentry ") == 2, "then and at the end"
    assert "filp" not in text.split("predicted")[0].split("unseen")[1][120:]
    assert "(files), row" in text


def test_bounds_of_a_capture_that_begins_in_mid_life(run: Run) -> None:
    text = run("replay", MID, "--interval", "-N", "4")
    assert "caches inside their bounds at the last checkpoint" in text
    cells = [line.split() for line in text.splitlines()[-4:]]
    assert "mode           seeded" in text
    assert all(int(low) <= int(high) for _, low, high, _, _ in cells)
    assert {inside for *_, inside in cells} <= {"yes", "no"}


def test_records_can_be_written_as_csv_and_json(run: Run, tmp_path: Path) -> None:
    table, plain = tmp_path / "a.csv", tmp_path / "a.json"
    run("replay", CACHES, "--csv", str(table), "--json", str(plain))
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert {row["cache"] for row in rows} >= {"dentry", "filp"}
    data: dict[str, Any] = json.loads(plain.read_text(encoding="utf-8"))
    assert data["tool"] == "uslub replay" and data["ground"]["summary"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("replay", "no/such/file"), "no such file"),
        (("replay", CACHES, "--design", "slub"), "there are 5.10, classic"),
        (("replay", CACHES, "--set", "order"), "whole number"),
        (("replay", CACHES, "--cpus", "0"), "1 to 4096"),
        (("replay", CACHES, "--at", "never"), "a checkpoint: boot"),
        (("replay", CACHES, "--mode", "x"), "choose one of"),
        (("replay", CACHES, "--rcu-delay", "x"), "reuse"),
        (("replay", CACHES, "--ground", __file__), "ground file"),
        (("replay", CACHES, "--cache", "denty"), "did you mean 'dentry'"),
        (("explain", "--from", CACHES), "--cache"),
        (("explain", "--from", CACHES, "--cache", "x"), "has no cache 'x'"),
        (
            ("explain", "--from", CACHES, "--cache", "cred", "--design", "slab"),
            "choose one of SLUB's",
        ),
        (
            ("explain", "--from", CACHES, "--cache", "filp", "--at", "x"),
            "no moment 'x'",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    refuse: Run, words: tuple[str, ...], says: str
) -> None:
    assert says in refuse(*words)


def test_a_ground_file_of_another_boot_is_refused(refuse: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.ground.json"
    uname = "Linux x 6.1.0-1-amd64 #1 SMP x86_64"
    plain = {"uname": uname, "caches": {}, "snapshots": [], "cpu_nodes": {}}
    other.write_text(json.dumps(plain), encoding="utf-8")
    assert "another boot" in refuse("replay", CACHES, "--ground", str(other))


@pytest.mark.parametrize(
    ("until", "function"),
    [
        ("slow", "slab_alloc_slow|get_freelist|new_slab|slab_free_slow|pop_chain"),
        ("remote", "free on cpu"),
        ("drain", "the chain was full: it is drained"),
    ],
)
def test_a_moment_of_a_trace_is_drawn(run: Run, until: str, function: str) -> None:
    words = ("explain", "--from", CACHES, "--cache", "dentry", "--at", "files")
    text = run(*words, "--until", until, "--steps", "2", "--no-color")
    assert "dentry of 6.18.15" in text and "cpu 3  slab" in text
    assert "node 1 partial" in text and "more slabs" in text
    assert text.count(": allocation on cpu") + text.count(": free on cpu") == 2
    assert any(word in text for word in function.split("|"))
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_same_events_in_json_say_what_changed(run: Run) -> None:
    words = ("explain", "--from", NEW, "--cache", "filp", "--at", "files")
    story = json.loads(run(*words, "--steps", "4", "--json"))["stories"][0]
    done = [part for part in story["parts"] if part["kind"] == "done"]
    assert len(done) == 4
    assert all(part["counted"] for part in done), "every event moves a counter"
    assert all(part["before"] != part["after"] for part in done)


def test_an_event_that_never_comes_is_said(refuse: Run) -> None:
    words = ("explain", "--from", CACHES, "--cache", "cred", "--at", "end")
    assert "begin earlier" in refuse(*words, "--until", "drain")


def test_a_terminal_gets_a_bar_with_the_time_left(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["replay", CACHES, "-N", "1"]) == 0
    found = capsys.readouterr()
    assert "of 373,115 events" in found.err and "0:00:0" in found.err
    assert "of 373,115 events" not in found.out
