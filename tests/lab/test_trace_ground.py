"""Ground files of other kernels: merged caches, debugging slots, losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.trace_lines import line, write
from uslub.lab.trace import EventsLost, load_ground, open_trace
from uslub.lab.trace.counters import chains, per_node


def ground(folder: Path, **plain: Any) -> Path:
    path = folder / "t.ground.json"
    path.write_text(json.dumps({"caches": {}, "snapshots": [], **plain}))
    return path


def cache(size: int, **more: Any) -> dict[str, Any]:
    return {"slab_size": size, "object_size": size, "order": 0, **more}


@pytest.mark.parametrize("listed", [":0000192", "filp", "pid"])
def test_merged_caches_are_one_whatever_they_are_listed_as(
    listed: str, tmp_path: Path
) -> None:
    aliases = {"filp": ":0000192", "pid": ":0000192"}
    read = {listed: {"slabs": "4 N0=3 N1=1", "t": 1.0}}
    found = load_ground(
        ground(
            tmp_path,
            caches={listed: cache(192), "dentry": cache(200)},
            aliases=aliases,
            cpu_nodes={"node0": "0", "node1": "1"},
            snapshots=[{"tag": "a", "t_begin": 1.0, "caches": read}],
        )
    )
    assert [info.name for info in found.caches] == ["dentry", "filp"]
    assert {"pid", ":0000192"} <= set(found.caches[1].aliases)
    assert found.checkpoints[0].caches[1].slabs == (3, 1)
    source = write(
        tmp_path / "t.txt",
        line("kmem_cache_alloc", 0x1000, name="pid", at_us=999_990),
        line("kmem_cache_free", 0x1000, name="filp", at_us=1_000_001),
    )
    trace = open_trace(source)
    chunk = next(trace.chunks())
    assert chunk.cache.tolist() == [1, 1]
    assert trace.header.cache_index("pid") == trace.header.cache_index("filp") == 1


def test_with_red_zones_the_slot_tells_the_cache_not_the_name(tmp_path: Path) -> None:
    """slub_debug: kmalloc-64 has slots of 128 bytes, kmalloc-128 of 256."""
    caches = {
        "kmalloc-64": cache(128, object_size=64),
        "kmalloc-128": cache(256, object_size=128),
        "kmalloc-8k": cache(16384, object_size=8192),
    }
    ground(tmp_path, caches=caches)
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, size=60, slot=128),
        line("kmalloc", 0x2000, size=100, slot=256),
        line("kmalloc", 0x8000, size=8000, slot=16384),
    )
    trace = open_trace(source)
    chunk = next(trace.chunks())
    names = [trace.header.caches[index].name for index in chunk.cache]
    assert names == ["kmalloc-64", "kmalloc-128", "kmalloc-8k"]
    assert chunk.kind.tolist() == [0, 0, 0]


def test_losses_that_only_the_ring_statistics_know_count(tmp_path: Path) -> None:
    ground(
        tmp_path, ring_stats="cpu0\noverrun: 3\ndropped events: 4\ncommit overrun: 0\n"
    )
    source = write(tmp_path / "t.txt", line("kmalloc", 0x1000))
    with pytest.raises(EventsLost, match="dropped 7 events"):
        open_trace(source)


def test_kernel_clock_and_merging_come_from_the_ground(tmp_path: Path) -> None:
    ground(
        tmp_path,
        uname="Linux (none) 6.12.9-test #1 SMP",
        cmdline="quiet slab_nomerge trace_clock=global",
        cpu_nodes={"node0": "0-1,4", "node1": "2-3"},
    )
    header = open_trace(write(tmp_path / "t.txt", line("kmalloc", 0x1000))).header
    assert (header.kernel, header.clock, header.nomerge) == (
        "6.12.9-test",
        "global",
        True,
    )
    assert header.cpu_node == (0, 0, 1, 1, 0)
    assert (header.cpus, header.nodes) == (5, 2)


def test_counters_are_read_as_the_kernel_prints_them() -> None:
    assert per_node("7 N0=4 N1=3", 2) == (4, 3)
    assert per_node("7,N1=3,N0=4", 3) == (4, 3, 0)
    assert per_node("7 N0=4 N1=3", 1) == (7,)
    assert per_node("5", 2) == (5, 0)
    assert per_node("", 1) == (0,)
    assert chains("73(7) C2=21(2) C3=52(5)") == ({2: 2, 3: 5}, 7)
    assert chains("0(0)") == ({}, 0)
