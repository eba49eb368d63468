"""`uslub doctor`: who is dead or stopped in the middle of what, and what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import datetime
from typing import Any

from uslub.info import Health
from uslub.tools.attach import only
from uslub.tools.diagnosis import Diagnosis, Participant, diagnose, doings
from uslub.tools.text import columns, count, style

SCHEMA = 1
HEAD = ("PID", "STATE", "DOING", "SLOT", "THREADS", "LOCKS")
COLOURS = {"stopped": "yellow", "dead": "red"}
ABOUT = """\
Looks from outside, also at an arena that cannot be attached: takes no part in it,
waits for nobody, gives nothing back (`uslub reap` does). So what you see is how things
are, not how they are after the look. An arena at work shows threads inside calls; that
is no finding. Status 1: something is dead, stopped inside, poisoned or in doubt.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub doctor`."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="arena; none: the only one"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.epilog = ABOUT + (parser.epilog or "")


def run(args: argparse.Namespace) -> int:
    """Print who takes part, what recovery did, and one sentence per finding."""
    seen = diagnose(only(args.name, "doctor"))
    if args.json:
        print(json.dumps(document(seen), indent=2))
    else:
        print("\n".join(report(seen)))
    return int(bool(seen.findings))


def document(seen: Diagnosis) -> dict[str, Any]:
    """For `--json`."""
    processes = [dataclasses.asdict(one) for one in seen.participants]
    return {
        "tool": "uslub doctor",
        "schema": SCHEMA,
        "name": seen.name,
        "healthy": not seen.findings,
        "error": seen.error,
        "findings": seen.findings,
        "processes": processes,
        "doubtful": list(seen.doubtful),
        "health": dataclasses.asdict(seen.health) if seen.health else None,
    }


def report(seen: Diagnosis) -> list[str]:
    """For people: the table, the history, the findings, the verdict."""
    lines = []
    if seen.participants:
        lines.append(people(seen.participants))
    elif seen.error is None:
        lines.append("nobody has it attached")
    strangers = [one for one in seen.participants if one.state == "unknown"]
    if strangers:
        names = ", ".join(one.who for one in strangers)
        lines.append(f"whether {names} may be stopped cannot be seen from here")
    if seen.health is not None:
        lines += history(seen.health)
    findings = seen.findings
    lines += [f"{seen.name}: {text}" for text in findings]
    verdict = style("healthy", "green")
    if findings:
        verdict = style(count(len(findings), "finding"), "red")
    return [*lines, f"{seen.name}: {verdict}"]


def people(participants: tuple[Participant, ...]) -> str:
    """The table, with its states in colour."""
    rows = [
        (
            str(one.pid or "-"),
            one.state,
            doings(one),
            str(one.slot),
            str(len(one.threads)),
            str(one.locks),
        )
        for one in participants
    ]
    lines = columns(HEAD, rows, left=3).split("\n")
    for i, one in enumerate(participants, 1):
        if one.state in COLOURS:
            shown = style(one.state, COLOURS[one.state])
            lines[i] = lines[i].replace(one.state, shown, 1)
    return "\n".join(lines)


def history(health: Health) -> list[str]:
    """What recovery did since the arena was made."""
    if not health.last_at and not health.processes + health.threads:
        return ["recovery: nothing so far"]
    done = [f"{count(health.processes, 'dead process', 'dead processes')} settled"]
    if health.threads:
        done.append(f"{count(health.threads, 'thread')} that ended inside a call")
    if health.inside:
        done.append(f"{health.inside} had died inside the allocator")
    done.append(f"{count(health.objects, 'object')} freed")
    if health.caches:
        slabs = count(health.slabs, "slab")
        done.append(f"{count(health.caches, 'cache')} rebuilt ({slabs} looked at)")
    if health.blocks:
        done.append(f"{count(health.blocks, 'block')} of pages given back")
    lines = [f"recovery: {', '.join(done)}"]
    if health.last_at:
        when = datetime.fromtimestamp(health.last_at // 10**9).isoformat(" ")
        lines.append(
            f"          the last at {when}, {span(health.last_ns)};"
            f" the longest {span(health.max_ns)}, all {span(health.total_ns)}"
        )
    return lines


def span(ns: int) -> str:
    """A duration with a fitting unit."""
    for unit, name in ((10**9, "s"), (10**6, "ms"), (10**3, "us")):
        if ns >= unit:
            return f"{ns / unit:.3g} {name}"
    return f"{ns} ns"
