"""Replays of cuts of real traces: against the kernel's counters, and each other."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from uslub.lab.replay import (
    DESIGNS,
    BadSetting,
    Result,
    Settings,
    compare_ground,
    prepare,
    replay,
    replay_interval,
)
from uslub.lab.trace import EventsLost, Trace, open_trace
from uslub.model import Cache
from uslub.model.invariants import violations

DATA = Path(__file__).parents[1] / "data" / "lab"


@pytest.fixture(scope="module")
def caches() -> Trace:
    """The whole lives of some caches of a 6.18 kernel."""
    return open_trace(DATA / "caches-6.18.trace.parquet")


@pytest.fixture(scope="module")
def result(caches: Trace) -> Result:
    return replay(caches)


def test_the_kernels_number_of_slabs_is_met_at_every_checkpoint(
    caches: Trace, result: Result
) -> None:
    report = compare_ground(result, caches.checkpoints, caches.header)
    assert len(report.summary()) == 8 and report.missing == 0
    seen = [row for row in report.rows if row.cache not in report.rcu_caches]
    assert len(seen) >= 40
    assert all(abs(row.error) <= 2 for row in seen)
    exact = sum(row.verdict == "exact" for row in seen)
    assert exact >= 0.85 * len(seen)


def test_the_wrong_design_is_visibly_wrong(caches: Trace, result: Result) -> None:
    other = replay(caches, "7.1", own_objects="traced")
    right, wrong = (
        compare_ground(each, caches.checkpoints, caches.header)
        for each in (result, other)
    )
    for name in ("partial", "slabs"):
        errors = [
            sum(abs(row[name] - row[f"real_{name}"]) for row in report.summary())
            for report in (right, wrong)
        ]
        assert errors[1] > 3 * errors[0], name


def test_a_result_travels_between_processes(result: Result) -> None:
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result


def test_records_add_up(caches: Trace, result: Result) -> None:
    by_cache = {record["cache"]: record for record in result.to_records()}
    assert len(by_cache) == len(caches.header.caches)
    for record in by_cache.values():
        held = record["new_slabs"] - record["discarded_slabs"]
        assert record["slabs"] == held
        assert record["live"] <= record["slabs"] * record["objects_per_slab"]
        assert record["memory_bytes"] == record["slabs"] * record["slab_bytes"]
    for name in ("live", "slabs", "partial", "cpu_slabs", "list_lock", "double_cas"):
        total = sum(record.get(name, 0) for record in by_cache.values())
        assert result.totals[name] == total, name
    assert result.totals["live"] == result.series["live"][-1]
    assert result.totals["memory_bytes"] == result.series["memory_bytes"][-1]
    assert result.totals["live_bytes"] == result.series["live_bytes"][-1]


def test_allocations_and_frees_are_the_traces(caches: Trace, result: Result) -> None:
    kinds = caches.header.notes["rows by kind"]
    assert result.header["allocations"] == kinds["ALLOC"]
    frees = kinds["FREE"] + kinds["FREE_UNKNOWN"] + kinds["IMPLIED_FREE"]
    assert result.header["frees"] == frees
    live = kinds["ALLOC"] + result.header["strays"] - frees
    assert result.totals["live"] == live - result.header["delayed_frees"]


def test_the_series_is_ordered_and_complete(caches: Trace, result: Result) -> None:
    lengths = {len(column) for column in result.series.values()}
    assert len(lengths) == 1 and 100 < lengths.pop() <= 1000
    times = result.series["time_ns"]
    assert times == sorted(times)
    assert times[0] == caches.header.start_ns
    assert times[-1] == caches.header.start_ns + caches.header.span_ns
    locks = result.series["list_lock"]
    assert locks == sorted(locks)
    assert {len(column) for column in result.by_cache.values()} == {len(times)}


def test_a_moment_in_the_middle_does_not_disturb_the_rest(
    caches: Trace, result: Result
) -> None:
    seconds = (caches.header.start_ns + caches.header.span_ns // 2) / 1e9
    again = replay(caches, at=[seconds, "files"])
    assert again.caches == result.caches and again.series == result.series
    assert [moment.name for moment in again.moments] == ["files", str(seconds)]
    assert again.moments[0].row < again.moments[1].row < caches.header.events
    early = sum(r["live"] for r in again.moments[0].records if r["node"] >= 0)
    assert 0 < early != result.totals["live"]


@pytest.mark.parametrize("moment", ["nowhere", "-1", "1e9"])
def test_a_moment_outside_the_trace_is_refused(caches: Trace, moment: str) -> None:
    with pytest.raises(BadSetting, match="checkpoint: boot"):
        replay(caches, at=moment)


def test_every_design_has_the_same_live_objects(caches: Trace) -> None:
    first = caches.header.events // 15
    results = {
        design: replay(caches, design, stop=first, own_objects="traced")
        for design in DESIGNS
    }
    live = {design: found.totals["live"] for design, found in results.items()}
    assert len(set(live.values())) == 1, live
    locks = {design: found.totals["list_lock"] for design, found in results.items()}
    assert locks["slob"] == max(locks.values()), "one lock for everything"
    assert all(found.totals["memory_bytes"] > 0 for found in results.values())
    assert results["7.1"].totals["cpu_slabs"] == 0
    assert results["6.18"].totals["cpu_slabs"] > 0


def test_invariants_hold_after_a_real_life(caches: Trace) -> None:
    ready = prepare(caches, stop=caches.header.events // 3)
    ready.replayer.run()
    for _, cache in ready.machine.distinct():
        assert isinstance(cache, Cache)
        if not cache.sheaf_capacity:
            assert violations(cache.snapshot(), chain_frozen=False) == []


def test_a_shorter_chain_costs_more_locks_and_less_memory(caches: Trace) -> None:
    short, long = (
        replay(caches, settings=Settings(cpu_partial=wished), own_objects="made").totals
        for wished in (0, 480)
    )
    assert short["list_lock"] > 1.2 * long["list_lock"]
    assert short["peak_memory_bytes"] < long["peak_memory_bytes"]


@pytest.mark.parametrize(
    ("design", "settings"),
    [
        ("slab", Settings(cpu_partial=0)),
        ("slob", Settings(order=1)),
        ("7.1", Settings(cpu_partial=0)),
        ("classic", Settings(sheaf_capacity=4)),
    ],
)
def test_a_setting_that_a_design_lacks_is_refused(
    caches: Trace, design: str, settings: Settings
) -> None:
    with pytest.raises(BadSetting, match=f"design {design} has no"):
        replay(caches, design, settings)


def test_one_cpu_has_nobody_to_free_for(caches: Trace) -> None:
    part = caches.header.events // 8
    single = replay(caches, cpus=1, stop=part)
    assert single.header["topology"] == "folded" and single.header["nodes"] == 1
    assert single.totals["remote_frees"] == single.totals["cross_node_frees"] == 0
    wide = replay(caches, cpus=16, nodes=4, stop=part)
    assert wide.header["topology"] == "spread by task"
    assert wide.totals["memory_bytes"] > single.totals["memory_bytes"]


def test_unseen_frees_span_a_band(caches: Trace) -> None:
    by_delay = {
        delay: replay(caches, rcu_delay=delay, stop=caches.header.events // 2)
        for delay in ("0", "1s", "reuse")
    }
    live = {delay: found.totals["live"] for delay, found in by_delay.items()}
    assert live["0"] <= live["1s"] <= live["reuse"]
    assert by_delay["reuse"].header["delayed_frees"] == 0


def test_the_middle_of_a_life_lies_within_its_bounds() -> None:
    trace = open_trace(DATA / "mid-6.18.trace.parquet")
    assert not trace.header.whole_life
    report = replay_interval(trace)
    header = report.live.header
    assert header["mode"] == "seeded"
    assert header["initial_slabs"] > 50 and header["initial_slabs_never_touched"] > 1000
    judged = [number for number, point in enumerate(trace.checkpoints) if point.caches]
    assert len(judged) >= 2
    for number in judged[1:]:
        assert report.share_inside(number) >= 0.95
    empty = replay(trace, mode="warm-up")
    starting = compare_ground(empty, trace.checkpoints, trace.header).at(judged[1])
    off = sum(abs(row.error) for row in starting)
    wide = sum(
        max(row.low - (row.real or 0), (row.real or 0) - row.high, 0)
        for row in report.rows
        if row.checkpoint == judged[1]
    )
    assert wide * 20 < off, "starting empty is far worse"


@pytest.mark.parametrize(
    "option",
    [{"mode": "x"}, {"untouched": "x"}, {"own_objects": "x"}, {"rcu_delay": "x"}],
)
def test_an_unknown_choice_is_refused(caches: Trace, option: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        prepare(caches, **option)


def test_progress_is_told_in_rows(caches: Trace) -> None:
    told: list[tuple[int, int]] = []
    replay(caches, progress=lambda done, rows: told.append((done, rows)))
    assert all(rows == caches.header.events for _, rows in told)
    assert told[-1][0] == caches.header.events
    assert all(a[0] < b[0] for a, b in itertools.pairwise(told))


def test_lost_events_are_refused_or_widen_the_bars(
    caches: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = dataclasses.replace(caches.header, lost=caches.header.events // 9)
    monkeypatch.setattr(caches, "header", lossy)
    part = max(truth.row for truth in caches.checkpoints[0].caches.values()) + 1
    with pytest.raises(EventsLost, match="allow-loss"):
        replay(caches, stop=part)
    head = replay(caches, stop=part, allow_loss=True).header
    assert head["lost_share"] == pytest.approx(0.1, abs=0.001)
    assert head["error_slabs_share"] == pytest.approx(0.11, abs=0.001)
    bounds = replay_interval(caches, stop=part, allow_loss=True)
    monkeypatch.undo()
    narrow = replay_interval(caches, stop=part)
    assert len(narrow.rows) == len(caches.header.caches)
    assert all(
        wide.high - wide.low >= tight.high - tight.low + 0.1 * tight.high
        for wide, tight in zip(bounds.rows, narrow.rows, strict=True)
    )


def test_frames_need_pandas_and_say_so(result: Result) -> None:
    if find_spec("pandas") is None:
        with pytest.raises(ImportError, match="pip install pandas"):
            result.to_frame()
        return
    assert len(result.to_frame("series")) == len(result.series["time_ns"])
    assert len(result.to_frame("nodes")) == len(result.caches)
    assert len(result.to_frame()) == len(result.to_records())
    with pytest.raises(ValueError, match="caches, nodes or series"):
        result.to_frame("lists")
