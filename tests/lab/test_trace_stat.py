"""`uslub trace stat`: a trace added up, beside plain Python and beside perf itself."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uslub.lab.trace import Trace, TraceTruncated
from uslub.lab.trace.births import Births
from uslub.lab.trace.kinds import Kind
from uslub.lab.trace.kmem_stat import KEYS, LARGE, UNKNOWN, Group, ordered, stat
from uslub.lab.trace.store import plain
from uslub.lab.trace.sums import Sums, bucket_of, middle_of, quantiles
from uslub.tools.cli import main

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "lab"
CUTS = sorted(DATA.glob("*.trace.parquet"))
BOOT, MIDDLE = DATA / "boot-6.18.trace.parquet", DATA / "mid-6.18.trace.parquet"
WHOLE = [each.name for each in fields(Group) if each.type == "int"]


class Tally:
    """A group, added up one row after the other."""

    def __init__(self) -> None:
        self.of: dict[str, int] = dict.fromkeys(WHOLE, 0)
        self.ages: list[int] = []

    def allocate(self, row: dict[str, int]) -> None:
        self.of["hits"] += 1
        self.of["requested_bytes"] += row["requested"]
        self.of["allocated_bytes"] += row["allocated"]
        self.of["live_objects"] += 1
        self.of["live_bytes"] += row["allocated"]
        for what in ("objects", "bytes"):
            live, peak = self.of[f"live_{what}"], self.of[f"peak_{what}"]
            self.of[f"peak_{what}"] = max(live, peak)

    def free(self, row: dict[str, int], birth: dict[str, int]) -> None:
        self.of["live_objects"] -= 1
        self.of["live_bytes"] -= birth["allocated"]
        if row["kind"] == Kind.IMPLIED_FREE:
            self.of["implied_frees"] += 1
            return
        self.of["frees"] += 1
        self.of["freed_bytes"] += birth["allocated"]
        self.of["pingpong"] += row["cpu"] != birth["cpu"]
        self.ages.append(row["time"] - birth["time"])


def tallies(trace: Trace) -> dict[str, dict[str, Tally]]:
    """What `stat` should say, by kind of group and name; "total" is one of its own."""
    found: dict[str, dict[str, Tally]] = {"caller": {}, "cache": {}, "total": {}}
    births: dict[int, dict[str, int]] = {}
    names = ("time", "kind", "cpu", "cache", "object", "requested", "allocated", "site")
    for chunk in trace.chunks():
        columns = [getattr(chunk, name).tolist() for name in names]
        for values in zip(*columns, strict=True):
            row = dict(zip(names, values, strict=True))
            kind = row["kind"]
            if kind in (Kind.ALLOC, Kind.LARGE_ALLOC):
                births[row["object"]] = row
                for tally in groups(trace, found, row):
                    tally.allocate(row)
            elif kind in (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE):
                birth = births.pop(row["object"])
                for tally in groups(trace, found, birth):
                    tally.free(row, birth)
            elif kind == Kind.FREE_UNKNOWN:
                for tally in groups(trace, found, row)[1:]:
                    tally.of["unknown_frees"] += 1
    return found


def groups(
    trace: Trace, found: dict[str, dict[str, Tally]], row: dict[str, int]
) -> list[Tally]:
    """Those that a row belongs to: call site, cache, total."""
    site = trace.header.sites[row["site"]] if row["site"] >= 0 else UNKNOWN
    cache = UNKNOWN if row["cache"] < 0 else trace.header.caches[row["cache"]].name
    if row["kind"] == Kind.LARGE_ALLOC:
        cache = LARGE
    names = {"caller": site, "cache": cache, "total": "total"}
    if row["kind"] == Kind.FREE_UNKNOWN:
        found["caller"].setdefault("", Tally())
        names["caller"] = ""
    return [found[by].setdefault(name, Tally()) for by, name in names.items()]


def check_ages(group: Group, ages: list[int]) -> None:
    """Quantiles stand in the right bucket, an eighth of a power of two wide."""
    ages.sort()
    for found, share in (
        (group.lifetime_median_ns, 0.5),
        (group.lifetime_p99_ns, 0.99),
    ):
        if not ages:
            assert found is None
            continue
        exact = ages[ceil(share * len(ages)) - 1]
        assert found is not None
        assert abs(found - exact) <= exact / 8, (group.name, share)


@pytest.mark.parametrize("path", CUTS, ids=lambda path: path.name.split(".trace")[0])
def test_every_figure_is_that_of_plain_python(path: Path) -> None:
    trace = Trace(path)
    found, expected = stat(trace), tallies(trace)
    expected["caller"].pop("", None)
    for by in ("caller", "cache"):
        assert {each.name for each in found.groups(by)} == set(expected[by])  # type: ignore[arg-type]
    every = [("caller", each) for each in found.callers]
    every += [("cache", each) for each in found.caches]
    for by, group in [*every, ("total", found.total)]:
        tally = expected[by][group.name]
        assert {name: getattr(group, name) for name in WHOLE} == tally.of, group.name
        wasted = 1 - group.requested_bytes / max(group.allocated_bytes, 1)
        if group.allocated_bytes:
            assert group.fragmentation == pytest.approx(100 * wasted)
        check_ages(group, tally.ages)
    seen = sum(
        found.total.__dict__[name] for name in ("hits", "frees", "unknown_frees")
    )
    assert found.events == seen > 1000


def test_the_cuts_hold_every_kind_that_is_told_apart() -> None:
    found = [stat(Trace(path)).total for path in CUTS]
    for name in ("pingpong", "implied_frees", "unknown_frees", "live_objects"):
        assert any(getattr(each, name) for each in found), name


def test_the_peak_is_told_when_it_was() -> None:
    trace, live, at = Trace(MIDDLE), 0, []
    sizes: dict[int, int] = {}
    for chunk in trace.chunks():
        columns = (chunk.time, chunk.kind, chunk.object, chunk.allocated)
        for time, kind, thing, size in zip(*(c.tolist() for c in columns), strict=True):
            if kind in (Kind.ALLOC, Kind.LARGE_ALLOC):
                sizes[thing] = size
                live += size
            elif kind in (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE):
                live -= sizes[thing]
            at.append((live, time - trace.header.start_ns))
    highest = max(live for live, _ in at)
    found = stat(trace)
    assert found.total.peak_bytes == highest
    assert found.peak_ns == next(time for live, time in at if live == highest)


def test_allocations_for_another_node_are_counted() -> None:
    trace, other = Trace(MIDDLE), 0
    for chunk in trace.chunks():
        born = np.isin(chunk.kind, (Kind.ALLOC, Kind.LARGE_ALLOC))
        pairs = zip(chunk.node[born].tolist(), chunk.cpu[born].tolist(), strict=True)
        other += sum(
            node not in (-1, trace.header.cpu_node[cpu]) for node, cpu in pairs
        )
    assert stat(trace).cross_node == other > 0


def test_one_kind_of_groups_alone_is_the_same() -> None:
    trace = Trace(BOOT)
    both = stat(trace)
    callers, caches = stat(trace, by="caller"), stat(trace, by="cache")
    assert (callers.callers, callers.caches) == (both.callers, ())
    assert (caches.callers, caches.caches) == ((), both.caches)
    assert callers.total == caches.total == both.total


def test_records_become_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    found = stat(Trace(BOOT))
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["hits"].sum() == found.total.hits
    assert list(found.to_frame("caller")["name"]) == [g.name for g in found.callers]


@given(st.lists(st.integers(0, 2**62), min_size=1), st.floats(0.01, 1))
def test_a_quantile_stands_in_the_bucket_of_the_exact_one(
    values: list[int], share: float
) -> None:
    buckets = bucket_of(np.array(values, np.int64))
    exact = sorted(values)[ceil(share * len(values)) - 1]
    (found,) = quantiles(np.bincount(buckets)[None, :], share)
    assert found is not None
    assert abs(found - exact) * 8 <= exact


def test_small_values_have_buckets_of_their_own() -> None:
    values = np.arange(16)
    assert middle_of(bucket_of(values)).tolist() == values.tolist()


def test_the_longest_lifetime_has_a_bucket() -> None:
    sums = Sums(["all"], 1_000_000)
    group, age = np.zeros(1, np.int32), bucket_of(np.array([1_000_000]))
    sums.freed(group, np.ones(1), group[:0], age)
    assert quantiles(sums.lives, 1.0) == middle_of(age).tolist()


def test_columns_are_read_from_where_they_lie() -> None:
    parts = [pa.array([7, 8, 9], pa.int32())[1:], pa.array([1], pa.int32())]
    assert plain(pa.chunked_array(parts[:1])).tolist() == [8, 9]
    assert plain(pa.chunked_array(parts)).tolist() == [8, 9, 1]
    none = plain(pa.chunked_array([], pa.uint8()))
    assert (none.tolist(), none.dtype) == ([], np.uint8)
    with pytest.raises(pa.ArrowInvalid, match="1 values are missing"):
        plain(pa.chunked_array([[1, None]], pa.int32()))


@given(st.data())
def test_births_are_told_from_a_window_of_any_size(data: st.DataObject) -> None:
    births = Births(
        Path("trace"), groups=("cache",), window=data.draw(st.integers(1, 9))
    )
    alive: dict[int, int] = {}
    first = 0
    for _ in range(data.draw(st.integers(1, 12))):
        size = data.draw(st.integers(0, 12))
        numbers = [first + each for each in range(size) if data.draw(st.booleans())]
        first += size
        births.add(
            np.array(numbers, np.int64),
            time=np.array(numbers, np.int64) * 10,
            allocated=np.array(numbers, np.int32),
            cpu=np.zeros(len(numbers), np.uint16),
            cache=np.array(numbers, np.int32) + 7,
        )
        alive |= {number: 10 * number for number in numbers}
        gone = [number for number in alive if data.draw(st.booleans())]
        gone = data.draw(st.permutations(gone))
        found = births.take(np.array(gone, np.int64))
        assert found["time"].tolist() == [alive.pop(number) for number in gone]
        assert found["cache"].tolist() == [number + 7 for number in gone]
        assert len(births) == len(alive)


def test_births_do_not_keep_the_dead() -> None:
    births = Births(Path("trace"), window=64)
    columns = {"allocated": np.int32, "cpu": np.uint16, "time": np.int64}
    for first in range(0, 64_000, 32):
        numbers = np.arange(first, first + 32)
        births.add(numbers, **{n: np.zeros(32, kind) for n, kind in columns.items()})
        births.take(numbers[1:])  # one of 32 stays until later
        if first >= 320:
            births.take(numbers[:1] - 320)
    assert len(births) == 10
    assert births.held <= 64 + 2 * 64


@pytest.mark.parametrize("number", [-1, 5, 99])
def test_an_end_without_a_beginning_is_refused(number: int) -> None:
    births = Births(Path("odd.trace.parquet"), window=16)
    places = np.arange(40)
    births.add(places[:8], time=places[:8], allocated=places[:8], cpu=places[:8])
    births.add(places[30:], time=places[30:], allocated=places[30:], cpu=places[30:])
    assert births.take(np.array([5, 33]))["time"].tolist() == [5, 33]
    with pytest.raises(TraceTruncated, match=r"odd\.trace\.parquet.*not alive"):
        births.take(np.array([number, 34]))


# ----- beside perf itself


def lines_of_perf(text: str) -> dict[int, tuple[int, ...]]:
    """Address of the call site: bytes allocated, requested, hits, ping-pong."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[0].startswith("0x"):
            sizes = [int(cell.split("/")[0]) for cell in cells[1:5]]
            found[int(cells[0], 16)] = tuple(sizes)
    return found


