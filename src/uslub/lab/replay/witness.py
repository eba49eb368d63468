"""The second witness: how many slabs there were by page events alone.

`uslub.lab.trace.page_truth` counts the pages on which objects of a cache were seen,
from their allocation to their end. That knows neither the model nor the kernel's
counters, so agreeing with it means something. Slabs whose objects no event touches are
missing in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from uslub.lab.replay.result import Result
from uslub.lab.trace import Checkpoint, Trace, page_truth


@dataclass
class Witness:
    """Slabs by page events, by (checkpoint, cache name)."""

    slabs: dict[tuple[int, str], int] = field(default_factory=dict)

    def total(self, checkpoint: int) -> int:
        """Over the caches of one checkpoint."""
        return sum(n for (point, _), n in self.slabs.items() if point == checkpoint)


def page_witness(
    trace: Trace, result: Result, checkpoints: Sequence[Checkpoint]
) -> Witness | None:
    """Ask it wherever there is a prediction.

    Returns:
        What it says; None for a trace without page events or addresses.
    """
    if trace.table("slabs") is None:
        return None
    truth = page_truth(trace)
    found = Witness()
    names = [info.name for info in trace.header.caches]
    for each in result.predictions:
        if each.cache in checkpoints[each.checkpoint].caches:
            slabs = truth.slabs(each.row)
            found.slabs[each.checkpoint, names[each.cache]] = int(
                slabs[each.cache].sum()
            )
    return found
