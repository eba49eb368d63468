"""The Python in README.md and the guides runs as printed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "docs", Path(__file__).resolve().parents[1] / "dev" / "docs.py"
)
assert SPEC is not None and SPEC.loader is not None
docs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docs)


@pytest.mark.parametrize("page", docs.written_pages(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path) -> None:
    if lacking := docs.missing(page):
        pytest.skip(f"{page.name} needs {', '.join(lacking)}")
    done = docs.run_page(page)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_page_has_python_to_run() -> None:
    assert docs.blocks(docs.ROOT / "README.md")
