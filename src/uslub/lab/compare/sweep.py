"""Many replays side by side: hand points to an executor, keep what comes back.

Any `concurrent.futures.Executor` will do. The function that travels (`replay_point`) is
a module's, its arguments are a path and a point, and its answer is an `Outcome`: so a
process pool, a Dask cluster or Ray can take it, as long as the trace has the same path
there. Without an executor: a process pool over the cores of this machine, or this very
process for one job. What is done is stored at once (`store.py`).
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from uslub.errors import Error
from uslub.lab.compare.grid import Point
from uslub.lab.compare.outcome import Outcome
from uslub.lab.compare.replaying import replay_point
from uslub.lab.compare.store import Store

#: Called with the points done (with a fraction where it is known) and their number.
Progress = Callable[[float, int], None]


class SweepFailed(Error):
    """A point of the grid could not be replayed; the text says which and why.

    Points that were finished are stored. Next: mend the grid and run it again.
    """


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def chosen_executor(
    executor: Executor | None, jobs: int | None, count: int
) -> Iterator[Executor | None]:
    """The executor that was given, a pool of our own, or None: in this process.

    Args:
        executor: Used and left open.
        jobs: Processes of our own; None: one per core, and no more than points.
        count: Points to replay.
    """
    if executor is not None:
        yield executor
        return
    workers = min(jobs or usable_cores(), count)
    if workers <= 1:
        yield None
        return
    # Not fork: the progress bar has a thread, and so may our caller.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=follow, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


# In a worker: end with the parent, even if it is killed, and at Ctrl-C without a word.
def follow(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def sweep(
    path: Path,
    points: Iterable[Point],
    *,
    before: int = 0,
    store: Store | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    options: dict[str, object] | None = None,
) -> dict[Point, Outcome]:
    """Replay points, and store each as soon as it is done.

    Args:
        path: The trace, as the workers see it.
        points: What to replay.
        before: Points of the same grid that are done already, for `progress`.
        store: Where outcomes are kept; None: nowhere.
        executor: Who replays; see `chosen_executor`.
        jobs: Processes, where no executor is given.
        progress: See `Progress`.
        options: More keyword arguments of `replay_point`.

    Returns:
        The outcome of each point.

    Raises:
        SweepFailed: A worker died, or a point was refused.
        OSError: The store cannot be written.
    """
    wanted = list(points)
    found: dict[Point, Outcome] = {}
    total = before + len(wanted)
    tell = progress or (lambda done, total: None)
    tell(before, total)
    options = options or {}
    with chosen_executor(executor, jobs, len(wanted)) as chosen:
        if chosen is None:
            done = in_turn(path, wanted, options, before, total, tell)
        else:
            done = side_by_side(path, wanted, options, chosen)
        for outcome in done:
            if store is not None:
                store.save(outcome)
            found[outcome.point] = outcome
            tell(before + len(found), total)
    return found


def in_turn(
    path: Path,
    points: list[Point],
    options: dict[str, object],
    before: int,
    total: int,
    tell: Progress,
) -> Iterator[Outcome]:
    """One after another in this process."""
    last = 0.0
    for index, point in enumerate(points):

        def partly(done: int, rows: int, base: int = before + index) -> None:
            nonlocal last
            if time.monotonic() - last >= 0.1 and rows:
                last = time.monotonic()
                tell(base + min(done / rows, 1.0), total)

        replay = functools.partial(replay_point, path, point, options, partly)
        yield named(point, replay)


def side_by_side(
    path: Path, points: list[Point], options: dict[str, object], executor: Executor
) -> Iterator[Outcome]:
    """All at once, as they come. After a failure: no new ones, but those that run are
    waited for and given out, so that they are stored."""
    futures: dict[Future[Outcome], Point] = {
        executor.submit(replay_point, path, point, options): point for point in points
    }
    failed: SweepFailed | None = None
    try:
        for future in as_completed(futures):
            if future.cancelled():
                continue
            try:
                yield named(futures[future], future.result)
            except SweepFailed as error:
                failed = failed or error
                cancel(futures)
    finally:
        cancel(futures)
    if failed is not None:
        raise failed


def cancel(futures: Iterable[Future[Outcome]]) -> None:
    """Whatever has not begun does not begin."""
    for future in futures:
        future.cancel()


def named(point: Point, answer: Callable[[], Outcome]) -> Outcome:
    """The answer; an error with the point's name before it.

    Raises:
        SweepFailed: The replay refused, or its process died.
    """
    try:
        return answer()
    except BrokenProcessPool as error:
        raise SweepFailed(
            f"grid point {point.label}: the worker process died, perhaps for want of"
            " memory; finished points are kept: run it again with fewer --jobs"
        ) from error
    except (Error, OSError) as error:
        text = str(error.args[-1]) if error.args else type(error).__name__
        raise SweepFailed(f"grid point {point.label}: {text}") from error
