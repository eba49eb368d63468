"""The lab's guides show what really comes out, on the traces that come with uslub.

Their Python is run by tests/test_docs.py with that of the other pages.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from uslub.tools import cli

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location(
    "lab_pages", ROOT / "dev" / "lab_pages.py"
)
assert SPEC is not None and SPEC.loader is not None
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

CALLS = [(page, *call) for page in pages.PAGES for call in pages.calls(page)]
FIGURES = [(page, *figure) for page in pages.PAGES for figure in pages.figures(page)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replays that several pages ask for are made once."""
    return tmp_path_factory.mktemp("store")


def test_every_page_has_calls_and_every_question_a_figure() -> None:
    assert {page.stem for page, _, _ in CALLS} == set(pages.NAMES)
    assert {page.stem for page, _, _ in FIGURES} == set(pages.NAMES) - {"replay"}


@pytest.mark.parametrize(("page", "call", "_"), CALLS)
def test_a_call_can_be_made(page: Path, call: str, _: str) -> None:
    assert callable(cli.parse(shlex.split(call)).run)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_no_block_or_picture_escapes_these_tests(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```console") == len(list(pages.calls(page)))
    assert text.count("![") == len(list(pages.figures(page)))


@pytest.mark.check
@pytest.mark.parametrize(
    ("page", "call", "printed"), [one for one in CALLS if pages.runs(one[1])]
)
def test_a_page_says_what_is_printed(
    page: Path, call: str, printed: str, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "build").mkdir()
    assert pages.uslub(call, store, tmp_path) == printed, "run `make docs`"


@pytest.mark.check
@pytest.mark.parametrize(("page", "call", "picture"), FIGURES)
def test_a_figure_is_of_the_present_code(
    page: Path, call: str, picture: Path, store: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / picture.name
    pages.uslub(f"{call}={drawn}", store)
    # Fonts differ between machines, and with them where words stand; the marks do not.
    assert marks(drawn) == marks(picture), "run `make docs`"


def marks(picture: Path) -> tuple[list[str], list[str]]:
    """The words of a picture, and the longest path in it."""
    text = picture.read_text(encoding="utf-8")
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    paths = re.findall(r' d="([^"]*)"', text)
    assert words and paths
    return sorted(words), sorted(paths, key=len)[-1:]
