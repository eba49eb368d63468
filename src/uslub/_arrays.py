"""`arena.ndarray()`. NumPy is imported when it is first asked for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from uslub.errors import BadArgument, BadSize

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from uslub._engine import Arena


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
    return np.ndarray(sizes, kind, buffer=buffer, order=order)  # type: ignore[arg-type]
