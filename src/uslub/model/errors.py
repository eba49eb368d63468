"""What the model refuses, each as an exception of its own.

Here: one exception per kind of refusal. Texts name the actor, the fact, the
expectation and the next move. Not here: the engine's exceptions, which carry
the same meanings but belong to the C code.
"""

from __future__ import annotations


class ModelError(Exception):
    """Anything the model refuses; nothing was changed unless the text says so."""


class OutOfMemory(ModelError):
    """No slab with a free object, and no pages for a new one where asked."""


class InvalidFree(ModelError):
    """The position names no slab of this cache, or no object of that slab."""


class DoubleFree(ModelError):
    """The object is not in a user's hands."""


class CacheError(ModelError):
    """A cache that cannot be made as asked: size, alignment, name or flags."""


class CacheBusy(ModelError):
    """`destroy` found objects in use; the cache lives on, flushed (classic)."""


class ObjectsRemaining(ModelError):
    """`destroy` found objects in users' hands; the cache is gone and they leak."""
