"""The commands of `uslub` on real arenas: what they print and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import uslub
from uslub.tools import cli
from uslub.tools.cli import main
from uslub.tools.slabinfo import ACTIVITY_HEAD, PROC_HEAD, TABLE_HEAD

Capture = pytest.CaptureFixture[str]
LS_HEAD = ["NAME", "SIZE", "COMMITTED", "LIVE", "CACHES", "ALIVE", "DEAD"]
PROC_LINE = r"\S+ +\d+ +\d+ +\d+ +\d+ +\d+ : tunables +0 +0 +0 : slabdata +\d+ +\d+ +0"


@pytest.fixture
def arena() -> Iterator[uslub.Arena]:
    """Two caches in use, two names that share a third, which is empty."""
    name = f"test-cli-{os.getpid()}"
    with uslub.Arena.create(name, "16MiB", cpus=2, nodes=1) as made:
        try:
            frames = [made.cache("frame", 100_000).alloc(cpu=0) for _ in range(3)]
            message = made.cache("message", 64)
            messages = [message.alloc(cpu=0) for _ in range(200)]
            for n in range(0, 200, 2):
                messages[n].free(cpu=0)
            message.flush()
            made.cache("reply", 60, flags=uslub.SLAB_MERGE)
            made.cache("signal", 64, flags=uslub.SLAB_MERGE)
            yield made
            del frames, messages
        finally:
            if name in uslub.arenas():
                uslub.Arena.unlink(name)


def name_of(arena: uslub.Arena) -> str:
    assert arena.name
    return arena.name


def test_ls_counts_what_lives_in_an_arena(arena: uslub.Arena, capsys: Capture) -> None:
    status = main(["ls", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert status == int(any(line["error"] for line in found["arenas"]))
    assert (found["tool"], found["schema"]) == ("uslub ls", 1)
    (line,) = [line for line in found["arenas"] if line["name"] == arena.name]
    assert line["size"] == 16 << 20
    assert line["live_objects"] == 103
    assert line["caches"] == 3
    assert 0 < line["committed"] < 16 << 20
    assert line["error"] is None
    main(["ls"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == LS_HEAD
    (row,) = [row for row in rows if row.startswith(name_of(arena))]
    assert row.split()[1:3] == ["16.0", "MiB"] and " 103 " in row


def test_ls_does_not_count_itself_but_others(
    arena: uslub.Arena, capsys: Capture
) -> None:
    seen = subprocess.run(
        [sys.executable, "-m", "uslub", "ls", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [
        a for a in json.loads(seen.stdout)["arenas"] if a["name"] == name_of(arena)
    ]
    assert (line["alive"], line["dead"]) == (1, 0)
    assert line["processes"] == [{"pid": os.getpid(), "alive": True}]


def test_ls_shows_a_broken_arena_and_goes_on(
    arena: uslub.Arena, capsys: Capture
) -> None:
    broken = Path(f"/dev/shm/uslub.test-broken-{os.getpid()}")
    broken.write_bytes(b"no arena at all")
    try:
        assert main(["ls"]) == 1
    finally:
        broken.unlink()
    output = capsys.readouterr().out
    assert name_of(arena) in output
    assert f"{broken.name.removeprefix('uslub.')}: " in output


def test_info_is_the_slabinfo_table(arena: uslub.Arena, capsys: Capture) -> None:
    assert main(["info", name_of(arena)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == TABLE_HEAD.format(space="Space")
    assert [row.split()[0] for row in rows] == ["frame", "message"]
    main(["info", name_of(arena), "-z", "-f"])
    names = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["frame", "message", "reply"]
    main(["info", name_of(arena), "-e"])
    assert capsys.readouterr().out.splitlines()[1].startswith(":0000064 ")


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ("-D", ACTIVITY_HEAD),
        ("-T", "Slabcache Totals"),
        ("-X", "Slabcache Totals"),
        ("-n", "NUMA nodes           :     0"),
        ("-a", ":0000064     <- reply signal"),
        ("-L", TABLE_HEAD.format(space=" Loss")),
        ("-r", "Slabcache: frame            Aliases:  0 Order :  5 Objects: 3"),
    ],
)
def test_every_view_of_info_begins_with_its_head(
    option: str, first: str, arena: uslub.Arena, capsys: Capture
) -> None:
    assert main(["info", name_of(arena), option]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first


def test_info_of_one_cache_is_a_report(arena: uslub.Arena, capsys: Capture) -> None:
    for wanted in ("message", "^mess", "MESS"):
        assert main(["info", name_of(arena), wanted]) == 0
        output = capsys.readouterr().out
        assert output.startswith("Slabcache: message ")
        assert re.search(r"Fastpath +19\d ", output)
    main(["info", name_of(arena), "signal"])
    assert capsys.readouterr().out.startswith("Slabcache: :0000064")


def test_info_sorts_and_cuts(arena: uslub.Arena, capsys: Capture) -> None:
    main(["info", name_of(arena), "-P", "-N", "1"])
    assert capsys.readouterr().out.splitlines()[1].startswith("message ")
    main(["info", name_of(arena), "-S", "-N", "1", "-B"])
    assert "393216" in capsys.readouterr().out.splitlines()[1]
    main(["info", name_of(arena), "-a", "-1"])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_info_proc_has_the_format_of_the_kernel(
    arena: uslub.Arena, capsys: Capture
) -> None:
    assert main(["info", "--proc", name_of(arena)]) == 0
    first, second, *rows = capsys.readouterr().out.splitlines()
    assert (first, second) == PROC_HEAD
    assert [row.split()[0] for row in rows] == ["frame", "message", "reply"]
    assert all(re.fullmatch(PROC_LINE, row) for row in rows)


def test_info_json_says_everything_with_a_schema(
    arena: uslub.Arena, capsys: Capture
) -> None:
    assert main(["info", "--json", "-z", name_of(arena)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tool"], found["schema"]) == ("uslub info", 1)
    (one,) = found["arenas"]
    assert one["arena"]["name"] == arena.name
    caches = {cache["name"]: cache for cache in one["caches"]}
    assert caches["frame"]["objects"] == 3
    assert caches["reply"]["aliases"] == ["signal"]
    assert caches["reply"]["id"] == ":0000064"
    assert caches["message"]["stats"] == arena.cache("message").stats()
    assert caches["message"]["nodes"][0]["slabs"] == caches["message"]["slabs"]
    assert one["totals"]["caches"] == 3


def test_info_explains_its_columns_without_an_arena(capsys: Capture) -> None:
    assert main(["info", "--explain"]) == 0
    legend = capsys.readouterr().out
    words = TABLE_HEAD.format(space="Space").split()
    named = {word for line in legend.splitlines() for word in line.split("  ")[:1]}
    assert {word for word in words if word not in ("O/S",)} <= named | {"O/S"}


def test_info_offers_near_names(arena: uslub.Arena, capsys: Capture) -> None:
    assert main(["info", name_of(arena) + "x"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("uslub: ") and "Traceback" not in errors
    assert "did you mean " in errors and f"'{arena.name}'" in errors
    assert main(["info", name_of(arena), "mesage"]) == 1
    assert "did you mean 'message'?" in capsys.readouterr().err
    assert main(["info", name_of(arena), "("]) == 2


def test_validate_says_that_an_arena_is_sound(
    arena: uslub.Arena, capsys: Capture
) -> None:
    assert main(["validate", name_of(arena)]) == 0
    assert capsys.readouterr().out == f"{arena.name}: sound\n"
    assert main(["validate", name_of(arena), "signal", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arenas"] == [{"name": arena.name, "findings": [], "others": 0}]


def test_validate_prints_findings_and_fails(
    arena: uslub.Arena, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uslub.tools.commands import validate

    seen = validate.Look(["5 + 12 != 16"], others=1)
    monkeypatch.setattr(validate, "look", lambda name, cache: seen)
    assert main(["validate", name_of(arena)]) == 1
    assert capsys.readouterr().out == (
        f"{arena.name}: 5 + 12 != 16\n"
        f"{arena.name}: 1 finding; 1 process may be at work in it:"
        " ask again when they rest\n"
    )


def test_validate_of_a_file_that_is_no_arena_is_a_finding(capsys: Capture) -> None:
    broken = Path(f"/dev/shm/uslub.test-broken-{os.getpid()}")
    broken.write_bytes(bytes(1 << 20))
    broken.chmod(0o600)
    try:
        assert main(["validate", broken.name.removeprefix("uslub.")]) == 1
    finally:
        broken.unlink()
    assert capsys.readouterr().out.endswith(": 1 finding\n")


def test_shrink_gives_empty_slabs_back(arena: uslub.Arena, capsys: Capture) -> None:
    cache = arena.cache("burst", 4000)
    cache.free_bulk(cache.alloc_bulk(64))
    slabs = cache.info().slabs
    assert slabs > 0
    assert main(["shrink", name_of(arena), "burst"]) == 0
    expected = f"{arena.name}: {slabs} of {slabs} slab"
    assert capsys.readouterr().out.startswith(expected)
    assert cache.info().slabs == 0
    assert main(["shrink", name_of(arena), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tool"] == "uslub shrink"


def test_unlink_takes_the_name_and_leaves_the_memory(
    arena: uslub.Arena, capsys: Capture
) -> None:
    name = name_of(arena)
    assert main(["unlink", name]) == 0
    assert capsys.readouterr().out == f"{name}: unlinked\n"
    assert name not in uslub.arenas()
    assert arena.cache("frame").info().slabs == 3
    assert main(["unlink", name]) == 1
    assert capsys.readouterr().err.startswith("uslub: ")


def test_usage_errors_are_status_2(capsys: Capture) -> None:
    for words in ([], ["nonsense"], ["info", "--nonsense"], ["unlink"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    assert "usage: uslub" in capsys.readouterr().err


def test_a_missing_part_is_one_sentence(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("absent", "uslub.tools.absent", "is not there")
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, absent))
    assert main(["absent"]) == 2
    errors = capsys.readouterr().err
    assert "`uslub absent` is not part of this installation" in errors
    assert len(errors.splitlines()) == 1


def test_help_needs_no_command_to_be_imported(capsys: Capture) -> None:
    code = (
        "import sys, uslub.tools.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('uslub.tools.commands')"
        " or m.split('.')[0] in ('numpy', 'rich', 'PIL')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_is_no_error(arena: uslub.Arena) -> None:
    done = subprocess.run(
        f"{sys.executable} -m uslub info {arena.name} --json | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_colour_is_for_terminals_without_no_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from uslub.tools.text import style

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert style("a", "red", Terminal()) == "\x1b[31ma\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("a", "red", Terminal()) == "a"  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert style("a", "red", Terminal()) == "a"  # type: ignore[arg-type]


def test_bench_belongs_to_a_checkout(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uslub.tools.commands import bench

    monkeypatch.setattr(bench, "find_script", lambda: None)
    assert main(["bench", "--small"]) == 2
    assert "make bench" in capsys.readouterr().err


def test_info_without_a_name_shows_every_arena(
    arena: uslub.Arena, capsys: Capture
) -> None:
    other = f"{arena.name}-too"
    with uslub.Arena.create(other, "4MiB"):
        try:
            main(["info"])
            output = capsys.readouterr().out
            assert main(["info", "--proc"]) == 2
            assert "name one of" in capsys.readouterr().err
        finally:
            uslub.Arena.unlink(other)
    assert f"arena {arena.name}\n{TABLE_HEAD.format(space='Space')}\n" in output
    assert f"arena {other}\nno caches\n" in output
