"""Questions 13, 14 and 16 to 19: races, cache lines, kmalloc, nodes, queues.

Here: one function per question; each runs the model, the explorer of
interleavings, or an excerpt of a real kernel's trace. Not here: the sequential
paths (`explain_topics_objects`, `explain_topics_paths`).
"""

from __future__ import annotations

from collections import Counter

from uslub.model import OutOfMemory
from uslub.model.geometry import KMALLOC_MAX_CACHE_SIZE, get_order, kmalloc_size
from uslub.model.races import run_race
from uslub.tools.explain_lines import ALLOCATORS, LOADS, count
from uslub.tools.explain_queues import slab_bytes, slab_limits, slub_bytes
from uslub.tools.explain_sample import Sample, read_sample
from uslub.tools.explain_story import Story, small_cache, topic


@topic(
    "tid",
    13,
    "What is `tid` for, what does it have to do with preemption, what goes wrong"
    " without it?",
)
def tid(story: Story) -> None:
    story.say(
        """The fast path reads the freelist's head and its link, then swaps the head
        for the link. A thread can be interrupted in between. If others take the head
        away and bring it back, the head looks the same, but the link is stale (the
        ABA problem). So the swap also compares a transaction id, which every
        operation on the CPU slot moves on; its low bits name the CPU, so a thread
        that was moved to another CPU fails too."""
    )
    outcome = run_race("aba", without="compares_tid")
    story.say(
        """Without it: all interleavings of two threads on one CPU were searched;
        objects 0>1>2 are free, A allocates one, B allocates two and frees the
        first. The shortest one that goes wrong:"""
    )
    story.show("no tid", *str(outcome).splitlines())
    for guard, text in (
        ("steps_tid", "a tid that never moves on"),
        ("reads_tid_first", "a tid that is read after the link"),
    ):
        wrong = run_race("aba", without=guard)
        story.say(f"The same happens with {text}: {wrong.violation}.")
    story.say(f"With it: {run_race('aba')}.")


@topic(
    "interrupts",
    14,
    "Why disable interrupts (take the local lock) in the slow path if the fast path is"
    " lockless?",
)
def interrupts(story: Story) -> None:
    story.say(
        """The fast path is one swap; whatever happens before it only makes it fail.
        The slow path changes several things (the slab's list, the CPU's list, which
        slab it is), and in between they do not fit together. Anything that runs on
        the same CPU in such a moment, an interrupt that frees, sees them."""
    )
    outcome = run_race("refill_and_local_free", without="slow_path_alone")
    story.say(
        """Without it: A is in the slow path, B (an interrupt on the same CPU) frees
        object 0 to the CPU's freelist, which A is about to overwrite:"""
    )
    story.show("interrupts stay on", *str(outcome).splitlines())
    story.say(f"With interrupts off: {run_race('refill_and_local_free')}.")
    flushed = run_race("free_during_flush", without="detach_steps_tid")
    story.say(
        """That protects slow path from fast path on one CPU. The other direction, a
        fast path that was interrupted by a slow one, is the tid's work again: taking
        the slab away moves the tid on. Without that:"""
    )
    story.show("detach without a new tid", *str(flushed).splitlines())


@topic(
    "bouncing",
    16,
    "What is cache-line bouncing here, and what does keeping objects on the CPU that"
    " freed them save? (count line transfers)",
)
def bouncing(story: Story) -> None:
    story.say(
        """A line that CPU 0 wrote and CPU 1 uses next must travel between their
        caches; that costs about as much as a hundred instructions. Counted here: for
        each CPU slot, slab descriptor, node list, object and (for comparison) the
        head of one list for all CPUs, how often another CPU uses it than the last
        time."""
    )
    rows = []
    for load in LOADS:
        for allocator in ALLOCATORS:
            moved, operations = count(load, allocator)
            kinds = Counter(moved)
            shared = kinds["list head"] + kinds["slab"] + kinds["node"]
            total = sum(kinds.values())
            rows.append(
                (load, allocator, shared, kinds["object"], f"{total / operations:.2f}")
            )
    story.table(
        "line transfers in 12 000 operations on 2 CPUs",
        ("load", "allocator", "list/slab", "object", "per op"),
        rows,
    )
    story.say(
        """Objects that stay with the CPU that freed them are found again by that CPU:
        no transfers at all. With one list its head travels nearly at every step, and
        objects change hands with it. When one CPU allocates and another one frees,
        the objects must travel, that is the program's doing; SLUB saves the list's
        head, but such a free writes the slab's descriptor, which its owner has to
        fetch back at the next refill: the remote frees that are still dear."""
    )


@topic(
    "kmalloc",
    17,
    "How does `kmalloc(n)` choose its cache, and how much does rounding waste on a real"
    " trace?",
)
def kmalloc(story: Story) -> None:
    sample = read_sample()
    story.say(
        """Up to 192 bytes by a table in steps of 8, above that the next power of two;
        above 8192 bytes whole pages. Then the kind: DMA before reclaimable before
        accounted, each with its own set of caches."""
    )
    story.table(
        "every kmalloc of one boot of Linux 6.18 (4 CPUs, 2 nodes)",
        ("cache", "calls", "asked KiB", "wasted KiB", "wasted %"),
        kmalloc_waste(sample.kmalloc),
    )
    story.say(
        """96 and 192 exist because 65..96 and 129..192 are frequent: without them
        those requests would be rounded to 128 and 256."""
    )


