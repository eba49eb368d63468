"""A grid of what-if questions: which parameters, which values, every combination.

`--grid cpu_partial=0,30,120 --grid design=classic,slab` is two axes and six points. A
`Point` is one combination; it is small, hashable, and writes itself the same way every
time, because the store finds old results by it. Nothing here runs anything, and nothing
here knows what a parameter means: names and values come from `uslub.lab.replay`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from uslub.errors import BadArgument
from uslub.lab.replay import DESIGNS, SETTINGS, BadSetting, Settings
from uslub.lab.replay.build import refuse_foreign

#: A value of an axis. None: as the trace has it.
Value = str | int | bool | None

#: Axes that are counts, with the least that makes sense.
COUNTS = {"cpus": 1, "nodes": 1}
SWITCHES = ("nomerge",)
DEFAULT = "default"
POINTS_MAX = 10_000


class BadGrid(BadArgument):
    """An axis that cannot be read: no such parameter, no such value, none at all.

    Next: the text lists what there is; `uslub compare --help` shows an example.
    """


@dataclass(frozen=True)
class Point:
    """One combination, sorted by name; what is not named is as in the trace."""

    values: tuple[tuple[str, Value], ...] = ()

    def __getitem__(self, name: str) -> Value:
        """The value of one parameter; None where it is as in the trace."""
        return dict(self.values).get(name)

    @property
    def label(self) -> str:
        """`cpu_partial=0 design=slab`, for people; `as traced` for the empty point."""
        named = [f"{name}={said(value)}" for name, value in self.values]
        return " ".join(named) or "as traced"

    def as_dict(self) -> dict[str, Value]:
        """The named values."""
        return dict(self.values)


def said(value: Value) -> str:
    """A value as it would be typed."""
    if value is None:
        return DEFAULT
    return str(value).lower() if isinstance(value, bool) else str(value)


def axes() -> tuple[str, ...]:
    """Every name that an axis may have."""
    return ("design", *SETTINGS, *COUNTS, *SWITCHES)


def parse_axis(text: str) -> tuple[str, tuple[Value, ...]]:
    """Read `cpu_partial=0,30,default`.

    Args:
        text: One name, `=`, values with commas between them.

    Returns:
        The name and its values in the order given.

    Raises:
        BadGrid: No `=`, no value, an unknown name or a value the name cannot have.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    values = [word.strip() for word in rest.split(",")]
    if not equals or not all(values):
        raise BadGrid(
            f"grid '{text}' is not of the form name=value,value"
            " (as in cpu_partial=0,30,default)"
        )
    return name, check_axis(name, values)


def check_axis(name: str, values: Iterable[object]) -> tuple[Value, ...]:
    """The values of one axis, each in its type.

    Raises:
        BadGrid: An unknown name, a value that the name cannot have, one named twice.
    """
    if name not in axes():
        near = difflib.get_close_matches(name, axes(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(axes())
        raise BadGrid(f"grid: no parameter {name!r}: {hint}there are {known}")
    found = tuple(check_value(name, value) for value in values)
    twice = [said(value) for value in found if found.count(value) > 1]
    if twice:
        raise BadGrid(f"grid {name}: value {twice[0]} is named twice; name it once")
    if not found:
        raise BadGrid(f"grid {name}: no values; name at least one")
    return found


def check_value(name: str, value: object) -> Value:
    """One value in its type; None for `default`."""
    if value is None or value == DEFAULT:
        return None
    if name == "design":
        if value in DESIGNS:
            return str(value)
        near = difflib.get_close_matches(str(value), list(DESIGNS), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(DESIGNS)
        raise BadGrid(f"grid design: no design {str(value)!r}: {hint}there are {known}")
    if name in SWITCHES:
        return check_switch(name, value)
    number = check_count(name, value, COUNTS.get(name, 0))
    if name in SETTINGS:
        Settings(**{name: number})  # says what it cannot be
    return number


def check_switch(name: str, value: object) -> bool:
    """True or false, as bool or text."""
    known = {"true": True, "yes": True, "1": True, "on": True}
    known |= {"false": False, "no": False, "0": False, "off": False}
    key = str(value).lower()
    if key not in known:
        raise BadGrid(f"grid {name}: {value!r} is neither true nor false")
    return known[key]


def check_count(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise BadGrid(
            f"grid {name}: {value!r} is not a whole number of at least {least}"
            f" (or {DEFAULT!r}: as in the trace)"
        )
    return number


def points(
    grid: Mapping[str, Sequence[object]] | Iterable[str] | None,
) -> tuple[Point, ...]:
    """Every combination of a grid, the last axis running fastest.

    Args:
        grid: `{"cpu_partial": [0, 30], "design": ["slab"]}`, or texts as in
            `parse_axis`; None or empty: the trace as it is, one point.

    Returns:
        The points, at most `POINTS_MAX`; axis order is the order given.

    Raises:
        BadGrid: See `parse_axis`; also an axis given twice, or too many points.
    """
    named: dict[str, tuple[Value, ...]] = {}
    for name, values in read(grid):
        if name in named:
            raise BadGrid(f"grid {name}: given twice; put all values in one axis")
        named[name] = values
    size = 1
    for values in named.values():
        size *= len(values)
    if size > POINTS_MAX:
        raise BadGrid(f"grid of {size:,} points; {POINTS_MAX:,} at most: drop values")
    product = itertools.product(*named.values())
    return tuple(Point(tuple(zip(named, row, strict=True))) for row in product)


def settled(found: Iterable[Point], traced_design: str) -> tuple[Point, ...]:
    """The points without the tunables that their design does not have.

    In `cpu_partial=0,30 design=6.18,slab` the design slab is one point, not two: it has
    no `cpu_partial`.

    Args:
        found: Every combination.
        traced_design: The design of a point that names none.

    Returns:
        Each remaining point once, in the order of the grid.

    Raises:
        BadGrid: A tunable that no design of the grid has.
    """
    before = tuple(found)
    after = tuple(dict.fromkeys(possible(one, traced_design) for one in before))
    for name in SETTINGS:
        if any(one[name] is not None for one in before) and not any(
            one[name] is not None for one in after
        ):
            designs = sorted({str(one["design"] or traced_design) for one in before})
            raise BadGrid(
                f"grid {name}: no design of this grid has it ({', '.join(designs)});"
                " drop the axis or add a design that has"
            )
    return after


def possible(point: Point, traced_design: str) -> Point:
    """A point without the tunables that its design does not have."""
    design = str(point["design"] or traced_design)
    kept = []
    for name, value in point.values:
        if name in SETTINGS:
            try:
                refuse_foreign(design, Settings(**{name: 1}))
            except BadSetting:
                continue
        kept.append((name, value))
    return Point(tuple(kept))


def read(
    grid: Mapping[str, Sequence[object]] | Iterable[str] | None,
) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """The axes of a grid in either form."""
    if isinstance(grid, Mapping):
        for name, values in grid.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise BadGrid(
                    f"grid {name}: {values!r} is not a list of values; write"
                    f" {{{name!r}: [{values!r}]}}"
                )
            yield name, check_axis(name, values)
    elif isinstance(grid, str):
        yield parse_axis(grid)
    else:
        for text in grid or ():
            yield parse_axis(text)
