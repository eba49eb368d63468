"""Broken twins of the model: one line changed, and what notices.

Here: the list `MUTANTS`, and `survivors`, which applies each to a copy of the
package and runs only the recording or test that is named as its catcher. A
catcher ending in .txt is a file of recorded kernel decisions; otherwise it is a
test of this folder. Run it: ``python tests/model/mutants.py [NAME...]``; the
exit status is the number of survivors.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "uslub"
COPIED = ("model", "snapshot.py", "tools/decisions.py", "tools/verify_model.py")


@dataclass(frozen=True)
class Mutant:
    """One wrong line."""

    name: str
    file: str  #: in src/uslub/model
    old: str  #: occurs exactly once
    new: str
    catcher: str


MUTANTS = [
    # the fast path and freelists
    Mutant(
        "FIFO CPU freelist",
        "alloc.py",
        "        index = c.freelist.pop()\n",
        "        index = c.freelist.pop(0)\n",
        "default_a.txt",
    ),
    Mutant(
        "free to the end of the CPU freelist",
        "free.py",
        "        c.freelist += objects[::-1]\n",
        "        c.freelist[:0] = objects\n",
        "default_a.txt",
    ),
    Mutant(
        "free to the end of the slab's freelist",
        "free.py",
        "    slab.freelist += objects[::-1]\n",
        "    slab.freelist[:0] = objects\n",
        "cps0_min1.txt",
    ),
    Mutant(
        "node request ignored by the fast path",
        "alloc.py",
        "(node is None or slab.node == node)",
        "True",
        "test_model_arena.py::"
        "test_a_named_node_gives_the_object_and_costs_the_cpu_slab",
    ),
    # the slow path
    Mutant(
        "no refill from the CPU slab's own freelist",
        "alloc.py",
        "    freelist = get_freelist(cache, c, slab)\n",
        "    freelist: list[int] = []\n",
        "default_a.txt",
    ),
    Mutant(
        "a used-up slab stays frozen",
        "partial.py",
        "frozen=bool(slab.freelist))",
        "frozen=True)",
        "default_a.txt",
    ),
    Mutant(
        "chain as a queue",
        "alloc.py",
        "        slab = c.partial.pop()\n",
        "        slab = c.partial.pop(0)\n",
        "default_a.txt",
    ),
    Mutant(
        "node lists before the chain",
        "alloc.py",
        "        found = pop_chain(cache, c, node, emergency)\n",
        "        found = get_partial(cache, c, node, thisnode, emergency)"
        " or pop_chain(cache, c, node, emergency)\n",
        "default_a.txt",
    ),
    Mutant(
        "refill takes one slab fewer",
        "alloc.py",
        "taken - 1 > cache.cpu_partial_slabs // 2",
        "taken - 1 >= cache.cpu_partial_slabs // 2",
        "default_a.txt",
    ),
    Mutant(
        "refill takes one slab more",
        "alloc.py",
        "taken - 1 > cache.cpu_partial_slabs // 2",
        "taken - 2 > cache.cpu_partial_slabs // 2",
        "default_a.txt",
    ),
    Mutant(
        "refill to the whole chain",
        "alloc.py",
        "taken - 1 > cache.cpu_partial_slabs // 2",
        "taken - 1 > cache.cpu_partial_slabs",
        "cps4_min20.txt",
    ),
    Mutant(
        "refill with chains of no slab",
        "alloc.py",
        "    if not cache.has_cpu_partial or cache.cpu_partial_slabs == 0:\n",
        "    if not cache.has_cpu_partial:\n",
        "cps0_min1.txt",
    ),
    Mutant(
        "first partial slab from the tail",
        "alloc.py",
        "    for slab in node.partial:\n        if not pfmemalloc",
        "    for slab in reversed(node.partial):\n        if not pfmemalloc",
        "default_a.txt",
    ),
    Mutant(
        "other nodes searched at min_partial",
        "alloc.py",
        "if len(node.partial) > cache.min_partial:",
        "if len(node.partial) >= cache.min_partial:",
        "test_model_arena.py::test_other_nodes_are_searched_only_above_min_partial",
    ),
    Mutant(
        "defrag ratio excludes itself",
        "alloc.py",
        "cache.machine.cycles() % 1024 > ratio",
        "cache.machine.cycles() % 1024 >= ratio",
        "test_model_arena.py::test_the_cycle_counter_decides_at_the_ratio",
    ),
    Mutant(
        "no try on the named node alone",
        "alloc.py",
        "cache.design.thisnode_first and node is not None",
        "node is not None and node < 0",
        "test_model_arena.py::test_a_named_node_is_tried_alone_before_others_are",
    ),
    Mutant(
        "reserve objects left to the fast path",
        "alloc.py",
        "    if slab.pfmemalloc and cache.design.shields_reserve:\n",
        "    if False:\n",
        "test_model_arena.py::"
        "test_classic_never_leaves_reserve_objects_to_the_fast_path",
    ),
    # chains
    Mutant(
        "chain limit one higher",
        "partial.py",
        "    return len(chain) >= cache.cpu_partial_slabs\n",
        "    return len(chain) > cache.cpu_partial_slabs\n",
        "default_a.txt",
    ),
    Mutant(
        "a drain keeps the old chain and sends the new slab",
        "partial.py",
        "        drained, c.partial = c.partial, []\n",
        "        drained = [c.partial.pop(0)]\n",
        "default_a.txt",
    ),
    Mutant(
        "a drain walks the chain from its end",
        "partial.py",
        "    for slab in reversed(chain):\n",
        "    for slab in chain:\n",
        "default_a.txt",
    ),
    Mutant(
        "drained slabs to the head",
        "partial.py",
        "            add_partial(node, slab)\n            c.stat.free_add",
        "            add_partial(node, slab, head=True)\n            c.stat.free_add",
        "default_a.txt",
    ),
    Mutant(
        "empty slabs of a chain are all discarded",
        "partial.py",
        "        if slab.inuse == 0 and keeps_no_more_empty(cache, node):\n"
        "            aside",
        "        if slab.inuse == 0:\n            aside",
        "cps4_min20.txt",
    ),
    Mutant(
        "empty slabs of a chain are all kept",
        "partial.py",
        "        if slab.inuse == 0 and keeps_no_more_empty(cache, node):\n"
        "            aside",
        "        if False:\n            aside",
        "default_shrink.txt",
    ),
    Mutant(
        "a was-full slab goes to its node",
        "free.py",
        "    elif was_full and cache.has_cpu_partial:\n",
        "    elif was_full and cache.has_cpu_partial and c.partial:\n",
        "default_a.txt",
    ),
    # free and deactivation
    Mutant(
        "an empty slab kept at min_partial",
        "partial.py",
        "    return len(node.partial) >= cache.min_partial\n",
        "    return len(node.partial) > cache.min_partial\n",
        "default_a.txt",
    ),
    Mutant(
        "an empty slab discarded below min_partial",
        "partial.py",
        "    return len(node.partial) >= cache.min_partial\n",
        "    return len(node.partial) + 1 >= cache.min_partial\n",
        "default_a.txt",
    ),
    Mutant(
        "deactivation puts remote frees first",
        "partial.py",
        "    slab.freelist += freelist\n    slab.inuse -=",
        "    slab.freelist = freelist + slab.freelist\n    slab.inuse -=",
        "default_shrink.txt",
    ),
    Mutant(
        "deactivation to the wrong end",
        "partial.py",
        "        add_partial(node, slab, head=True)\n        stat.deactivate_to_head",
        "        add_partial(node, slab)\n        stat.deactivate_to_head",
        "test_model_paths.py::"
        "test_deactivation_puts_a_slab_without_remote_frees_at_the_head",
    ),
    Mutant(
        "deactivated slabs with remote frees to the head",
        "partial.py",
        "        add_partial(node, slab)\n        stat.deactivate_to_tail",
        "        add_partial(node, slab, head=True)\n        stat.deactivate_to_tail",
        "test_model_paths.py::"
        "test_deactivation_puts_a_slab_without_remote_frees_at_the_head",
    ),
    Mutant(
        "5.10 returns objects in order",
        "partial.py",
        "        freelist = freelist[::-1]  # object by object: the last one ends on"
        " top\n",
        "        pass\n",
        "test_model_designs.py::"
        "test_5_10_returns_the_cpus_objects_one_by_one_so_in_reverse",
    ),
    Mutant(
        "5.10 drains at the limit",
        "partial.py",
        "chain[-1].chain_objects > cache.cpu_partial\n",
        "chain[-1].chain_objects >= cache.cpu_partial\n",
        "test_model_designs.py::test_5_10_bounds_chains_by_free_objects",
    ),
    # shrink
    Mutant(
        "shrink sorts the emptiest first",
        "partial.py",
        "for bucket in buckets for slab in bucket] + rest",
        "for bucket in buckets[::-1] for slab in bucket] + rest",
        "default_shrink.txt",
    ),
    Mutant(
        "shrink keeps ties in order",
        "partial.py",
        "            buckets[free - 1].insert(0, slab)\n",
        "            buckets[free - 1].append(slab)\n",
        "default_shrink.txt",
    ),
    Mutant(
        "shrink keeps an empty slab",
        "partial.py",
        "        if free == slab.objects:\n",
        "        if free == slab.objects and len(node.partial) >= 5:\n",
        "test_model_paths.py::test_shrink_of_an_unused_cache_says_that_nothing_remains",
    ),
    Mutant(
        "shrink sorts slabs with 31 free at most",
        "partial.py",
        "        elif free <= 32:\n",
        "        elif free <= 31:\n",
        "test_model_paths.py::"
        "test_shrink_leaves_slabs_with_more_than_32_free_behind_in_order",
    ),
    Mutant(
        "a flush forgets the chain",
        "flush.py",
        "    flush_slab(cache, c)\n    flush_chain(cache, c)\n",
        "    flush_slab(cache, c)\n",
        "test_model_paths.py::test_a_dead_cpus_slab_and_chain_go_to_the_nodes",
    ),
    # bulk
    Mutant(
        "bulk free gives up after two strangers",
        "bulk.py",
        "LOOKAHEAD = 3",
        "LOOKAHEAD = 2",
        "test_model_arena.py::test_a_detached_freelist_gives_up_after_three_strangers",
    ),
    Mutant(
        "a failed bulk allocation keeps what it got",
        "bulk.py",
        "        slab_free_bulk(cache, c, result)\n        raise\n",
        "        raise\n",
        "test_model_arena.py::test_bulk_allocation_is_all_or_nothing",
    ),
    # sheaves
    Mutant(
        "sheaf as a queue",
        "sheaf.py",
        "    position = c.main[-1]\n",
        "    c.main.append(c.main.pop(0))\n    position = c.main[-1]\n",
        "sheaf_vma.txt",
    ),
    Mutant(
        "sheaf objects of any node",
        "sheaf.py",
        "    if node is not None and slab.node != node:\n",
        "    if False:\n",
        "test_model_designs.py::test_a_named_node_is_kept_though_a_sheaf_has_others",
    ),
    Mutant(
        "refill before the spare",
        "sheaf.py",
        "    if c.spare:\n",
        "    if c.spare and barn.full:\n",
        "sheaf_vma.txt",
    ),
    Mutant(
        "refill before the barn",
        "sheaf.py",
        "    if barn.full:\n",
        "    if len(barn.full) > 1:\n",
        "sheaf_vma.txt",
    ),
    Mutant(
        "half a refill",
        "sheaf.py",
        "    want = cache.sheaf_capacity\n",
        "    want = cache.sheaf_capacity // 2\n",
        "sheaf_vma.txt",
    ),
    Mutant(
        "a full main sheaf goes to the barn though the spare is empty",
        "sheaf.py",
        "    elif len(c.spare) < cache.sheaf_capacity:\n",
        "    elif False:\n",
        "sheaf_vma.txt",
    ),
    Mutant(
        "barn one larger",
        "sheaf.py",
        "    elif len(barn.full) >= cache.max_full_sheaves:\n",
        "    elif len(barn.full) > cache.max_full_sheaves:\n",
        "test_model_designs.py::test_an_eleventh_full_sheaf_is_flushed_to_slabs",
    ),
    Mutant(
        "barn as a queue",
        "sheaf.py",
        "        c.main = barn.full.pop()\n",
        "        c.main = barn.full.pop(0)\n",
        "test_model_designs.py::test_full_sheaves_come_out_of_the_barn_newest_first",
    ),
    Mutant(
        "remote objects enter sheaves",
        "sheaf.py",
        "    if slab.node != c.node:\n",
        "    if False:\n",
        "test_model_designs.py::test_objects_of_another_node_never_enter_a_sheaf",
    ),
    Mutant(
        "7.1 uses isolated slabs in list order",
        "refill.py",
        "        slab = isolated.pop()\n",
        "        slab = isolated.pop(0)\n",
        "test_model_designs.py::"
        "test_7_1_uses_the_last_isolated_slab_first_when_it_refills",
    ),
    # pages, merging, sizes
    Mutant(
        "the highest address instead of the lowest",
        "pages.py",
        "                page = self.free[larger].pop(0)\n",
        "                page = self.free[larger].pop()\n",
        "test_model_arena.py::test_exhausted_blocks_are_reused_lowest_address_first",
    ),
    Mutant(
        "the reserve minus one",
        "pages.py",
        "- (1 << order) >= self.reserve",
        "- (1 << order) >= self.reserve - 1",
        "test_model_arena.py::test_ordinary_requests_leave_the_reserve_alone",
    ),
    Mutant(
        "blocks never merge",
        "pages.py",
        "        while order < len(self.free) - 1:\n",
        "        while False:\n",
        "test_model_arena.py::"
        "test_freed_pages_merge_with_their_buddies_as_far_as_possible",
    ),
    Mutant(
        "merging with a slot one word larger",
        "create.py",
        "            and slot - size < WORD\n",
        "            and slot - size <= WORD\n",
        "test_model_arena.py::test_a_slot_larger_by_a_word_is_not_shared",
    ),
    Mutant(
        "chain limit without the half-full guess",
        "geometry.py",
        "    return -(-2 * objects_wished // objects_per_slab)\n",
        "    return -(-objects_wished // objects_per_slab)\n",
        "test_model_geometry.py::test_orders_and_chain_limits_for_1_to_64_cpus",
    ),
    Mutant(
        "one doubling of CPUs fewer",
        "geometry.py",
        "    return 4 * (cpus.bit_length() + 1)\n",
        "    return 4 * cpus.bit_length()\n",
        "test_model_geometry.py::"
        "test_every_cache_of_a_running_kernel_has_the_computed_geometry",
    ),
    Mutant(
        "a quarter of waste accepted at once",
        "geometry.py",
        "    for fraction in (16, 8, 4, 2):\n",
        "    for fraction in (4, 2):\n",
        "test_model_geometry.py::"
        "test_both_formulae_look_for_little_waste_before_low_orders",
    ),
    Mutant(
        "min_partial without its half",
        "geometry.py",
        "(size.bit_length() - 1) // 2",
        "(size.bit_length() - 1)",
        "test_model_geometry.py::test_orders_and_chain_limits_for_1_to_64_cpus",
    ),
    # SLAB and SLOB, and what the lab needs of the model
    Mutant(
        "SLAB: a refill takes the batch of an array that was not used",
        "queues.py",
        "        want = BATCH_REFILL_LIMIT\n",
        "        want = want\n",
        "test_model_queues.py::"
        "test_the_first_refill_of_an_unused_array_is_limited_to_16",
    ),
    Mutant(
        "SLAB: the shared array is not asked",
        "queues.py",
        "        if node.shared is not None and node.shared.entries:\n"
        "            moved",
        "        if False:\n            moved",
        "test_model_queues.py::"
        "test_an_empty_array_is_refilled_from_the_shared_one_first",
    ),
    Mutant(
        "SLAB: the newest batch is flushed",
        "queues.py",
        "    oldest = own.entries[: own.batch]\n    shared = node.shared\n",
        "    oldest = own.entries[-own.batch :]\n    shared = node.shared\n",
        "test_model_queues.py::"
        "test_a_full_array_gives_its_oldest_batch_to_the_shared_array",
    ),
    Mutant(
        "SLAB: objects of another node enter the array",
        "queues.py",
        "        if slab.node != c.node:\n            c.lines",
        "        if slab.node > c.node:\n            c.lines",
        "test_model_queues.py::"
        "test_an_object_of_another_node_waits_in_an_alien_array_of_twelve",
    ),
    Mutant(
        "SLAB: free slabs are never destroyed",
        "queues.py",
        "    while node.free_objects > node.free_limit and node.free:\n",
        "    while False:\n",
        "test_model_queues.py::test_free_slabs_beyond_the_limit_are_destroyed",
    ),
    Mutant(
        "SLAB: the reaper does not spare a used array",
        "queues.py",
        "    if queue.touched:\n        queue.touched = False\n        return\n",
        "",
        "test_model_queues.py::test_the_reaper_spares_a_touched_array_once",
    ),
    Mutant(
        "SLAB: the order may waste a quarter",
        "queues.py",
        "left * 8 <= block",
        "left * 4 <= block",
        "test_model_queues.py::test_the_order_wastes_at_most_an_eighth",
    ),
    Mutant(
        "SLOB: the last hole instead of the first",
        "slob.py",
        "in enumerate(zip(page.starts, page.sizes, strict=True)):\n",
        "in reversed(list(enumerate(zip(page.starts, page.sizes)))):\n",
        "test_model_slob.py::"
        "test_a_smaller_hole_is_passed_over_for_the_first_that_fits",
    ),
    Mutant(
        "SLOB: blocks do not merge with what precedes them",
        "slob.py",
        "    if at and page.starts[at - 1] + page.sizes[at - 1] == start:\n",
        "    if False:\n",
        "test_model_slob.py::test_neighbours_merge_when_they_are_free",
    ),
    Mutant(
        "SLOB: no list is rotated",
        "slob.py",
        "                self.lists[kind] = pages[at:] + pages[:at]\n",
        "                pass\n",
        "test_model_slob.py::test_the_page_that_served_becomes_the_first_of_its_list",
    ),
    Mutant(
        "SLOB: a full page returns to its old list",
        "slob.py",
        "            page.kind = kind\n",
        "            kind = page.kind\n",
        "test_model_slob.py::"
        "test_a_full_page_returns_to_the_list_of_the_size_that_is_freed",
    ),
    Mutant(
        "SLOB: a page of any node serves",
        "slob.py",
        " or (node is not None and page.node != node)",
        "",
        "test_model_slob.py::test_a_page_of_another_node_does_not_serve_a_named_node",
    ),
    Mutant(
        "a drain takes the lock once per slab",
        "partial.py",
        "        if node is not locked:\n",
        "        if True:\n",
        "test_model_lines.py::"
        "test_a_drained_chain_takes_the_lock_once_per_run_of_one_node",
    ),
    Mutant(
        "new slabs ignore the task's memory policy",
        "partial.py",
        "    return node if machine.policy_node is None else machine.policy_node\n",
        "    return node\n",
        "test_model_lines.py::"
        "test_the_policy_of_a_task_decides_where_new_slabs_lie_but_not_which_is_used",
    ),
    Mutant(
        "an adopted CPU slab keeps its freelist",
        "adopt.py",
        "        slab.freelist, slab.inuse, slab.frozen = [], cache.objects, True\n",
        "        slab.inuse, slab.frozen = cache.objects, True\n",
        "test_model_lines.py::"
        "test_an_adopted_slab_is_on_its_node_under_its_cpu_or_nowhere",
    ),
    Mutant(
        "parked objects come out in the other order",
        "adopt.py",
        "    c.main = parked[: cache.sheaf_capacity][::-1]\n",
        "    c.main = parked[: cache.sheaf_capacity]\n",
        "test_model_lines.py::test_parked_objects_are_handed_out_in_their_order",
    ),
]

# Runs in a fresh interpreter: argv is the changed source, then what catches it.
CATCH = """
import sys
sys.path.insert(0, sys.argv[1])
import uslub.model
assert uslub.model.__file__.startswith(sys.argv[1]), uslub.model.__file__
if sys.argv[2].endswith(".txt"):
    from uslub.tools.verify_model import replay_decisions
    sys.exit(replay_decisions(sys.argv[2], "classic").mismatches > 0)
