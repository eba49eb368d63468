"""Write the generated pages, and run the Python of the written ones.

What the lab's guides print and draw is dev/lab_pages.py's.

`python dev/docs.py` rewrites docs/learn.md from runs of the model and executes every
``python`` block of README.md and docs/guide; tests/test_docs.py does the same without
writing. A page's blocks share one namespace, in order, as a reader would type them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEARN = ROOT / "docs" / "learn.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


def run_page(page: Path) -> subprocess.CompletedProcess[str]:
    """Run all blocks of a page in one fresh interpreter, outside the checkout."""
    text = "\n".join(blocks(page))
    return subprocess.run(
        [sys.executable, "-c", SESSION if ">>> " in text else text],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
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
        done = run_page(page)
        if done.returncode != 0:
            failed = 1
            print(f"{page.relative_to(ROOT)} fails:\n{done.stdout}{done.stderr}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
