"""SLAB: arrays, shared and alien arrays, three lists, the reaper; as claims."""

from __future__ import annotations

import random

import pytest

from uslub.model import Arena, DoubleFree, Flags, InvalidFree, OutOfMemory
from uslub.model.queues import (
    REAP_NODE_NS,
    REAP_NS,
    QueueCache,
    array_limit,
    drain_all,
    free_block,
    make_queue_cache,
    queued,
    reap_cpu,
    slab_order,
    slot_size,
)


def make(
    size: int = 512, *, cpus: int = 2, nodes: int = 1, pages: int = 4096
) -> QueueCache:
    arena = Arena(cpus=cpus, nodes=nodes, pages_per_node=pages, design="6.18")
    return make_queue_cache(arena.machine, "test", size)


def adds_up(cache: QueueCache, held: int) -> None:
    """Every object is in a user's hands, in an array, or free in its slab."""
    free = sum(len(slab.freelist) for slab in cache.slabs.values())
    taken = sum(sum(slab.taken) for slab in cache.slabs.values())
    assert taken == held
    assert held + queued(cache) + free == len(cache.slabs) * cache.objects
    for node in cache.nodes:
        mine = [slab for slab in cache.slabs.values() if slab.node == node.number]
        lists = (node.partial, node.full, node.free)
        assert sorted(s.number for each in lists for s in each) == sorted(
            s.number for s in mine
        )
        assert node.nr_slabs == len(mine)
        assert node.free_objects == sum(len(slab.freelist) for slab in mine)
        assert all(not slab.freelist for slab in node.full)
        assert all(slab.inuse == 0 for slab in node.free)
        assert all(slab.inuse and slab.freelist for slab in node.partial)


@pytest.mark.parametrize(
    ("size", "limit"),
    [(192, 120), (256, 120), (257, 54), (1024, 54), (1025, 24), (4096, 24), (8192, 8)],
)
def test_the_array_of_a_cpu_is_limited_by_the_slot(size: int, limit: int) -> None:
    assert array_limit(size) == limit


def test_a_slot_is_at_least_16_bytes_and_keeps_its_alignment() -> None:
    assert slot_size(1, 0) == 16
    assert slot_size(24, 8) == 24
    assert slot_size(65, 64) == 128


@pytest.mark.parametrize(
    ("size", "flags", "order", "objects"),
    [
        (192, 0, 0, 21),
        (512, 0, 0, 8),
        (700, 0, 1, 11),  # a page would waste 596 of 4096 bytes, more than an eighth
        (700, Flags.RECLAIM_ACCOUNT, 0, 5),
        (8192, 0, 1, 1),
        (16, 0, 0, 255),  # indexes of one byte
    ],
)
def test_the_order_wastes_at_most_an_eighth(
    size: int, flags: int, order: int, objects: int
) -> None:
    if size == 16:
        assert slab_order(size, flags) == (0, 255)
    else:
        assert slab_order(size, flags) == (order, objects)


def test_the_first_refill_of_an_unused_array_is_limited_to_16() -> None:
    cache = make(192)
    cache.alloc(0)
    assert len(cache.cpus[0].array.entries) == 15
    assert cache.stats() == {"allocmiss": 1, "grown": 1}


def test_a_used_array_is_refilled_by_its_whole_batch() -> None:
    cache = make(192)
    assert cache.cpus[0].array.batch == 60
    for _ in range(17):
        cache.alloc(0)
    # 16 of the first refill are gone; the second brought what one slab had left: 5.
    assert cache.cpus[0].array.entries[-1].slab == cache.next_slab - 1
    adds_up(cache, 17)


def test_a_free_is_handed_out_next_on_the_same_cpu() -> None:
    cache = make()
    first, second = cache.alloc(0), cache.alloc(0)
    cache.free(first, 0)
    cache.free(second, 0)
    assert [cache.alloc(0), cache.alloc(0)] == [second, first]
    assert cache.stats()["freehit"] == 2


def test_a_full_array_gives_its_oldest_batch_to_the_shared_array() -> None:
    cache = make()  # limit 54, batch 27
    objects = [cache.alloc(0) for _ in range(80)]
    cache.cpus[0].array.entries.clear()  # as if handed out elsewhere
    own = cache.cpus[0].array
    for position in objects[:54]:
        cache.free(position, 0)
    oldest = own.entries[:27]
    cache.free(objects[54], 0)
    shared = cache.nodes[0].shared
    assert shared is not None and shared.entries == oldest
    assert len(own.entries) == 54 - 27 + 1
    assert cache.stats()["freemiss"] == 1


def test_an_empty_array_is_refilled_from_the_shared_one_first() -> None:
    cache = make()
    objects = [cache.alloc(0) for _ in range(100)]
    for position in objects:
        cache.free(position, 0)
    shared = cache.nodes[0].shared
    assert shared is not None
    newest, slabs = shared.entries[-1], cache.next_slab
    assert cache.alloc(1) == newest
    assert cache.next_slab == slabs and shared.touched
    adds_up(cache, 1)


