"""What `info()` and `geometry()` answer: plain, frozen records.

`dataclasses.asdict` makes a dictionary of any of them. The binding fills them in.
"""

from __future__ import annotations

from dataclasses import dataclass

from uslub.flags import Flags


@dataclass(frozen=True)
class ArenaInfo:
    """One arena. Sizes are bytes unless the name says pages."""

    name: str  #: "" if anonymous
    id: str  #: 32 hex digits, random, made at creation
    layout_version: int
    page_size: int
    cpus: int
    nodes: int
    size: int  #: for objects
    file_size: int  #: the same with all metadata; sparse
    data_offset: int  #: where the pages for objects begin
    committed: int  #: what the file really occupies
    free_pages: int
    reserve_pages: int  #: per node, for `emergency=True`
    keep: int  #: free bytes that stay committed
    created_ns: int  #: since 1970
    caches: int
    processes: int  #: participants that are alive
    processes_dead: int  #: participants that vanished


@dataclass(frozen=True)
class ProcessInfo:
    """One participant of an arena."""

    slot: int
    pid: int
    alive: bool
    is_self: bool


@dataclass(frozen=True)
class Reaped:
    """What `arena.reap()` did."""

    processes: int  #: dead participants whose slots are free again
    waiting: int  #: dead ones that something keeps from being settled now
    objects: int  #: freed


@dataclass(frozen=True)
class Geometry:
    """calculate_sizes() and friends: how objects lie in a slab. Sizes are bytes."""

    object_size: int
    size: int  #: stride between objects
    align: int
    offset: int  #: of the free pointer in a free object
    inuse: int  #: where metadata begins in the slot
    red_left_pad: int
    order: int  #: a slab is ``2**order`` pages
    objects: int  #: per slab
    min_order: int  #: what is taken when pages are short
    min_objects: int
    min_partial: int  #: empty slabs that a node keeps
    cpu_partial: int  #: objects that a CPU's chain may hold
    cpu_partial_slabs: int  #: the same in slabs


@dataclass(frozen=True)
class CacheInfo:
    """One cache: its geometry, and what it holds now. Sizes are bytes."""

    name: str
    id: int
    object_size: int
    size: int  #: stride between objects
    align: int
    offset: int  #: of the free pointer in a free object
    inuse: int  #: where metadata begins in the slot
    red_left_pad: int
    order: int  #: a slab is ``2**order`` pages
    objects: int  #: per slab
    min_order: int
    min_objects: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    flags: Flags
    refcount: int  #: names that lead to this cache
    defrag_ratio: int
    has_ctor: bool
    useroffset: int
    usersize: int
    slabs: int  #: nr_slabs over all nodes
    objects_total: int  #: objects in those, free or not
    partial: int  #: slabs on node partial lists
    partial_free: int  #: free objects in those
    cpu_slabs: int  #: CPU slabs and slabs on chains
    chain_slabs: int  #: of those, on chains
    aliases: tuple[str, ...]  #: other names merged into this cache, oldest first
