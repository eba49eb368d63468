"""Break the engine in one place at a time and see that its tests notice.

    python3 dev/mutants.py [NAME ...]

Each mutant is one line of libuslub/ changed: its file is compiled, linked with the rest
as it is, and run through explorers and C tests. A mutant that every program passes has
survived, and the exit status is 1. `make check` runs all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mutations import Mutant, sharing, slabs
from sources import belongs

ENGINE = Path(__file__).resolve().parent.parent / "libuslub"
SECONDS = 120
SITE_UNUSED = 2  # an explorer found nothing, but a place of the code never came up
QUIET = ("env", "MALLOC_PERTURB_=45")  # freed memory is no memory
# The programs that a mutant has to pass to survive; the likely catchers first.
SHARING = ("explore/sharing_explore.c", "share/share_test.c")
SLABS = (
    "explore/slab_explore.c",
    "explore/sharing_explore.c",
    "arena/pages_test.c",
    "cache/fastpath_test.c",
    "cache/lifecycle_test.c",
    "share/share_test.c",
    "share/recovery_test.c",
)
MUTANTS = {m: SHARING for m in sharing.MUTANTS} | {m: SLABS for m in slabs.MUTANTS}


class Flavour(NamedTuple):
    """The engine's object files under one set of flags, made once."""

    engine: Path
    flags: tuple[str, ...]
    folder: Path


def compile_one(source: Path, out: Path, include: Path, *flags: str) -> None:
    subprocess.run(
        [
            os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-pthread",
            "-DUS_DEBUG_CHECKS=1", '-DUS_VERSION_STRING="mutant"', "-w", "-c",
            *(["-mcx16"] if os.uname().machine == "x86_64" else []), *flags,
            f"-I{include}", f"-I{include}/include", str(source), "-o", str(out),
        ],
        check=True,
    )  # fmt: skip


def object_of(folder: Path, path: str) -> Path:
    return folder / (path.replace("/", "-").removesuffix(".c") + ".o")


def prepare(
    engine: Path, folder: Path, flags: tuple[str, ...], programs: tuple[str, ...]
) -> Flavour:
    """Compile the engine and these programs as they are."""
    folder.mkdir(parents=True)
    paths = [
        p.relative_to(engine).as_posix()
        for p in sorted(engine.rglob("*.c"))
        if belongs("code", p)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(
            pool.map(
                lambda path: compile_one(
                    engine / path, object_of(folder, path), engine, *flags
                ),
                [*paths, *programs],
            )
        )
    return Flavour(engine, flags, folder)


def link(flavour: Flavour, program: str, changed: dict[str, Path], out: Path) -> None:
    """One program, with other objects in the place of those of the changed files."""
    objects = [
        changed.get(path.name, path)
        for path in sorted(flavour.folder.glob("*.o"))
        if not path.stem.endswith(("_test", "_explore"))
    ]
    subprocess.run(
        [
            os.environ.get("CC", "cc"), "-pthread", *map(str, objects),
            str(object_of(flavour.folder, program)), "-o", str(out), "-lrt",
        ],
        check=True,
    )  # fmt: skip


def mutated(mutant: Mutant, folder: Path, flavour: Flavour) -> dict[str, Path]:
    """The one object that differs."""
    text = (flavour.engine / mutant.path).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(
            f"mutants: {mutant.name!r} wants to change a line of {mutant.path} that "
            f"stands there {text.count(mutant.old)} times: bring it up to date"
        )
    source = folder / Path(mutant.path).name
    source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    out = folder / object_of(flavour.folder, mutant.path).name
    compile_one(source, out, flavour.engine, *flavour.flags)
    return {out.name: out}


def caught_by(mutant: Mutant | None, flavours: dict[str, Flavour]) -> str | None:
    """The program that notices, or None if all of them pass."""
    with tempfile.TemporaryDirectory(prefix="uslub-mutant-") as name:
        for program in SHARING + SLABS if mutant is None else MUTANTS[mutant]:
            kind = "explore" if "explore" in program else "plain"
            folder = Path(name, kind)
            folder.mkdir(exist_ok=True)
            changed = {} if mutant is None else mutated(mutant, folder, flavours[kind])
            command = [*QUIET, str(folder / Path(program).stem)]
            link(flavours[kind], program, changed, folder / Path(program).stem)
            try:
                done = subprocess.run(command, capture_output=True, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return f"{Path(program).stem} (it does not end)"
            if done.returncode not in (0, SITE_UNUSED):
                return Path(program).stem
    return None


def main(names: list[str]) -> int:
    wanted = [m for m in MUTANTS if not names or m.name in names]
    if len(wanted) < len(names):
        raise SystemExit(f"mutants: no such mutant among {names}")
    programs = tuple(dict.fromkeys(SHARING + SLABS))
    explorers = tuple(p for p in programs if "explore" in p)
    tests = tuple(p for p in programs if "explore" not in p)
    survivors = []
    with tempfile.TemporaryDirectory(prefix="uslub-mutants-") as name:
        root = Path(name)
        engine = root / "libuslub"  # what is edited meanwhile does not matter
        shutil.copytree(ENGINE, engine)
        flavours = {
            "explore": prepare(engine, root / "explore", ("-DUS_EXPLORE",), explorers),
            "plain": prepare(engine, root / "plain", (), tests),
        }
        unchanged = caught_by(None, flavours)
        if unchanged is not None:
            raise SystemExit(f"mutants: {unchanged} fails without any change")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda m: caught_by(m, flavours), wanted)
            for mutant, catcher in zip(wanted, found, strict=True):
                print(f"{mutant.name}: {catcher or 'SURVIVED'}", flush=True)
                if catcher is None:
                    survivors.append(mutant.name)
    print(f"{len(wanted)} mutants, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
