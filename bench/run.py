"""Measure uslub beside its peers, and write down what came out.

    python bench/run.py [--small] [--out FOLDER]

Writes bench/results/DATE-MACHINE/ (env.json, samples.json, summary.md, plots) and
docs/benchmarks.md. BENCH=small or --small: a run of seconds that shows that everything
works; it goes to build/bench/small and leaves the document alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    import document
    import machine
    import plot
except ModuleNotFoundError as error:
    sys.exit(
        f"uslub bench: needs {error.name} (requirements/bench.txt): run `make bench`,"
        " which installs it"
    )
from rounds import Samples
from subjects import ROOT, prepare, say
from verdicts import lines
from workloads import interpreted, lab, native, recovery, sharing

PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """The whole run.

    Returns:
        0 once everything was measured and written; figures never decide it.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    small = os.environ.get("BENCH") == "small"
    parser.add_argument("--small", action="store_true", default=small)
    parser.add_argument("--out", type=Path, help="folder for the results")
    args = parser.parse_args()

    start = time.monotonic()
    subjects = prepare()
    if not args.small:  # which measures who is there
        sharing.provide_peers()
    missing = (*subjects.missing, *sharing.absent())
    env = machine.describe(small=args.small, missing=missing)
    folder = args.out or folder_for(env)
    folder.mkdir(parents=True, exist_ok=True)
    samples = measure_all(subjects, args.small)
    env["seconds"] = round(time.monotonic() - start, 1)

    (folder / "env.json").write_text(json.dumps(env, indent=2) + "\n")
    (folder / "samples.json").write_text(samples.to_json())
    (folder / "summary.md").write_text(document.summary(samples, env))
    plots = plot.draw(samples, folder)
    if not args.small and args.out is None:
        PAGE.write_text(document.document(samples, env, plots, folder, PAGE))
    print_outcome(samples)
    say(f"{env['seconds']} s; wrote {folder}")
    return 0


def folder_for(env: dict) -> Path:
    """Where the results of this run belong."""
    if env["small"]:
        return ROOT / "build" / "bench" / "small"
    name = f"{env['date']}-{machine.short_name(env)}"
    return ROOT / "bench" / "results" / name


def measure_all(subjects, small: bool) -> Samples:
    """Every workload, in order."""
    samples = Samples()
    for function in (*native.ALL, *recovery.ALL):
        say(f"C: {function.__name__}")
        function(samples, subjects, small)
    for function in (*interpreted.ALL, *sharing.ALL):
        say(f"Python: {function.__name__}")
        function(samples, small)
    for function in lab.ALL:
        say(f"lab: {function.__name__}")
        function(samples, small)
    return samples


def print_outcome(samples: Samples) -> None:
    """The lines with their targets, for the terminal."""
    for line in lines(samples):
        ratio = f"{line.typical:8.3g}"
        target = f"{line.target:>7}" if line.target else " " * 7
        print(f"{ratio} {target} {line.verdict:<18} {line.what}")


if __name__ == "__main__":
    sys.exit(main())
