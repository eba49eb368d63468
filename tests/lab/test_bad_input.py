"""Whatever is wrong with the input of the lab: one line that says it, status 2.

The same calls on a sound trace succeed, so that a refusal is of the input and not of
the call. No call here may end in a traceback: an exception that is not turned into a
line fails the test.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab import texts
from uslub.lab.trace import Trace, sample
from uslub.tools.cli import main

DATA = Path(__file__).resolve().parents[1] / "data" / "lab"
BOOT = DATA / "boot-6.18.trace.parquet"
LIFE = DATA / "caches-6.18.trace.parquet"
GOOD = texts.load()

#: What is done with a file; every command that takes a trace.
COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "trace info": lambda file: ["trace", "info", file],
    "trace convert": lambda file: ["trace", "convert", file, "-o", f"{file}.out"],
    "trace cut": lambda file: [
        "trace",
        "cut",
        file,
        "-o",
        f"{file}.cut",
        "--rows",
        "0:9",
    ],
    "replay": lambda file: ["replay", file, "--design", "6.18"],
    "compare": lambda file: [
        *("compare", file, "--grid", "design=6.18", "--no-store", "--jobs", "1")
    ],
}


def changed(old: str, new: str) -> bytes:
    """The sound text with something else in every line."""
    return texts.trace([line.replace(old, new) for line in GOOD]).encode()


def parquet_of_others() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2]}), sink)
    return sink.getvalue().to_pybytes()


def damaged(data: bytes) -> bytes:
    """Bytes in the middle turned over."""
    found = bytearray(data)
    for place in range(len(found) // 4, len(found) // 2):
        found[place] ^= 0x5A
    return bytes(found)


LOST = ["CPU:1 [LOST 12 EVENTS]\n"]
SOUND = texts.trace(GOOD).encode()

#: Name of a file, its bytes, words of the refusal.
BAD: list[tuple[str, bytes, str]] = [
    ("empty.txt", b"", "empty; expected a trace"),
    ("nothing-inside.txt", texts.trace([]).encode(), "no kmem event in it"),
    ("rubbish.bin", random.Random(6).randbytes(20_000), "binary data"),
    ("prose.txt", b"It was a dark and stormy night.\n" * 60, "no trace events"),
    ("cut-short.txt", SOUND[:-30], "the file was cut short"),
    ("cut-short.txt.gz", gzip.compress(SOUND)[:-200], "cannot be unpacked"),
    ("cut-short.trace.parquet", BOOT.read_bytes()[:40_000], "not a whole compact"),
    ("others.parquet", parquet_of_others(), "no trace of uslub"),
    ("lost.txt", texts.trace([*GOOD[:50], *LOST, *GOOD[50:]]).encode(), "dropped 12"),
    ("hashed.txt", changed("ptr=ffff8880", "ptr=00000000"), "addresses are hashed"),
    (
        "backwards.txt",
        texts.trace([*GOOD[100:], *GOOD[:100]]).encode(),
        "time goes back",
    ),
    ("no-size.txt", changed(" bytes_alloc=192", ""), "has no field bytes_alloc"),
    ("renamed.txt", changed("bytes_req=", "wanted="), "has no field bytes_req"),
]


def refused(
    words: list[str], capsys: pytest.CaptureFixture[str], status: int = 2
) -> str:
    """The one line that a refused call prints."""
    assert main(words) == status
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith("uslub: ") and heard.err.count("\n") == 1, heard.err
    return heard.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sound_trace_is_taken(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.txt").write_bytes(SOUND)
    assert main(COMMANDS[command](str(tmp_path / "good.txt"))) == 0, capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "data", "said"), BAD, ids=[name for name, *_ in BAD])
def test_a_bad_trace_is_refused_in_one_line(
    command: str,
    name: str,
    data: bytes,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    line = refused(COMMANDS[command](str(file)), capsys)
    compact = command == "trace convert" and name.endswith(".parquet")
    assert ("a compact trace already" if compact else said) in line
    assert {path.name for path in tmp_path.iterdir()} == {name}, "something was left"


@pytest.mark.parametrize("command", ["trace cut", "replay", "compare"])
def test_a_damaged_trace_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "damaged.trace.parquet"
    file.write_bytes(damaged(BOOT.read_bytes()))
    assert "the file is damaged" in refused(COMMANDS[command](str(file)), capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_such_file_and_a_folder_without_a_trace(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.txt")
    assert missing in refused(COMMANDS[command](missing), capsys)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert str(folder) in refused(COMMANDS[command](str(folder)), capsys)


@pytest.mark.parametrize("command", ["trace info", "replay", "compare"])
def test_a_loss_can_be_allowed(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lost.txt"
    file.write_bytes(next(data for name, data, _ in BAD if name == "lost.txt"))
    assert main([*COMMANDS[command](str(file)), "--allow-loss"]) == 0
    assert capsys.readouterr().out != ""


def test_a_trace_that_names_no_kernel_needs_a_design(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "good.txt"
    file.write_bytes(SOUND)
    assert "name the design" in refused(["replay", str(file)], capsys)
    assert "name the design" in refused(["compare", str(file), "--no-store"], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--design", "slap"], "did you mean 'slab'?"),
        (["--set", "cpu_partail=0"], "did you mean 'cpu_partial'?"),
        (["--set", "cpu_partial=many"], "give a whole number"),
        (["--set", "order=11"], "0 to 10"),
        (["--design", "slob", "--set", "order=1"], "design slob has no order"),
        (["--cpus", "0"], "1 to 4096"),
        (["--cpus", "2", "--nodes", "4"], "each node needs a CPU"),
        (["--at", "1000000"], "is not in the trace"),
        (["--at", "later"], "no moment 'later'"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(["replay", str(BOOT), *words], capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no ground file"),
        ("{", "no ground file"),
        ("[]", "no ground file"),
        (json.dumps({"caches": 3}), "ground file"),
    ],
    ids=["empty", "half", "a list", "without caches"],
)
def test_a_ground_file_that_is_none_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ground = tmp_path / "ground.json"
    ground.write_text(text)
    line = refused(["replay", str(BOOT), "--ground", str(ground)], capsys)
    assert said in line


def boot_ground(**other: object) -> str:
    """A ground file of the boot that LIFE is a cut of, but for what is given."""
    trace = Trace(LIFE)
    snapshots = [
        {
            "tag": point.name,
            "t_begin": point.time / 1e9,
            "caches": {"dentry": {"slabs": "5 N0=5", "partial": "1 N0=1"}},
        }
        for point in trace.checkpoints
    ]
    ground = {
        "uname": f"Linux (none) {trace.header.kernel} #1 SMP",
        "cpu_nodes": {"node0": "0-1", "node1": "2-3"},
        "caches": {"dentry": {}},
        "snapshots": snapshots,
    }
    return json.dumps({**ground, **other})


def later(seconds: float) -> list[dict[str, object]]:
    """The snapshots of a boot that came to each of them so much later."""
    found = json.loads(boot_ground())["snapshots"]
    return [{**each, "t_begin": each["t_begin"] + seconds} for each in found]


def test_a_ground_file_of_this_boot_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ground = tmp_path / "ground.json"
    ground.write_text(boot_ground())
    assert main(["replay", str(LIFE), "--ground", str(ground)]) == 0
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"uname": "Linux (none) 7.3.4 #1 SMP"}, "kernel 7.3.4"),
        ({"cpu_nodes": {"node0": "0-1"}}, "2 CPUs"),
        ({"snapshots": later(0.5)}, "checkpoint 'boot'"),
    ],
    ids=["another kernel", "another machine", "the same kernel booted again"],
)
def test_a_ground_file_of_another_boot_is_refused(
    other: dict[str, object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ground = tmp_path / "ground.json"
    ground.write_text(boot_ground(**other))
    line = refused(["replay", str(LIFE), "--ground", str(ground)], capsys)
    assert "of another boot" in line and said in line


def test_a_sample_that_does_not_exist_names_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sample("linux-6.18").is_file()
    for command in ("trace info", "replay", "compare"):
        line = refused(COMMANDS[command]("sample:linux-2.4"), capsys)
        assert "there is linux-6.18, linux-7.3" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay", ""], "no trace was named"),
        (["trace", "info", ""], "no trace was named"),
        (["compare", "", "--grid", "cpu_partial=0"], "no trace was named"),
        (["replay", "sample:linux-6.18", "--set", "sheaf_capacity=100000000"], "4096"),
        (["replay", "sample:linux-6.18", "--set", "order=-1"], "order=1"),
        (["replay", "sample:linux-6.18", "--set", "order=1,order=2"], "twice"),
        (["replay", "sample:linux-6.18", "--merge", "--nomerge"], "give one of them"),
        (["replay", "sample:linux-6.18", "-N", "-1"], "0 or more"),
        (["replay", "sample:linux-6.18", "--csv", "/nonexistent/x"], "cannot be"),
        (["explain", "--cache", "filp"], "--from TRACE"),
        (["explain", "sources", "--from", "sample:linux-6.18"], "give one of them"),
        (["explain", "--from", "", "--cache", "filp"], "no trace was named"),
    ],
)
def test_words_that_say_nothing_together(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_trace_is_not_written_over_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "good.trace.parquet"
    original = next(Path(__file__).parents[1].glob("data/lab/boot-6.18.trace.parquet"))
    trace.write_bytes(original.read_bytes())
    assert main(["trace", "cut", str(trace), "-o", str(trace), "--rows", "0:10"]) == 2
    assert "give another name" in capsys.readouterr().err
    assert trace.read_bytes() == original.read_bytes()
