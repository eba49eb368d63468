"""A name for one object on its way to another process."""

from __future__ import annotations

from typing import NamedTuple


class Handle(NamedTuple):
    """What `obj.move()` returns and `arena.adopt()` takes: plain values, picklable.

    The object belongs to nobody's Python code while the handle travels; it is still
    the sender's in the books of the arena. Exactly one `adopt()` of it succeeds.
    """

    arena: str  #: name of the arena, "" if anonymous
    arena_id: str  #: `Arena.id`: 32 hex digits
    offset: int  #: of the object in the arena, bytes
    owner: int  #: tag of the sending process
    nbytes: int
    cache: str  #: name of the cache, "" for kmalloc buffers
