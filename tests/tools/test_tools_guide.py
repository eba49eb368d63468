"""docs/guide/cli.md says what the command really takes and prints."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tools.rows import DATA
from uslub.tools import cli
from uslub.tools.cli import main

ROOT = DATA.parents[1]
GUIDE = ROOT / "docs" / "guide" / "cli.md"
TEXT = GUIDE.read_text(encoding="utf-8")
CALLS = re.findall(r"^\$ uslub (.*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_in_the_guide_can_be_made(call: str) -> None:
    assert callable(cli.parse(call.split()).run)


@pytest.mark.parametrize("name", [name for name, _, _ in cli.COMMANDS])
def test_every_command_is_in_the_guide(name: str) -> None:
    assert f"`uslub {name}" in TEXT


def test_every_option_of_info_is_in_the_guide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["info", "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    options = set(re.findall(r"(?<![\w-])--?[\w]+", usage)) - {"-h", "-l"}
    assert len(options) > 15
    missing = [o for o in options if not re.search(rf"[`\s]{o}[`\s]", TEXT)]
    assert missing == []


@pytest.mark.parametrize("call", [call for call in CALLS if call.startswith("verify")])
def test_the_verify_excerpts_are_what_is_printed(
    call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path.cwd()
    os.chdir(ROOT)
    try:
        assert main(call.split()) == 0
    finally:
        os.chdir(old)
    assert f"$ uslub {call}\n{capsys.readouterr().out}```" in TEXT
