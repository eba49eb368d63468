"""snapshot(): frozen, comparable, printable, JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

import uslub
from uslub.snapshot import ArenaSnapshot, CacheSnapshot


def busy_arena() -> tuple[uslub.Arena, list[uslub.Object]]:
    arena = uslub.Arena.create(size="4MiB", cpus=2, nodes=1)
    cache = arena.cache("thing", 512)
    held = [cache.alloc(cpu=n % 2) for n in range(40)]
    for obj in held[::2]:
        obj.free(cpu=1)
    return arena, held[1::2]


def test_equal_histories_give_equal_snapshots():
    one, held_one = busy_arena()
    two, held_two = busy_arena()
    assert one.snapshot() == two.snapshot()
    held_two.pop()
    assert one.snapshot() != two.snapshot()
    assert len(held_one) == 20


def test_a_snapshot_is_frozen_and_private(arena, cache):
    snapshot = arena.snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.cpus = 5
    held = cache.alloc()
    assert snapshot.cache("thing").slabs == ()
    assert arena.snapshot().cache("thing").slabs != ()
    assert held.slab == 0


def test_a_snapshot_prints_and_becomes_json():
    arena, _held = busy_arena()
    snapshot = arena.snapshot()
    assert isinstance(snapshot, ArenaSnapshot)
    assert "cache thing: object 512" in str(snapshot)
    data = json.loads(snapshot.to_json())
    assert data["caches"][0]["name"] == "thing"
    assert data == json.loads(json.dumps(snapshot.to_dict()))


def test_every_object_is_accounted_for():
    arena, held = busy_arena()
    cache = arena.cache("thing")
    snapshot = cache.snapshot()
    assert isinstance(snapshot, CacheSnapshot)
    assert snapshot == arena.snapshot().cache("thing")
    for slab in snapshot.slabs:
        owners = [cpu for cpu in snapshot.cpus if cpu.slab == slab.slab]
        free = set(slab.freelist).union(*(cpu.freelist for cpu in owners))
        live = {obj.index for obj in held if obj.slab == slab.slab}
        assert free | live == set(range(slab.objects))
        assert not free & live
        assert slab.place == "full" or slab.place.split()[0] in ("cpu", "chain", "node")


def test_pages_and_statistics_are_in_it(arena, cache):
    held = cache.alloc(cpu=1)
    snapshot = arena.snapshot()
    assert [pages.pages for pages in snapshot.pages] == [4096, 4096]
    assert sum(p.free_pages for p in snapshot.pages) == arena.info().free_pages
    assert snapshot.cache("thing").stat("alloc_slab") == 1
    assert dict(snapshot.cache("thing").stats)["alloc_slab"] == (0, 1)
    assert snapshot.cache("thing").stat("shrink") == 0
    (slab,) = snapshot.cache("thing").slabs
    assert (slab.page, slab.slab, slab.place) == (held.page, held.slab, "cpu 1")
