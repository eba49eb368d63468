"""The page that documents the format says what the writer does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from lab.trace_lines import DATA
from uslub.lab.trace import Kind, kinds
from uslub.lab.trace.store import CHUNK_ROWS, DISK, ENDS, FORMAT, STARTS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "trace-format.md"


def table(head: str) -> list[list[str]]:
    """The rows of the page's table that begins with these columns."""
    text = PAGE.read_text().split(f"| {head} |", 1)[1].split("\n\n", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_columns_are_those_of_the_file() -> None:
    wanted = [[name, str(kind)] for name, kind in DISK.items()]
    assert [row[:2] for row in table("column | type | meaning")] == wanted
    schema = pq.read_schema(DATA / "boot-6.18.trace.parquet")
    assert [[name, str(schema.field(name).type)] for name in schema.names] == wanted
    assert f"{CHUNK_ROWS:,} rows make a row group" in PAGE.read_text()
    assert f"**format {FORMAT}**" in PAGE.read_text()


def test_kinds_are_those_of_the_code() -> None:
    rows = table("kind | name | object | meaning")
    assert [(int(row[0]), row[1]) for row in rows] == [(k.value, k.name) for k in Kind]
    assert {row[1] for row in rows if row[2] == "begins"} == {k.name for k in STARTS}
    assert {row[1] for row in rows if row[2] == "ends"} == {k.name for k in ENDS}


def test_flags_are_those_of_the_code() -> None:
    text = PAGE.read_text().split("`flags`: ")[1].split("\n\n")[0]
    told = {int(number) for number in re.findall(r"(?:^|, |\n)(\d+) ", text)}
    assert told == {
        value for name, value in vars(kinds).items() if name.startswith("FLAG_")
    }


def test_keys_are_those_of_the_file() -> None:
    metadata = pq.read_metadata(DATA / "boot-6.18.trace.parquet").metadata
    keys = [row[0] for row in table("key | value")]
    assert sorted(keys) == sorted(
        name.decode() for name in metadata if name.startswith(b"uslub.")
    )
    header = next(row[1] for row in table("key | value") if row[0] == "uslub.header")
    written = json.loads(metadata[b"uslub.header"])
    assert header.removeprefix("JSON: ").split(", ") == list(written)
