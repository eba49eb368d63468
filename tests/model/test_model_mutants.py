"""Every committed broken twin of the model is noticed by its catcher."""

from __future__ import annotations

import pytest

from model import mutants
from model.mutants import MUTANTS, Mutant


def test_at_least_25_mutants_apply_to_the_present_text() -> None:
    assert len(MUTANTS) >= 25
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutants.mutated_text(mutant) != ""


def test_a_rotten_mutant_is_refused() -> None:
    rotten = Mutant("rotten", "alloc.py", "no such line", "x", "default_a.txt")
    with pytest.raises(ValueError, match="occurs 0 times"):
        mutants.mutated_text(rotten)


@pytest.mark.check
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_twin_is_caught(mutant: Mutant) -> None:
    assert mutants.is_caught(mutant, mutants.locate(mutant.catcher))


@pytest.mark.check
@pytest.mark.parametrize("catcher", sorted({mutant.catcher for mutant in MUTANTS}))
def test_a_catcher_accepts_the_model_itself(catcher: str) -> None:
    assert not mutants.is_caught(None, mutants.locate(catcher))