@pytest.mark.parametrize("path", [BOOT, MIDDLE], ids=["boot", "mid"])
def test_perf_says_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "python"))
    perf_data: Any = importlib.import_module("perf_data")
    trace, data = Trace(path), tmp_path / "perf.data"
    written = perf_data.write(trace.chunks(), data)
    command = [
        "perf",
        "kmem",
        "-i",
        str(data),
        "--slab",
        "--caller",
        "--raw-ip",
        "stat",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = stat(trace)
    assert found.events == written
    names = (UNKNOWN, *trace.header.sites)
    theirs = {
        names[(address - int(perf_data.KERNEL_TEXT)) // 16]: sizes
        for address, sizes in lines_of_perf(done.stdout).items()
    }
    assert len(theirs) > 100
    assert {
        each.name: (
            each.allocated_bytes,
            each.requested_bytes,
            each.hits,
            each.pingpong,
        )
        for each in found.callers
    } == theirs
    said = (done.stdout + done.stderr).replace(",", "")
    total = found.total
    for label, value in (
        ("requested", total.requested_bytes),
        ("allocated", total.allocated_bytes),
        ("freed", total.freed_bytes),
    ):
        assert re.search(rf"Total bytes {label}: +{value}\n", said), label
    assert f"Internal fragmentation: {total.fragmentation:.6f}%" in said
    # Which of them are across nodes, perf asks the machine that it runs on.
    assert f"/{total.hits}\n" in said


# ----- the command


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["trace", "stat", *words]) == 0
    return capsys.readouterr().out


def test_the_command_prints_what_the_function_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = stat(Trace(BOOT))
    text = said(capsys, str(BOOT), "-l", "3")
    first, *rows = text.split("\n\n")[0].splitlines()
    assert first.startswith("cache ")
    assert [row.split()[0] for row in rows[:3]] == [g.name for g in found.caches[:3]]
    assert rows[3:] == [f"... {len(found.caches) - 3} more (-l)"]
    assert f"Total bytes requested: {found.total.requested_bytes:,}\n" in text
    assert f"{found.total.implied_frees:,} implied" in text
    both = said(capsys, str(BOOT), "--caller", "--cache", "-l", "0")
    names = [line.split()[0] for line in both.splitlines() if line]
    for group in (*found.callers, *found.caches):
        assert group.name.split()[0] in names


@pytest.mark.parametrize("key", KEYS)
def test_lines_come_in_the_order_asked_for(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, str(MIDDLE), "--caller", "--json", "--sort", key, "-l", "0")
    callers = json.loads(text)["stat"]["callers"]
    values = [-1 if each[KEYS[key]] is None else each[KEYS[key]] for each in callers]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 5


def test_json_holds_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    found = stat(Trace(BOOT))
    document = json.loads(said(capsys, str(BOOT), "--caller", "--alloc", "--json"))
    assert (document["tool"], document["schema"]) == ("uslub trace stat", 1)
    plain = document["stat"]
    assert plain["callers"] == found.to_records("caller")[:20]
    assert plain["caches"] == found.to_records("cache")[:20]
    assert plain["total"]["hits"] == found.total.hits
    assert plain["cross_node"] == found.cross_node
    keys = ["hit", "bytes"]
    one = json.loads(said(capsys, str(BOOT), "--json", "-s", "hit,bytes", "-l", "2"))
    assert "callers" not in one["stat"]
    names = [group.name for group in ordered(found.caches, keys)[:2]]
    assert [each["name"] for each in one["stat"]["caches"]] == names


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--sort", "frag,size"], "'size'.*frag, hit"),
        (["-l", "-1"], "-1.*0 for all"),
    ],
)
def test_a_question_that_cannot_be_answered_ends_with_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", "stat", str(BOOT), *words]) == 2
    assert re.search(text, capsys.readouterr().err)


def test_reading_numbers_does_not_import_pandas() -> None:
    code = f"""
import sys
from uslub.lab.trace import Trace
from uslub.lab.trace.kmem_stat import stat
assert stat(Trace({str(BOOT)!r})).total.hits
sys.exit("pandas" in sys.modules)
"""
    pytest.importorskip("pandas")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
