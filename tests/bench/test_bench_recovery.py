"""The workloads of crash safety: they measure what they say, and the lines follow."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
NAMES = ("ratios", "rounds", "verdicts_recovery", "workloads.recovery")


@pytest.fixture
def bench() -> Iterator[SimpleNamespace]:
    """The modules of bench/, which is no package."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        modules = {name: importlib.import_module(name) for name in NAMES}
        yield SimpleNamespace(
            **{name.split(".")[-1]: module for name, module in modules.items()}
        )
    finally:
        sys.path.remove(str(BENCH))
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("workloads", "rounds", "subjects"):
                del sys.modules[name]


def recovered(
    bench: SimpleNamespace, ns: float, asked: tuple[int, int, int]
) -> SimpleNamespace:
    """Samples of one victim, and of a smaller one of the same arena."""
    samples = bench.rounds.Samples()
    mib, size, n = asked
    for count, time in ((n // 10, ns / 10), (n, ns)):
        params = {"mib": mib, "size": size, "n": count, "at": "rest"}
        samples.add("recovery", params, "uslub", "ns", [time])
        samples.add("recovery", params, "uslub", "warm_ns", [time / 2])
    return samples


def test_recovery_is_held_against_its_target(bench: SimpleNamespace) -> None:
    asked = bench.recovery.ASKED
    for ns, verdict in ((99e6, "met"), (101e6, "missed")):
        samples = recovered(bench, ns, asked)
        lines = bench.verdicts_recovery.recovery_lines(samples)
        assert [line.verdict for line in lines] == [verdict]
        assert "1,024 MiB, 1,000,000 objects of 64 B" in lines[0].what
        assert lines[0].beside.endswith("asked 100 ms")


def test_other_victims_have_no_verdict(bench: SimpleNamespace) -> None:
    samples = recovered(bench, 1e9, (256, 64, 100_000))
    lines = bench.verdicts_recovery.recovery_lines(samples)
    assert [line.verdict for line in lines] == [""]


def test_a_stopped_holder_stands_beside_one_that_holds_nothing(
    bench: SimpleNamespace,
) -> None:
    samples = bench.rounds.Samples()
    for lock, ns in (("none", 1e6), ("slot", 8e6)):
        for call in ("alloc", "free"):
            metric = f"{call}_max_ns"
            samples.add("stopped", {"lock": lock}, "uslub", metric, [ns])
    lines = bench.verdicts_recovery.recovery_lines(samples)
    assert [line.typical for line in lines] == [8.0, 8.0]
    assert lines[0].beside == "no lock held 1 ms"


def test_the_price_is_that_of_the_pair_without(bench: SimpleNamespace) -> None:
    samples = bench.rounds.Samples()
    for subject, ns in (("uslub", 13.0), ("uslub, no crash safety", 10.0)):
        samples.add("price", {"threads": 0}, subject, "ns", [ns])
    (line,) = bench.verdicts_recovery.recovery_lines(samples)
    assert line.typical == pytest.approx(1.3)


def test_the_grid_holds_what_was_asked_and_what_fits(bench: SimpleNamespace) -> None:
    grid = bench.recovery.grid()
    assert bench.recovery.ASKED in grid
    assert all(n * size < mib * 2**20 for mib, size, n in grid)


@pytest.mark.check
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_engine_without_crash_safety_compiles_and_keeps_no_tags(
    tmp_path: Path,
) -> None:
    """It allocates and frees as the other does, and writes neither tag nor intent."""
    program = tmp_path / "program.c"
    program.write_text(
        '#include "cache/cache.h"\n'
        "#include <stdlib.h>\n"
        "int main(void)\n{\n"
        "    struct us_arena_config config = {.size = 8u << 20};\n"
        "    struct us_cache_config of = US_CACHE_CONFIG_INIT;\n"
        "    us_arena *a; us_cache *s; void *o[100];\n"
        "    of.object_size = 64;\n"
        "    if (us_arena_create(NULL, &config, &a) != US_OK ||\n"
        '        us_cache_create(a, "c", &of, &s) != US_OK) return 1;\n'
        "    for (int i = 0; i < 100; i++) {\n"
        "        o[i] = us_alloc(s);\n"
        "        if (o[i] == NULL || *us_tag(s, us_offset(a, o[i])) != 0) return 2;\n"
        "        if (us_thread_self(a)->intent != 0) return 3;\n"
        "    }\n"
        "    for (int i = 0; i < 100; i++)\n"
        "        if (us_free(s, o[i]) != US_OK) return 4;\n"
        "    return us_alloc(s) == NULL;\n}\n"
    )
    lister = [sys.executable, str(ROOT / "dev" / "sources.py"), "code"]
    place = ROOT / "libuslub"
    listed = subprocess.run([*lister, str(place)], capture_output=True, text=True)
    engine = [str(place / name) for name in listed.stdout.split()]
    command = ["cc", "-std=gnu11", "-O1", "-D_GNU_SOURCE", "-DUS_NO_CRASH_SAFETY"]
    command += [f"-I{ROOT}/libuslub", f"-I{ROOT}/libuslub/include", str(program)]
    out = str(tmp_path / "program")
    done = subprocess.run(
        [*command, *engine, "-pthread", "-o", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run([out], timeout=30).returncode == 0
