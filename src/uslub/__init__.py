"""The slab allocator of Linux (SLUB) in shared memory, for Python.

    >>> import uslub
    >>> with uslub.Arena.create(size="16MiB") as arena:
    ...     cache = arena.cache("greeting", 64)
    ...     with cache.alloc(zero=True) as obj:
    ...         memoryview(obj)[:5] = b"hello"
    ...         bytes(obj)[:5]
    b'hello'

Arena, Cache and Object are documented in ``_engine.pyi``, errors in `uslub.errors`, the
whole of it by example in docs/guide/python.md.
"""

from uslub._dumps import loads
from uslub._engine import (
    Arena,
    Cache,
    Object,
    __version__,
    geometry,
    size_bytes,
)
from uslub._listing import arenas
from uslub.channel import Channel
from uslub.errors import (
    ArenaExists,
    ArenaNotFound,
    BadArgument,
    BadName,
    BadSize,
    CacheBusy,
    CacheExists,
    CacheNotFound,
    ChannelClosed,
    ClosedArena,
    ConstructorFailed,
    CorruptArena,
    DoubleFree,
    Error,
    ForeignAddress,
    LayoutMismatch,
    LimitReached,
    LockTimeout,
    NotOwner,
    ObjectFreed,
    ObjectInUse,
    OutOfMemory,
    OwnerDead,
    Poisoned,
    StaleHandle,
    SystemCallFailed,
    TimedOut,
    WrongCache,
)
from uslub.flags import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_FREELIST_HARDENED,
    SLAB_FREELIST_RANDOM,
    SLAB_HWCACHE_ALIGN,
    SLAB_MERGE,
    SLAB_NO_CPU_PARTIAL,
    SLAB_NO_MERGE,
    SLAB_RECLAIM_ACCOUNT,
    Flags,
)
from uslub.handle import Handle
from uslub.info import (
    ArenaInfo,
    CacheInfo,
    Geometry,
    Health,
    ProcessInfo,
    Reaped,
    ThreadInfo,
)

__all__ = [
    "SLAB_ACCOUNT",
    "SLAB_CACHE_DMA",
    "SLAB_CACHE_DMA32",
    "SLAB_FREELIST_HARDENED",
    "SLAB_FREELIST_RANDOM",
    "SLAB_HWCACHE_ALIGN",
    "SLAB_MERGE",
    "SLAB_NO_CPU_PARTIAL",
    "SLAB_NO_MERGE",
    "SLAB_RECLAIM_ACCOUNT",
    "Arena",
    "ArenaExists",
    "ArenaInfo",
    "ArenaNotFound",
    "BadArgument",
    "BadName",
    "BadSize",
    "Cache",
    "CacheBusy",
    "CacheExists",
    "CacheInfo",
    "CacheNotFound",
    "Channel",
    "ChannelClosed",
    "ClosedArena",
    "ConstructorFailed",
    "CorruptArena",
    "DoubleFree",
    "Error",
    "Flags",
    "ForeignAddress",
    "Geometry",
    "Handle",
    "Health",
    "LayoutMismatch",
    "LimitReached",
    "LockTimeout",
    "NotOwner",
    "Object",
    "ObjectFreed",
    "ObjectInUse",
    "OutOfMemory",
    "OwnerDead",
    "Poisoned",
    "ProcessInfo",
    "Reaped",
    "SharedArray",
    "StaleHandle",
    "SystemCallFailed",
    "ThreadInfo",
    "TimedOut",
    "WrongCache",
    "__version__",
    "arenas",
    "geometry",
    "loads",
    "size_bytes",
]


def __getattr__(name: str) -> object:
    """SharedArray needs NumPy, which is imported when it is first asked for."""
    if name == "SharedArray":
        from uslub._shared_array import SharedArray

        return SharedArray
    raise AttributeError(f"module 'uslub' has no attribute {name!r}")
