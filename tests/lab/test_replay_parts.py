"""The parts of a replay that need no trace: settings, topology, delays, ground."""

from __future__ import annotations

import numpy as np
import pytest

from uslub.lab.replay import DESIGNS, BadSetting, Settings, design_of, parse_settings
from uslub.lab.replay.feed import parse_delay
from uslub.lab.replay.settings import check_design
from uslub.lab.replay.topology import make_topology


@pytest.mark.parametrize(
    ("kernel", "design"),
    [
        ("5.10.0-34-amd64", "5.10"),
        ("6.1.0-56-amd64", "classic"),
        ("6.8.12", "6.8"),
        ("6.12.107+deb13-cloud-amd64", "6.18"),
        ("6.18.15+deb13-cloud-amd64", "6.18"),
        ("7.3.4+deb13-cloud-amd64", "7.1"),
    ],
)
def test_a_kernel_release_tells_its_design(kernel: str, design: str) -> None:
    assert design_of(kernel) == design and design in DESIGNS


def test_a_release_without_a_number_asks_for_the_design() -> None:
    with pytest.raises(BadSetting, match="name the design"):
        design_of("unknown")


def test_settings_are_read_from_words_with_commas() -> None:
    found = parse_settings(["cpu_partial=0,min-partial=10", "order=1"])
    assert found == Settings(cpu_partial=0, min_partial=10, order=1)
    assert found.named() == {"cpu_partial": 0, "min_partial": 10, "order": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cpu_partal=0"], "did you mean 'cpu_partial'"),
        (["order"], "whole number"),
        (["order=x"], "whole number"),
        (["order=-1"], "whole number"),
        (["order=11"], "0 to 10"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        parse_settings(words)


def test_an_unknown_design_gets_a_near_name() -> None:
    with pytest.raises(BadSetting, match="did you mean 'classic'"):
        check_design("clasic")


@pytest.mark.parametrize(
    ("text", "ns"), [("0", 0), ("5s", 5 * 10**9), ("20ms", 2 * 10**7), ("reuse", None)]
)
def test_a_delay_is_seconds_or_reuse(text: str, ns: int | None) -> None:
    assert parse_delay(text) == ns


def test_a_delay_that_is_no_number_is_refused() -> None:
    with pytest.raises(BadSetting, match="reuse"):
        parse_delay("soon")


def test_fewer_cpus_fold() -> None:
    topology = make_topology((0, 0, 1, 1), 2, None)
    assert (topology.kind, topology.cpu_node) == ("folded", (0, 1))
    assert topology.map_cpus(np.arange(4), np.zeros(4, int)).tolist() == [0, 1, 0, 1]


def test_more_cpus_are_spread_by_task_and_keep_migrations() -> None:
    topology = make_topology((0, 0), 8, 2)
    assert topology.kind == "spread by task"
    cpu, pid = np.array([0, 1, 0, 1]), np.array([7, 7, 7, 7])
    spread = topology.map_cpus(cpu, pid)
    assert spread[0] == spread[2] != spread[1] == spread[3]
    assert (spread % 2 == cpu).all(), "each virtual CPU belongs to one real CPU"
    many = topology.map_cpus(np.zeros(1000, int), np.arange(1000))
    assert set(many.tolist()) == {0, 2, 4, 6}


def test_a_named_node_is_scaled() -> None:
    topology = make_topology((0, 0, 1, 1), None, 1)
    assert topology.map_nodes(np.array([-1, 0, 1])).tolist() == [-1, 0, 0]


@pytest.mark.parametrize(("cpus", "nodes"), [(0, None), (2, 3), (None, 0)])
def test_a_machine_that_cannot_be_is_refused(
    cpus: int | None, nodes: int | None
) -> None:
    with pytest.raises(BadSetting):
        make_topology((0, 0, 1, 1), cpus, nodes)
