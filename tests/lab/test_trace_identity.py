"""Which object an event is about: against a plain dictionary, and the hard cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.trace_lines import PAGE0, line, page, write
from uslub.lab.trace import Kind, open_trace
from uslub.lab.trace.batch import CACHE_ALLOC, KFREE, KMALLOC, Batch, Origin, empty
from uslub.lab.trace.identity import Identity
from uslub.lab.trace.store import Trace


def rows(trace: Trace) -> list[tuple[str, int]]:
    """Kind and object of each row."""
    return [
        (Kind(kind).name, number)
        for chunk in trace.chunks()
        for kind, number in zip(chunk.kind.tolist(), chunk.object.tolist(), strict=True)
    ]


def batch_of(events: list[tuple[bool, int]]) -> Batch:
    """Allocations and frees of small addresses, 1 ms apart."""
    batch = empty(len(events))
    for row, (alloc, address) in enumerate(events):
        batch.event[row] = KMALLOC if alloc else KFREE
        batch.pointer[row], batch.time[row] = PAGE0 + address * 8, row * 10**6
    return batch


def told(blocks: list[list[tuple[bool, int]]]) -> list[tuple[str, int]]:
    """What `Identity` says of blocks of events: kind and object, in order."""
    identity, found = Identity(Origin()), []
    nothing = np.zeros(0, np.uint64)
    for events in blocks:
        batch = batch_of(events)
        alloc = batch.event != KFREE
        cache = np.where(alloc, 3, -1).astype(np.int32)
        result = identity.block(
            batch, alloc, ~alloc, cache, np.zeros(0, np.int64), nothing, nothing
        )
        implied = dict(
            zip(
                result.implied_before.tolist(),
                result.implied_object.tolist(),
                strict=True,
            )
        )
        for row, (is_alloc, _) in enumerate(events):
            if row in implied:
                found.append(("implied", implied[row]))
            known = "free" if result.known[row] else "unknown"
            found.append(("alloc" if is_alloc else known, int(result.object[row])))
            assert is_alloc or result.cache[row] == (3 if result.known[row] else -1)
    return found


def by_dictionary(events: list[tuple[bool, int]]) -> list[tuple[str, int]]:
    """The same by the obvious way, an event at a time."""
    live: dict[int, int] = {}
    found, number = [], 0
    for alloc, address in events:
        if alloc:
            if address in live:
                found.append(("implied", live[address]))
            live[address] = number
            found.append(("alloc", number))
            number += 1
        elif address in live:
            found.append(("free", live.pop(address)))
        else:
            found.append(("unknown", number))
            number += 1
    return found


EVENTS = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60)


@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_blocks_of_events_give_what_a_dictionary_gives(
    blocks: list[list[tuple[bool, int]]],
) -> None:
    assert told(blocks) == by_dictionary([each for block in blocks for each in block])


def test_an_address_handed_out_again_implies_a_free(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, at_us=1),
        line("kmalloc", 0x1000, at_us=90_000),
        line("kfree", 0x1000, at_us=100_000),
        line("kfree", 0x1000, at_us=200_000),
    )
    trace = open_trace(source)
    assert rows(trace) == [
        ("ALLOC", 0),
        ("IMPLIED_FREE", 0),
        ("ALLOC", 1),
        ("FREE", 1),
        ("FREE_UNKNOWN", 2),
    ]
    assert trace.header.notes["implied frees: address handed out again"] == 1
    implied = next(trace.chunks(1, 2))
    assert trace.header.caches[implied.cache[0]].name == "kmalloc-64"
    assert implied.time[0] == 90_000_000


def with_base(*lines: str) -> list[str]:
    """Lines that tell where page 0 lies, then `lines`."""
    told = []
    for number in range(10):
        pfn = 0x900 + number
        told.append(page("mm_page_alloc", pfn, at_us=number))
        told.append(line("kmalloc", pfn << 12, at_us=number, size=256))
    return [*told, *lines]


def test_a_page_given_back_implies_the_frees_of_its_objects(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        *with_base(
            page("mm_page_alloc", 0x500, at_us=100, order=1),
            line("kmalloc", 0x500_010, at_us=101),
            line("kmalloc", 0x501_080, at_us=102),
            line("kfree", 0x500_010, at_us=103),
            line("kmalloc", 0x502_000, at_us=104),  # another page: lives on
            page("mm_page_free", 0x500, at_us=200, order=1),
            line("kmalloc", 0x501_080, at_us=300),
        ),
    )
    trace = open_trace(source)
    assert trace.header.page_base == PAGE0
    assert rows(trace)[20:] == [
        ("PAGE_ALLOC", -1),
        ("ALLOC", 10),
        ("ALLOC", 11),
        ("FREE", 10),
        ("ALLOC", 12),
        ("IMPLIED_FREE", 11),
        ("PAGE_FREE", -1),
        ("ALLOC", 13),
    ]
    assert trace.header.notes["implied frees: page given back"] == 1
    assert "implied frees: address handed out again" not in trace.header.notes


def test_two_events_turned_round_by_clocks_are_put_right(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, at_us=1, cpu=0),
        line("kmalloc", 0x1000, at_us=500, cpu=1),  # before the free that made room
        line("kfree", 0x1000, at_us=501, cpu=0),
        line("kfree", 0x1000, at_us=900, cpu=1),
    )
    trace = open_trace(source)
    assert rows(trace) == [("ALLOC", 0), ("FREE", 0), ("ALLOC", 1), ("FREE", 1)]
    assert trace.header.notes["order inversions mended"] == 1
    chunk = next(trace.chunks())
    assert chunk.cpu.tolist() == [0, 0, 1, 1]  # what happened moves, the times stay
    assert chunk.time.tolist() == [1000, 500_000, 501_000, 900_000]


def test_far_apart_the_same_history_is_taken_as_it_stands(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, at_us=1, cpu=0),
        line("kmalloc", 0x1000, at_us=500, cpu=1),
        line("kfree", 0x1000, at_us=700, cpu=0),
        line("kfree", 0x1000, at_us=900, cpu=1),
    )
    trace = open_trace(source)
    assert [kind for kind, _ in rows(trace)] == [
        "ALLOC", "IMPLIED_FREE", "ALLOC", "FREE", "FREE_UNKNOWN",
    ]  # fmt: skip


def test_a_free_by_name_tells_the_cache_of_an_unknown_object(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", line("kmem_cache_free", 0x1000, name="dentry"))
    trace = open_trace(source)
    chunk = next(trace.chunks())
    assert rows(trace) == [("FREE_UNKNOWN", 0)]
    assert trace.header.caches[chunk.cache[0]].name == "dentry"
    assert chunk.pointer[0] == PAGE0 + 0x1000


def test_events_of_both_kinds_of_allocation_share_one_address_space() -> None:
    batch = batch_of([(True, 1), (True, 2)])
    batch.event[1] = CACHE_ALLOC
    identity, nothing = Identity(Origin()), np.zeros(0, np.uint64)
    both = np.ones(2, bool)
    result = identity.block(
        batch,
        both,
        ~both,
        np.zeros(2, np.int32),
        np.zeros(0, np.int64),
        nothing,
        nothing,
    )
    assert result.object.tolist() == [0, 1]
    assert len(identity.live) == 2