def test_an_object_of_another_node_waits_in_an_alien_array_of_twelve() -> None:
    cache = make(cpus=2, nodes=2)
    objects = [cache.alloc(0) for _ in range(13)]
    for position in objects[:12]:
        cache.free(position, 1)
    alien = cache.nodes[1].alien[0]
    assert len(alien.entries) == 12 and not cache.cpus[1].array.entries
    assert "overflows" not in cache.stats()
    cache.free(objects[12], 1)
    shared = cache.nodes[0].shared
    assert len(alien.entries) == 1
    assert shared is not None and len(shared.entries) == 12
    assert cache.stats()["overflows"] == 1
    assert cache.cpus[1].lines.cross_node_frees == 13
    adds_up(cache, 0)


def test_a_named_node_bypasses_the_array() -> None:
    cache = make(cpus=2, nodes=2)
    position = cache.alloc(0, node=1)
    assert cache.slabs[position.slab].node == 1
    assert not cache.cpus[0].array.entries
    assert cache.stats()["node_allocs"] == 1
    adds_up(cache, 1)


def test_free_slabs_beyond_the_limit_are_destroyed() -> None:
    cache = make()
    objects = [cache.alloc(0) for _ in range(2000)]
    for position in objects:
        cache.free(position, 0)
    node = cache.nodes[0]
    assert node.free_objects <= node.free_limit == 3 * 27 + 8
    assert node.nr_slabs < 2000 // 8
    adds_up(cache, 0)


def test_the_reaper_spares_a_touched_array_once() -> None:
    cache = make(192)
    held = cache.alloc(0)
    full = len(cache.cpus[0].array.entries)
    reap_cpu(cache, 0, REAP_NS)
    assert len(cache.cpus[0].array.entries) == full
    reap_cpu(cache, 0, 2 * REAP_NS)
    # a fifth of the limit is 24, more than the 15 there are: half of them, rounded up
    assert len(cache.cpus[0].array.entries) == full - 8
    cache.free(held, 0)
    adds_up(cache, 0)


def test_the_reaper_destroys_some_free_slabs_every_four_seconds() -> None:
    cache = make()
    held = [cache.alloc(0) for _ in range(200)]
    for position in held:
        cache.free(position, 0)
    c, node = cache.cpus[0], cache.nodes[0]
    assert node.shared is not None
    for queue in (c.array, node.shared):
        entries, queue.entries = queue.entries, []
        free_block(cache, c, node, entries)
    node.free_touched = False
    before = len(node.free)
    reap_cpu(cache, 0, REAP_NODE_NS - 1)
    assert len(node.free) == before
    reap_cpu(cache, 0, REAP_NODE_NS)
    expected = min(before, -(-node.free_limit // (5 * cache.objects)))
    assert cache.stats().get("reaped", 0) == expected > 0


def test_drain_all_gives_everything_back() -> None:
    cache = make(cpus=4, nodes=2)
    rng = random.Random(1)
    held = [cache.alloc(rng.randrange(4)) for _ in range(500)]
    for position in held:
        cache.free(position, rng.randrange(4))
    drain_all(cache)
    assert not cache.slabs and queued(cache) == 0
    assert sum(p.free_pages for p in cache.machine.pages) == 2 * 4096


def test_what_is_not_held_cannot_be_freed() -> None:
    cache = make()
    position = cache.alloc(0)
    cache.free(position, 1)
    with pytest.raises(DoubleFree):
        cache.free(position, 0)
    with pytest.raises(InvalidFree):
        cache.free((99, 0), 0)


def test_without_pages_an_allocation_fails_and_changes_nothing() -> None:
    cache = make(pages=2)
    held = [cache.alloc(0) for _ in range(16)]
    with pytest.raises(OutOfMemory, match="order 0"):
        cache.alloc(0)
    adds_up(cache, 16)
    cache.free(held[0], 0)
    assert cache.alloc(0) == held[0]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_in_a_random_life(seed: int) -> None:
    rng = random.Random(seed)
    cache = make(rng.choice((64, 192, 700, 3000)), cpus=4, nodes=2)
    held = []
    for step in range(4000):
        if held and rng.random() < (0.35 if step < 2000 else 0.65):
            position = held.pop(rng.randrange(len(held)))
            cache.free(position, rng.randrange(4))
        else:
            node = rng.choice((None, None, 0, 1))
            held.append(cache.alloc(rng.randrange(4), node))
        if step % 500 == 0:
            for cpu in range(4):
                reap_cpu(cache, cpu, step * REAP_NS)
            adds_up(cache, len(held))
    assert len(set(held)) == len(held)
    adds_up(cache, len(held))
