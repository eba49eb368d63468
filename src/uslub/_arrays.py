"""`arena.ndarray()`. NumPy is imported when it is first asked for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from uslub.errors import BadArgument, BadSize, CorruptArena

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from uslub._engine import Arena, Object
    from uslub._shared_array import SharedArray


def _dimensions(shape: int | Sequence[int]) -> tuple[int, ...]:
    given: Sequence[object] = shape if isinstance(shape, Sequence) else (shape,)
    try:
        sizes = tuple(operator.index(size) for size in given)  # type: ignore[arg-type]
    except TypeError:
        message = f"shape must be an int or a sequence of ints, not {shape!r}"
        raise TypeError(message) from None
    if any(size < 0 for size in sizes):
        raise BadSize(f"shape is {shape!r}: dimensions are 0 or more")
    return sizes


def ndarray(
    arena: Arena,
    shape: int | Sequence[int],
    dtype: npt.DTypeLike = "float64",
    *,
    zero: bool = False,
    order: Literal["C", "F"] = "C",
    node: int | None = None,
) -> np.ndarray[Any, Any]:
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        message = "arena.ndarray() needs NumPy: pip install 'uslub[numpy]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise BadArgument(
            f"dtype {kind} holds Python objects, which mean nothing to another process:"
            " use a dtype of plain values"
        )
    sizes = _dimensions(shape)
    nbytes = kind.itemsize
    for size in sizes:
        nbytes *= size  # a Python int: no overflow, kmalloc() judges it
    # An array without elements still has an address.
    buffer = arena.kmalloc(nbytes or 1, zero=zero, node=node)
    from uslub._shared_array import SharedArray

    return SharedArray(sizes, kind, buffer=buffer, order=order)  # type: ignore[arg-type]


# -- arrays in a Channel: an Object, and a text that says what its bytes are ---------


def describe(value: object) -> tuple[Object, str]:
    """The Object that an array lies in, and the text from which parse() makes it."""
    try:
        import numpy as np

        from uslub._shared_array import owner_of
    except ModuleNotFoundError:
        raise _no_message(value) from None
    obj = owner_of(value) if isinstance(value, np.ndarray) else None
    if obj is None:
        raise _no_message(value)
    assert isinstance(value, np.ndarray)
    if np.dtype(value.dtype.str) != value.dtype:
        raise BadArgument(
            f"an array of dtype {value.dtype} cannot be sent as it is: send"
            " arena.dumps(array)"
        )
    numbers = (value.ctypes.data - obj.address, *value.shape, *value.strides)
    return obj, f"{value.dtype.str} {value.ndim} " + " ".join(map(str, numbers))


def _no_message(value: object) -> TypeError:
    return TypeError(
        "a Channel carries Objects and arrays of arena.ndarray(), not"
        f" {type(value).__name__}: send arena.dumps(value), or copy it into an Object"
    )


Parsed = tuple["np.dtype[Any]", int, tuple[int, ...], tuple[int, ...]]


def parse(text: str) -> Parsed:
    """dtype, offset in the Object, shape and strides (bytes) of a described array."""
    import numpy as np

    try:
        kind, ndim, offset, *numbers = text.split(" ")
        values = tuple(map(int, numbers))
        dims = int(ndim)
        dtype = np.dtype(kind)
        if len(values) != 2 * dims or dtype.hasobject:
            raise ValueError(text)
        return dtype, int(offset), values[:dims], values[dims:]
    except (ValueError, TypeError):
        raise CorruptArena(
            f"a channel has the format {text!r}, which describes no array: the arena is"
            " damaged; recreate it"
        ) from None


def rebuild(obj: Object, parsed: Parsed) -> SharedArray:
    """The array; CorruptArena if it does not fit the Object."""
    from uslub._shared_array import over

    dtype, offset, shape, strides = parsed
    try:
        return over(obj, offset, shape, strides, dtype)
    except (ValueError, TypeError) as error:
        raise CorruptArena(f"a message does not fit its format: {error}") from None
