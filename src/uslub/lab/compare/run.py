"""`compare()`: a trace and a grid in, a `Comparison` out.

Opens the trace once, so that what is wrong with it is said once and before anything is
started, and a text is read once and not by every worker; asks the store; then `sweep`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from uslub.errors import BadArgument
from uslub.lab.compare.comparison import Comparison
from uslub.lab.compare.grid import points, settled
from uslub.lab.compare.store import Store, default_folder, fingerprint
from uslub.lab.compare.sweep import Progress, sweep
from uslub.lab.replay import design_of
from uslub.lab.trace import open_trace, sample
from uslub.lab.trace.errors import TraceError

SAMPLE = "sample:"
#: Events over all points that one process replays sooner than others are started.
SMALL_EVENTS = 500_000


def located(trace: str | os.PathLike[str]) -> Path:
    """The file of a trace, or of one that comes with uslub (`sample:linux-6.18`).

    Raises:
        TraceError: There is no such sample, or no name.
    """
    name = os.fspath(trace)
    if name.startswith(SAMPLE):
        return sample(name.removeprefix(SAMPLE))
    if not name:
        raise TraceError("no trace was named: expected a file, a folder or sample:NAME")
    return Path(name)


def compare(
    trace: str | os.PathLike[str],
    grid: Mapping[str, Sequence[object]] | Iterable[str] | None = None,
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    store: str | os.PathLike[str] | bool | None = True,
    fresh: bool = False,
    allow_loss: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Replay a trace once for every point of a grid.

    Args:
        trace: Any file that `uslub.lab.trace.open_trace` reads, or `sample:NAME` for
            one that comes with uslub. The workers of an
            executor on other machines must find it under the same absolute path.
        grid: `{"cpu_partial": [0, 30, 120], "design": ["classic", "slab"]}` or
            `["cpu_partial=0,30,120", "design=classic,slab"]`: every combination is a
            point, but that a design goes without the tunables it does not have. None or
            "default" as a value: as in the trace. No grid: one point.
        executor: Takes the replays; left open. None: processes of this machine.
        jobs: How many of those; None: one per core, or 1 where there is little to do.
            1: in this process. As they are started afresh, a script that wants more
            calls this under `if __name__ == "__main__":`.
        store: Folder in which outcomes are kept, so that the same question is not
            replayed twice and a run that was stopped goes on; True: the user's cache
            folder; None or False: kept nowhere.
        fresh: Replay even what the store has.
        allow_loss: Replay a trace that lost events, with wider error bars.
        progress: Called with the points done (with a fraction, where one job replays
            in this process) and the number of points.

    Returns:
        The outcomes in the order of the grid.

    Raises:
        BadGrid: An axis that cannot be read, or a tunable that no design here has.
        BadArgument: `jobs` is not positive.
        TraceError: The trace cannot be used.
        SweepFailed: A point was refused by the replay, or its process died.
        OSError: A file cannot be read or written.
    """
    combinations = points(grid)
    if jobs is not None and jobs < 1:
        raise BadArgument(
            f"compare: {jobs} jobs; at least 1, or leave it out for every core"
        )
    source = located(trace)
    opened = open_trace(source, allow_loss=allow_loss)
    # A text may not say of which kernel it is; then every point names its design.
    named = all(point["design"] for point in combinations)
    wanted = settled(combinations, "" if named else design_of(opened.header.kernel))
    kept, found = None, {}
    if store:
        folder = default_folder() if store is True else Path(store)
        kept = Store(folder, fingerprint(opened.path))
        found = {} if fresh else kept.known(wanted)
    reused = len(found)
    rest = [point for point in wanted if point not in found]
    if jobs is None and opened.header.events * len(rest) <= SMALL_EVENTS:
        jobs = 1
    if rest:
        found |= sweep(
            opened.path.resolve(),
            rest,
            before=reused,
            store=kept,
            executor=executor,
            jobs=jobs,
            progress=progress,
            # The same objects at every point, or the traced one alone has the tracer's.
            options={"allow_loss": allow_loss, "own_objects": "made"},
        )
    return Comparison(str(trace), tuple(found[point] for point in wanted), reused)
