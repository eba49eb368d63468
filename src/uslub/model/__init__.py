"""The executable specification of SLUB: one readable text, five designs.

Read in this order: `state` (what there is), `alloc` and `free` (the two paths),
`partial` (what happens to slabs), `flush`, `bulk`, `sheaf` and `refill` (later
kernels), `geometry` and `pages` (sizes and memory), `design` (what tells the
designs apart). `arena` is the interface; `invariants` says what always holds;
`races` takes the fast path apart; `lines` counts locks and cache lines where they are
taken; `adopt` begins in the middle of a life. `queues` is SLAB and `slob` SLOB, for
comparison, on the same pages. Nothing of the engine is imported here.
"""

from uslub.model.arena import Arena, Cache
from uslub.model.design import DESIGNS, Design
from uslub.model.errors import (
    CacheBusy,
    CacheError,
    DoubleFree,
    InvalidFree,
    ModelError,
    ObjectsRemaining,
    OutOfMemory,
)
from uslub.model.geometry import Boot, Flags
from uslub.model.state import Position, Step

__all__ = [
    "DESIGNS",
    "Arena",
    "Boot",
    "Cache",
    "CacheBusy",
    "CacheError",
    "Design",
    "DoubleFree",
    "Flags",
    "InvalidFree",
    "ModelError",
    "ObjectsRemaining",
    "OutOfMemory",
    "Position",
    "Step",
]
