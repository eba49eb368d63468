"""`Object.__dlpack__`: an Object as a one-dimensional array of bytes for any library.

The capsule is NumPy's own, of an array that exports the Object's buffer. So it counts
as a view: the memory stays, and `free()` refuses, until the other library lets go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uslub._engine import Object

CPU = (1, 0)  #: kDLCPU, the only device of its kind


def dlpack(
    obj: Object,
    *,
    stream: None = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """See `Object.__dlpack__` in _engine.pyi."""
    try:
        import numpy as np
    except ModuleNotFoundError as error:
        message = "DLPack of a uslub.Object needs NumPy: pip install 'uslub[numpy]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    # What NumPy 1 does not know is passed on only if it was asked for.
    wishes: dict[str, Any] = {
        "max_version": max_version,
        "dl_device": dl_device,
        "copy": copy,
    }
    given = {name: wish for name, wish in wishes.items() if wish is not None}
    array = np.frombuffer(memoryview(obj), np.uint8)
    return array.__dlpack__(stream=stream, **given)


def dlpack_device(obj: Object) -> tuple[int, int]:
    """See `Object.__dlpack_device__` in _engine.pyi."""
    del obj
    return CPU
