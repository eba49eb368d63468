"""Bad input: one clear exception each, one line on the command line, status 2."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.trace_lines import DATA, HEAD, line, write
from uslub.lab.trace import (
    ClockError,
    EventsLost,
    GroundMismatch,
    NotATrace,
    PointersHashed,
    ToolMissing,
    TraceError,
    TraceTruncated,
    UnknownFields,
    check_ground,
    load_ground,
    open_trace,
)
from uslub.tools.cli import main

Make = Callable[[Path], Path]
LINES = [line("kmalloc", 0x1000 + 64 * n, at_us=n) for n in range(50)]


def empty(folder: Path) -> Path:
    (folder / "t.txt").touch()
    return folder / "t.txt"


def comments_only(folder: Path) -> Path:
    return write(folder / "t.txt")


def cut_short(folder: Path) -> Path:
    return write(folder / "t.txt", *LINES, line("kmalloc", 0x9000)[:-20])


def packed_and_cut_short(folder: Path) -> Path:
    data = (DATA / "ftrace-6.18.txt.zst").read_bytes()
    (folder / "t.txt.zst").write_bytes(data[: len(data) // 2])
    return folder / "t.txt.zst"


def gzip_damaged(folder: Path) -> Path:
    data = bytearray(gzip.compress("".join(LINES).encode() * 100))
    data[12:52] = b"\xff" * 40
    (folder / "t.txt.gz").write_bytes(data)
    return folder / "t.txt.gz"


def rubbish(folder: Path) -> Path:
    (folder / "t.txt").write_bytes(random.Random(5).randbytes(10_000))
    return folder / "t.txt"


def rubbish_without_lines(folder: Path) -> Path:
    (folder / "t.txt").write_bytes(b"x" * (20 << 20))
    return folder / "t.txt"


def other_text(folder: Path) -> Path:
    return write(folder / "t.txt", *["once upon a time: there was\n"] * 40, head="")


def rubbish_inside(folder: Path) -> Path:
    noise = [f"%%{n} what is this\n" for n in range(200)]
    return write(folder / "t.txt", *LINES, *noise)


def hashed(folder: Path) -> Path:
    return write(folder / "t.txt", line("kmalloc", "000000000cc6ec8e"))


def hidden(folder: Path) -> Path:
    return write(folder / "t.txt", line("kmalloc", "(____ptrval____)"))


def backwards(folder: Path) -> Path:
    return write(
        folder / "t.txt",
        line("kmalloc", 0x1000, at_us=9_000_000),
        line("kfree", 0x1000, at_us=1_000_000, cpu=1),
    )


def counter_clock(folder: Path) -> Path:
    lines = [text.replace("0.0000", "     ") for text in LINES]
    return write(folder / "t.txt", *lines)


def renamed_field(folder: Path) -> Path:
    return write(folder / "t.txt", line("kmalloc", 0x1000).replace("ptr=", "address="))


def field_gone(folder: Path) -> Path:
    text = line("kmalloc", 0x1000).replace("bytes_req=64 ", "")
    return write(folder / "t.txt", text)


def sizes_unreadable(folder: Path) -> Path:
    text = line("kmalloc", 0x1000).replace("bytes_req=64", "bytes_req=many")
    return write(folder / "t.txt", text)


def lost_line(folder: Path) -> Path:
    return write(folder / "t.txt", LINES[0], "CPU:1 [LOST 1234 EVENTS]\n", LINES[1])


def overwritten(folder: Path) -> Path:
    head = HEAD.replace("9/9", "9/100")
    return write(folder / "t.txt", *LINES, head=head)


def parquet_of_others(folder: Path) -> Path:
    pq.write_table(pa.table({"a": [1]}), folder / "t.parquet")
    return folder / "t.parquet"


def parquet_cut_short(folder: Path) -> Path:
    data = (DATA / "boot-6.18.trace.parquet").read_bytes()
    (folder / "t.trace.parquet").write_bytes(data[:-1000])
    return folder / "t.trace.parquet"


def parquet_damaged(folder: Path) -> Path:
    data = bytearray((DATA / "boot-6.18.trace.parquet").read_bytes())
    data[2000:60000] = bytes(58000)
    (folder / "t.trace.parquet").write_bytes(data)
    return folder / "t.trace.parquet"


def missing(folder: Path) -> Path:
    return folder / "none.txt"


def bare_folder(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub"


CASES: list[tuple[Make, type[TraceError], str]] = [
    (empty, NotATrace, "empty; expected a trace"),
    (comments_only, NotATrace, "no kmem event in it"),
    (cut_short, TraceTruncated, "the last line has no end"),
    (packed_and_cut_short, TraceTruncated, "copy or record it again"),
    (gzip_damaged, NotATrace, "cannot be unpacked"),
    (rubbish, NotATrace, "binary data"),
    (rubbish_without_lines, NotATrace, "no line ends within"),
    (other_text, NotATrace, "40 of 40 lines are no trace events"),
    (rubbish_inside, NotATrace, "lines are no trace events, the first b'%%0 what"),
    (hashed, PointersHashed, r"hashed \(such as 0x000000000cc6ec8e\)"),
    (hidden, PointersHashed, "ptrval"),
    (backwards, ClockError, "time goes back by 8000.000 ms at row 1"),
    (counter_clock, NotATrace, "time in seconds on each line"),
    (
        renamed_field,
        UnknownFields,
        r"kmalloc has no field ptr \(its fields: accounted, address",
    ),
    (field_gone, UnknownFields, "no field bytes_req .its fields: .*bytes_alloc"),
    (sizes_unreadable, UnknownFields, "kmalloc has no field bytes_req"),
    (lost_line, EventsLost, r"dropped 1234 events \(CPU 1: 1234\)"),
    (overwritten, EventsLost, r"dropped 91 events \(overwritten: 91\)"),
    (parquet_of_others, NotATrace, "but no trace of uslub"),
    (parquet_cut_short, TraceTruncated, "not a whole compact trace"),
    (missing, TraceError, "no such file"),
    (bare_folder, NotATrace, "no trace_pipe_raw in it"),
]


@pytest.mark.parametrize(
    ("make", "error", "text"), CASES, ids=lambda each: getattr(each, "__name__", "")
)
def test_bad_input_is_one_exception_and_one_line(
    make: Make,
    error: type[TraceError],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=text) as raised:
        open_trace(source)
    assert type(raised.value) is error
    assert str(tmp_path) in str(raised.value)
    assert main(["trace", "info", str(source)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("uslub: ")
    assert sorted(tmp_path.rglob("*")) == before  # and nothing is left behind


def test_damage_inside_is_told_when_it_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet_damaged(tmp_path)
    with pytest.raises(TraceTruncated, match="row 0 and what follows cannot be read"):
        list(open_trace(source).chunks())
    assert main(["trace", "info", "--caches", str(source)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("make", [lost_line, overwritten])
def test_losses_are_taken_when_allowed_and_stay_in_the_header(
    make: Make, tmp_path: Path
) -> None:
    source = make(tmp_path)
    trace = open_trace(source, allow_loss=True)
    assert trace.header.lost in (1234, 91)
    assert trace.header.notes["lost"]
    with pytest.raises(EventsLost):  # whoever opens it next has to allow it again
        open_trace(source)
    with pytest.raises(EventsLost):
        open_trace(trace.path)


def test_a_tool_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = DATA / "trace-cmd-6.18.dat.zst"
    with pytest.raises(ToolMissing, match="apt-get install trace-cmd"):
        open_trace(shutil.copy(source, tmp_path / "t.dat.zst"))


def test_a_tool_that_fails_is_quoted(tmp_path: Path) -> None:
    if shutil.which("trace-cmd") is None:
        pytest.skip("trace-cmd is not installed")
    source = tmp_path / "t.dat"
    source.write_bytes(b"\x17\x08\x44tracing6\0" + b"\0" * 100)
    with pytest.raises(TraceError, match=r"t\.dat"):
        open_trace(source)


def ground(path: Path, *, tag: str = "boot", seconds: float = 8.821499) -> Path:
    caches = {"dentry": {"slab_size": 192, "object_size": 192, "order": 0}}
    read = {"dentry": {"slabs": {"total": 3, "N0": 3}, "t": seconds}}
    snapshot = {"tag": tag, "t_begin": seconds, "t_end": seconds, "caches": read}
    plain = {"caches": caches, "snapshots": [snapshot], "cpu_nodes": {"node0": "0-3"}}
    path.write_text(json.dumps(plain))
    return path


def test_a_ground_file_of_another_boot_is_refused(tmp_path: Path) -> None:
    trace = open_trace(DATA / "caches-6.18.trace.parquet")
    check_ground(trace, load_ground(ground(tmp_path / "same.json")))
    for changed, text in (
        (ground(tmp_path / "a.json", seconds=9.0), "'boot' was at 9.000000 s"),
        (ground(tmp_path / "b.json", tag="start"), "none of the trace's checkpoints"),
    ):
        with pytest.raises(GroundMismatch, match=text):
            check_ground(trace, load_ground(changed))
    plain = write(tmp_path / "t.txt", *LINES)
    with pytest.raises(GroundMismatch, match="checkpoints lie between"):
        open_trace(plain, ground=tmp_path / "same.json")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "no ground file"),
        (b"[]", "no ground file"),
        (b'{"caches": {}}\xff', "no ground file"),
        (b'{"caches": {"a": 1}, "snapshots": []}', "cannot be read"),
        (b'{"caches": {}, "snapshots": [{}]}', "cannot be read"),
    ],
)
def test_a_broken_ground_file_is_refused(
    data: bytes, text: str, tmp_path: Path
) -> None:
    (tmp_path / "g.json").write_bytes(data)
    with pytest.raises(TraceError, match=text):
        load_ground(tmp_path / "g.json")
