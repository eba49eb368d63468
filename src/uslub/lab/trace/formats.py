"""Event `format` files: where each field of a binary event lies, and what bits mean.

The kernel describes its own events (`events/kmem/kmalloc/format`), so no table of
versions is needed: offsets, sizes and the numbers of gfp flags are read from there.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from uslub.lab.trace.errors import TraceError
from uslub.lab.trace.vocabulary import EVENTS, GFP, require

FIELD = re.compile(
    r"field:(?P<type>[^;]*?)\s*(?P<name>\w+)(?:\[[^\]]*\])?;\s*offset:(?P<offset>\d+);"
    r"\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>\d+);)?"
)
NAMED = re.compile(r'\{\s*([^{}"]+?)\s*,\s*"(\w+)"\s*\}')
CASTS = re.compile(
    r"\(\s*(?:unsigned\s+long|gfp_t|unsigned\s+int|int|__force\s+\w+)\s*\)"
)
SUFFIX = re.compile(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b")


@dataclass(frozen=True)
class Field:
    """One field of a binary event."""

    name: str
    offset: int
    size: int
    signed: bool
    is_text: bool  # __data_loc: a 16-bit offset and length of the text


@dataclass(frozen=True)
class Format:
    """One event as the kernel describes it."""

    name: str
    number: int
    event: int  # raw event of `batch`
    fields: dict[str, Field]
    gfp: dict[int, int]  # bits as the kernel numbers them, to ours


def parse_format(text: str) -> Format | None:
    """A `format` file; None for an event that the lab does not use.

    Raises:
        TraceError: It cannot be read as one.
        UnknownFields: The event lacks a field that is needed.
    """
    name = re.search(r"^name:\s*(\w+)", text, re.MULTILINE)
    number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
    if name is None or number is None:
        raise TraceError(
            f"event format without name or ID ({text[:40]!r}); expected the kernel's"
            " events/*/*/format"
        )
    event = EVENTS.get(name[1])
    if event is None:
        return None
    fields = {}
    for match in FIELD.finditer(text):
        fields[match["name"]] = Field(
            name=match["name"],
            offset=int(match["offset"]),
            size=int(match["size"]),
            signed=match["signed"] == "1",
            is_text="__data_loc" in match["type"],
        )
    require(event, set(fields))
    return Format(name[1], int(number[1]), event, fields, gfp_bits(text))


def gfp_bits(text: str) -> dict[int, int]:
    """The single gfp bits that matter here, as this kernel numbers them."""
    found = {}
    for expression, name in NAMED.findall(text):
        if name in GFP and name.startswith("__GFP"):
            value = number_of(expression)
            if value is not None and value and value & (value - 1) == 0:
                found[value] = GFP[name]
    return found


def number_of(expression: str) -> int | None:
    """A constant C expression of shifts and ors; None where it is something else."""
    plain = SUFFIX.sub(r"\1", CASTS.sub("", expression))
    try:
        return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return None


OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.LShift: operator.lshift,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        right = _value(node.right)
        if isinstance(node.op, ast.LShift) and right > 64:
            raise ValueError("shift")
        return OPERATIONS[type(node.op)](_value(node.left), right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_value(node.operand)
    raise ValueError("no constant")
