"""Runs the model of the specification over a trace of a real kernel.

    trace = open_trace("boot.ustr")
    result = replay(trace)                          # the traced kernel's own design
    result = replay(trace, design="slab", cpus=2)   # another allocator, another machine
    report = compare_ground(result, trace.checkpoints, trace.header)

Read in this order: `settings` (what may change), `topology`, `build` (machine and
caches), `survey` and `seeds` (what was there before the trace), `feed` (rows as the
model takes them), `run` (the loop), `measure` and `result` (what comes out), `ground`
(against the kernel's own counters). Every decision about slabs is taken in
`uslub.model`. Design: docs/design/06-lab.md, "Replay".
"""

from __future__ import annotations

from uslub.lab.replay.ground import (
    GroundReport,
    IntervalReport,
    compare_ground,
    replay_interval,
)
from uslub.lab.replay.replaying import Prepared, prepare, replay
from uslub.lab.replay.result import Moment, Prediction, Result
from uslub.lab.replay.settings import (
    DESIGNS,
    SETTINGS,
    VERSION,
    BadSetting,
    Settings,
    design_of,
    parse_settings,
)

__all__ = [
    "DESIGNS",
    "SETTINGS",
    "VERSION",
    "BadSetting",
    "GroundReport",
    "IntervalReport",
    "Moment",
    "Prediction",
    "Prepared",
    "Result",
    "Settings",
    "compare_ground",
    "design_of",
    "parse_settings",
    "prepare",
    "replay",
    "replay_interval",
]
