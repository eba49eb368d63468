"""What a cache of the model holds and has done, as plain records.

One record per cache and node for what lies somewhere (slabs, objects, lists), and one
with node -1 for what belongs to the cache as a whole (counters, queues of CPUs). Names
are those of sysfs, slabinfo and SLUB_STATS where these have one. Works on all
allocators of the model; knows nothing of traces.
"""

from __future__ import annotations

from typing import Any

from uslub.lab.replay.build import AnyCache, Machine
from uslub.model import Cache
from uslub.model.queues import QueueCache, queued
from uslub.model.slob import LISTS, Slob, SlobCache
from uslub.model.state import STAT_NAMES, Lines

Record = dict[str, Any]

PAGE = 4096
LINE_NAMES = ("object", "slab", "node", "barn")


def cheap_totals(
    machine: Machine, distinct: list[tuple[int, AnyCache]]
) -> tuple[int, int, int, int, list[int]]:
    """Slabs, memory in bytes, partial slabs, list-lock operations; slabs by cache."""
    if machine.slob is not None:
        slob = machine.slob
        pages = sum(sum(by_node.values()) for by_node in slob.pages)
        pages += slob.large_pages
        listed = sum(len(each) for each in slob.lists)
        return pages, pages * PAGE, listed, slob.locked, [0] * len(distinct)
    memory = partial = locked = 0
    slabs = []
    for _, cache in distinct:
        assert not isinstance(cache, SlobCache)
        count = 0
        for node in cache.nodes:
            count += node.nr_slabs
            partial += len(node.partial)
            locked += node.list_locked
        slabs.append(count)
        memory += count * (PAGE << cache.order)
    return sum(slabs), memory, partial, locked, slabs


def truth_like(cache: AnyCache) -> tuple[list[int], list[int], list[int]]:
    """Per node what sysfs shows: slabs, partial, CPU slabs with those on chains."""
    if isinstance(cache, SlobCache):
        return [0], [0], [0]
    slabs = [node.nr_slabs for node in cache.nodes]
    partial = [len(node.partial) for node in cache.nodes]
    cpu_slabs = [0] * len(slabs)
    if isinstance(cache, Cache):
        for c in cache.cpus:
            for slab in (c.slab, *c.partial):
                if slab is not None:
                    cpu_slabs[slab.node] += 1
    return slabs, partial, cpu_slabs


def cache_records(name: str, cache: AnyCache) -> list[Record]:
    """The records of one cache, the whole (node -1) first.

    Args:
        name: As the trace has it.
        cache: Of any design; SLOB's pages belong to no cache (`slob_records`).
    """
    if isinstance(cache, SlobCache):
        return [slob_cache_record(name, cache)]
    slot = cache.layout.size if isinstance(cache, Cache) else cache.size
    size = cache.layout.object_size if isinstance(cache, Cache) else cache.object_size
    live = [0] * len(cache.nodes)
    for slab in cache.slabs.values():
        live[slab.node] += sum(slab.taken)
    slab_bytes = PAGE << cache.order
    common: Record = {
        "slab_bytes": slab_bytes,
        "slot_bytes": slot,
        "object_bytes": size,
        "order": cache.order,
        "objects_per_slab": cache.objects,
    }
    fill = slub_node if isinstance(cache, Cache) else queue_node
    records = [{"cache": name, "node": -1, **common, **whole(cache)}]
    for number in range(len(cache.nodes)):
        record: Record = {"cache": name, "node": number, **common}
        record["live"] = live[number]
        record |= fill(cache, number)
        record["total_objects"] = record["slabs"] * cache.objects
        record["memory_bytes"] = held = record["slabs"] * slab_bytes
        used = live[number] * slot
        record["external_fragmentation"] = 1 - used / held if held else 0.0
        records.append(record)
    return records


def slub_node(cache: Any, number: int) -> Record:
    """One node of a SLUB cache."""
    node = cache.nodes[number]
    cpu_slabs = chain = sheaves = parked = 0
    for c in cache.cpus:
        cpu_slabs += c.slab is not None and c.slab.node == number
        chain += sum(slab.node == number for slab in c.partial)
        if c.node == number and cache.sheaf_capacity:
            sheaves += 1 + (c.spare is not None)
            parked += len(c.main) + len(c.spare or ())
    parked += sum(len(sheaf) for sheaf in node.barn.full)
    return {
        "slabs": node.nr_slabs,
        "partial": len(node.partial),
        "cpu_slabs": cpu_slabs + chain,
        "chain": chain,
        "sheaves": sheaves,
        "barn_full": len(node.barn.full),
        "barn_empty": len(node.barn.empty),
        "in_sheaves": parked,
        "peak_slabs": node.peak_slabs,
        "list_lock": node.list_locked,
        "barn_lock": node.barn.locked,
    }


