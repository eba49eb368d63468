"""Binary pages against the text that the kernel printed of the same buffer."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from lab.trace_lines import DATA
from uslub.lab.trace import EventsLost, Kind, NotATrace, Trace, TraceTruncated, convert
from uslub.lab.trace.errors import UnknownFields
from uslub.lab.trace.formats import number_of, parse_format
from uslub.lab.trace.ring import walk

RING = DATA / "ring-6.18"
FORMAT = RING / "events" / "kmem" / "kmem_cache_alloc" / "format"


def columns(path: Path) -> dict[str, np.ndarray]:
    with Trace(path) as trace:
        chunks = list(trace.chunks())
        found = {
            name: np.concatenate([getattr(chunk, name) for chunk in chunks])
            for name in ("time", "kind", "cpu", "object", "pointer", "pid", "flags")
        }
        names = [info.name for info in trace.header.caches] + ["-"]
        sites = [*trace.header.sites, "-"]
        found["cache"] = np.array(
            [names[i] for chunk in chunks for i in chunk.cache.tolist()]
        )
        found["site"] = np.array(
            [sites[i] for chunk in chunks for i in chunk.site.tolist()]
        )
        numbers = ("requested", "allocated", "node")
        for name in numbers:
            found[name] = np.concatenate([getattr(chunk, name) for chunk in chunks])
    return found


def test_pages_and_text_of_one_buffer_give_the_same_rows(tmp_path: Path) -> None:
    convert(RING, tmp_path / "ring.trace.parquet")
    convert(DATA / "ring-6.18.txt.zst", tmp_path / "text.trace.parquet")
    ring = columns(tmp_path / "ring.trace.parquet")
    text = columns(tmp_path / "text.trace.parquet")
    assert len(ring["kind"]) > 10_000
    # The text rounds to the nearest microsecond, the conversion of ns rounds down.
    assert set(np.unique(text.pop("time") - ring.pop("time"))) <= {0, 1000}
    for name, column in ring.items():
        assert (column == text[name]).all(), name


def test_times_in_ns_are_kept_when_asked_for(tmp_path: Path) -> None:
    convert(RING, tmp_path / "us.trace.parquet")
    convert(RING, tmp_path / "ns.trace.parquet", time_unit_ns=1)
    us, ns = (columns(tmp_path / f"{unit}.trace.parquet") for unit in ("us", "ns"))
    assert (ns["time"] // 1000 * 1000 == us["time"]).all()
    assert (ns["time"] % 1000).any()


def test_checkpoints_stand_in_the_pages(tmp_path: Path) -> None:
    convert(RING, tmp_path / "t.trace.parquet")
    trace = Trace(tmp_path / "t.trace.parquet")
    assert [each.name for each in trace.checkpoints] == ["before"]
    names = {trace.header.caches[i].name for i in trace.checkpoints[0].caches}
    assert names == {"dentry", "filp"}


def page(*events: bytes, time: int = 0, flags: int = 0, tail: bytes = b"") -> bytes:
    body = b"".join(events)
    whole = struct.pack("<QQ", time, len(body) | flags) + body + tail
    return whole.ljust(4096, b"\0")


def head(kind: int, delta: int) -> bytes:
    return struct.pack("<I", kind | delta << 5)


def test_every_kind_of_record_moves_time_and_place_as_described() -> None:
    events = (
        head(2, 10) + b"12345678",  # 8 bytes of data, 10 ns later
        head(30, 5) + struct.pack("<I", 1),  # time extend: (1 << 27) + 5
        head(0, 1)
        + struct.pack("<I", 12)
        + b"abcdefgh",  # length in the array: 8 bytes
        head(29, 7) + struct.pack("<I", 8) + b"gone",  # discarded: 4 + 8 bytes
        head(31, 9) + struct.pack("<I", 2),  # absolute: (2 << 27) + 9
        head(1, 3) + b"last",
        head(29, 0),  # the rest of the page is padding
    )
    data = page(*events, time=1000)
    found, missed, _ = walk(np.frombuffer(data + data, np.uint8), 4096, "test")
    first = [data[at : at + 8] for at in found.at[:3].tolist()]
    assert first == [b"12345678", b"abcdefgh", b"last" + head(29, 0)]
    assert found.time[:3].tolist() == [1010, 1010 + (1 << 27) + 5 + 1, (2 << 27) + 12]
    assert (found.time[3:] == found.time[:3]).all()
    assert (found.at[3:] == found.at[:3] + 4096).all()
    assert missed == 0


def test_pages_say_how_many_events_were_lost(tmp_path: Path) -> None:
    body = head(2, 10) + b"12345678"
    told = page(body, flags=3 << 30, tail=struct.pack("<Q", 77))
    found, missed, counted = walk(np.frombuffer(told, np.uint8), 4096, "test")
    assert (len(found.at), missed, counted) == (1, 1, 77)
    shutil.copytree(RING, tmp_path / "ring")
    raw = tmp_path / "ring" / "per_cpu" / "cpu0" / "trace_pipe_raw.zst"
    raw.unlink()
    raw.with_suffix("").write_bytes(told)
    with pytest.raises(EventsLost, match=r"dropped 77 events \(CPU 0: 77"):
        convert(tmp_path / "ring", tmp_path / "t.trace.parquet")
    assert not (tmp_path / "t.trace.parquet").exists()
    header = convert(tmp_path / "ring", tmp_path / "t.trace.parquet", allow_loss=True)
    assert header.lost == 77


def test_fields_are_found_by_the_format_file_not_by_version(tmp_path: Path) -> None:
    """A kernel that puts its fields elsewhere is read as well."""
    form = parse_format(FORMAT.read_text())
    assert form is not None
    assert (form.fields["ptr"].offset, form.fields["name"].is_text) == (16, True)
    old = (
        "name: kmem_cache_alloc\nID: 9\nformat:\n"
        "\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:const void * ptr;\toffset:24;\tsize:8;\tsigned:0;\n"
        "\tfield:size_t bytes_req;\toffset:32;\tsize:4;\tsigned:0;\n"
        "\tfield:size_t bytes_alloc;\toffset:36;\tsize:4;\tsigned:0;\n"
        '\nprint fmt: "x", { (unsigned long)(((gfp_t)(0x400000u))), "__GFP_ACCOUNT" }'
    )
    moved = parse_format(old)
    assert moved is not None
    assert moved.fields["ptr"].offset == 24
    assert moved.gfp == {0x400000: 1}
    with pytest.raises(UnknownFields, match="kmem_cache_alloc has no field ptr"):
        parse_format(old.replace("* ptr;", "* address;"))


def test_gfp_constants_are_computed_not_guessed() -> None:
    assert number_of("( unsigned long)(( gfp_t)((((1UL))) << (22)))") == 1 << 22
    assert number_of("(gfp_t)(0x400u|0x800u)") == 0xC00
    assert number_of("((gfp_t)(3)) & ~((gfp_t)(1))") == 2
    assert number_of("__import__('os')") is None
    assert number_of("1 << 99999999999") is None
    form = parse_format(FORMAT.read_text())
    assert form is not None
    assert form.gfp == {1 << 22: 1, 1 << 4: 2, 1 << 0: 4, 1 << 21: 8}


def test_a_page_cut_short_and_rubbish_are_refused(tmp_path: Path) -> None:
    shutil.copytree(RING, tmp_path / "ring")
    raw = tmp_path / "ring" / "per_cpu" / "cpu0" / "trace_pipe_raw.zst"
    raw.unlink()
    good = page(head(2, 10) + b"12345678")
    raw.with_suffix("").write_bytes(good + good[:100])
    with pytest.raises(TraceTruncated, match="100 bytes into a page of 4096"):
        convert(tmp_path / "ring", tmp_path / "t.trace.parquet")
    noise = np.random.default_rng(1).integers(0, 256, 8192, np.uint8)
    raw.with_suffix("").write_bytes(noise.tobytes())
    with pytest.raises(NotATrace, match="runs over the end of its page"):
        convert(tmp_path / "ring", tmp_path / "t.trace.parquet")


def test_pages_without_formats_are_refused(tmp_path: Path) -> None:
    shutil.copytree(RING / "per_cpu", tmp_path / "ring" / "per_cpu")
    with pytest.raises(NotATrace, match=r"expected events/kmem/\*/format"):
        convert(tmp_path / "ring", tmp_path / "t.trace.parquet")
    with pytest.raises(NotATrace, match="no trace_pipe_raw in it"):
        convert(RING / "events", tmp_path / "t.trace.parquet")


def test_streams_of_cpus_are_merged_in_time(tmp_path: Path) -> None:
    convert(RING, tmp_path / "t.trace.parquet", time_unit_ns=1)
    found = columns(tmp_path / "t.trace.parquet")
    assert (np.diff(found["time"]) >= 0).all()
    assert set(found["cpu"].tolist()) == {0, 1}
    crossed = np.flatnonzero(np.diff(found["cpu"].astype(int)))
    assert len(crossed) > 10
    assert (found["kind"] == Kind.CHECKPOINT).sum() == 4


# Of Linux 5.10, as its documentation and the fields of that time have it: no name, gfp
# bits of 4 bytes, allocations on a node with an event of their own.
COMMON = """format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;
\tfield:const void * ptr;\toffset:16;\tsize:8;\tsigned:0;
"""
SIZES = """\tfield:size_t bytes_req;\toffset:24;\tsize:8;\tsigned:0;
\tfield:size_t bytes_alloc;\toffset:32;\tsize:8;\tsigned:0;
\tfield:gfp_t gfp_flags;\toffset:40;\tsize:4;\tsigned:0;
"""
GFP = """\nprint fmt: "x", {(unsigned long)((( gfp_t)0x400000u)), "__GFP_ACCOUNT"}\n"""


def test_pages_of_5_10_are_read_by_their_formats(tmp_path: Path) -> None:
    formats = {
        "kmalloc": (300, SIZES + GFP),
        "kmalloc_node": (
            301,
            SIZES + "\tfield:int node;\toffset:44;\tsize:4;\tsigned:1;\n" + GFP,
        ),
        "kfree": (302, ""),
    }
    for name, (number, fields) in formats.items():
        folder = tmp_path / "ring" / "events" / "kmem" / name
        folder.mkdir(parents=True)
        (folder / "format").write_text(f"name: {name}\nID: {number}\n{COMMON}{fields}")

    def event(number: int, body: bytes) -> bytes:
        data = struct.pack("<HBBi", number, 0x10, 0, 77) + body
        return head(len(data) // 4, 1000) + data

    where = (0xFFFFFFFF81000100, 0xFFFF888000001000)
    sizes = struct.pack("<QQQQI", *where, 100, 128, 0x400CC0)
    pages = page(
        event(300, sizes + bytes(4)),
        event(302, struct.pack("<QQ", *where)),
        event(301, sizes + struct.pack("<i", 1)),
        event(999, bytes(8)),
        time=5_000_000,
    )
    raw = tmp_path / "ring" / "per_cpu" / "cpu3" / "trace_pipe_raw"
    raw.parent.mkdir(parents=True)
    raw.write_bytes(pages)
    header = convert(tmp_path / "ring", tmp_path / "t.trace.parquet")
    rows = columns(tmp_path / "t.trace.parquet")
    assert rows["kind"].tolist() == [Kind.ALLOC, Kind.FREE, Kind.ALLOC]
    assert rows["object"].tolist() == [0, 0, 1]
    assert rows["cache"].tolist() == ["kmalloc-cg-128"] * 3
    assert rows["node"].tolist() == [-1, -1, 1]
    assert rows["time"].tolist() == [5_001_000, 5_002_000, 5_003_000]
    assert set(rows["cpu"].tolist()) == {3}
    assert set(rows["pid"].tolist()) == {77}
    assert rows["site"][0] == "0xffffffff81000100"
    assert header.notes["other events, left out"] == {"event 999": 1}


def test_one_raw_file_is_read_with_the_formats_of_a_ground_file(tmp_path: Path) -> None:
    texts = {path.parent.name: path.read_text() for path in RING.rglob("kmem/*/format")}
    ground = tmp_path / "g.json"
    ground.write_text(json.dumps({"caches": {}, "snapshots": [], "formats": texts}))
    source = RING / "per_cpu" / "cpu1" / "trace_pipe_raw.zst"
    with pytest.raises(NotATrace, match="binary data"):
        convert(source, tmp_path / "t.trace.parquet")
    convert(source, tmp_path / "t.trace.parquet", ground=ground)
    rows = columns(tmp_path / "t.trace.parquet")
    assert set(rows["cpu"].tolist()) == {1}
    assert len(rows["kind"]) > 1000
