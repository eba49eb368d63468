"""A few seconds of chaos: nothing is lost, nothing is handed out twice, nobody hangs.

The seed chooses who is killed and when to look; what the workers are doing at that
moment is never the same twice. `make chaos` is the same for longer, under more
conditions; a violation names its round's settings.
"""

from __future__ import annotations

import pytest

from chaos.conductor import Outcome, Round, run_round
from chaos.oracle import C_WORKER

pytestmark = pytest.mark.skipif(
    not C_WORKER.exists(), reason="no chaos-worker: `make ctest` builds it"
)


def sound(outcome: Outcome) -> None:
    """What must hold of every round."""
    assert outcome.violations == []
    assert (outcome.losses, outcome.doubles, outcome.hangs) == (0, 0, 0)


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_doubled_while_workers_are_killed_and_stopped() -> None:
    outcome = run_round(Round(kind="plain", seed=20, seconds=6, kills_per_second=8))
    sound(outcome)
    assert outcome.kills > 0 and outcome.stops > 0 and outcome.forks > 0
    assert outcome.recoveries >= outcome.deaths > 0


@pytest.mark.check
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["tight", "full", "group"])
def test_nothing_is_lost_where_memory_is_short(kind: str) -> None:
    size = {"tight": 4 << 20, "group": 128 << 20}.get(kind, 32 << 20)
    outcome = run_round(Round(kind=kind, seed=21, seconds=8, arena_bytes=size))
    if outcome.skipped:
        pytest.skip(outcome.skipped[0])
    sound(outcome)
    assert outcome.refused > 0


@pytest.mark.timeout(300)
def test_a_round_without_deaths_is_sound_as_well() -> None:
    outcome = run_round(
        Round(kind="plain", seed=22, seconds=2, kills_per_second=0, calm=True)
    )
    sound(outcome)
    assert outcome.kills == 0 and outcome.operations > 1000
