"""Sizes, orders and limits against worked tables and a running kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.ground_truth import find
from uslub.model import Boot, CacheError, Flags
from uslub.model import geometry as g

F, Z, P, U = (
    Flags.CONSISTENCY_CHECKS,
    Flags.RED_ZONE,
    Flags.POISON,
    Flags.STORE_USER,
)


def sysfs_rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(find("sysfs-6.18.json").read_text())[
        "caches"
    ]
    return rows


def test_every_cache_of_a_running_kernel_has_the_computed_geometry() -> None:
    boot = Boot(cpus_present=2)
    rows = sysfs_rows()
    for name, row in rows.items():
        flags = Flags.TYPESAFE_BY_RCU if row["destroy_by_rcu"] else Flags.NONE
        # The only RCU cache with its pointer inside asked for the place.
        inside = name == "vm_area_struct"
        layout = g.calculate_sizes(
            row["object_size"],
            row["align"],
            flags,
            ctor=row["has_ctor"],
            freeptr_offset=0 if inside else None,
        )
        order = g.calculate_order(layout.size, boot)
        objects = g.order_objects(order, layout.size)
        got = (
            layout.size,
            order,
            objects,
            g.cpu_partial(layout.size, 0, boot),
            g.min_partial(layout.size),
        )
        want = tuple(
            row[key]
            for key in (
                "slab_size",
                "order",
                "objs_per_slab",
                "cpu_partial",
                "min_partial",
            )
        )
        assert got == want, name
    assert len(rows) == 235


def test_the_old_order_formula_gives_the_same_on_every_live_cache() -> None:
    for row in sysfs_rows().values():
        assert g.calculate_order_old(row["slab_size"], Boot(2)) == row["order"]


def test_mergeable_caches_are_named_by_kind_and_size() -> None:
    rows = {name: row for name, row in sysfs_rows().items() if name.startswith(":")}
    for name, row in rows.items():
        flags = Flags.NONE
        if row["cache_dma"]:
            flags |= Flags.CACHE_DMA
        if row["reclaim_account"]:
            flags |= Flags.RECLAIM_ACCOUNT
        account = "A" in name.split("-")[0]
        flags |= Flags.ACCOUNT if account else Flags.NONE
        assert g.cache_id(flags, row["slab_size"]) == name
    assert len(rows) == 96


ORDER_TABLE = """
8    0/512/1 0/512/1 0/512/1 0/512/1 120 5
16   0/256/1 0/256/1 0/256/1 0/256/1 120 5
32   0/128/2 0/128/2 0/128/2 0/128/2 120 5
64   0/64/4  0/64/4  0/64/4  0/64/4  120 5
96   0/42/6  0/42/6  0/42/6  0/42/6  120 5
128  0/32/8  0/32/8  0/32/8  0/32/8  120 5
192  0/21/12 0/21/12 0/21/12 1/42/6  120 5
256  0/16/7  0/16/7  1/32/4  1/32/4  52 5
512  0/8/13  1/16/7  2/32/4  2/32/4  52 5
1024 1/8/6   2/16/3  3/32/2  3/32/2  24 5
2048 2/8/6   3/16/3  3/16/3  3/16/3  24 5
4096 3/8/2   3/8/2   3/8/2   3/8/2   6 6
8192 3/4/3   3/4/3   3/4/3   3/4/3   6 6
"""


@pytest.mark.parametrize("row", ORDER_TABLE.split("\n")[1:-1])
def test_orders_and_chain_limits_for_1_to_64_cpus(row: str) -> None:
    words = row.split()
    size, cpu_partial, min_partial = int(words[0]), int(words[5]), int(words[6])
    assert g.min_partial(size) == min_partial
    for cpus, cell in zip((1, 2, 8, 64), words[1:5], strict=True):
        boot = Boot(cpus_present=cpus)
        order = g.calculate_order(size, boot)
        objects = g.order_objects(order, size)
        wished = g.cpu_partial(size, 0, boot)
        slabs = g.cpu_partial_slabs(wished, objects)
        assert (f"{order}/{objects}/{slabs}", wished) == (cell, cpu_partial)


MORE_ORDERS = {
    136: ("0/30", "1/60"),
    200: ("0/20", "1/40"),
    264: ("0/15", "2/62"),
    320: ("0/12", "2/51"),
    344: ("1/23", "2/47"),
    640: ("1/12", "3/51"),
    704: ("2/23", "3/46"),
    1152: ("2/14", "3/28"),
    1536: ("3/21", "3/21"),
    3328: ("3/9", "3/9"),
    5120: ("3/6", "3/6"),
    6144: ("3/5", "3/5"),
    10240: ("3/3", "3/3"),
    11008: ("3/2", "3/2"),
    16384: ("3/2", "3/2"),
    24576: ("3/1", "3/1"),
    40960: ("4/1", "4/1"),
}


@pytest.mark.parametrize("size", MORE_ORDERS)
def test_orders_of_odd_sizes(size: int) -> None:
    for cpus, want in zip((2, 64), MORE_ORDERS[size], strict=True):
        order = g.calculate_order(size, Boot(cpus_present=cpus))
        assert f"{order}/{g.order_objects(order, size)}" == want


@pytest.mark.parametrize(
    ("cpus", "objects"),
    [
        *((1, 8), (2, 12), (3, 12), (4, 16), (7, 16), (8, 20), (16, 24), (32, 28)),
        *((64, 32), (127, 32), (128, 36)),
    ],
)
def test_more_cpus_ask_for_more_objects_per_slab(cpus: int, objects: int) -> None:
    assert g.min_objects_wanted(Boot(cpus_present=cpus)) == objects


def test_one_present_cpu_counts_the_possible_ones() -> None:
    assert g.min_objects_wanted(Boot(cpus_present=1, cpus_possible=8)) == 20


@pytest.mark.parametrize("size", [344, 376, 416, 632, 1096, 1264])
def test_both_formulae_look_for_little_waste_before_low_orders(size: int) -> None:
    for boot in (Boot(cpus_present=1), Boot(cpus_present=2)):
        assert g.calculate_order(size, boot) == g.calculate_order_old(size, boot)


@pytest.mark.check
@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 16, 64, 128])
def test_old_and_new_orders_differ_only_from_10928_to_12280(cpus: int) -> None:
    boot = Boot(cpus_present=cpus)
    different = [
        size
        for size in range(8, 131073, 8)
        if g.calculate_order(size, boot) != g.calculate_order_old(size, boot)
    ]
    assert different == list(range(10928, 12281, 8))


# object size, align, kmalloc?, then size with no flags, Z, P, U, ZU, ZPU
DEBUG_TABLE = [
    (8, 8, True, 8, 32, 16, 80, 112, 112),
    (64, 64, True, 64, 192, 128, 192, 256, 256),
    (96, 32, True, 96, 160, 128, 192, 224, 224),
    (256, 256, True, 256, 768, 512, 512, 768, 768),
    (4096, 4096, True, 4096, 12288, 8192, 8192, 12288, 12288),
    (40, 8, False, 40, 64, 48, 104, 128, 136),
    (100, 8, False, 104, 120, 112, 168, 184, 192),
    (200, 64, False, 256, 320, 256, 320, 384, 384),
]


@pytest.mark.parametrize("row", DEBUG_TABLE)
def test_debug_flags_enlarge_slots_as_tabled(row: tuple[int, ...]) -> None:
    size, align, kmalloc, *want = row
    extra = Flags.KMALLOC if kmalloc else Flags.NONE
    combinations = (Flags.NONE, Z, P, U, Z | U, Z | P | U)
    got = [g.calculate_sizes(size, align, f | extra).size for f in combinations]
    assert got == want


def test_consistency_checks_alone_cost_no_bytes() -> None:
    assert g.calculate_sizes(100, 8, F) == g.calculate_sizes(100, 8)


@pytest.mark.parametrize(
    ("options", "offset", "size"),
    [
        ({}, 48, 104),  # the middle, rounded down to a word
        ({"ctor": True}, 104, 112),
        ({"flags": P}, 104, 112),
        ({"flags": Flags.TYPESAFE_BY_RCU}, 104, 112),
        ({"flags": Flags.TYPESAFE_BY_RCU, "freeptr_offset": 8}, 8, 104),
    ],
)
def test_the_free_pointer_lies_inside_unless_the_bytes_matter(
    options: dict[str, Any], offset: int, size: int
) -> None:
    layout = g.calculate_sizes(100, 8, **options)
    assert (layout.offset, layout.size) == (offset, size)


def test_up_to_5_10_the_free_pointer_is_rounded_up_to_a_word() -> None:
    offsets = [g.calculate_sizes(n, 8, era="5.10").offset for n in (8, 24, 40, 100)]
    assert offsets == [0, 16, 24, 56]


def test_a_bad_free_pointer_offset_is_refused() -> None:
    with pytest.raises(CacheError, match="TYPESAFE_BY_RCU"):
        g.calculate_sizes(64, 8, freeptr_offset=8)
    with pytest.raises(CacheError, match="not an aligned place"):
        g.calculate_sizes(64, 8, Flags.TYPESAFE_BY_RCU, freeptr_offset=64)


@pytest.mark.parametrize(
    ("size", "align"), [(8, 8), (9, 16), (16, 16), (17, 32), (33, 64), (200, 64)]
)
def test_hardware_alignment_halves_for_small_objects(size: int, align: int) -> None:
    assert g.calculate_alignment(Flags.HWCACHE_ALIGN, 0, size) == align


def test_a_slot_larger_than_the_largest_run_is_refused() -> None:
    with pytest.raises(CacheError, match="largest page run"):
        g.calculate_order(5 << 20, Boot())


def test_boot_parameters_move_orders() -> None:
    assert g.calculate_order(64, Boot(slab_min_order=2)) == 2
    assert g.calculate_order(4096, Boot(slab_max_order=1)) == 1
    assert g.calculate_order(1024, Boot(slab_min_objects=32)) == 3


KMALLOC_TABLE = [
    (1, 8),
    (8, 8),
    (9, 16),
    (33, 64),
    (65, 96),
    (96, 96),
    (97, 128),
    (129, 192),
    (192, 192),
    (193, 256),
    (257, 512),
    (4097, 8192),
    (8192, 8192),
]


@pytest.mark.parametrize(("size", "want"), KMALLOC_TABLE)
def test_kmalloc_rounds_up_to_its_size_class(size: int, want: int) -> None:
    assert g.kmalloc_size(size) == want


def test_kmalloc_classes_vanish_with_larger_minimum_alignment() -> None:
    assert (g.kmalloc_size(65, 64), g.kmalloc_size(129, 64)) == (128, 192)
    assert (g.kmalloc_size(65, 128), g.kmalloc_size(129, 128)) == (128, 256)


def test_kmalloc_alignment_is_natural_and_was_a_word_for_96_and_192() -> None:
    assert [g.kmalloc_align(n) for n in (8, 96, 192, 512)] == [8, 32, 64, 512]
    assert [g.kmalloc_align(n, "6.8") for n in (96, 192, 512)] == [8, 8, 512]


def test_sheaf_capacities_fill_their_kmalloc_class() -> None:
    sizes = (64, 256, 1024, 4096)
    assert [g.sheaf_capacity(n, 0, Boot()) for n in sizes] == [60, 28, 12, 4]
    assert g.sheaf_capacity(4096, 32, Boot()) == 32


def test_chain_limits_of_5_10_are_smaller() -> None:
    sizes = (64, 256, 1024, 4096)
    assert [g.cpu_partial(n, 0, Boot(), "5.10") for n in sizes] == [30, 13, 6, 2]
    assert g.cpu_partial(64, Z, Boot()) == 0
