"""What a replay may change: the design, the tunables, the machine.

Here: `DESIGNS`, `Settings`, `design_of` (which design a kernel release has) and
`parse_settings` for the command line. Relies on the errors only; knows neither
traces nor the model's inside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from uslub.errors import BadArgument

#: Changes when the same trace and parameters may give another result.
VERSION = 1

#: Names of designs, and what each is.
DESIGNS = {
    "5.10": "CPU slabs, chains bounded by objects",
    "classic": "CPU slabs, frozen chains: the design of this project's engine",
    "6.8": "CPU slabs, chains no longer frozen",
    "6.18": "CPU slabs, sheaves for the caches that ask for them",
    "7.1": "sheaves everywhere, no CPU slabs",
    "slab": "SLAB: queues per CPU, per node and between nodes, and a reaper",
    "slob": "SLOB: three first-fit lists for everything",
}

#: First release of each design, newest first.
SINCE = (
    ((7, 0), "7.1"),
    ((6, 9), "6.18"),
    ((6, 8), "6.8"),
    ((5, 16), "classic"),
    ((0, 0), "5.10"),
)


#: Largest value of each tunable, and one that makes sense, for messages.
LIMITS = {
    "cpu_partial": (1 << 20, 30),
    "min_partial": (1 << 20, 5),
    "order": (10, 1),
    "sheaf_capacity": (4096, 32),
}


class BadSetting(BadArgument):
    """A design, tunable or topology that cannot be replayed.

    Next: the text lists what there is.
    """


@dataclass(frozen=True)
class Settings:
    """Tunables of every cache; None: as in the trace, or as the design computes.

    Attributes:
        cpu_partial: Free objects that a CPU's chain should hold; 0: no chain.
        min_partial: Slabs on a node's list below which an empty one is kept.
        order: Of every cache's slabs that holds at least one object at that order.
        sheaf_capacity: Objects per sheaf; 0: none (designs with sheaves only).
    """

    cpu_partial: int | None = None
    min_partial: int | None = None
    order: int | None = None
    sheaf_capacity: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.named().items():
            if not 0 <= value <= LIMITS[name][0]:
                raise BadSetting(
                    f"setting {name}={value}: give 0 to {LIMITS[name][0]}, as in"
                    f" {name}={LIMITS[name][1]}"
                )

    def named(self) -> dict[str, int]:
        """Those that change something."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


SETTINGS = tuple(each.name for each in fields(Settings))


def parse_settings(texts: Iterable[str]) -> Settings:
    """Settings from `cpu_partial=0,order=1` and the like.

    Raises:
        BadSetting: No `=`, an unknown name, not a whole number.
    """
    found: dict[str, int] = {}
    for text in texts:
        for word in text.split(","):
            name, equals, value = word.partition("=")
            name = name.strip().replace("-", "_")
            if name not in SETTINGS:
                near = difflib.get_close_matches(name, SETTINGS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                known = ", ".join(SETTINGS)
                raise BadSetting(f"no setting {name!r}: {hint}there are {known}")
            if not equals or not re.fullmatch(r"\s*\d+\s*", value):
                raise BadSetting(
                    f"setting {word.strip()!r}: give a whole number, as in"
                    f" {name}={LIMITS[name][1]}"
                )
            if name in found:
                raise BadSetting(f"setting {name}: given twice; give it once")
            found[name] = int(value)
    return Settings(**found)


def check_design(design: str) -> str:
    """The name itself.

    Raises:
        BadSetting: There is no such design.
    """
    if design not in DESIGNS:
        near = difflib.get_close_matches(design, list(DESIGNS), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadSetting(f"no design {design!r}: {hint}there are {', '.join(DESIGNS)}")
    return design


def design_of(kernel: str) -> str:
    """The design of a kernel release such as "6.18.15+deb13-cloud-amd64".

    Raises:
        BadSetting: The release cannot be read: name the design.
    """
    match = re.search(r"(\d+)\.(\d+)", kernel)
    if match is None:
        raise BadSetting(
            f"the trace says kernel release {kernel!r}, which has no number: name the"
            f" design of that kernel with --design ({', '.join(DESIGNS)})"
        )
    release = (int(match[1]), int(match[2]))
    return next(design for first, design in SINCE if release >= first)
