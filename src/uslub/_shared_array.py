"""SharedArray: an ndarray that pickles as a handle, as long as it lies in an arena."""

from __future__ import annotations

from typing import Any

import numpy as np

from uslub._engine import Object


def owner_of(array: np.ndarray[Any, Any]) -> Object | None:
    """The Object whose memory the array lies in, or None."""
    base: object = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, Object) else None


class SharedArray(np.ndarray[Any, Any]):
    """What `arena.ndarray()` returns: an ndarray over an Object.

    It, and every view of it, pickles as a handle and arrives as the same memory. The
    result of a computation is a plain ndarray; a copy elsewhere pickles its bytes.
    """

    def __array_wrap__(self, array: Any, context: Any = None, *more: Any) -> Any:
        """Results of ufuncs are not in the arena, so they are plain arrays."""
        if array is self:  # out=
            return array
        plain = np.asarray(array)
        return plain[()] if more and more[0] and plain.ndim == 0 else plain

    def __reduce_ex__(self, protocol: Any) -> Any:
        obj = owner_of(self)
        if obj is None:
            return np.asarray(self).__reduce_ex__(protocol)
        kind: object = self.dtype
        if np.dtype(self.dtype.str) == self.dtype:
            kind = self.dtype.str
        offset = self.ctypes.data - obj.address
        return restore, (
            obj,
            offset,
            self.shape,
            self.strides,
            kind,
            self.flags.writeable,
        )


def over(
    obj: Object,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: Any,
) -> SharedArray:
    """The array at `offset` bytes in an Object; ValueError if it does not fit.

    Checked with Python's integers: NumPy's own check of strides can overflow.
    """
    kind = np.dtype(dtype)
    if kind.hasobject or len(shape) != len(strides) or any(n < 0 for n in shape):
        raise ValueError(f"no array of plain values: {kind}, {shape}, {strides}")
    low = high = offset
    if 0 not in shape:
        reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        low += sum(r for r in reach if r < 0)
        high += sum(r for r in reach if r > 0) + kind.itemsize
    if low < 0 or high > len(obj):
        raise ValueError(
            f"an array of bytes {low} to {high} in an object of {len(obj)} bytes"
        )
    return SharedArray(shape, kind, obj, offset, strides)  # type: ignore[arg-type]


def restore(
    obj: Object,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: Any,
    writeable: bool = True,
) -> SharedArray:
    """What unpickling a SharedArray calls."""
    array = over(obj, offset, shape, strides, dtype)
    if not writeable:
        array.flags.writeable = False
    return array
