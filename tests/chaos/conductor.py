"""One round of chaos: workers in one arena, and somebody who kills, stops and counts.

    python conductor.py SETTINGS-AS-JSON

Prints its outcome as JSON. The conductor keeps the arena and its channels, is never
killed, and calls nothing of the engine while workers are about; who watches the round
(`run_round`) bounds its time. When the time is over, everybody is killed, what they
left is reaped, and then the arena must be as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.oracle import C_WORKER, EXECING, LIVE, SITTING_DOWN, Chair, Oracle

HANG_SECONDS = 20.0
SETTLE_SECONDS = 60.0
TICK_SECONDS = 0.01
CACHES = (("small", 32), ("middle", 192), ("page", 1000), ("big", 6000))
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Round:
    """What one round is like."""

    kind: str  #: plain, tight (a small arena), full (/dev/shm) or group (memory limit)
    seed: int
    seconds: float
    arena_bytes: int = 32 << 20
    cpus: int = 2
    nodes: int = 1
    c_workers: int = 3
    python_workers: int = 2
    living_max: int = 9  #: with forks
    kills_per_second: float = 6.0
    stops_per_second: float = 3.0
    calm: bool = False  #: nobody ends before the round does


@dataclass
class Outcome:
    """What came of it; the counts of several rounds can be added."""

    rounds: int = 1
    seconds: float = 0.0
    operations: int = 0
    allocations: int = 0
    refused: int = 0  #: calls that failed as they may: no memory, busy, stale
    started: int = 0
    kills: int = 0
    oom_kills: int = 0
    stops: int = 0
    long_stops: int = 0  #: of a second and more
    forks: int = 0
    execs: int = 0
    thread_ends: int = 0  #: returned, cancelled, vanished
    thread_cancels: int = 0
    deaths: int = 0  #: of participants, in whatever way
    recoveries: int = 0  #: participants whose estate was settled
    recoveries_inside: int = 0  #: of them: died inside the allocator
    threads_settled: int = 0
    reap_max_ms: float = 0.0
    losses: int = 0  #: objects and pages that nobody holds and nobody can have
    doubles: int = 0  #: objects handed out twice, or with foreign contents
    hangs: int = 0
    violations: list[str] = field(default_factory=list)
    by_operation: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Counts add up; maxima do not."""
        for name, value in asdict(other).items():
            mine = getattr(self, name)
            if name == "reap_max_ms":
                self.reap_max_ms = max(mine, value)
            elif name == "by_operation":
                for key, count in value.items():
                    mine[key] = mine.get(key, 0) + count
            else:
                setattr(self, name, mine + value)


