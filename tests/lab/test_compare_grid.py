"""Grids: what is understood, what is refused and in which words."""

from __future__ import annotations

import pytest

from uslub.lab.compare import BadGrid, Point
from uslub.lab.compare.grid import points, settled
from uslub.lab.replay import DESIGNS, SETTINGS


def test_every_value_meets_every_other_and_the_last_axis_runs_fastest() -> None:
    found = points(["cpu_partial=0,30", "design=classic,slab"])
    assert [one.label for one in found] == [
        "cpu_partial=0 design=classic",
        "cpu_partial=0 design=slab",
        "cpu_partial=30 design=classic",
        "cpu_partial=30 design=slab",
    ]


def test_texts_and_mappings_name_the_same_points() -> None:
    texts = points(["cpu-partial=0,default", "nomerge=yes,no"])
    assert texts == points({"cpu_partial": [0, None], "nomerge": [True, False]})
    assert texts[2].as_dict() == {"cpu_partial": None, "nomerge": True}


def test_no_grid_is_the_trace_as_it_is() -> None:
    assert points(None) == points([]) == points({}) == (Point(),)
    assert Point().label == "as traced"


@pytest.mark.parametrize("name", ["design", *SETTINGS, "cpus", "nodes", "nomerge"])
def test_every_parameter_of_the_replay_is_an_axis(name: str) -> None:
    value = {"design": "slob", "nomerge": "true"}.get(name, "2")
    (found,) = points([f"{name}={value}"])
    assert found[name] is not None


def test_every_design_of_the_replay_can_be_named() -> None:
    assert len(points([f"design={','.join(DESIGNS)}"])) == len(DESIGNS)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["cpu_partial"], "not of the form name=value,value"),
        (["cpu_partial="], "not of the form name=value,value"),
        (["cpu_partial=0,,30"], "not of the form name=value,value"),
        (["cpu_partail=0"], "did you mean 'cpu_partial'?"),
        (["colour=red"], "there are design, cpu_partial"),
        (["design=slap"], "did you mean 'slab'?"),
        (["design=jemalloc"], "there are 5.10, classic"),
        (["cpu_partial=many"], "'many' is not a whole number of at least 0"),
        (["cpu_partial=-1"], "'-1' is not a whole number of at least 0"),
        (["cpu_partial=1.5"], "'1.5' is not a whole number"),
        (["cpus=0"], "'0' is not a whole number of at least 1"),
        (["order=11"], "0 to 10"),
        (["nomerge=perhaps"], "neither true nor false"),
        (["cpus=2,2"], "value 2 is named twice"),
        (["cpus=2", "cpus=4"], "put all values in one axis"),
        ({"cpus": []}, "no values"),
        ({"cpus": 2}, "is not a list of values; write {'cpus': [2]}"),
        ({"design": "slab"}, "write {'design': ['slab']}"),
        ({"cpus": [True]}, "True is not a whole number"),
        (
            {"cpus": range(1, 102), "cpu_partial": range(100)},
            "10,100 points; 10,000 at most",
        ),
    ],
)
def test_what_cannot_be_read_is_said(grid: list[str], words: str) -> None:
    with pytest.raises((BadGrid, ValueError)) as caught:
        points(grid)
    assert words in str(caught.value)


def test_a_design_goes_without_the_tunables_it_does_not_have() -> None:
    grid = points(["cpu_partial=0,default", "design=default,7.1,slab"])
    assert [one.label for one in settled(grid, "6.18")] == [
        "cpu_partial=0 design=default",
        "design=7.1",
        "design=slab",
        "cpu_partial=default design=default",
    ]


def test_a_tunable_that_nobody_has_is_refused() -> None:
    grid = points(["cpu_partial=0,30", "design=slab,slob"])
    with pytest.raises(BadGrid, match=r"no design of this grid has it \(slab, slob\)"):
        settled(grid, "6.18")
    assert len(settled(points(["cpu_partial=0,30"]), "6.18")) == 2
    with pytest.raises(BadGrid, match=r"no design of this grid has it \(7.1\)"):
        settled(points(["cpu_partial=0,30"]), "7.1")
