"""`uslub reap`: what the dead held goes back, and what cannot is said."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("uslub._engine", reason="the extension is not built")

import uslub
from uslub.tools.cli import main


@pytest.fixture
def arena() -> Iterator[uslub.Arena]:
    name = f"reap-{os.getpid()}"
    with uslub.Arena.create(name, size="4MiB", cpus=1) as arena:
        yield arena
    uslub.Arena.unlink(name)


def test_what_a_killed_process_held_goes_back(
    arena: uslub.Arena, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = arena.cache("thing", 64)
    keep = cache.alloc()
    pid = os.fork()
    if pid == 0:
        held = [cache.alloc() for _ in range(5)]
        held.append(keep)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    # Whoever attaches reaps, too: the command tells of all of it.
    assert main(["reap", str(arena.name), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tool"] == "uslub reap" and answer["waiting"] == 0
    assert (answer["processes"], answer["objects"]) == (1, 5)
    assert (answer["threads"], answer["doubtful"]) == (0, 0)
    assert len(arena.processes()) == 1 and keep.holders == (0,)
    assert main(["reap", str(arena.name)]) == 0
    said = capsys.readouterr().out
    assert said == f"{arena.name}: 0 dead processes settled, 0 objects freed\n"
    keep.free()
    cache.destroy()
    assert arena.validate() == []


def test_an_arena_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", "no-such-arena"]) == 1
    assert "no arena 'no-such-arena'" in capsys.readouterr().err
