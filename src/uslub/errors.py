"""Every error of uslub, as one tree under `uslub.Error`.

Each class says when it is raised, why, and what to do next; the text of an instance
names the object, what was expected and what was found. Classes that have a natural
built-in parent (MemoryError, FileNotFoundError, ValueError, ...) are also that.

Relies on nothing: this module is at the bottom of the package.
"""

from __future__ import annotations

__all__ = [
    "ArenaExists",
    "ArenaNotFound",
    "BadArgument",
    "BadName",
    "BadSize",
    "CacheBusy",
    "CacheExists",
    "CacheNotFound",
    "ChannelClosed",
    "ClosedArena",
    "ConstructorFailed",
    "CorruptArena",
    "DoubleFree",
    "Error",
    "ForeignAddress",
    "LayoutMismatch",
    "LimitReached",
    "LockTimeout",
    "NotOwner",
    "ObjectFreed",
    "ObjectInUse",
    "OutOfMemory",
    "OwnerDead",
    "Poisoned",
    "StaleHandle",
    "SystemCallFailed",
    "TimedOut",
    "WrongCache",
]


class Error(Exception):
    """Anything that uslub refuses. Nothing was changed unless the text says so."""


# -- memory ------------------------------------------------------------------------


class OutOfMemory(Error, MemoryError):
    """No room: the arena is full, or the system has no memory to back it.

    Memory is committed before it is handed out, so this comes instead of a SIGBUS.
    Next: free objects, `cache.shrink()`, a larger arena, or a larger /dev/shm.
    """


class BadSize(Error, ValueError):
    """A size or count that cannot be: zero, negative, too large, or not readable.

    Next: sizes are bytes as int, or text such as "512M", "64KiB" and "1GiB".
    """


class LimitReached(Error):
    """A table of fixed size is full: caches, participants or threads of an arena.

    Next: destroy caches or detach processes that are not needed, or make the arena
    larger (the number of caches grows with it).
    """


# -- objects -----------------------------------------------------------------------


class ObjectInUse(Error, BufferError):
    """`free()`, `move()` or a moving `krealloc()` while something else can still see
    the object: an exported buffer, or a view that keeps a reference only.

    Nothing was changed. Next: drop the views first, or simply let go of the object;
    the memory returns with the last reference.
    """


class ObjectFreed(Error, BufferError, ValueError):
    """A look at an object whose memory was freed, moved to another process, or moved
    by `krealloc()`. Next: do not keep names for objects that were freed.
    """


class DoubleFree(Error):
    """The object is already free, or stands twice in one `free_bulk()`."""


class ForeignAddress(Error, ValueError):
    """An address or offset that is not the start of an object of this arena."""


class WrongCache(Error, ValueError):
    """The object belongs to another cache than the one that was told to free it.

    Next: `obj.free()`, which knows its cache, or `obj.cache.free_bulk(...)`.
    """


class NotOwner(Error):
    """The object belongs to another process: the parent after a fork, or whoever
    adopted it first. Next: hand it over with `obj.move()` and `arena.adopt()`.
    """


class ConstructorFailed(Error):
    """A constructor refused an object. A callable's own exception is raised as it is;
    this class is for a constructor that cannot run, such as a callable of another
    process. Next: use an initial image (bytes), which every process can apply.
    """


# -- caches ------------------------------------------------------------------------


class CacheBusy(Error):
    """`destroy()` while objects are in use. Nothing was changed; free them first."""


class CacheExists(Error):
    """A cache of this name exists with other parameters, which the text names.

    Next: ask for the same parameters, for another name, or for the name alone.
    """


class CacheNotFound(Error, LookupError):
    """No cache of that name, or it was destroyed, here or by another process."""


# -- arenas ------------------------------------------------------------------------


class ArenaNotFound(Error, FileNotFoundError):
    """No arena of that name in /dev/shm. Next: `uslub.arenas()` lists them."""


class ArenaExists(Error, FileExistsError):
    """An arena of that name exists. Next: attach to it, or unlink it first."""


class ClosedArena(Error, ValueError):
    """The arena was closed. Existing objects and views stay valid, and their memory
    returns when they are dropped; anything else needs a new `Arena.attach()`.
    """


class LayoutMismatch(Error):
    """The file is an arena of another build, or of another page size.

    Nothing was mapped. Next: use that version of uslub, or make the arena anew.
    """


class CorruptArena(Error):
    """What the arena says cannot be: no arena at all, cut short, or overwritten.

    Next: `uslub validate NAME` tells more; make the arena anew.
    """


class Poisoned(CorruptArena):
    """An object, slab or arena that recovery could not explain is set aside for good.

    An object or slab: nobody gets it any more, the rest of the arena goes on. The
    arena: nothing new begins in it. Next: `uslub doctor NAME` counts what is poisoned;
    let go of the object, or make the arena anew.
    """


class LockTimeout(Error, TimeoutError):
    """A lock of the arena is held by a process that is stopped, or by a dead one whose
    repair has to wait. Nothing was changed.

    `alloc()` and `free()` go around such a lock; `flush()`, `shrink()`, and making,
    finding or destroying a cache cannot. Next: continue or end the process that the
    text names; `uslub doctor NAME` shows all of them.
    """


class OwnerDead(Error):
    """A lock inside the arena belongs to a process that died while holding it.

    Not raised since recovery takes such locks over; here for code that catches it.
    """


# -- arguments and the system ------------------------------------------------------


class BadName(Error, ValueError):
    """A name that cannot be: empty, too long, with a slash or a control character."""


class BadArgument(Error, ValueError):
    """An argument that cannot be: a CPU, a node, an alignment or a flag."""


class SystemCallFailed(Error, OSError):
    """The operating system refused; `errno` says why."""


# -- between processes -------------------------------------------------------------


class StaleHandle(Error, LookupError):
    """What the handle means is gone: its object was freed, or its arena deleted.

    Also a handle that was received after its sender let go or died, and one that was
    never one of this arena. Next: keep the object until the receiver has it, or send
    it through a Channel, whose messages survive their sender.
    """


class TimedOut(Error, TimeoutError):
    """A Channel stayed full (or empty) for as long as the caller was ready to wait."""


class ChannelClosed(Error, EOFError):
    """Sending to a closed Channel, or receiving from one that is closed and empty."""
