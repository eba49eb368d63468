"""Every interleaving of the racing operations; every missing guard is noticed."""

from __future__ import annotations

import pytest

from uslub.model.races import GUARDS, RACES, TWINS, run_race


@pytest.mark.parametrize("name", RACES)
def test_with_every_guard_no_interleaving_goes_wrong(name: str) -> None:
    outcome = run_race(name)
    assert outcome.good, str(outcome)
    assert outcome.states > 20


def test_every_guard_has_a_broken_twin() -> None:
    assert set(TWINS) == set(GUARDS)
    assert len(GUARDS) == 12


@pytest.mark.parametrize("guard", TWINS)
def test_without_a_guard_an_interleaving_goes_wrong(guard: str) -> None:
    outcome = run_race(TWINS[guard], without=guard)
    assert not outcome.good
    assert outcome.schedule


def test_the_counter_example_without_tid_is_the_aba_problem() -> None:
    outcome = run_race("aba", without="compares_tid")
    text = str(outcome)
    assert "B (cpu 0): swap freelist 1 -> 0" in text or "swap freelist 2 -> 0" in text
    assert outcome.schedule[-1].startswith(("A", "B"))
    assert "object 1" in outcome.violation


def test_an_unknown_race_or_guard_is_refused() -> None:
    with pytest.raises(KeyError):
        run_race("nothing")
    with pytest.raises(KeyError):
        run_race("aba", without="nothing")
