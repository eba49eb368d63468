"""The views of `uslub info`: their arithmetic and their text. No arena is needed."""

from __future__ import annotations

import re

import pytest

from tools.rows import EMPTY, FRAME, MESSAGE
from uslub.flags import Flags
from uslub.model import Arena
from uslub.tools import slabinfo
from uslub.tools.render import cache_id, live_objects, row_from_snapshot
from uslub.tools.slabinfo import Look
from uslub.tools.text import binary, scaled
from uslub.tools.totals import totals, totals_lines

ROWS = [FRAME, MESSAGE, EMPTY]

TABLE = """\
Name                   Objects Objsize           Space Slabs/Part/Cpu  O/S O %Fr %Ef Flg
:a-0000064                 540      60           40.9K          7/4/3   64 0  40  79 *a
Empty                        0 6220800               0          0/0/0    1 11 100 100
frame                        6 6220800           67.1M          7/2/1    1 11  25  55 A
"""

ACTIVITY = """\
Name                   Objects      Alloc       Free   %Fast Fallb O CmpX   UL
:a-0000064                 540       1000        460  90  65     0 0    3    0
"""

PROC = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : \
tunables <limit> <batchcount> <sharedfactor> : \
slabdata <active_slabs> <num_slabs> <sharedavail>
frame                  6      8 6220800    1 2048 : tunables    0    0    0 : \
slabdata      8      8      0
message              540    640     64   64    1 : tunables    0    0    0 : \
slabdata     10     10      0
Empty                  0      0 6220800    1 2048 : tunables    0    0    0 : \
slabdata      0      0      0
"""

NUMA = """\
NUMA nodes           :     0     1
----------------------------------
frame                :     5     3
  partial            :     2     0
:a-0000064           :    10     0
  partial            :     4     0
"""


def text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def test_the_table_has_the_columns_of_the_slabinfo_tool() -> None:
    assert text(slabinfo.table(slabinfo.ordered(ROWS), Look())) == TABLE


def test_activity_counts_calls_and_how_many_were_fast() -> None:
    assert text(slabinfo.activity([MESSAGE], Look())) == ACTIVITY


def test_the_proc_format_keeps_the_order_of_creation() -> None:
    assert text(slabinfo.proc(ROWS)) == PROC


@pytest.mark.parametrize("row", ROWS)
def test_a_proc_line_can_be_read_as_slabtop_reads_it(row: slabinfo.Row) -> None:
    pattern = (
        r"(\S+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) : tunables +0 +0 +0"
        r" : slabdata +(\d+) +(\d+) +0"
    )
    found = re.fullmatch(pattern, slabinfo.proc_line(row))
    assert found
    numbers = [int(group) for group in found.groups()[1:]]
    assert numbers[0] <= numbers[1] == row.slabs * row.objs_per_slab
    assert numbers[5] == numbers[6] == row.slabs


def test_the_numa_table_has_a_column_per_node() -> None:
    assert text(slabinfo.numa(ROWS, plain_bytes=False)) == NUMA


def test_a_report_tells_where_the_memory_went() -> None:
    lines = slabinfo.report(MESSAGE, Look())
    report = text(lines)
    assert "Slabcache: :a-0000064" in report
    assert "Aliases:  2" in report
    assert "** Reclaim accounting active" in report
    assert "Total: " + "  40960" in report
    assert "Used : " + "  32400" in report
    assert "Lalig: " + "   2160" in report
    assert re.search(r"Fastpath +900 +300 +90 +65", report)
    assert re.search(r"Slowpath +100 +160 +10 +34", report)
    assert re.search(r"Moved to head of partial list +3 +75%", report)
    assert "Locked Cmpxchg Double redos   3" in report


def test_a_report_of_a_cache_that_did_nothing_has_no_counters() -> None:
    assert "Fastpath" not in text(slabinfo.report(FRAME, Look()))


def test_aliases_are_listed_by_target_and_back() -> None:
    assert slabinfo.aliases(ROWS, single=False, inverted=False) == [
        ":a-0000064   <- message reply signal"
    ]
    back = slabinfo.aliases(ROWS, single=False, inverted=True)
    assert [line.split() for line in back] == [
        [name, "->", ":a-0000064"] for name in ("message", "reply", "signal")
    ]
    assert len(slabinfo.aliases(ROWS, single=True, inverted=False)) == 3


def test_a_name_stands_for_an_id_where_asked_for() -> None:
    line = slabinfo.table_line(MESSAGE, Look(first_alias=True))
    assert line.startswith("message ")


def test_orders_put_the_largest_first_and_inverted_last() -> None:
    assert next(r.name for r in slabinfo.ordered(ROWS, "size")) == "frame"
    assert next(r.name for r in slabinfo.ordered(ROWS, "partial")) == "message"
    assert next(r.name for r in slabinfo.ordered(ROWS, "activity")) == "message"
    inverted = slabinfo.ordered(ROWS, "size", inverted=True)
    assert [r.name for r in inverted] == ["Empty", "message", "frame"]


def test_totals_are_sums_over_caches_with_objects() -> None:
    sums = totals(ROWS)
    assert (sums.caches, sums.aliases, sums.alias_targets, sums.active) == (3, 3, 1, 2)
    assert sums.memory == FRAME.space + MESSAGE.space
    assert sums.loss == FRAME.loss + MESSAGE.loss
    assert sums.objects == 546
    assert sums.per_cache["#Slabs"].total == 18
    assert sums.per_cache["%PartSlab"].total == 6 * 100 // 18
    weighted = (6 * 6_220_800 + 540 * 60) // 546
    assert sums.per_object["User"].average == weighted
    assert any("3->1" in line for line in totals_lines(sums, Look()))


def test_totals_of_nothing_are_nothing() -> None:
    assert totals([]).memory_ratio == 0
    assert totals_lines(totals([EMPTY]), Look())[2].startswith("Slabcaches :")


@pytest.mark.parametrize(
    ("value", "short"),
    [(0, "0"), (1000, "1000"), (1001, "1.0K"), (40960, "40.9K"), (67108864, "67.1M"),
     (10**9, "1000.0M"), (12 * 10**9, "12.0G")],
)  # fmt: skip
def test_sizes_are_scaled_in_decimal_steps(value: int, short: str) -> None:
    assert scaled(value) == short


@pytest.mark.parametrize(
    ("value", "short"), [(12, "12 B"), (1 << 30, "1.0 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_for_people_are_binary(value: int, short: str) -> None:
    assert binary(value) == short


def test_an_id_names_kind_and_size() -> None:
    assert cache_id(Flags.RECLAIM_ACCOUNT | Flags.ACCOUNT, 192) == ":aA-0000192"
    assert cache_id(Flags.HWCACHE_ALIGN, 64) == ":0000064"


def test_a_picture_and_its_row_agree() -> None:
    arena = Arena(cpus=2)
    cache = arena.cache("thing", 1000)
    held = [cache.alloc(cpu=n % 2) for n in range(70)]
    for position in held[:50]:
        cache.free(position, cpu=0)
    picture = cache.snapshot()
    row = row_from_snapshot(picture, page_size=4096)
    assert live_objects(picture) == 20
    assert row.slabs == len(picture.slabs)
    assert row.total_objects == sum(slab.objects for slab in picture.slabs)
    assert row.objects + row.partial_free == row.total_objects
    assert row.objects_partial + row.partial_free == sum(
        slab.objects for slab in picture.slabs if slab.place == "node 0"
    )
    assert row.alloc_total == 70
