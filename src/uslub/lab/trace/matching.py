"""Do a trace and a ground file come from the same boot? `check_ground()`.

Names of caches and kernels are alike from boot to boot; what differs is when the
kernel's counters were read, which both know by the same clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from uslub.lab.trace.errors import GroundMismatch
from uslub.lab.trace.ground import Ground
from uslub.lab.trace.header import Checkpoint, Header
from uslub.lab.trace.store import Trace

#: Both times are of one clock and one moment; text rounds to a microsecond.
APART_NS_MAX = 1_000_000


def check_ground(trace: Trace, ground: Ground) -> None:
    """Refuse a ground file of another boot than the trace.

    Raises:
        GroundMismatch: The text says what does not fit.
    """
    compare(str(trace.path), trace.header, trace.checkpoints, ground)


def compare(
    path: str, header: Header, checkpoints: Sequence[Checkpoint], ground: Ground
) -> None:
    """As `check_ground`, of the parts of a trace."""
    told = _misfit(header, checkpoints, ground)
    if told:
        raise GroundMismatch(
            f"{ground.path}: of another boot than {path}: {told}; give the ground file"
            " that was recorded with this trace"
        )


def _misfit(
    header: Header, checkpoints: Sequence[Checkpoint], ground: Ground
) -> str | None:
    if header.kernel and ground.kernel and header.kernel != ground.kernel:
        return f"kernel {ground.kernel}, the trace is of {header.kernel}"
    if ground.cpus and header.cpus > ground.cpus:
        return f"{ground.cpus} CPUs, the trace has events of {header.cpus}"
    if not ground.checkpoints:
        return None
    if not checkpoints:
        return _outside(header, ground)
    times = {each.name: each.time for each in ground.checkpoints}
    shared = [each for each in checkpoints if each.name in times]
    if not shared:
        names = ", ".join(each.name for each in checkpoints)
        return f"none of the trace's checkpoints ({names}) is in it"
    for each in shared:
        apart = abs(each.time - times[each.name])
        if apart > APART_NS_MAX:
            return (
                f"checkpoint {each.name!r} was at {times[each.name] / 1e9:.6f} s, in"
                " the"
                f" trace at {each.time / 1e9:.6f} s"
            )
    return None


# Without checkpoints in the trace, those of the ground must at least lie in its time.
def _outside(header: Header, ground: Ground) -> str | None:
    end = header.start_ns + header.span_ns
    times = [each.time for each in ground.checkpoints]
    if max(times) < header.start_ns or min(times) > end:
        return (
            f"its checkpoints lie between {min(times) / 1e9:.3f} and"
            f" {max(times) / 1e9:.3f} s,"
            f" the trace between {header.start_ns / 1e9:.3f} and {end / 1e9:.3f} s"
        )
    return None