import pytest
options = ["-q", "-x", "-p", "no:cacheprovider", "-c", sys.argv[1] + "/pytest.ini"]
sys.exit(pytest.main([*options, sys.argv[2]]))
"""


def mutated_text(mutant: Mutant) -> str:
    """The changed module.

    Raises:
        ValueError: The old line is not there exactly once: the list has rotted.
    """
    text = (SOURCE / "model" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name!r}: {mutant.old!r} occurs {text.count(mutant.old)} times"
            f" in {mutant.file}: bring the list up to date"
        )
    return text.replace(mutant.old, mutant.new)


def copy_package(folder: Path) -> None:
    """A package of its own in `folder`: the model and what replays files on it."""
    for name in COPIED:
        source, target = SOURCE / name, folder / "uslub" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pyc*"))
        else:
            shutil.copy(source, target)
    for package in ("uslub", "uslub/tools"):
        (folder / package / "__init__.py").touch()
    tests = REPOSITORY / "tests"
    (folder / "pytest.ini").write_text(
        f"[pytest]\nmarkers =\n  check: long\npythonpath = {tests}\n"
    )


def is_caught(mutant: Mutant | None, catcher: Path | str) -> bool:
    """Does the catcher object to the model with this line (None: unchanged)?"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_package(folder)
        if mutant is not None:
            changed = folder / "uslub" / "model" / mutant.file
            changed.write_text(mutated_text(mutant))
        run = subprocess.run(
            [sys.executable, "-c", CATCH, str(folder), str(catcher)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )
    return run.returncode != 0


def locate(catcher: str) -> Path | str:
    """The catcher as a path that the fresh interpreter understands."""
    if catcher.endswith(".txt"):
        from model.ground_truth import find

        return find(f"decisions/{catcher}")
    return str(REPOSITORY / "tests" / "model" / catcher)


def survivors(names: Iterable[str] = ()) -> list[str]:
    """Names of mutants that their catcher accepts; all mutants unless named."""
    wanted = set(names)
    return [
        mutant.name
        for mutant in MUTANTS
        if not wanted or mutant.name in wanted
        if not is_caught(mutant, locate(mutant.catcher))
    ]


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY / "tests"))
    left = survivors(sys.argv[1:])
    for survivor in left:
        print(f"survived: {survivor}")
    print(f"{len(MUTANTS)} mutants, {len(left)} survivors")
    sys.exit(len(left))
