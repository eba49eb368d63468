"""Bulk frees that a kprobe told: `kmem_cache_free_bulk` has no event of its own.

A kernel can be booted with a probe on that function that prints its array of pointers:

    kprobe_event=p:bulkfree,kmem_cache_free_bulk,s=%di,n=%si,p0=+0(%dx):x64[60],...
    bulkfree: (kmem_cache_free_bulk+0x0/0x5a0) s=0x0 n=0x3 p0={0xffff..,...}

Where a trace has such lines they are frees like others. The array may be longer than
`n`, or shorter: then the rest of the frees stays unseen.
"""

from __future__ import annotations

import re

import numpy as np

from uslub.lab.trace.batch import KFREE, Array, Batch, Origin, concatenate, empty

BULK = re.compile(r"\(kmem_cache_free_bulk\+.*?\bn=(0x[0-9a-f]+|\d+)")
ARRAY = re.compile(r"\bp\d+=\{([^}]*)\}")


def is_bulk_free(text: str) -> bool:
    """Is this the line of a probe on kmem_cache_free_bulk, with its pointers?"""
    return bool(BULK.search(text) and ARRAY.search(text))


def pointers_of(text: str) -> list[int]:
    """The addresses that the call frees."""
    match = BULK.search(text)
    count = int(match[1], 0) if match else 0
    found = [int(word, 16) for part in ARRAY.findall(text) for word in part.split(",")]
    return found[:count]


def with_bulk_frees(
    batch: Batch,
    lines: Array,
    probes: list[tuple[int, int, int, int, str]],
    origin: Origin,
) -> Batch:
    """A batch, and the frees that probes told at their places in it.

    Args:
        batch: Rows of plain events.
        lines: The line each row came from, ascending.
        probes: Line, time (ns), CPU, pid and text of each probe's line.
        origin: Gets the count.
    """
    parts, places = [batch], [lines]
    for line, time, cpu, pid, text in probes:
        pointers = pointers_of(text)
        frees = empty(len(pointers))
        frees.time[:], frees.cpu[:], frees.pid[:] = time, cpu, pid
        frees.event[:], frees.pointer[:] = KFREE, pointers
        parts.append(frees)
        places.append(np.full(len(pointers), line, np.int64))
        origin.note("frees told by a probe on bulk frees", len(pointers))
    order = np.argsort(np.concatenate(places), kind="stable")
    return concatenate(parts).take(order)
