"""`uslub doctor`: looks at the dead, the stopped and the poisoned; moves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uslub._engine", reason="the extension is not built")

import uslub
from uslub._engine import _examine
from uslub.info import ThreadInfo
from uslub.tools import diagnosis
from uslub.tools.cli import main
from uslub.tools.commands import doctor
from uslub.tools.commands.reap import report as reap_report
from uslub.tools.diagnosis import Diagnosis, Participant

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def arena() -> Iterator[uslub.Arena]:
    name = f"doctor-{os.getpid()}"
    with uslub.Arena.create(name, size="4MiB", cpus=1) as arena:
        yield arena
    with contextlib.suppress(uslub.ArenaNotFound):
        uslub.Arena.unlink(name)


@pytest.fixture
def child(arena: uslub.Arena) -> Iterator[Callable[..., int]]:
    """Makes a forked participant that does something and then waits; ended later.

    waits=False: it does not come to an end, and nobody waits until it has.
    """
    made: list[int] = []

    def fork(action: Callable[[], object], *, waits: bool = True) -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            kept = action()
            os.write(write, b"!")
            while kept is not made:
                signal.pause()
        made.append(pid)
        assert not waits or os.read(read, 1) == b"!"
        os.close(read)
        os.close(write)
        return pid

    yield fork
    for pid in made:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ask(arena: uslub.Arena, capsys: Capture) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main(["doctor", str(arena.name), "--json"])
    return status, json.loads(capsys.readouterr().out)


def say(arena: uslub.Arena, capsys: Capture) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["doctor", str(arena.name)])
    return status, capsys.readouterr().out


def path_of(arena: uslub.Arena) -> Path:
    return Path(f"/dev/shm/uslub.{arena.name}")


def poisoned_offset(arena: uslub.Arena) -> int:
    """Of `us_header.poisoned`: the word that makes attach refuse and is no checksum.

    Tried out on a copy, word by word, so that a change of the layout does not matter.
    """
    copy = f"{arena.name}-copy"
    source, target = path_of(arena), Path(f"/dev/shm/uslub.{arena.name}-copy")
    target.touch(0o600)
    with open(target, "r+b") as file:
        file.truncate(source.stat().st_size)
        file.write(source.read_bytes()[: 64 << 10])
        file.flush()
        try:
            for offset in range(72, 4096, 4):
                old = os.pread(file.fileno(), 4, offset)
                os.pwrite(file.fileno(), struct.pack("<I", 1), offset)
                try:
                    uslub.Arena.attach(copy).close()
                except uslub.Poisoned:
                    return offset
                except uslub.Error:
                    pass
                os.pwrite(file.fileno(), old, offset)
        finally:
            target.unlink()
    raise AssertionError("no word of the header poisons an arena")


# -- real processes ----------------------------------------------------------------


def test_an_arena_at_rest_is_healthy(arena: uslub.Arena, capsys: Capture) -> None:
    arena.cache("thing", 64).alloc().free()
    status, seen = ask(arena, capsys)
    assert (status, seen["tool"], seen["schema"]) == (0, "uslub doctor", 1)
    assert seen["healthy"] and seen["findings"] == [] and seen["error"] is None
    assert seen["name"] == arena.name and seen["doubtful"] == []
    (process,) = seen["processes"]
    assert (process["pid"], process["state"]) == (os.getpid(), "alive")
    (thread,) = process["threads"]
    assert set(thread) == {f.name for f in dataclasses.fields(ThreadInfo)}
    assert thread["operation"] == "" and thread["locks"] == 0 and not thread["dead"]
    assert set(seen["health"]) == {f.name for f in dataclasses.fields(uslub.Health)}
    status, text = say(arena, capsys)
    assert status == 0
    assert f"{os.getpid()}" in text and text.endswith(f"{arena.name}: healthy\n")


def test_the_dead_are_seen_before_anybody_settles_them(
    arena: uslub.Arena, child: Callable[..., int], capsys: Capture
) -> None:
    cache = arena.cache("thing", 64)
    pid = child(lambda: cache.alloc_bulk(5))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for _ in range(2):  # looking settles nothing
        status, seen = ask(arena, capsys)
        (dead,) = [p for p in seen["processes"] if p["state"] == "dead"]
        assert (status, dead["pid"], seen["healthy"]) == (1, pid, False)
    status, text = say(arena, capsys)
    assert status == 1
    assert f"process {pid} is dead and not settled" in text
    assert f"`uslub reap {arena.name}`" in text and "1 finding" in text
    assert main(["reap", str(arena.name)]) == 0
    told = f"{arena.name}: 1 dead process settled, 5 objects freed"
    assert capsys.readouterr().out.startswith(told)
    status, seen = ask(arena, capsys)
    assert status == 0 and seen["health"]["processes"] == 1


def test_a_stopped_process_at_rest_is_shown_and_no_finding(
    arena: uslub.Arena, child: Callable[..., int], capsys: Capture
) -> None:
    cache = arena.cache("thing", 64)
    pid = child(lambda: cache.alloc())
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    status, seen = ask(arena, capsys)
    assert {p["pid"]: p["state"] for p in seen["processes"]}[pid] == "stopped"
    assert status == 0
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, os.WCONTINUED)
    _, seen = ask(arena, capsys)
    assert {p["pid"]: p["state"] for p in seen["processes"]}[pid] == "alive"


@pytest.fixture
def worker(arena: uslub.Arena, child: Callable[..., int]) -> Callable[..., int]:
    """A participant that allocates, frees and shrinks until a SIGTERM ends it."""

    def start(*, shrinks: bool = True) -> int:
        cache = arena.cache("thing", 64)
        ready, write = os.pipe()

        def work() -> None:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # between two calls
            os.write(write, b"!")
            while shrinks:
                with contextlib.suppress(uslub.LockTimeout):
                    cache.free_bulk(cache.alloc_bulk(200))
                    cache.shrink()
            while True:
                cache.alloc().free()

        pid = child(work, waits=False)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        os.close(write)
        return pid

    return start


def stop_when(cache: uslub.Cache, pid: int, wanted: Callable[[], bool]) -> None:
    """SIGSTOP, at ever new instructions, until `wanted` says that one will do."""
    chance = random.Random(1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        target = work_in(cache) + chance.randrange(600)
        while work_in(cache) < target and time.monotonic() < end:
            pass
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        if wanted():
            return
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, os.WCONTINUED)
    raise AssertionError("no stop was where it was wanted")


def work_in(cache: uslub.Cache) -> int:
    return sum(cache.stats().values())


def locks_of(arena: uslub.Arena, pid: int) -> int:
    (slot,) = [p.slot for p in arena.processes() if p.pid == pid]
    return sum(each.locks for each in arena.threads() if each.process == slot)


def operation_of(arena: uslub.Arena, pid: int) -> str:
    (slot,) = [p.slot for p in arena.processes() if p.pid == pid]
    return "".join(t.operation for t in arena.threads() if t.process == slot)


def test_a_process_stopped_inside_a_call_is_named_with_what_it_does(
    arena: uslub.Arena, worker: Callable[..., int], capsys: Capture
) -> None:
    pid = worker()
    stop_when(arena.cache("thing"), pid, lambda: ask(arena, capsys)[0] == 1)
    _, seen = ask(arena, capsys)
    (process,) = [p for p in seen["processes"] if p["pid"] == pid]
    assert process["state"] == "stopped"
    assert any(each["operation"] or each["locks"] for each in process["threads"])
    (finding,) = seen["findings"]
    assert f"process {pid} is stopped" in finding and f"kill -CONT {pid}" in finding
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert arena.reap().waiting == 0 and ask(arena, capsys)[0] == 0


def test_one_killed_inside_the_allocator_is_seen_mended_and_counted(
    arena: uslub.Arena, worker: Callable[..., int], capsys: Capture
) -> None:
    pid = worker()
    stop_when(arena.cache("thing"), pid, lambda: locks_of(arena, pid) > 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    status, text = say(arena, capsys)
    assert status == 1
    assert f"process {pid} is dead and not settled (in the middle of: " in text
    assert main(["reap", str(arena.name)]) == 0
    assert "1 dead process settled" in capsys.readouterr().out
    status, seen = ask(arena, capsys)
    assert status == 0 and seen["health"]["inside"] == 1
    assert seen["health"]["last_ns"] > 0 and seen["health"]["last_at"] > 10**18
    assert "1 had died inside the allocator" in say(arena, capsys)[1]
    assert arena.validate() == []


def test_the_lock_of_a_stopped_process_is_an_error_that_says_what_to_do(
    arena: uslub.Arena, worker: Callable[..., int], capsys: Capture
) -> None:
    cache = arena.cache("thing", 64)
    pid = worker()
    said: list[str] = []

    def refuses() -> bool:
        if locks_of(arena, pid):
            try:
                cache.shrink()
            except uslub.LockTimeout as error:
                said.append(str(error))
        return bool(said)

    stop_when(cache, pid, refuses)
    assert "uslub doctor" in said[0]
    status, text = say(arena, capsys)
    assert status == 1 and f"process {pid} is stopped and holds " in text
    # The others go on without it.
    cache.free_bulk(cache.alloc_bulk(500))
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0) == (pid, 0)
    cache.shrink()
    arena.reap()
    assert arena.validate() == []


def test_a_dead_process_waits_for_a_stopped_one_and_is_settled_after_it(
    arena: uslub.Arena, worker: Callable[..., int], capsys: Capture
) -> None:
    cache = arena.cache("thing", 64)
    dying = worker(shrinks=False)
    stop_when(cache, dying, lambda: operation_of(arena, dying) in ("alloc", "free"))
    stopping = worker()

    def refuses() -> bool:
        if locks_of(arena, stopping):
            with contextlib.suppress(uslub.LockTimeout):
                cache.shrink()
                return False
            return True
        return False

    stop_when(cache, stopping, refuses)
    os.kill(dying, signal.SIGKILL)
    os.waitpid(dying, 0)
    assert main(["reap", str(arena.name)]) == 1
    assert "1 dead process has to wait" in capsys.readouterr().out
    status, text = say(arena, capsys)
    assert status == 1 and f"when process {stopping}, which is stopped, goes on" in text
    os.kill(stopping, signal.SIGCONT)
    os.kill(stopping, signal.SIGTERM)
    assert os.waitpid(stopping, 0) == (stopping, 0)
    assert main(["reap", str(arena.name)]) == 0
    assert arena.validate() == []


def test_a_pid_that_now_is_somebody_else_is_unknown(arena: uslub.Arena) -> None:
    (own,) = arena.processes()
    assert own.alive and diagnosis.state_of(own) == "alive"
    for change in (
        {"start_time": own.start_time + 1},
        {"pid_namespace": own.pid_namespace + 1},
        {"pid_namespace": 0},
        {"pid": 0},
    ):
        other = dataclasses.replace(own, **change)  # type: ignore[arg-type]
        assert diagnosis.state_of(other) == "unknown"
    assert diagnosis.state_of(dataclasses.replace(own, alive=False)) == "dead"


# -- an arena that cannot be attached ----------------------------------------------


def test_a_poisoned_arena_is_refused_and_diagnosed(
    arena: uslub.Arena, capsys: Capture
) -> None:
    arena.cache("thing", 64).alloc()
    offset = poisoned_offset(arena)
    name = str(arena.name)
    arena.close()
    with open(path_of(arena), "r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<I", 1), offset)
    with pytest.raises(uslub.Poisoned, match="poisoned"):
        uslub.Arena.attach(name)
    status, seen = ask(arena, capsys)
    assert status == 1 and seen["health"]["poisoned"] and seen["error"] is None
    status, text = say(arena, capsys)
    assert status == 1 and "the arena is poisoned" in text
    assert f"uslub unlink {name}" in text and "nobody has it attached" in text
    assert main(["ls"]) == 1
    assert f"{name}: arena" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["magic", "version", "checksum", "length"])
def test_a_file_that_is_no_arena_any_more_is_a_finding(
    arena: uslub.Arena, capsys: Capture, damage: str
) -> None:
    arena.close()
    with open(path_of(arena), "r+b") as file:
        if damage == "length":
            file.truncate(8192)
        else:
            place = {"magic": 0, "version": 8, "checksum": 40}[damage]
            os.pwrite(file.fileno(), b"\xff\xff", place)
    status, seen = ask(arena, capsys)
    assert status == 1 and seen["health"] is None and seen["processes"] == []
    assert seen["findings"] == [seen["error"]] != [None]
    status, text = say(arena, capsys)
    assert status == 1 and text.endswith(f"{arena.name}: 1 finding\n")


def test_flipped_words_elsewhere_are_looked_at_and_never_a_crash(
    arena: uslub.Arena,
) -> None:
    """In a copy, every word of the header that may change, and of the tables."""
    arena.cache("thing", 64).alloc()
    copy = Path(f"/dev/shm/uslub.{arena.name}-copy")
    copy.touch(0o600)
    content = path_of(arena).read_bytes()[: 256 << 10]
    try:
        with open(copy, "r+b") as file:
            file.truncate(path_of(arena).stat().st_size)
            file.write(content)
            file.flush()
            for offset in (*range(900, 1400, 4), *range(4096, len(content), 972)):
                old = content[offset : offset + 4]
                os.pwrite(file.fileno(), b"\xff\xff\xff\xff", offset)
                with contextlib.suppress(uslub.CorruptArena):
                    _examine(f"{arena.name}-copy")
                os.pwrite(file.fileno(), old, offset)
    finally:
        copy.unlink()


def test_an_arena_that_is_not_there(capsys: Capture) -> None:
    assert main(["doctor", "no-such-arena"]) == 1
    assert "no arena 'no-such-arena'" in capsys.readouterr().err


# -- words -------------------------------------------------------------------------

with uslub.Arena.create(size="1MiB") as fresh:
    HEALTHY = fresh.health()


def thread(operation: str = "", locks: int = 0, dead: bool = False) -> ThreadInfo:
    return ThreadInfo(3, 1, 77, operation, "thing", locks, dead)


def someone(state: str, *threads: ThreadInfo) -> Participant:
    return Participant(1, 1234, state, threads)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            Diagnosis(
                "a", None, HEALTHY, (someone("stopped", thread("shrink", locks=1)),)
            ),
            ("holds a lock (shrink of 'thing')", "kill -CONT 1234", "LockTimeout"),
        ),
        (
            Diagnosis("a", None, HEALTHY, (someone("stopped", thread("alloc")),)),
            ("in the middle of: alloc;", "nobody waits", "kill -KILL 1234"),
        ),
        (
            Diagnosis("a", None, HEALTHY, (someone("stopped", thread("repair")),)),
            ("in the middle of a repair", "the dead wait"),
        ),
        (
            Diagnosis("a", None, HEALTHY, (someone("alive", thread("free", 0, True)),)),
            ("thread 77 of process 1234 ended inside a call (free)", "uslub reap a"),
        ),
        (Diagnosis("a", None, HEALTHY, (), ("frame",)), ("cache 'frame' is in doubt",)),
        (
            Diagnosis("a", None, dataclasses.replace(HEALTHY, poisoned_slabs=2)),
            ("2 slabs and 0 objects are poisoned",),
        ),
        (
            Diagnosis("a", None, dataclasses.replace(HEALTHY, pages_doubtful=True)),
            ("counters of free pages are in doubt",),
        ),
    ],
)
def test_a_finding_says_who_what_and_what_to_do(
    seen: Diagnosis, words: tuple[str, ...]
) -> None:
    (finding,) = seen.findings
    for word in words:
        assert word in finding
    assert doctor.report(seen)[-1] == "a: 1 finding"
    assert doctor.document(seen)["healthy"] is False


def test_the_dead_wait_for_the_stopped_by_name() -> None:
    stopper = Participant(2, 99, "stopped", (thread("shrink", locks=2),))
    dead = someone("dead", thread("alloc, slow path", locks=1))
    seen = Diagnosis("a", None, HEALTHY, (dead, stopper))
    first, second = seen.findings
    assert "in the middle of: alloc, slow path of 'thing'" in first
    assert "when process 99, which is stopped, goes on or ends" in first
    assert "holds 2 locks (shrink of 'thing')" in second
    nothing_else = Participant(1, 1, "dead", (thread("", locks=1),))
    assert "in the middle of: holding a lock" in diagnosis.dead(nothing_else, seen)


def test_threads_at_work_and_the_unknown_are_no_finding() -> None:
    child = Participant(1, 0, "unknown", (thread("free"),))
    seen = Diagnosis("a", None, HEALTHY, (child, someone("alive", thread("alloc", 1))))
    assert seen.findings == []
    assert any("the child in slot 1" in line for line in doctor.report(seen))


def test_what_recovery_did_is_told_with_units() -> None:
    past = dataclasses.replace(
        HEALTHY, processes=2, inside=1, caches=1, last_at=10**18, last_ns=1_234_567
    )
    first, second = doctor.history(past)
    assert "2 dead processes" in first and "1 had died inside the allocator" in first
    assert "1.23 ms" in second and "the longest 0 ns" in second
    assert [doctor.span(n) for n in (5, 5_000, 2 * 10**9)] == ["5 ns", "5 us", "2 s"]


def test_reap_says_why_the_dead_wait_and_what_helps() -> None:
    lines = reap_report("a", uslub.Reaped(2, 1, 5, 1, 3, 1))
    assert lines[0] == (
        "2 dead processes and 1 thread that ended inside a call settled,"
        " 5 objects freed, 3 caches rebuilt"
    )
    assert "1 dead process has to wait" in lines[1] and "uslub doctor a" in lines[1]
    assert "1 cache will be rebuilt once more" in lines[2]
