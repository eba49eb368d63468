"""Chaos: workers killed, stopped, forked and execed under load, and what came of it.

    python dev/chaos.py [--minutes M] [--seed N] [--out FOLDER]
    python dev/chaos.py --document FILE

The first runs rounds of tests/chaos/conductor.py for M minutes (2), each in a new arena
and under other conditions, prints the figures, and writes chaos.json into
bench/results/DATE-MACHINE-chaos/ (a run of less than two minutes: build/chaos). Exit
status 1: something was lost, handed out twice, or hung. The second writes the table of
docs/reliability.md from such a file. `make chaos MINUTES=5` does the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

import machine  # noqa: E402

from chaos.conductor import Outcome, Round, run_round  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
ROUND_SECONDS = 10.0
SHORT_MINUTES = 2.0

#: What a round is like, in turn; a run of two minutes has each of them twice.
KINDS = ("plain", "tight", "full", "plain", "group")

ROWS = (
    ("rounds, each in a new arena", "rounds"),
    ("operations", "operations"),
    ("of them allocations (calls)", "allocations"),
    ("calls refused, as they may be (no memory, busy, stale, timed out)", "refused"),
    ("SIGKILL", "kills"),
    ("killed by the kernel for memory", "oom_kills"),
    ("SIGSTOP and SIGCONT", "stops"),
    ("of them stopped for three seconds", "long_stops"),
    ("children by fork() that went on as workers", "forks"),
    ("exec()", "execs"),
    ("threads that returned, were cancelled or vanished", "thread_ends"),
    ("deaths of participants, in whatever way", "deaths"),
    ("recoveries (estates settled, detached ones included)", "recoveries"),
    ("of them, and of threads: died inside the allocator", "recoveries_inside"),
    ("threads settled while their process lived on", "threads_settled"),
    ("longest recovery or `reap()`, ms", "reap_max_ms"),
    ("**objects or pages lost**", "losses"),
    ("**handed out twice, or with foreign contents**", "doubles"),
    ("**hangs (20 s without progress)**", "hangs"),
    ("violations of any kind", "violations"),
)


def say(text: str) -> None:
    print(f"chaos: {text}", file=sys.stderr, flush=True)


def settings_of(number: int, dice: random.Random, seconds: float) -> Round:
    """Round `number`: its kind by turns, the rest by chance."""
    kind = KINDS[number % len(KINDS)]
    arena_bytes = {"tight": 4 << 20, "group": 128 << 20}.get(kind, 32 << 20)
    return Round(
        kind=kind,
        seed=dice.getrandbits(32),
        seconds=seconds,
        arena_bytes=arena_bytes,
        cpus=dice.choice((1, 2, 4)),
        nodes=dice.choice((1, 2)),
        c_workers=dice.randint(2, 4),
        python_workers=dice.randint(1, 2),
        kills_per_second=dice.choice((3.0, 8.0, 15.0)),
        stops_per_second=dice.choice((1.0, 3.0, 6.0)),
    )


def run(minutes: float, seed: int) -> tuple[Outcome, list[dict[str, Any]]]:
    """All rounds; their sum, and each by itself."""
    end = time.monotonic() + minutes * 60
    dice = random.Random(seed)
    total, rounds = Outcome(rounds=0), []
    while (left := end - time.monotonic()) > 1:
        settings = settings_of(len(rounds), dice, min(ROUND_SECONDS, left))
        outcome = run_round(settings)
        total.add(outcome)
        rounds.append({"settings": asdict(settings), "outcome": asdict(outcome)})
        words = f"{outcome.operations:,} operations, {outcome.deaths} deaths"
        if outcome.skipped:
            words = f"skipped, {outcome.skipped[0]}"
        say(f"round {len(rounds)} ({settings.kind}): {words}")
        for violation in outcome.violations:
            say(f"VIOLATION in {settings}: {violation}")
    return total, rounds


def shown(value: Any) -> str:
    if isinstance(value, list):
        value = len(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def table(result: dict[str, Any]) -> str:
    """The figures of one run, as Markdown."""
    env, total = result["env"], result["total"]
    lines = [
        f"{env['date']}, {result['minutes']:g} minutes, seed {result['seed']}, "
        f"{env['cpu']['cpus']} CPUs, {env['cpu']['model']} (hypervisor: "
        f"{env['cpu']['hypervisor']}), Linux {env['kernel']}, Python {env['python']}; "
        f"commit {env['commit']}.",
        "",
        "| what | how often |",
        "|---|---|",
    ]
    lines += [f"| {text} | {shown(total[name])} |" for text, name in ROWS]
    for reason in sorted(set(total["skipped"])):
        lines.append(
            f"| rounds left out: {reason} | {total['skipped'].count(reason)} |"
        )
    return "\n".join(lines) + "\n"


def write_document(path: Path) -> None:
    """Between the marks of docs/reliability.md."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    where = Path(os.path.relpath(path.resolve(), PAGE.parent)).as_posix()
    body = f"{table(json.loads(path.read_text()))}\nRaw: [{path.name}]({where})."
    PAGE.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}")


def main() -> int:
    """Run, or write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=SHORT_MINUTES)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--document", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.document is not None:
        write_document(args.document)
        return 0
    say(f"{args.minutes:g} minutes, --seed {args.seed}")
    env = machine.describe(small=args.minutes < SHORT_MINUTES, missing=())
    total, rounds = run(args.minutes, args.seed)
    result = {
        "schema": 1,
        "minutes": args.minutes,
        "seed": args.seed,
        "env": env,
        "total": asdict(total),
        "rounds": rounds,
    }
    folder = args.out or folder_for(env)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    say(f"wrote {folder}")
    return 1 if total.violations or total.losses or total.doubles or total.hangs else 0


def folder_for(env: dict[str, Any]) -> Path:
    """Where the results of this run belong."""
    if env["small"]:
        return ROOT / "build" / "chaos"
    name = f"{env['date']}-{machine.short_name(env)}-chaos"
    return ROOT / "bench" / "results" / name


if __name__ == "__main__":
    sys.exit(main())
