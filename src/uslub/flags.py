"""Flags of a cache, under the kernel's names."""

from __future__ import annotations

from enum import IntFlag


class Flags(IntFlag):
    """What `arena.cache(flags=...)` takes; also exported one by one as ``SLAB_*``.

    The bits are those of enum us_cache_flags in uslub.h. The last six change the
    geometry only: `uslub.geometry` computes with them, a cache with one is refused.
    """

    HWCACHE_ALIGN = 1 << 0  #: objects start on cache lines
    RECLAIM_ACCOUNT = 1 << 1  #: reclaimable: merges with its like only
    CACHE_DMA = 1 << 2  #: merges with its like only
    CACHE_DMA32 = 1 << 3  #: merges with its like only
    ACCOUNT = 1 << 4  #: merges with its like only
    NO_MERGE = 1 << 5  #: nobody may merge with this cache
    MERGE = 1 << 6  #: merge with an existing cache if the rules allow
    NO_CPU_PARTIAL = 1 << 7  #: no partial slabs on CPUs
    FREELIST_HARDENED = 1 << 8  #: links between free objects are encoded
    FREELIST_RANDOM = 1 << 9  #: objects of a new slab come in shuffled order
    TYPESAFE_BY_RCU = 1 << 16
    CONSISTENCY_CHECKS = 1 << 17
    RED_ZONE = 1 << 18
    POISON = 1 << 19
    STORE_USER = 1 << 20
    KMALLOC = 1 << 21


SLAB_HWCACHE_ALIGN = Flags.HWCACHE_ALIGN
SLAB_RECLAIM_ACCOUNT = Flags.RECLAIM_ACCOUNT
SLAB_CACHE_DMA = Flags.CACHE_DMA
SLAB_CACHE_DMA32 = Flags.CACHE_DMA32
SLAB_ACCOUNT = Flags.ACCOUNT
SLAB_NO_MERGE = Flags.NO_MERGE
SLAB_MERGE = Flags.MERGE
SLAB_NO_CPU_PARTIAL = Flags.NO_CPU_PARTIAL
SLAB_FREELIST_HARDENED = Flags.FREELIST_HARDENED
SLAB_FREELIST_RANDOM = Flags.FREELIST_RANDOM