def kmalloc_waste(requests: dict[int, int]) -> list[tuple[str, int, int, int, str]]:
    """By size class: calls, KiB asked for, KiB lost to rounding, and the share."""
    asked: Counter[int] = Counter()
    wasted: Counter[int] = Counter()
    calls: Counter[int] = Counter()
    for size, times in requests.items():
        if size == 0:
            continue
        large = size > KMALLOC_MAX_CACHE_SIZE
        got = 4096 << get_order(size) if large else kmalloc_size(size)
        key = 8193 if large else got
        calls[key] += times
        asked[key] += size * times
        wasted[key] += (got - size) * times
    rows = [
        (
            "pages" if key == 8193 else f"kmalloc-{key}",
            calls[key],
            asked[key] // 1024,
            wasted[key] // 1024,
            f"{100 * wasted[key] / (asked[key] + wasted[key]):.1f}",
        )
        for key in sorted(calls)
    ]
    total = sum(asked.values())
    waste = sum(wasted.values())
    share = f"{100 * waste / (total + waste):.1f}"
    rows.append(("all", sum(calls.values()), total // 1024, waste // 1024, share))
    return rows


@topic(
    "nodes",
    18,
    "How can `kzalloc_node` promise the node? What happens when that node is full?",
)
def nodes(story: Story) -> None:
    cache = small_cache(cpus=2, nodes=2, pages_per_node=2, min_partial=0)
    cache.alloc(0)
    story.on(cache, "CPU 0 is on node 0, CPU 1 on node 1; each node has 2 pages")
    story.say(
        """A slab lies on one node, so the node of an object is the node of its slab,
        and the fast path only has to compare the two. If they differ, the CPU's slab
        is deactivated and the slow path asks for that node alone: its list, then its
        pages."""
    )
    story.do("CPU 0 asks for node 1", lambda: cache.alloc(0, node=1))
    cache.alloc_bulk(7, 0, node=1)
    cache.alloc_bulk(8, 1, node=1)
    story.on(cache, "node 1 is full")
    story.say(
        """A wish (node=1) is tried alone first, and then other nodes serve it, nearest
        first. A promise (node=1 with THISNODE) fails instead:"""
    )
    story.do("CPU 0 would like node 1", lambda: cache.alloc(0, node=1))
    try:
        story.do(
            "CPU 0 insists on node 1", lambda: cache.alloc(0, node=1, thisnode=True)
        )
    except OutOfMemory as error:
        story.show("OutOfMemory", *wrap(str(error)))


def wrap(text: str, width: int = 70) -> list[str]:
    """Lines of at most `width` columns."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


@topic(
    "queues",
    19,
    "What did SLAB's queues cost, and what did SLUB change? (memory held in queues as"
    " CPUs grow, measured on a trace)",
)
def queues(story: Story) -> None:
    sample = read_sample()
    limits = [(size, *slab_limits(size)) for size in (64, 256, 512, 2048, 8192)]
    story.say(
        """SLAB kept free objects in an array per CPU and cache, up to `limit` of them,
        moved them in batches, and kept one more array per node (and one per pair of
        nodes, for remote frees). They were emptied by a timer."""
    )
    story.table("SLAB's tunables", ("size", "limit", "batchcount"), limits)
    story.table(
        f"free KiB kept by CPUs after {len(sample.events)} events of a real boot,"
        f" {len(sample.caches)} caches",
        ("CPUs", "SLAB queues", "SLUB CPU slabs, chains", "7.1 sheaves, barns"),
        kept_by_cpus(sample),
    )
    story.say(
        """All of them keep more on more CPUs, and in bytes SLUB keeps no less than SLAB
        did: a whole slab and a chain for each CPU and cache. (The excerpt is short:
        caches that a CPU uses once weigh more than in a long run.) What changed is
        what grows, and what it takes to get it back. SLAB had an array for every
        *pair* of nodes:"""
    )
    bounds = [(nodes, *bounds_of_192(nodes)) for nodes in (1, 2, 4, 8, 16)]
    story.table(
        "a 192-byte cache, 16 CPUs per node: upper bounds in objects",
        ("nodes", "SLAB arrays", "in them", "for pairs", "SLUB, half-full chains"),
        bounds,
    )
    story.say(
        """SLAB's queues hold single objects of any slabs, which pins those slabs, and
        only a timer on every CPU, for every cache, every two seconds, gave them
        back. SLUB has no timer: a CPU holds whole slabs, and they go back slab by
        slab when a chain is full. Sheaves are queues again, but bounded (two per
        CPU, ten in a barn), without a timer, and never for another node's
        objects."""
    )


def bounds_of_192(nodes: int) -> tuple[int, int, int, int]:
    """SLAB's arrays, entries in them, of those for pairs of nodes; SLUB's objects."""
    limit, batch = slab_limits(192)
    cpus, pairs = 16 * nodes, nodes * (nodes - 1)
    entries = cpus * limit + nodes * 8 * batch + pairs * 12
    per_slab, chain = 21, 120  # cpu_partial: what a half-full chain holds
    return cpus + nodes + pairs, entries, pairs * 12, cpus * (per_slab + chain)


def kept_by_cpus(sample: Sample) -> list[tuple[int, int, int, int]]:
    """CPUs; KiB of free objects that SLAB, classic SLUB and 7.1 keep for them."""
    rows = []
    for cpus in (1, 4, 16, 64):
        slab = slab_bytes(sample, cpus) // 1024
        slub = slub_bytes(sample, cpus, "classic") // 1024
        sheaves = slub_bytes(sample, cpus, "7.1") // 1024
        rows.append((cpus, slab, slub, sheaves))
    return rows
