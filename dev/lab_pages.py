"""Run what the lab's pages in docs/guide show, and write down what came out.

    python dev/lab_pages.py

A block of console is one call of `uslub` and what it printed; a comment `figure:` is
the call that draws the picture below it (`--plot CHART=` is completed with the
picture's path). All of it runs on the traces that come with the package. `make docs`
does this too; tests/lab/test_lab_pages.py does the same without writing.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide"
#: With a page's name, in the order of reading.
NAMES = ("replay", "cpu-partial", "which-design", "memory-back")
PAGES = tuple(GUIDE / f"{name}.md" for name in NAMES)
CONSOLE = re.compile(r"^```console\n\$ uslub ([^\n]*)\n(.*?)^```$", re.M | re.S)
SESSION = re.compile(r"^```python\n(>>> .*?)^```$", re.M | re.S)
FIGURE = re.compile(
    r"^<!-- figure: uslub ([^\n]*--plot \w+)= -->\n!\[[^\]]*\]\(([^)\s]+)\)$", re.M
)
#: Calls that print something else each time, or need root: parsed, not run.
SHOWN_ONLY = ("record",)


def calls(page: Path) -> Iterator[tuple[str, str]]:
    """Words after `uslub` and what the page says they print."""
    for match in CONSOLE.finditer(page.read_text(encoding="utf-8")):
        yield match[1], match[2]


def figures(page: Path) -> Iterator[tuple[str, Path]]:
    """The call that draws each picture, up to `--plot CHART`, and the picture."""
    for match in FIGURE.finditer(page.read_text(encoding="utf-8")):
        yield match[1], page.parent / match[2]


def runs(call: str) -> bool:
    """Is this a call that prints the same each time?"""
    return call.split()[0] not in SHOWN_ONLY


def samples() -> Path:
    """The folder of the traces that come with the package."""
    from uslub.lab.trace import sample

    return sample("linux-6.18").parent


def uslub(call: str, store: Path, folder: Path = ROOT) -> str:
    """What a call prints, to a reader who looks at no terminal.

    Without what differs from one machine to the next: where the package is installed,
    and the version of Python.

    Args:
        call: Words after `uslub`.
        store: Folder for $XDG_CACHE_HOME, where replays are kept.
        folder: To run it in.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(store), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "uslub", *shlex.split(call)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"uslub {call}: status {done.returncode}: {done.stderr}")
    text = done.stdout.replace(f"{samples()}/", "")
    text = re.sub(r"CPython [\d.]+", "CPython", text)
    # Of a run that was kept, the last line says so; a reader's first run does not.
    lines = text.splitlines()
    while lines and (not lines[-1] or "replayed before" in lines[-1]):
        lines.pop()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def answered(text: str) -> str:
    """A page with the answers that its Python sessions give now."""
    names: dict[str, object] = {}

    def fresh(match: re.Match[str]) -> str:
        lines = []
        for example in doctest.DocTestParser().get_examples(match[1]):
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                exec(compile(example.source, "page", "single"), names)
            first, *more = example.source.splitlines()
            lines += [f">>> {first}", *(f"... {line}".rstrip() for line in more)]
            lines += heard.getvalue().splitlines()
        return "```python\n" + "".join(f"{line}\n" for line in lines) + "```"

    return SESSION.sub(fresh, text)


def write(page: Path, store: Path) -> None:
    """Put what is printed now into a page, and draw its pictures."""

    def fresh(match: re.Match[str]) -> str:
        printed = uslub(match[1], store) if runs(match[1]) else match[2]
        return f"```console\n$ uslub {match[1]}\n{printed}```"

    text = answered(CONSOLE.sub(fresh, page.read_text(encoding="utf-8")))
    page.write_text(text, encoding="utf-8")
    for call, path in figures(page):
        path.parent.mkdir(exist_ok=True)
        uslub(f"{call}={path}", store)


def main() -> int:
    store = ROOT / "build" / "lab-pages"
    for page in PAGES:
        print(f"lab pages: {page.relative_to(ROOT)}", file=sys.stderr)
        write(page, store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
