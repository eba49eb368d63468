"""SLOB: three lists of pages, first fit, one lock; as claims."""

from __future__ import annotations

import random

import pytest

from uslub.model import Arena, DoubleFree, OutOfMemory
from uslub.model.slob import (
    LISTS,
    MINALIGN,
    PAGE_UNITS,
    Slob,
    SlobCache,
    SlobObject,
)


def make(*, cpus: int = 2, nodes: int = 1, pages: int = 4096) -> Slob:
    return Slob(
        Arena(cpus=cpus, nodes=nodes, pages_per_node=pages, design="6.18").machine
    )


def pages_of(slob: Slob) -> int:
    return sum(sum(by_node.values()) for by_node in slob.pages)


def adds_up(slob: Slob) -> None:
    """Free blocks are in address order, apart, and are what `units` says."""
    for kind, pages in enumerate(slob.lists):
        for page in pages:
            assert page.kind == kind and 0 < page.units < PAGE_UNITS
            assert page.units == sum(page.sizes)
            assert sum(page.used.values()) + page.units == PAGE_UNITS
            ends = [a + b for a, b in zip(page.starts, page.sizes, strict=True)]
            pairs = zip(ends, page.starts[1:], strict=False)
            assert all(end < start for end, start in pairs)


def test_the_first_object_of_a_page_is_its_beginning() -> None:
    slob = make()
    block = slob.alloc(64, 8, 0, None)
    assert block.start == 0 and pages_of(slob) == 1
    assert slob.alloc(64, 8, 0, None).start == 32
    adds_up(slob)


@pytest.mark.parametrize(
    ("size", "kind"), [(255, 0), (256, 1), (1023, 1), (1024, 2), (4000, 2)]
)
def test_the_size_chooses_one_of_three_lists(size: int, kind: int) -> None:
    slob = make()
    slob.alloc(size, 8, 0, None)
    assert [len(pages) for pages in slob.lists] == [int(k == kind) for k in range(3)]
    assert LISTS[kind][1] > size


def test_a_smaller_hole_is_passed_over_for_the_first_that_fits() -> None:
    slob = make()
    blocks = [slob.alloc(200, 8, 0, None) for _ in range(6)]
    slob.free(blocks[1], 200, 0)
    slob.free(blocks[3], 200, 0)
    slob.free(blocks[4], 200, 0)
    assert slob.alloc(240, 8, 0, None).start == blocks[3].start
    assert slob.alloc(100, 8, 0, None).start == blocks[1].start
    adds_up(slob)


def test_neighbours_merge_when_they_are_free() -> None:
    slob = make()
    a, b, c, keep = (slob.alloc(128, 8, 0, None) for _ in range(4))
    slob.free(a, 128, 0)
    slob.free(c, 128, 0)
    page = b.page
    assert page is not None and page.starts[:2] == [a.start, c.start]
    slob.free(b, 128, 0)
    assert page.starts[0] == a.start and page.sizes[0] == 3 * 64
    assert keep.page is page
    adds_up(slob)


def test_an_aligned_request_leaves_a_block_in_front_of_it() -> None:
    slob = make()
    slob.alloc(10, 2, 0, None)
    block = slob.alloc(64, 64, 0, None)
    assert block.start * 2 == 64
    assert block.page is not None and block.page.starts[0] == 5
    adds_up(slob)


def test_the_page_that_served_becomes_the_first_of_its_list() -> None:
    slob = make()
    older = [slob.alloc(248, 8, 0, None) for _ in range(16)]  # 128 bytes are left
    newer = [slob.alloc(248, 8, 0, None) for _ in range(16)]
    assert slob.lists[0] == [newer[0].page, older[0].page]
    slob.free(older[3], 248, 0)
    assert slob.alloc(240, 8, 0, None).page is older[0].page
    assert slob.alloc(40, 8, 0, None).page is older[0].page, "it is asked first now"


def test_an_empty_page_goes_back_at_once() -> None:
    slob = make()
    blocks = [slob.alloc(100, 8, 0, None) for _ in range(5)]
    for block in blocks:
        slob.free(block, 100, 1)
    assert pages_of(slob) == 0 and slob.lists[0] == []
    assert slob.machine.pages[0].free_pages == 4096
    assert slob.lines[1].cross_cpu_frees == 5


def test_a_full_page_returns_to_the_list_of_the_size_that_is_freed() -> None:
    slob = make()
    small = [slob.alloc(64, 8, 0, None) for _ in range(64)]
    assert slob.lists[0] == []
    slob.free(small[7], 300, 0)
    assert len(slob.lists[1]) == 1, "300 bytes: the medium list"
    adds_up(slob)


def test_the_second_free_of_a_block_is_refused() -> None:
    slob = make()
    block = slob.alloc(64, 8, 0, None)
    slob.alloc(64, 8, 0, None)
    slob.free(block, 64, 0)
    with pytest.raises(DoubleFree, match="already"):
        slob.free(block, 64, 0)


def test_without_pages_an_allocation_fails() -> None:
    slob = make(pages=1)
    slob.alloc(4000, 8, 0, None)
    with pytest.raises(OutOfMemory):
        slob.alloc(200, 8, 0, None)


def test_kmalloc_keeps_the_size_in_front_and_powers_of_two_aligned() -> None:
    slob = make()
    cache = SlobCache(slob, "kmalloc-64", 64, kmalloc=True)
    block = cache.alloc(0, None, 64)
    assert (block.start * 2 + MINALIGN) % 64 == 0
    assert block.page is not None and block.page.used[block.start] * 2 == 64 + MINALIGN
    odd = cache.alloc(0, None, 40)
    assert odd.page is not None and odd.page.used[odd.start] * 2 == 40 + MINALIGN


def test_requests_of_a_page_and_more_get_pages_of_their_own() -> None:
    slob = make()
    cache = SlobCache(slob, "kmalloc-8k", 8192, kmalloc=True)
    block = cache.alloc(0, None, 8192)
    assert block.page is None and block.order == 1 and slob.large_pages == 2
    cache.free(block)
    assert slob.large_pages == 0 and cache.live == 0
    nearly = SlobCache(slob, "kmalloc-4k", 4096, kmalloc=True).alloc(0, None, 4088)
    assert nearly.page is None, "4088 + 8 bytes do not fit below a page"


def test_a_page_of_another_node_does_not_serve_a_named_node() -> None:
    slob = make(cpus=2, nodes=2)
    slob.alloc(64, 8, 0, None)
    assert slob.alloc(64, 8, 0, 1).node == 1
    assert pages_of(slob) == 2


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_in_a_random_life(seed: int) -> None:
    rng = random.Random(seed)
    slob = make(cpus=4, nodes=2)
    caches = [
        SlobCache(slob, f"kmalloc-{size}", size, kmalloc=True)
        for size in (16, 64, 96, 512, 1024, 4096)
    ]
    held: list[tuple[SlobCache, SlobObject]] = []
    for step in range(3000):
        if held and rng.random() < (0.4 if step < 1500 else 0.6):
            cache, block = held.pop(rng.randrange(len(held)))
            cache.free(block, rng.randrange(4))
        else:
            cache = rng.choice(caches)
            size = rng.randrange(1, cache.object_size + 1)
            held.append((cache, cache.alloc(rng.randrange(4), None, size)))
        if step % 300 == 0:
            adds_up(slob)
    for cache, block in held:
        cache.free(block)
    adds_up(slob)
    assert pages_of(slob) == slob.large_pages == 0
