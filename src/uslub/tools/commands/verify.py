"""`uslub verify`: does it decide what a real kernel decided?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from uslub.errors import Error
from uslub.tools.attach import UsageError
from uslub.tools.text import style
from uslub.tools.verify import Verdict, verify

SCHEMA = 1
DESIGNS = ("classic", "5.10", "6.8", "6.18", "7.1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `uslub verify`."""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="decision file, or sysfs-*.json")
    add("--backend", choices=("engine", "model"), default="engine")
    add("--design", choices=DESIGNS, help="of the model (default: classic)")
    add("--json", action="store_true", help="for programs")
    parser.epilog = (
        "One line per file: NAME: N checks, M mismatches. Below it, the first\n"
        "mismatch of the file is explained.\n" + (parser.epilog or "")
    )


def run(args: argparse.Namespace) -> int:
    """Check each file; 1 if a decision differs, 2 if a file cannot be used."""
    design = args.design or "classic"
    if args.backend == "engine" and design != "classic":
        raise UsageError(
            f"the engine is of the classic design; --design {design} needs"
            " --backend model"
        )
    status, documents = 0, []
    for path in args.files:
        try:
            verdict = verify(path, args.backend, design)
        except (Error, OSError, ValueError) as error:
            complain(path, error)
            status = max(status, 1 if isinstance(error, Error) else 2)
            continue
        documents.append(document(verdict))
        if not args.json:
            print("\n".join([verdict.line(), *explain(verdict)]), flush=True)
        status = max(status, 0 if verdict.good else 1)
    if args.json:
        found = {"tool": "uslub verify", "schema": SCHEMA, "backend": args.backend}
        print(json.dumps(found | {"files": documents}, indent=2))
    return status


def complain(path: str, error: Exception) -> None:
    """Why a file could not be checked; the text names the file once."""
    text = f"{path}: {error.strerror}" if isinstance(error, FileNotFoundError) else ""
    text = text or str(error)
    if path not in text:
        text = f"{path}: {text}"
    print(f"{style('uslub:', 'red', sys.stderr)} {text}", file=sys.stderr)


def explain(verdict: Verdict) -> list[str]:
    """The first mismatch, and what the invariants said afterwards."""
    lines = []
    if verdict.result.first is not None:
        lines.append(f"{verdict.name}: first mismatch: {verdict.result.first}")
    if verdict.ended:
        lines.append(f"{verdict.name}: {verdict.ended}")
    return lines + [f"{verdict.name}: validate: {text}" for text in verdict.findings]


def document(verdict: Verdict) -> dict[str, Any]:
    """One file for `--json`."""
    first = verdict.result.first
    return {
        "name": verdict.name,
        "checks": verdict.result.checks,
        "mismatches": verdict.result.mismatches,
        "first": first
        and {
            "event": str(first.event),
            "expected": first.expected,
            "got": first.got,
            "state": first.state,
        },
        "ended": verdict.ended,
        "findings": verdict.findings,
    }