class Conductor:
    """The state of one round."""

    def __init__(self, settings: Round, group: str | None) -> None:
        import uslub

        self.settings, self.group = settings, group
        self.random = random.Random(settings.seed)
        self.outcome = Outcome()
        self.name = f"chaos-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.uslub = uslub
        self.arena = uslub.Arena.create(
            self.name, settings.arena_bytes, cpus=settings.cpus, nodes=settings.nodes
        )
        self.pristine = self.arena.info().free_pages
        file_bytes = self.arena.info().data_offset + settings.arena_bytes
        self.oracle = Oracle.create(file_bytes)
        self.caches = [
            self.arena.cache(name, size, flags=uslub.SLAB_NO_MERGE)
            for name, size in CACHES
        ]
        self.channels = [uslub.Channel(self.arena, size) for size in (4, 32)]
        head = self.oracle.head
        for i, channel in enumerate(self.channels):
            ctypes.memmove(head.channel[i], channel._send_handle(), 44)
        head.channels = len(self.channels)
        head.calm = settings.calm
        self.beats: dict[tuple[int, int], tuple[int, float]] = {}
        self.stopped: dict[int, tuple[int, float]] = {}  # chair: (pid, when to go on)
        self.sitting: dict[int, float] = {}
        self.killed: set[int] = set()
        self.pending: dict[int, str] = {}  # started, and on no chair yet

    # --- who is there ---

    def start_worker(self, language: str) -> None:
        dice = self.random
        fd, nbytes = str(self.oracle.fd), str(self.oracle.arena_bytes)
        seed = str(dice.getrandbits(32))
        if language == "C":
            threads = dice.choice((1, 2, 3))
            flags = "m" if threads > 1 and dice.random() < 0.3 else "-"
            argv = [str(C_WORKER), self.name, fd, nbytes, seed, str(threads), flags]
        else:
            worker = str(Path(__file__).with_name("worker.py"))
            argv = [sys.executable, worker, self.name, fd, nbytes, seed]
        argv.append("-1")
        if self.group is not None:
            enter = f'echo $$ > {self.group}/cgroup.procs && exec "$@"'
            argv = ["/bin/sh", "-c", enter, "sh", *argv]
        pid = os.posix_spawn(argv[0], argv, os.environ)
        self.pending[pid] = language
        self.outcome.started += 1

    def collect_children(self) -> None:
        """Ours and, because we are their subreaper, everybody's orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.pending.pop(pid, None)
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                if number == signal.SIGKILL:
                    if pid not in self.killed:
                        self.outcome.oom_kills += 1
                        if self.group is None:
                            self.accuse(f"pid {pid} was killed, and not by us")
                else:
                    self.accuse(f"pid {pid} died of {signal.Signals(number).name}")
            elif os.WEXITSTATUS(status) != 0:
                self.accuse(f"pid {pid} ended with {os.WEXITSTATUS(status)}")

    def accuse(self, text: str) -> None:
        self.outcome.violations.append(text)

    def count_chair(self, chair: Chair) -> None:
        out = self.outcome
        for name, count in zip(self.oracle.names, chair.done, strict=True):
            if count:
                out.by_operation[name] = out.by_operation.get(name, 0) + count
        out.refused += chair.refused
        out.reap_max_ms = max(out.reap_max_ms, chair.reap_max_ns / 1e6)
        out.deaths += 1
        if chair.heir:
            out.forks += 1

    def clear_chairs(self) -> None:
        """The dead stand up; what they held may be anybody's from now on."""
        now = time.monotonic()
        for i, chair in self.oracle.chairs():
            self.pending.pop(chair.pid, None)
            if chair.state == SITTING_DOWN:  # killed at that very moment?
                if now - self.sitting.setdefault(i, now) > 5:
                    del self.sitting[i]
                    self.oracle.lib.chaos_void(self.oracle.at, i)
                continue
            self.sitting.pop(i, None)
            if self.oracle.lib.chaos_gone(self.oracle.at, i):
                self.count_chair(chair)
                self.stopped.pop(i, None)
                for key in [key for key in self.beats if key[0] == i]:
                    del self.beats[key]
                self.oracle.lib.chaos_void(self.oracle.at, i)

    def living(self) -> list[tuple[int, Chair]]:
        return [
            (i, chair)
            for i, chair in self.oracle.chairs()
            if chair.state in (LIVE, EXECING)
        ]

    def fill_up(self) -> None:
        living = self.living()
        for language, wanted in (
            ("C", self.settings.c_workers),
            ("P", self.settings.python_workers),
        ):
            there = sum(chair.language == ord(language) for _, chair in living)
            there += sum(one == language for one in self.pending.values())
            for _ in range(wanted - there):
                self.start_worker(language)
        self.oracle.head.room = max(0, self.settings.living_max - len(living))

    # --- what is done to them ---

    def send_signal(self, i: int, chair: Chair, number: signal.Signals) -> bool:
        """Only to the process that sits there; a pid may have come again."""
        try:
            fd = os.pidfd_open(chair.pid)
        except OSError:
            return False
        try:
            if self.oracle.lib.chaos_gone(self.oracle.at, i):
                return False
            signal.pidfd_send_signal(fd, number)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def disturb(self) -> None:
        dice, s = self.random, self.settings
        living = self.living()
        if living and dice.random() < s.kills_per_second * TICK_SECONDS:
            weights = [3 if chair.language == ord("C") else 1 for _, chair in living]
            i, chair = dice.choices(living, weights)[0]
            self.killed.add(chair.pid)
            self.outcome.kills += self.send_signal(i, chair, signal.SIGKILL)
        if living and dice.random() < s.stops_per_second * TICK_SECONDS:
            i, chair = dice.choice(living)
            # Most go on soon; some are away for long, and the others must do without.
            rest = dice.choice((0.01, 0.05, 0.2, 0.2, 3.0))
            if i not in self.stopped and self.send_signal(i, chair, signal.SIGSTOP):
                self.stopped[i] = (chair.pid, time.monotonic() + rest)
                self.outcome.stops += 1
                self.outcome.long_stops += rest >= 1
        self.let_go_on(time.monotonic())

    def let_go_on(self, now: float) -> None:
        for i, (pid, when) in list(self.stopped.items()):
            chair = self.oracle.head.chairs[i]
            if chair.pid != pid:
                del self.stopped[i]
            elif now >= when:
                del self.stopped[i]
                self.send_signal(i, chair, signal.SIGCONT)
                for key in [key for key in self.beats if key[0] == i]:
                    del self.beats[key]

    def look_for_hangs(self) -> None:
        now = time.monotonic()
        for i, chair in self.living():
            if i in self.stopped:
                continue
            for number, thread in enumerate(chair.threads):
                if thread.tid == 0:
                    continue
                seen = self.beats.get((i, number))
                if seen is None or seen[0] != thread.beat:
                    self.beats[i, number] = (thread.beat, now)
                elif now - seen[1] > HANG_SECONDS:
                    self.report_hang(i, number)
                    self.send_signal(i, chair, signal.SIGKILL)
                    self.killed.add(chair.pid)
                    break

    def report_hang(self, i: int, number: int) -> None:
        chair = self.oracle.head.chairs[i]
        thread = chair.threads[number]
        self.outcome.hangs += 1
        what = self.oracle.names[thread.operation]
        self.accuse(
            f"chair {i}, pid {chair.pid} ({chr(chair.language)}), thread {number} has"
            f" been in '{what}' for {HANG_SECONDS} s; {threads_of(chair.pid)}"
        )

    def run(self) -> None:
        """All of the round but the end."""
        end = time.monotonic() + self.settings.seconds
        last = time.monotonic()
        while time.monotonic() < end:
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - last > 5:  # the machine was away, not they
                self.beats.clear()
            last = now
            self.collect_children()
            self.clear_chairs()
            self.fill_up()
            self.disturb()
            self.look_for_hangs()

    # --- the end ---

    def kill_all(self) -> None:
        """Until no chair is taken and nobody is on his way to one."""
        self.oracle.head.room = 0
        self.oracle.head.stop = self.settings.calm
        self.let_go_on(float("inf"))
        bound = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < bound:
            if not self.settings.calm:
                self.kill_who_is_there()
            self.collect_children()
            self.clear_chairs()
            if not self.pending and not list(self.oracle.chairs()):
                with contextlib.suppress(ChildProcessError):
                    if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                        continue
                    time.sleep(TICK_SECONDS)  # some are between fork() and a chair
                    continue
                return
            time.sleep(TICK_SECONDS)
        self.accuse("not everybody could be killed")

    def kill_who_is_there(self) -> None:
        for pid in list(self.pending):
            self.killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for i, chair in self.living():
            self.killed.add(chair.pid)
            self.outcome.kills += self.send_signal(i, chair, signal.SIGKILL)

    def settle(self) -> None:
        """Reap until nothing is left to do."""
        bound = time.monotonic() + SETTLE_SECONDS
        while True:
            start = time.monotonic()
            reaped = self.arena.reap()
            took = (time.monotonic() - start) * 1000
            self.outcome.reap_max_ms = max(self.outcome.reap_max_ms, took)
            if reaped.waiting == 0 and getattr(reaped, "doubtful", 0) == 0:
                return
            if time.monotonic() > bound:
                self.outcome.losses += reaped.waiting
                self.accuse(f"reap() comes to no end: {reaped}")
                return
            time.sleep(TICK_SECONDS)

    def judge(self) -> None:
        """Everything must be back."""
        out = self.outcome
        before = len(out.violations)
        self.channels.clear()
        gc.collect()
        self.settle()
        for finding in self.arena.validate()[:20]:
            self.accuse(f"validate: {finding}")
        for cache in self.arena.caches():
            snapshot = cache.snapshot()
            waiting = sum(len(cpu.freelist) for cpu in snapshot.cpus)
            held = sum(slab.inuse for slab in snapshot.slabs) - waiting
            if held:
                out.losses += held
                self.accuse(f"cache {cache.name}: {held} objects are nobody's")
            cache.shrink()
            if not cache.name.startswith(("kmalloc-", "dma-kmalloc-")):
                try:
                    cache.destroy()
                except self.uslub.Error as error:
                    self.accuse(f"destroy of {cache.name}: {error}")
        missing = self.pristine - self.arena.info().free_pages
        if missing:
            out.losses += missing
            self.accuse(f"{missing} pages are nobody's")
        if len(out.violations) != before:
            for person in self.arena.processes():
                self.accuse(f"left: {person}")
        self.count_recoveries()

    def count_recoveries(self) -> None:
        health = getattr(self.arena, "health", None)
        if health is None:
            return
        found = health()
        self.outcome.recoveries = found.processes
        self.outcome.recoveries_inside = found.inside
        self.outcome.threads_settled = found.threads
        self.outcome.reap_max_ms = max(self.outcome.reap_max_ms, found.max_ns / 1e6)

    def finish(self) -> None:
        out = self.outcome
        complaints = self.oracle.complaints()
        out.doubles += len(complaints)
        out.violations += complaints
        by = out.by_operation
        out.operations = sum(by.values())
        out.allocations = sum(
            by.get(name, 0)
            for name in ("alloc", "bulk alloc", "kmalloc", "large kmalloc")
        )
        out.execs = by.get("exec", 0)
        out.thread_cancels = by.get("thread is cancelled", 0)
        out.thread_ends = out.thread_cancels + sum(
            by.get(name, 0) for name in ("thread returns", "thread vanishes")
        )


