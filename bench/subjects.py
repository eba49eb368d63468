"""Who is measured: uslub, the allocators beside it, and the programs that do it."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
UNSAFE = ROOT / "build" / "bench-unsafe"
#: libuslub/share/stopped_bench.c
STOPPED = "libuslub/share-stopped_bench"

#: Name, library, Debian package.
MALLOCS = (
    ("mimalloc", "libmimalloc.so.2", "libmimalloc2.0"),
    ("jemalloc", "libjemalloc.so.2", "libjemalloc2"),
    ("tcmalloc", "libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
)


@dataclass(frozen=True)
class Subject:
    """One allocator as the C program is told about it."""

    name: str
    kind: str  #: first argument of the program
    program: str  #: path
    preload: str | None = None


@dataclass(frozen=True)
class Subjects:
    """All that could be had on this machine."""

    uslub: Subject
    uslub_static: Subject
    unsafe: Subject  #: the engine without intents and owner tags
    stopped: str  #: a program with the inside of the engine
    mallocs: tuple[Subject, ...]
    locked: Subject
    heaps: tuple[Subject, ...]  #: mimalloc's, if it is there
    missing: tuple[str, ...]  #: Debian packages

    @property
    def with_mallocs(self) -> tuple[Subject, ...]:
        return (self.uslub, *self.mallocs)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def library(name: str) -> str | None:
    """Path of a shared library of the system."""
    found = glob.glob(f"/usr/lib/*/{name}") + glob.glob(f"/usr/lib/{name}")
    return found[0] if found else None


def provide_mallocs() -> tuple[str, ...]:
    """Install what is missing where that is allowed; what still is, by package."""
    missing = [package for _, lib, package in MALLOCS if library(lib) is None]
    may = shutil.which("apt-get") and (os.geteuid() == 0 or shutil.which("sudo"))
    if missing and may:
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        say(f"installing {' '.join(missing)}")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        apt = [*sudo, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
        subprocess.run([*apt, "update"], check=False, **quiet)
        install = [*apt, "install", "-y", "--no-install-recommends", *missing]
        subprocess.run(install, check=False, **quiet)
        missing = [package for _, lib, package in MALLOCS if library(lib) is None]
    if missing:
        say(f"not measured; sudo apt-get install {' '.join(missing)}")
    return tuple(missing)


def run(command: list[str]) -> None:
    """One tool, with those of the environment that runs us."""
    tools = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def build_engine(folder: Path, c_args: str, targets: list[str]) -> None:
    """With release flags."""
    setup = ["meson", "setup", "-Dbinding=false", "-Dlibuslub=true"]
    setup += [f"-Dc_args={c_args}", str(folder), str(ROOT)]
    if (folder / "build.ninja").exists():
        setup.insert(2, "--reconfigure")
    run(setup)
    run(["ninja", "-C", str(folder), "--quiet", *targets])


def build_program(program: Path, link: list[str]) -> str:
    """bench/c, with an engine."""
    sources = sorted(str(path) for path in (ROOT / "bench" / "c").glob("*.c"))
    compile_ = [os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-g"]
    compile_ += ["-Wall", "-Wextra", f"-I{ROOT}/libuslub/include", *sources]
    run([*compile_, *link, "-pthread", "-ldl", "-o", str(program)])
    return str(program)


def shared(folder: Path) -> list[str]:
    place = folder / "libuslub"
    return [f"-L{place}", "-luslub", f"-Wl,-rpath,{place}"]


def prepare() -> Subjects:
    """Build, and find everybody."""
    missing = provide_mallocs()
    say("building")
    build_engine(BUILD, "", ["all", STOPPED])
    build_engine(UNSAFE, "-DUS_NO_CRASH_SAFETY", ["all"])
    program = build_program(BUILD / "workloads", shared(BUILD))
    static = [str(BUILD / "libuslub" / "libuslub.a")]
    unsafe = build_program(BUILD / "workloads-unsafe", shared(UNSAFE))
    mallocs = [Subject("glibc", "malloc", program)]
    heaps = []
    for name, lib, _ in MALLOCS:
        if path := library(lib):
            mallocs.append(Subject(name, "malloc", program, path))
            if name == "mimalloc":
                heaps.append(Subject("mimalloc heaps", "heap", program, path))
    return Subjects(
        uslub=Subject("uslub", "uslub", program),
        uslub_static=Subject(
            "uslub (static)", "uslub", build_program(BUILD / "workloads-static", static)
        ),
        unsafe=Subject("uslub, no crash safety", "uslub", unsafe),
        stopped=str(BUILD / STOPPED),
        mallocs=tuple(mallocs),
        locked=Subject("mutex + free list", "locked", program),
        heaps=tuple(heaps),
        missing=missing,
    )
