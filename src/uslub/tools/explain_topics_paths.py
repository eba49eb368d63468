"""Questions 8 to 12 and 15: the five sources, chains, node lists, deactivation.

Here: one function per question; each runs the model. Not here: what a slab is
(`explain_topics_objects`), CPUs at the same time (`explain_topics_cpus`).
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

from uslub.model import Arena, Boot, Cache, Position
from uslub.model.geometry import (
    calculate_order,
    cpu_partial,
    cpu_partial_slabs,
    min_partial,
    order_objects,
)
from uslub.tools.explain_story import Story, small_cache, topic


def fill(cache: Cache, slabs: int, cpu: int = 0) -> list[list[Position]]:
    """Use up that many new slabs."""
    return [[cache.alloc(cpu) for _ in range(cache.objects)] for _ in range(slabs)]


@topic(
    "sources",
    8,
    "What do the five sources of an allocation look like, one after another, on one"
    " cache?",
)
def sources(story: Story) -> None:
    cache = small_cache()
    slabs = fill(cache, 4)
    cache.free(slabs[0][0], 1)  # to the chain of CPU 1
    cache.flush(1)  # and on to the node
    cache.free(slabs[1][0], 0)  # to the chain of CPU 0
    cache.free(slabs[3][1], 1)  # into CPU 0's slab, from outside
    cache.free(slabs[3][0], 0)  # to the CPU freelist
    story.on(cache, "one object in each of the first four sources")
    for what in (
        "source 1, the CPU freelist: no lock, one swap",
        "source 2, the CPU slab's own list: objects that others freed",
        "source 3, the CPU's chain: nobody else takes from it",
        "source 4, a node's partial list, under its lock",
        "source 5, the page allocator: the only one that costs new memory",
    ):
        story.do(what, lambda: cache.alloc(0))


@topic(
    "remote",
    9,
    "Alloc on CPU A, free on CPU B: where does the object go, who picks it up, when?",
)
def remote(story: Story) -> None:
    cache = small_cache()
    slabs = fill(cache, 2)
    cache.free(slabs[1][7], 0)
    story.on(cache, "CPU 0 has allocated everything; slab 1 is its slab")
    story.say(
        """It depends on the slab, not on who allocated. Case 1: the slab belongs to
        CPU A. The object joins the slab's own list; A takes it when its own list is
        used up, at its next slow path."""
    )
    story.do(
        "CPU 1 frees an object of CPU 0's slab", lambda: cache.free(slabs[1][2], 1)
    )
    story.do("CPU 0 allocates from its own list first", lambda: cache.alloc(0))
    story.do("and then finds the object again", lambda: cache.alloc(0))
    story.say(
        """Case 2: the slab is full and nobody's. The freeing CPU B gets it, on its
        chain: B freed it, so B's cache lines hold it, and B will use it next."""
    )
    story.do("CPU 1 frees an object of a full slab", lambda: cache.free(slabs[0][3], 1))
    story.do("CPU 1 allocates: it gets the object it freed", lambda: cache.alloc(1))
    cache.free(slabs[0][4], 0)
    cache.flush()
    story.on(cache, "later, after a flush: slabs on the node list")
    story.say(
        """Case 3: the slab is on a node's list. The object joins it there and the
        slab does not move; whoever comes for a partial slab finds it."""
    )
    story.do("CPU 1 frees another one", lambda: cache.free(slabs[0][5], 1))


@topic(
    "chains",
    10,
    "Per-CPU partial versus node partial: why both, what bounds each, where do slabs"
    " go when the first is full?",
)
def chains(story: Story) -> None:
    cache = small_cache()
    slabs = fill(cache, 5)
    for objects in slabs[:2]:
        cache.free(objects[0], 0)
    story.on(cache, f"a chain of {cache.cpu_partial_slabs} slabs is full")
    story.do(
        "one more full slab gets a free object: the chain is drained",
        lambda: cache.free(slabs[2][0], 0),
    )
    story.say(
        """Why both: the node list is shared by all CPUs of the node, under a lock; the
        chain is private. A slab that was full is likely to get more objects back
        soon, so it waits on the chain, where that costs no lock. The same load with
        and without chains:"""
    )
    story.table(
        "20 000 operations on 2 CPUs",
        ("chains", "node list locked", "slabs moved to it", "new slabs"),
        [("with", *list_work(True)), ("without", *list_work(False))],
    )
    bounds = []
    for size in (64, 192, 512, 1024, 4096):
        boot = Boot(cpus_present=8)
        objects_per_slab = order_objects(calculate_order(size, boot), size)
        wished = cpu_partial(size, 0, boot)
        limit = cpu_partial_slabs(wished, objects_per_slab)
        bounds.append((size, objects_per_slab, wished, limit, min_partial(size)))
    story.table(
        "bounds on 8 CPUs: chain in slabs; node: empty slabs only below min_partial",
        ("size", "per slab", "cpu_partial", "chain limit", "min_partial"),
        bounds,
    )