def threads_of(pid: int) -> str:
    """Where the threads of a process sleep, as far as the kernel says."""
    parts = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        words = []
        for name in ("wchan", "syscall", "stack"):
            with contextlib.suppress(OSError):
                words.append(f"{name} {task.joinpath(name).read_text().strip()}")
        with contextlib.suppress(OSError):
            stat = task.joinpath("stat").read_text()
            words.append(f"state {stat[stat.rindex(')') + 2]}")
        parts.append(f"task {task.name}: " + ", ".join(words).replace("\n", " < "))
    return "; ".join(parts) or "it is gone"


def conduct(settings: Round, group: str | None) -> Outcome:
    """The round, from the arena's birth to its end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.monotonic()
    conductor = Conductor(settings, group)
    try:
        conductor.run()
        conductor.kill_all()
        conductor.judge()
        conductor.finish()
    finally:
        conductor.kill_all()
        conductor.uslub.Arena.unlink(conductor.name)
    conductor.outcome.seconds = time.monotonic() - start
    return conductor.outcome


# --- seen from outside ---

FULL_BYTES = 6 << 20
GROUP_BYTES = 96 << 20


def control_group() -> Path | None:
    """A memory control group of our own, if we may make one."""
    for root, knob in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"uslub-chaos-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / knob).write_text(str(GROUP_BYTES))
            return group
        except OSError:
            group.rmdir()
    return None


def small_dev_shm() -> list[str] | None:
    """What to put before a command so that its /dev/shm is small; None: impossible."""
    mount = f"mount -t tmpfs -o size={FULL_BYTES} tmpfs /dev/shm"
    unshare = ["unshare", "--mount"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode:
        return None
    return [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]


def run_round(settings: Round) -> Outcome:
    """A round in a process of its own, under whatever its kind asks for."""
    prefix: list[str] = []
    group: Path | None = None
    if settings.kind == "full":
        found = small_dev_shm()
        if found is None:
            return Outcome(rounds=0, skipped=["full: no mount namespaces here"])
        prefix = found
    if settings.kind == "group":
        group = control_group()
        if group is None:
            return Outcome(rounds=0, skipped=["group: no memory control group here"])
    try:
        return watch(settings, prefix, group)
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                group.rmdir()


def watch(settings: Round, prefix: list[str], group: Path | None) -> Outcome:
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    command = [*prefix, sys.executable, __file__, json.dumps(asdict(settings))]
    if group is not None:
        command.append(str(group))
    bound = settings.seconds + 2 * SETTLE_SECONDS + 2 * HANG_SECONDS
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            child.wait(bound)
        except subprocess.TimeoutExpired:
            where = threads_of(child.pid)
            return Outcome(hangs=1, violations=[f"the conductor hangs: {where}"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # workers, if it left any
            child.wait()
        out.seek(0)
        log.seek(0)
        text, said = out.read(), log.read().strip()
    try:
        answer: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return Outcome(violations=[f"no outcome, status {child.returncode}: {said}"])
    outcome = Outcome(**answer)
    if said:
        outcome.violations.append(f"on stderr: {said[:2000]}")
    return outcome


def main() -> None:
    """What `watch` starts."""
    settings = Round(**json.loads(sys.argv[1]))
    group = sys.argv[2] if len(sys.argv) > 2 else None
    print(json.dumps(asdict(conduct(settings, group))))


if __name__ == "__main__":
    main()
