"""Memory orders of the engine under relacy: every model, and every broken twin of it.

    python3 tests/order/run.py [--quick] [NAME ...]

A model is NAME_model.c; it includes the engine's C files as they are. A twin (twins.py)
is the same model on a copy of the engine with one line changed: relacy must object. The
exit status is 1 if a model is wrong or a twin survives. Without relacy (Debian's
relacy-dev, which is installed where we may) nothing runs, and the reason is said.
ORDER_ENGINE=FOLDER in the environment: another libuslub/ than that of this checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twins import FITTED, TWINS, Twin

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENGINE = Path(os.environ.get("ORDER_ENGINE", ROOT / "libuslub"))
BUILD = ROOT / "build" / "order"
PACKAGES = ("g++", "relacy-dev")
SECONDS = 120
#: Schedules of a quick run: part of `make test`.
QUICK = 3000

#: No warnings: they are for the engine's own build, where atomics are what they seem.
C_FLAGS = ["-std=gnu11", "-O1", "-g", "-w", "-D_GNU_SOURCE", "-U_FORTIFY_SOURCE"]
CXX_FLAGS = ["-std=gnu++17", "-O1", "-w"]


def say(text: str) -> None:
    print(f"order: {text}", flush=True)


class BuildError(RuntimeError):
    """A model that does not compile: it, or twins.py, has to follow the engine."""


def call(command: list[str]) -> str:
    """Run one tool.

    Raises:
        BuildError: It failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def there() -> bool:
    """A C++ compiler that finds relacy."""
    if shutil.which("g++") is None:
        return False
    probe = ["g++", "-x", "c++", "-E", "-include", "relacy/relacy.hpp", os.devnull]
    return subprocess.run(probe, capture_output=True).returncode == 0


def provide(*, install: bool = True) -> str | None:
    """Relacy; or the reason why there is none."""
    if there():
        return None
    if install and shutil.which("apt-get"):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not sudo or shutil.which("sudo"):
            say(f"installing {' '.join(PACKAGES)}")
            apt = [*sudo, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            subprocess.run([*apt, "update"], check=False, **quiet)
            words = ["install", "-y", "--no-install-recommends", *PACKAGES]
            subprocess.run([*apt, *words], check=False, **quiet)
    if there():
        return None
    return f"no relacy here: sudo apt-get install {' '.join(PACKAGES)}"


def checker() -> Path:
    """checker.cc, compiled once; its templates take seconds."""
    out = BUILD / "checker.o"
    newest = max((HERE / name).stat().st_mtime for name in ("checker.cc", "order.h"))
    if not out.exists() or out.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = out.with_suffix(f".{os.getpid()}")
        call(["g++", *CXX_FLAGS, "-c", "checker.cc", "-o", str(fresh)])
        fresh.rename(out)
    return out


def changed(model: str, twin: Twin | None) -> dict[str, list[tuple[str, str]]]:
    """What is different from the engine, by file."""
    files: dict[str, list[tuple[str, str]]] = {}
    for path, old, new in FITTED.get(model, ()):
        files.setdefault(path, []).append((old, new))
    if twin:
        files.setdefault(twin.path, []).extend(twin.changes)
    return files


def replaced(path: str, changes: list[tuple[str, str]]) -> str:
    """The text of an engine file after the changes."""
    text = (ENGINE / path).read_text()
    for old, new in changes:
        if text.count(old) != 1:
            found = f"{old!r} stands there {text.count(old)} times, expected once"
            raise BuildError(f"{path}: {found}; twins.py has to follow the engine")
        text = text.replace(old, new)
    return text


def build(model: str, folder: Path, twin: Twin | None) -> Path:
    """The program of a model, on the engine or on a twin of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, changes in changed(model, twin).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(replaced(path, changes))
    include = [f"-I{place}" for place in (folder, ENGINE, ENGINE / "include", HERE)]
    compiled, lacking = folder / "model.o", folder / "lacking.c"
    source = f"{model}_model.c"
    call(["cc", *C_FLAGS, *include, "-include", "builtins.h", "-c", source,
          "-o", str(compiled)])  # fmt: skip
    names = re.findall(r"U (us_\w+)$", call(["nm", "-u", str(compiled)]), re.MULTILINE)
    lines = [f'void {one}(void) {{ order_missing("{one}"); }}' for one in names]
    head = "void order_missing(const char *name);"
    lacking.write_text("\n".join([head, *lines, ""]))
    program = folder / "program"
    call(["cc", "-w", "-c", str(lacking), "-o", str(folder / "lacking.o")])
    parts = [checker(), compiled, folder / "lacking.o"]
    call(["g++", *map(str, parts), "-o", str(program)])
    return program


def run(program: Path, schedules: int | None) -> tuple[int, str]:
    """Status (0: nothing wrong, 1: relacy objects) and what it said."""
    words = [str(schedules)] if schedules else []
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, timeout=SECONDS
    )
    return done.returncode, done.stdout + done.stderr


def models() -> list[str]:
    return sorted(path.stem[: -len("_model")] for path in HERE.glob("*_model.c"))


def verdict(output: str) -> str:
    """What relacy found, in a line."""
    lines = output.splitlines()
    return next((line for line in lines[1:2]), "") or "nothing"


def check_model(model: str, schedules: int | None = None) -> str | None:
    """None, or what is wrong with the engine."""
    start = time.monotonic()
    try:
        status, output = run(build(model, BUILD / model, None), schedules)
    except BuildError as error:
        return f"{model}: {error}"
    if status != 0:
        return f"{model}: relacy objects (status {status})\n{output}"
    found = re.search(r"iterations: (\d+)", output)
    count = int(found[1]) if found else 0
    say(f"{model}: {count:,} schedules, {time.monotonic() - start:.1f} s")
    return None


def check_twin(job: tuple[int, Twin]) -> str | None:
    """None, or that relacy has not noticed."""
    number, twin = job
    try:
        program = build(twin.model, BUILD / f"twin-{number}", twin)
        status, output = run(program, None)
    except BuildError as error:
        return f"{twin.model}, {twin.name}: {error}"
    if status == 1:
        found = re.search(r"iteration: (\d+)", output)
        where = f"in schedule {int(found[1]):,}" if found else ""
        say(f"{twin.model}, {twin.name}: caught, {verdict(output)} {where}")
        return None
    return f"{twin.model}, {twin.name}: SURVIVED (status {status})\n{output[-2000:]}"


def main() -> int:
    """All of it, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="models, few schedules")
    parser.add_argument("names", nargs="*", help="models; none: all")
    args = parser.parse_args()
    if reason := provide():
        say(f"SKIPPED: {reason}")
        return 0
    names = args.names or models()
    checker()
    schedules = QUICK if args.quick else None
    jobs = [job for job in enumerate(TWINS) if job[1].model in names]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        wrong = [*pool.map(lambda name: check_model(name, schedules), names)]
        if not args.quick:
            wrong += pool.map(check_twin, jobs)
    wrong = [text for text in wrong if text]
    print("\n".join(wrong))
    count = "no" if args.quick else len(jobs)
    say(f"{len(names)} models, {count} twins: {len(wrong) or 'nothing'} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
