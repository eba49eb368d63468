"""What SLUB does, claim by claim, on engine and model alike.

Sequences and counters are those of the facts (sections 3 to 6 and 14.5): objects of 512
bytes in slabs of order 1, 16 each, chains of at most 7, min_partial 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from backends import BACKENDS, Backend, Busy, NoMemory, Position

Make = Callable[..., Backend]
PER_SLAB = 16


@pytest.fixture(params=sorted(BACKENDS))
def make(request: pytest.FixtureRequest) -> Make:
    """A backend with one cache: ``make(size, cpus=..., order=..., ...)``."""

    def build(size: int = 512, **wishes: Any) -> Backend:
        machine = {
            key: wishes.pop(key)
            for key in ("cpus", "nodes", "pages", "reserve")
            if key in wishes
        }
        wishes = {"order": 1, "min_partial": 5, "cpu_partial": 52} | wishes
        return BACKENDS[request.param](machine, size, wishes)

    return build


def fill(backend: Backend, slabs: int, cpu: int = 0) -> list[list[Position]]:
    """`slabs` full slabs, as lists of positions; CPU slabs are used up exactly."""
    return [[backend.alloc(cpu) for _ in range(PER_SLAB)] for _ in range(slabs)]


def counted(backend: Backend, before: dict[str, int] | None = None) -> dict[str, int]:
    """Counters that moved (since `before`), summed over CPUs."""
    now = {name: sum(values) for name, values in backend.picture().stats}
    before = before or {}
    return {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}


def test_a_new_slab_serves_in_address_order(make: Make) -> None:
    backend = make()
    assert [backend.alloc() for _ in range(PER_SLAB)] == [(0, i) for i in range(16)]
    assert counted(backend) == {
        "alloc_fastpath": 15,
        "alloc_slowpath": 1,
        "alloc_slab": 1,
    }


def test_a_used_up_slab_is_bypassed_and_on_no_list(make: Make) -> None:
    backend = make()
    fill(backend, 1)
    before = counted(backend)
    assert backend.alloc() == (1, 0)
    assert counted(backend, before) == {
        "alloc_slowpath": 1,
        "deactivate_bypass": 1,
        "alloc_slab": 1,
    }
    picture = backend.picture()
    assert picture.slabs[0].place == "full" and not picture.slabs[0].frozen


def test_the_object_freed_last_is_allocated_next(make: Make) -> None:
    backend = make()
    objects = [backend.alloc() for _ in range(4)]
    for position in objects:
        backend.free(position)
    assert [backend.alloc() for _ in range(4)] == objects[::-1]


def test_a_free_from_another_cpu_never_moves_a_frozen_slab(make: Make) -> None:
    backend = make()
    position = backend.alloc(cpu=0)
    before = counted(backend)
    backend.free(position, cpu=1)
    assert counted(backend, before) == {"free_slowpath": 1, "free_frozen": 1}
    slab = backend.picture().slabs[0]
    assert (slab.place, slab.frozen, slab.freelist) == ("cpu 0", True, (0,))


def test_the_cpu_finds_what_others_freed_into_its_slab(make: Make) -> None:
    backend = make()
    (slab,) = fill(backend, 1)
    backend.free(slab[3], cpu=1)
    backend.free(slab[5], cpu=1)
    before = counted(backend)
    assert backend.alloc(cpu=0) == slab[5]
    assert backend.alloc(cpu=0) == slab[3]
    assert counted(backend, before) == {
        "alloc_slowpath": 1,
        "alloc_refill": 1,
        "alloc_fastpath": 1,
    }


def test_the_first_free_puts_a_full_slab_on_the_chain_of_the_freeing_cpu(
    make: Make,
) -> None:
    backend = make()
    first, _ = fill(backend, 2)
    before = counted(backend)
    backend.free(first[7], cpu=1)
    assert counted(backend, before) == {"free_slowpath": 1, "cpu_partial_free": 1}
    picture = backend.picture()
    assert picture.cpus[1].partial == (0,)
    assert picture.slabs[0].place == "chain 1" and picture.slabs[0].frozen


def test_the_eighth_slab_drains_a_chain_of_seven(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 9)
    before = counted(backend)
    for slab in slabs[:8]:
        backend.free(slab[0])
    assert counted(backend, before) == {
        "free_slowpath": 8,
        "cpu_partial_free": 8,
        "cpu_partial_drain": 1,
        "free_add_partial": 7,
    }
    picture = backend.picture()
    assert picture.cpus[0].partial == (7,)
    assert picture.nodes[0].partial == (6, 5, 4, 3, 2, 1, 0)


def test_empty_slabs_beyond_min_partial_go_and_the_others_stay(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 9)
    for slab in slabs[:8]:
        backend.free(slab[0])
    before = counted(backend)
    for slab in slabs[:7]:
        for position in slab[1:]:
            backend.free(position)
    # From 7 slabs on the list, 3 are discarded (7, 6, 5), the last 4 stay empty.
    assert counted(backend, before) == {
        "free_slowpath": 7 * 15,
        "free_remove_partial": 3,
        "free_slab": 3,
    }
    assert backend.picture().nodes[0].partial == (6, 5, 4, 3)


def test_a_refill_takes_one_slab_and_half_a_chain_more(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 9)
    for slab in slabs[:8]:
        backend.free(slab[0])
    backend.flush(0)
    # The list is now 6 5 4 3 2 1 0 7; CPU 0 has nothing left.
    before = counted(backend)
    backend.alloc(cpu=0)
    assert counted(backend, before) == {
        "alloc_slowpath": 1,
        "alloc_from_partial": 1,
        "cpu_partial_node": 4,
    }
    picture = backend.picture()
    assert picture.cpus[0].slab == 6
    assert picture.cpus[0].partial == (2, 3, 4, 5)
    assert picture.nodes[0].partial == (1, 0, 7)


def test_the_chain_comes_before_the_node_list(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 2)
    backend.free(slabs[0][4])
    before = counted(backend)
    assert backend.alloc() == slabs[0][4]
    assert counted(backend, before) == {
        "alloc_slowpath": 1,
        "deactivate_bypass": 1,
        "cpu_partial_alloc": 1,
    }


def test_without_chains_a_full_slab_goes_to_the_tail_of_the_node_list(
    make: Make,
) -> None:
    backend = make(has_cpu_partial=False)
    slabs = fill(backend, 3)
    before = counted(backend)
    backend.free(slabs[1][0])
    backend.free(slabs[0][0])
    assert counted(backend, before) == {"free_slowpath": 2, "free_add_partial": 2}
    assert backend.picture().nodes[0].partial == (1, 0)


def test_deactivation_goes_to_the_head_unless_others_freed_into_the_slab(
    make: Make,
) -> None:
    backend = make()
    backend.alloc(cpu=0)
    backend.flush(0)
    backend.alloc(cpu=1)  # takes slab 0 over
    other = backend.alloc(cpu=0)
    mine = backend.alloc(cpu=0)
    backend.free(other, cpu=1)
    before = counted(backend)
    backend.flush(1)
    backend.flush(0)
    assert counted(backend, before) == {
        "cpuslab_flush": 2,
        "deactivate_to_head": 1,
        "deactivate_to_tail": 1,
        "deactivate_remote_frees": 1,
    }
    assert backend.picture().nodes[0].partial == (0, 1)
    backend.free(mine)


def test_shrink_gives_empty_slabs_back_and_sorts_the_fullest_first(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 4)
    for slab, kept in zip(slabs, (3, 12, 0, 7), strict=True):
        backend.free_bulk(slab[kept:])
    backend.shrink()
    picture = backend.picture()
    assert picture.nodes[0].partial == (1, 3, 0)
    assert picture.nodes[0].slabs == 3
    assert all(c.slab is None and c.partial == () for c in picture.cpus)


def test_a_dead_cpus_slabs_go_to_the_nodes(make: Make) -> None:
    backend = make()
    backend.alloc(cpu=1)
    backend.cpu_dead(1)
    picture = backend.picture()
    assert picture.cpus[1].slab is None
    assert picture.nodes[0].partial == (0,)


def test_a_cpu_takes_slabs_of_its_own_node_and_others_only_when_asked(
    make: Make,
) -> None:
    backend = make(cpus=2, nodes=2)
    backend.alloc(cpu=0)
    backend.alloc(cpu=1)
    before = counted(backend)
    backend.alloc(cpu=0, node=1)
    assert counted(backend, before)["alloc_node_mismatch"] == 1
    picture = backend.picture()
    assert [slab.node for slab in picture.slabs] == [0, 1, 1]


def test_a_full_node_is_left_for_another_unless_it_was_insisted_on(make: Make) -> None:
    backend = make(cpus=2, nodes=2, pages=4)
    for _ in range(2 * PER_SLAB):
        backend.alloc(cpu=1, node=1)
    with pytest.raises(NoMemory):
        backend.alloc(cpu=1, node=1, thisnode=True)
    backend.alloc(cpu=1, node=1)
    assert [slab.node for slab in backend.picture().slabs] == [1, 1, 0]


def test_a_smaller_slab_is_made_when_no_block_of_the_preferred_order_is_left(
    make: Make,
) -> None:
    backend = make(pages=3)
    for _ in range(PER_SLAB + 8):
        backend.alloc()
    assert [slab.objects for slab in backend.picture().slabs] == [16, 8]
    assert counted(backend)["order_fallback"] == 1


def test_the_reserve_is_for_emergencies_and_never_becomes_a_cpu_slab(
    make: Make,
) -> None:
    backend = make(pages=8, reserve=2)
    for _ in range(3 * PER_SLAB):
        backend.alloc()
    with pytest.raises(NoMemory):
        backend.alloc()
    slab, _ = backend.alloc(emergency=True)
    picture = backend.picture()
    assert picture.slabs[slab].pfmemalloc and picture.cpus[0].slab is None
    with pytest.raises(NoMemory):
        backend.alloc()
    assert backend.alloc(emergency=True)[0] == slab


def test_bulk_is_all_or_nothing(make: Make) -> None:
    backend = make(pages=4)
    with pytest.raises(NoMemory):
        backend.alloc_bulk(2 * PER_SLAB + 1)
    positions = backend.alloc_bulk(2 * PER_SLAB)
    assert len(set(positions)) == 2 * PER_SLAB
    backend.free_bulk(positions)
    backend.shrink()
    assert backend.picture().slabs == ()


def test_a_bulk_free_enters_each_slab_once(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 3)
    before = counted(backend)
    backend.free_bulk(slabs[0] + slabs[1])
    assert counted(backend, before)["free_slowpath"] == 2


def test_a_bulk_group_ends_after_three_objects_of_other_slabs(make: Make) -> None:
    backend = make()
    slabs = fill(backend, 3)
    before = counted(backend)
    # From the end: 1 0 1 0 1 0 1 0 ...: each group takes three or four of its slab.
    backend.free_bulk([p for pair in zip(*slabs[:2], strict=True) for p in pair])
    assert counted(backend, before)["free_slowpath"] == 8


def test_a_cache_in_use_is_not_destroyed(make: Make) -> None:
    backend = make()
    position = backend.alloc()
    with pytest.raises(Busy):
        backend.destroy()
    backend.free(position)
    backend.destroy()


def test_objects_free_on_another_cpu_are_found_before_memory_is_out(make: Make) -> None:
    backend = make(cpus=2, pages=2)
    position = backend.alloc(cpu=1)
    backend.free(position, cpu=1)
    assert backend.alloc(cpu=0)[1] in range(PER_SLAB)
