"""Write the generated pages, and run the Python of the written ones.

What the lab's guides print and draw is dev/lab_pages.py's.

`python dev/docs.py` rewrites docs/learn.md from runs of the model and executes every
``python`` block of README.md and docs/guide; tests/test_docs.py does the same without
writing. A page's blocks share one namespace, in order, as a reader would type them; a
page without prompts is one program, run from a file, and what it prints is the ``text``
blocks that follow "prints:". A page names what it imports in a comment,
``<!-- needs: skimage -->``.
"""

from __future__ import annotations

import doctest
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEARN = ROOT / "docs" / "learn.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"prints:\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"^<!-- needs: (.*?) -->$", re.MULTILINE)


def written_pages() -> list[Path]:
    """Pages whose Python blocks must run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The ``python`` blocks of a page, in order."""
    return BLOCK.findall(page.read_text())


#: Runs a session with prompts: what is printed must be what the page says.
SESSION = """
import doctest, sys
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "page", None, 0)
failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
sys.exit(failed != 0)
"""


def missing(page: Path) -> list[str]:
    """What the page imports and this environment lacks."""
    named = " ".join(NEEDS.findall(page.read_text())).split()
    return [name for name in named if importlib.util.find_spec(name) is None]


def run_page(page: Path) -> subprocess.CompletedProcess[str]:
    """Run all blocks of a page in one fresh interpreter, outside the checkout."""
    text = "\n".join(blocks(page))
    if ">>> " in text:
        return run([sys.executable, "-c", SESSION], text)
    # A file: processes that are spawned import it again.
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / f"{page.stem.replace('-', '_')}.py"
        program.write_text(text)
        done = run([sys.executable, str(program)])
    wanted = "".join(PRINTED.findall(page.read_text()))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if wanted and not doctest.OutputChecker().check_output(wanted, done.stdout, flags):
        done.returncode = done.returncode or 1
        done.stderr += f"\nthe page says that it prints\n{wanted}"
    return done


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=120, cwd="/"
    )


def learn_page() -> str:
    """docs/learn.md as the model's runs say it now."""
    done = subprocess.run(
        [sys.executable, "-m", "uslub.tools.explain_page"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> int:
    LEARN.write_text(learn_page())
    subprocess.run([sys.executable, ROOT / "dev" / "lab_pages.py"], check=True)
    failed = 0
    for page in written_pages():
        if lacking := missing(page):
            print(f"{page.relative_to(ROOT)} not run: needs {', '.join(lacking)}")
            continue
        done = run_page(page)
        if done.returncode != 0:
            failed = 1
            print(f"{page.relative_to(ROOT)} fails:\n{done.stdout}{done.stderr}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
