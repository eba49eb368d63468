"""The compact file: what goes in comes out, from any row on, at its price."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lab.trace_lines import DATA, line, page, write
from uslub.lab.trace import (
    Kind,
    Trace,
    TraceError,
    cache_records,
    convert,
    cut,
    open_trace,
    page_truth,
    sample,
)
from uslub.lab.trace.store import CHUNK_ROWS

INTERFACE = {
    "time": "int64",
    "kind": "uint8",
    "cpu": "uint16",
    "cache": "int32",
    "object": "int64",
    "pointer": "uint64",
    "requested": "int32",
    "allocated": "int32",
    "node": "int16",
    "site": "int32",
    "pid": "int32",
    "flags": "uint32",
}
NAMES = tuple(INTERFACE)
BOOT = DATA / "boot-6.18.trace.parquet"
MID = DATA / "mid-6.18.trace.parquet"


def whole(
    trace: Trace, start: int = 0, stop: int | None = None
) -> dict[str, np.ndarray]:
    chunks = list(trace.chunks(start, stop))
    return {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks])
        for name in NAMES
    }


def test_columns_have_the_types_of_the_interface() -> None:
    chunk = next(open_trace(BOOT).chunks())
    assert [getattr(chunk, name).dtype.name for name in NAMES] == list(
        INTERFACE.values()
    )
    assert len(chunk) == CHUNK_ROWS


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 5), (65535, 65537), (99_990, None), (70_000, 70_000), (1, 100_000)],
)
def test_reading_may_begin_and_end_anywhere(start: int, stop: int | None) -> None:
    trace = open_trace(BOOT)
    every = whole(trace)
    chunks = list(trace.chunks(start, stop))
    first = start
    for chunk in chunks:
        assert chunk.start == first
        for name in NAMES:
            wanted = every[name][first : first + len(chunk)]
            assert (getattr(chunk, name) == wanted).all()
        first += len(chunk)
    assert first == (100_000 if stop is None else stop)


def test_rows_are_in_order_of_time_and_objects_in_order_of_birth() -> None:
    rows = whole(open_trace(MID))
    assert (np.diff(rows["time"]) >= 0).all()
    starts = np.isin(rows["kind"], (Kind.ALLOC, Kind.LARGE_ALLOC, Kind.FREE_UNKNOWN))
    assert (rows["object"][starts] == np.arange(starts.sum())).all()
    ends = np.isin(rows["kind"], (Kind.FREE, Kind.IMPLIED_FREE, Kind.LARGE_FREE))
    ended = rows["object"][ends]
    assert len(np.unique(ended)) == len(ended)  # nothing ends twice
    born = np.flatnonzero(starts)[ended]
    assert (born < np.flatnonzero(ends)).all()  # nor before it begins
    assert (rows["cache"][born] == rows["cache"][ends]).all()


def test_a_row_is_found_by_its_time() -> None:
    trace = open_trace(MID)
    time = whole(trace)["time"]
    for row in (0, 1, 70_000, len(time) - 1):
        assert trace.row_at(int(time[row])) == int(np.searchsorted(time, time[row]))
    assert trace.row_at(int(time[-1]) + 10**9) == len(time)
    assert trace.row_at(0) == 0


def test_another_process_can_be_handed_a_trace() -> None:
    trace = open_trace(BOOT)
    again = pickle.loads(pickle.dumps(trace))
    assert again.header == trace.header
    assert again.checkpoints == trace.checkpoints


@pytest.mark.parametrize("name", ["linux-6.18", "linux-7.3"])
def test_whole_lives_come_with_the_package_at_a_byte_an_event(name: str) -> None:
    trace = open_trace(sample(name))
    assert trace.header.events > 1_400_000
    assert trace.path.stat().st_size < 1.0 * trace.header.events
    assert (trace.header.whole_life, trace.header.nomerge, trace.header.lost) == (
        True,
        True,
        0,
    )
    assert len(trace.checkpoints) == 8
    assert trace.header.cpu_node == (0, 0, 1, 1)
    with pytest.raises(TraceError, match=r"linux-6\.18, linux-7\.3"):
        sample("linux-2.4")


def test_any_parquet_reader_opens_the_file() -> None:
    table = pq.read_table(BOOT)
    assert table.num_rows == 100_000
    assert table.column_names[:5] == ["step", "kind", "cpu", "cache", "age"]
    rows = whole(open_trace(BOOT))
    assert (
        np.cumsum(table["step"].to_numpy())[:65536] * 1000 == rows["time"][:65536]
    ).all()


def test_a_failed_conversion_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "t.trace.parquet"
    convert(write(tmp_path / "good.txt", line("kmalloc", 0x1000)), target)
    before = target.read_bytes()
    bad = write(
        tmp_path / "bad.txt", line("kmalloc", 0x1000), "CPU:0 [LOST 1 EVENTS]\n"
    )
    with pytest.raises(TraceError):
        convert(bad, target)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.txt", "good.txt", "t.trace.parquet",
    ]  # fmt: skip


def test_a_cache_s_record_is_what_its_rows_add_up_to() -> None:
    trace = open_trace(MID)
    rows, records = whole(trace), cache_records(trace)
    assert [record["cache"] for record in records] == [
        c.name for c in trace.header.caches
    ]
    for name in ("dentry", "kmalloc-96", "names_cache"):
        index = trace.header.cache_index(name)
        kinds = rows["kind"][rows["cache"] == index].tolist()
        record = records[index]
        assert record["allocs"] == kinds.count(Kind.ALLOC) > 0
        assert record["frees"] == kinds.count(Kind.FREE)
        assert record["implied_frees"] == kinds.count(Kind.IMPLIED_FREE)
        assert record["unknown_frees"] == kinds.count(Kind.FREE_UNKNOWN)
        begun = set(
            rows["object"][(rows["cache"] == index) & (rows["kind"] == Kind.ALLOC)]
        )
        ended = rows["object"][np.isin(rows["kind"], (Kind.FREE, Kind.IMPLIED_FREE))]
        assert record["live"] == len(begun - set(ended))


def test_rows_become_a_data_frame_where_pandas_is_installed() -> None:
    pytest.importorskip("pandas")
    chunk = next(open_trace(BOOT).chunks(5, 15))
    frame = chunk.to_frame()
    assert list(frame.columns) == list(INTERFACE)
    assert (frame["object"].to_numpy() == chunk.object).all()


def test_pandas_is_not_needed(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", line("kmalloc", 0x1000), line("kfree", 0x1000))
    missing = "raise ModuleNotFoundError('no pandas here', name='pandas')\n"
    (tmp_path / "pandas.py").write_text(missing)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from uslub.lab.trace import open_trace\n"
        f"print([len(chunk) for chunk in open_trace({str(source)!r}).chunks()])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[2]\n", "")


# -- cut -------------------------------------------------------------------------------


def test_a_window_is_a_recording_that_began_in_mid_life(tmp_path: Path) -> None:
    trace = open_trace(MID)
    rows = whole(trace)
    header = cut(trace, tmp_path / "c.trace.parquet", start=60_000, stop=70_000)
    part = open_trace(tmp_path / "c.trace.parquet")
    new = whole(part)
    kept = np.ones(10_000, bool)
    old = {name: each[60_000:70_000] for name, each in rows.items()}
    born = set(old["object"][old["kind"] == Kind.ALLOC].tolist())
    for at in np.flatnonzero(np.isin(old["kind"], (Kind.FREE, Kind.IMPLIED_FREE))):
        if int(old["object"][at]) not in born and old["kind"][at] == Kind.IMPLIED_FREE:
            kept[at] = False
    assert header.events == kept.sum()
    assert not header.whole_life
    for name in ("time", "cpu", "cache", "requested", "pid", "flags", "node"):
        assert (new[name] == old[name][kept]).all(), name
    unknown = new["kind"] == Kind.FREE_UNKNOWN
    older = [n not in born for n in old["object"][kept].tolist()]
    frees = np.isin(old["kind"][kept], (Kind.FREE, Kind.FREE_UNKNOWN))
    assert (unknown == (frees & older)).all()
    assert unknown.sum() > 50
    # An unknown free tells the address that its object had.
    address = dict(zip(rows["object"].tolist(), rows["pointer"].tolist(), strict=True))
    starts = rows["kind"] == Kind.ALLOC
    address = dict(
        zip(
            rows["object"][starts].tolist(),
            rows["pointer"][starts].tolist(),
            strict=True,
        )
    )
    for at in np.flatnonzero(unknown):
        number = int(old["object"][kept][at])
        assert new["pointer"][at] == address.get(number, new["pointer"][at])


def test_a_cut_of_caches_keeps_their_counters_and_lives(tmp_path: Path) -> None:
    trace = open_trace(MID)
    cut(trace, tmp_path / "c.trace.parquet", caches=["filp", "dentry"], pointers=False)
    part = open_trace(tmp_path / "c.trace.parquet")
    assert [info.name for info in part.header.caches] == ["filp", "dentry"]
    assert not part.header.pointers
    rows, new = whole(trace), whole(part)
    filp = trace.header.cache_index("filp")
    for kind in (Kind.ALLOC, Kind.FREE):
        wanted = rows["time"][(rows["cache"] == filp) & (rows["kind"] == kind)]
        assert (
            new["time"][(new["cache"] == 0) & (new["kind"] == kind)] == wanted
        ).all()
    for old, fresh in zip(trace.checkpoints, part.checkpoints, strict=True):
        if filp in old.caches:
            assert fresh.caches[0].slabs == old.caches[filp].slabs
            place = fresh.caches[0].row
            assert new["kind"][place] == Kind.CHECKPOINT
            assert new["time"][place] == old.caches[filp].time
    truth, cut_truth = page_truth(trace), page_truth(part)
    assert (cut_truth.cache == 0).sum() == (truth.cache == filp).sum()


def test_cuts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    trace, target = open_trace(MID), tmp_path / "c.trace.parquet"
    for options, text in (
        ({"start": 5, "stop": 5}, "no row from 5 to 5"),
        ({"caches": ["unicorn"]}, "has no cache 'unicorn'"),
    ):
        with pytest.raises(TraceError, match=text):
            cut(trace, target, **options)
    plain = open_trace(DATA / "caches-6.18.trace.parquet")
    with pytest.raises(TraceError, match="no addresses to keep"):
        cut(plain, target, pointers=True)
    assert not target.exists()


# -- page truth ------------------------------------------------------------------------


def test_slabs_are_the_pages_that_held_objects(tmp_path: Path) -> None:
    lines = []
    for n in range(10):
        lines.append(page("mm_page_alloc", 0x900 + n, at_us=n))
        lines.append(line("kmem_cache_alloc", (0x900 + n) << 12, name="a", at_us=n))
    source = write(
        tmp_path / "t.txt",
        *lines,
        page("mm_page_alloc", 0x500, at_us=20, order=1),
        page("mm_page_alloc", 0x600, at_us=21),  # holds no object: no slab
        line("kmem_cache_alloc", 0x501_040, name="b", at_us=22),
        line("kmem_cache_free", 0x501_040, name="b", at_us=23),
        page("mm_page_free", 0x500, at_us=24, order=1),
        page("mm_page_alloc", 0x501, at_us=25),
        line("kmem_cache_alloc", 0x501_040, name="a", at_us=26),
    )
    trace = open_trace(source)
    truth = page_truth(trace)
    assert truth.slabs(20).tolist() == [[10], [0]]
    assert truth.slabs(23).tolist() == [[10], [1]]
    assert truth.slabs(24).tolist() == [[10], [1]]
    assert truth.slabs(25).tolist() == [[10], [0]]
    assert truth.slabs(trace.header.events).tolist() == [[11], [0]]
    rows, number = truth.changes(1)
    assert (rows.tolist(), number.tolist()) == ([20, 24], [1, 0])


@pytest.mark.parametrize(("name", "exact"), [("linux-6.18", 240), ("linux-7.3", 210)])
def test_page_truth_grows_as_the_kernels_counters_do(name: str, exact: int) -> None:
    """Two witnesses that know nothing of each other, at every checkpoint of a life."""
    trace = open_trace(sample(name))
    truth = page_truth(trace)
    first = trace.checkpoints[0]
    for later in trace.checkpoints[1:]:
        same, total = 0, 0
        for cache, told in later.caches.items():
            if cache not in first.caches:
                continue
            before = first.caches[cache]
            grown = np.array(told.slabs) - np.array(before.slabs)
            seen = truth.slabs(told.row)[cache] - truth.slabs(before.row)[cache]
            same += bool((grown == seen).all())
            total += int((grown - seen).sum())
        assert same >= exact
        assert abs(total) <= (1 if name == "linux-6.18" else 30)


def test_without_page_events_there_is_no_page_truth(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "t.txt", line("kmalloc", 0x1000)))
    with pytest.raises(TraceError, match="no page truth"):
        page_truth(trace)