def list_work(has_cpu_partial: bool) -> tuple[int, int, int]:
    """Holds of the list lock, slabs added, new slabs, under a mixed load."""
    cache = small_cache(has_cpu_partial=has_cpu_partial, cpu_partial=52)
    rng = random.Random(10)
    live: list[Position] = []
    for n in range(20_000):
        cpu = n // 50 % 2
        if len(live) < 40 or (len(live) < 400 and rng.random() < 0.5):
            live.append(cache.alloc(cpu))
        else:
            cache.free(live.pop(rng.randrange(len(live))), cpu)
    stats = Counter(cache.stats())
    locked = stats["alloc_from_partial"] + stats["free_remove_partial"]
    locked += stats["cpu_partial_drain" if has_cpu_partial else "free_add_partial"]
    return locked, stats["free_add_partial"], stats["alloc_slab"]


@topic(
    "empty",
    11,
    "Why may an empty slab stay (`min_partial`), and when is it given back to the page"
    " allocator?",
)
def empty(story: Story) -> None:
    cache = small_cache(cpus=3)
    slabs = fill(cache, 4)
    for objects in slabs[:3]:
        cache.free(objects[0], 1)
        cache.flush(1)
    for objects in slabs[:3]:
        for position in objects[1:7]:
            cache.free(position, 1)
    story.on(cache, "three slabs with one object in use each; min_partial is 2")
    story.say(
        """An empty slab that is given back must be asked for again by the next burst.
        So an empty slab goes only while its node has min_partial partial slabs or
        more (itself included): a small stock stays."""
    )
    for number in (2, 1, 0):
        story.do(
            f"the last object of slab {number} is freed",
            partial(cache.free, slabs[number][7], 1),
        )
    story.say(
        """The stock is bounded, but nobody takes it back by himself: only a shrink
        (memory pressure, or somebody asks for it) gives every empty slab back."""
    )
    story.do("shrink", cache.shrink)


@topic(
    "deactivate",
    12,
    "What exactly does deactivate_slab do, and what decides head, tail, full or free?",
)
def deactivate(story: Story) -> None:
    story.say(
        """It ends a CPU's ownership: the CPU freelist goes back into the slab, the
        slab is unfrozen, and its would-be state decides the place. One run for each
        outcome:"""
    )
    cache = small_cache(cpus=2)
    cache.alloc(0)
    story.on(cache, "HEAD: only this CPU has freed into the slab")
    story.do("flush", lambda: cache.flush(0))
    cache = small_cache(cpus=2)
    held = cache.alloc_bulk(3, 0)
    cache.free(held[1], 1)
    story.on(cache, "TAIL: another CPU has freed into it: its objects are cold here")
    story.do("flush", lambda: cache.flush(0))
    cache = small_cache(cpus=2)
    cache.alloc_bulk(8, 0)
    story.on(cache, "FULL: nothing free")
    story.do("flush", lambda: cache.flush(0))
    cache = small_cache(cpus=2, min_partial=0)
    cache.free(cache.alloc(0), 0)
    story.on(cache, "FREE: nothing in use, and the node has its min_partial (0)")
    story.do("flush", lambda: cache.flush(0))
    rows = []
    for design in ("5.10", "classic"):
        other = small_cache(design=design)
        other.alloc_bulk(5, 0)
        other.flush(0)
        rows.append((design, ">".join(map(str, other.snapshot().slabs[0].freelist))))
    story.say(
        """5.10 worked in two stages: every object but the last went back by a swap of
        its own, the last together with the unfreeze. So its list came out reversed;
        later kernels join the whole list in one swap:"""
    )
    story.table("CPU freelist 5>6>7 after deactivation", ("design", "slab's own"), rows)


@topic(
    "flush",
    15,
    "When and by whom are CPU slabs flushed? What happens to them when a CPU goes"
    " away?",
)
def flush(story: Story) -> None:
    cache = small_cache(cpus=2)
    slabs = fill(cache, 2, 0)
    for position in slabs[0][:3]:
        cache.free(position, 0)
    cache.free(slabs[1][0], 0)
    cache.alloc_bulk(3, 1)
    story.on(cache, "both CPUs have a slab, CPU 0 also a chain")
    story.say(
        """By shrink, validate, destroy and a change of cpu_partial: on every CPU that
        has anything, by an interrupt to it, so that nobody else touches its slot."""
    )
    story.do("flush of CPU 0: its slab, then its chain", lambda: cache.flush(0))
    story.say(
        """A CPU that goes away cannot run an interrupt. Whoever handles the hotplug
        event flushes its slot of every cache, in its place; nothing is lost, and
        its free objects serve the others through the node list."""
    )
    arena = Arena()
    arena.machine, arena.caches = cache.machine, [cache]
    story.do("CPU 1 goes away", lambda: arena.cpu_dead(1))
    story.do("CPU 0 goes on with what both left", lambda: cache.alloc(0))
