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
    """One participant of an arena. All but `alive` is as it said itself."""

    slot: int
    pid: int  #: in its own namespace; 0: a child that is just being forked
    alive: bool
    is_self: bool
    start_time: int  #: clock ticks from boot, as in /proc/PID/stat; 0: unknown
    pid_namespace: int  #: inode of /proc/PID/ns/pid; 0: unknown


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """One thread that has been in an arena, and what it is in the middle of."""

    slot: int
    process: int  #: slot of its participant
    tid: int  #: as it calls itself
    operation: str  #: "alloc", "free", "repair", ...; "" between calls
    cache: str | None  #: that it last worked on in a slow path
    locks: int  #: it holds, or is about to take
    dead: bool  #: ended inside a call, or its process is dead


@dataclass(frozen=True, slots=True)
class Health:
    """What recovery has done since the arena was made, and what is wrong or owed.

    Counts, unless the name says ns (nanoseconds).
    """

    poisoned: bool  #: the arena: nothing new begins in it
    poisoned_objects: int  #: set aside for good
    poisoned_slabs: int
    doubtful: int  #: caches that will be rebuilt once more
    pages_doubtful: bool  #: the page counters will be made anew
    processes: int  #: dead participants settled
    threads: int  #: that ended inside a call of a living process, settled
    inside: int  #: of both, those that died inside the allocator
    objects: int  #: freed for the dead
    caches: int  #: rebuilt, each as often as it happened
    slabs: int  #: looked at in doing so
    blocks: int  #: of pages, given back
    last_ns: int  #: duration of the last recovery that found something
    max_ns: int  #: of the longest
    total_ns: int  #: of all
    last_at: int  #: when the last one ended: ns since 1970; 0: there was none


@dataclass(frozen=True, slots=True)
class Reaped:
    """What `arena.reap()` did. All zero: there was nothing, or another is at it."""

    processes: int  #: dead participants whose slots are free again
    waiting: int  #: dead ones for whom a lock of a stopped process is in the way
    objects: int  #: freed
    threads: int  #: that ended inside a call of a living process: settled
    caches: int  #: rebuilt from the owner tags
    doubtful: int  #: caches that will be rebuilt once more, by themselves


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