def queue_node(cache: Any, number: int) -> Record:
    """One node of a SLAB cache."""
    node = cache.nodes[number]
    return {
        "slabs": node.nr_slabs,
        "partial": len(node.partial),
        "cpu_slabs": 0,
        "chain": 0,
        "free_slabs": len(node.free),
        "shared": 0 if node.shared is None else len(node.shared.entries),
        "alien": sum(len(alien.entries) for alien in node.alien.values()),
        "peak_slabs": node.peak_slabs,
        "list_lock": node.list_locked,
        "alien_lock": node.alien_locked,
    }


def whole(cache: Cache | QueueCache) -> Record:
    """Counters of a cache over its CPUs."""
    record: Record = {}
    if isinstance(cache, Cache):
        for name in STAT_NAMES:
            record[name] = sum(getattr(c.stat, name) for c in cache.cpus)
        record["double_cas"] = double_cas(record, cache)
        record["new_slabs"] = record["alloc_slab"]
        record["discarded_slabs"] = record["free_slab"]
    else:
        record |= dict(cache.stats())
        record["queued"] = queued(cache)
        record["new_slabs"] = record.get("grown", 0)
        held = sum(node.nr_slabs for node in cache.nodes)
        record["discarded_slabs"] = cache.next_slab - held
        record["double_cas"] = 0
    return record | lines_of([c.lines for c in cache.cpus])


def double_cas(record: Record, cache: Cache) -> int:
    """Double-word compare-and-swaps: of CPU freelists (fast paths) and slab words."""
    words = sum(c.lines.words for c in cache.cpus)
    if not cache.design.cpu_slabs:
        return words
    return int(record["alloc_fastpath"] + record["free_fastpath"] + words)


def lines_of(lines: list[Lines]) -> Record:
    """Cache lines that changed hands, and frees from afar."""
    record = {
        f"{name}_line_transfers": sum(getattr(each, name) for each in lines)
        for name in LINE_NAMES
    }
    record["line_transfers"] = sum(record.values())
    record["remote_frees"] = sum(each.cross_cpu_frees for each in lines)
    record["cross_cpu_frees"] = record["remote_frees"]
    record["cross_node_frees"] = sum(each.cross_node_frees for each in lines)
    record["slab_words"] = sum(each.words for each in lines)
    return record


def slob_cache_record(name: str, cache: SlobCache) -> Record:
    """SLOB keeps nothing by cache; only live objects can be told."""
    return {
        "cache": name,
        "node": -1,
        "live": cache.live,
        "object_bytes": cache.object_size,
        "slot_bytes": cache.object_size,
    }


def slob_records(slob: Slob) -> list[Record]:
    """One record per list and node, and one for the whole allocator."""
    records: list[Record] = []
    for kind, (name, _) in enumerate(LISTS):
        listed = slob.lists[kind]
        for node, pages in sorted(slob.pages[kind].items()):
            mine = [page for page in listed if page.node == node]
            free = sum(page.units for page in mine) * 2
            records.append(
                {
                    "cache": f"slob {name}",
                    "node": node,
                    "slabs": pages,
                    "partial": len(mine),
                    "cpu_slabs": 0,
                    "slab_bytes": PAGE,
                    "memory_bytes": pages * PAGE,
                    "external_fragmentation": free / (pages * PAGE) if pages else 0.0,
                }
            )
    records.append(
        {
            "cache": "slob pages",
            "node": -1,
            "slabs": slob.large_pages,
            "slab_bytes": PAGE,
            "memory_bytes": slob.large_pages * PAGE,
            "list_lock": slob.locked,
            "pages_walked": slob.walked,
            "new_slabs": slob.new_pages,
            "discarded_slabs": slob.freed_pages,
            "double_cas": 0,
            **lines_of(slob.lines),
        }
    )
    return records


def sums(records: list[Record]) -> Record:
    """Totals over all caches and nodes of everything that can be added."""
    fixed = {"node", "slab_bytes", "slot_bytes", "object_bytes", "order"}
    fixed |= {"objects_per_slab", "external_fragmentation", "internal_fragmentation"}
    totals: Record = {}
    live_bytes = 0
    for record in records:
        for name, value in record.items():
            if name not in fixed and isinstance(value, int | float):
                totals[name] = totals.get(name, 0) + value
        live_bytes += record.get("live", 0) * record.get("slot_bytes", 0)
    totals["live_bytes"] = live_bytes
    return totals
