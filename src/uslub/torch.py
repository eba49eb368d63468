"""Batches of a PyTorch `DataLoader` in recycled slots of an arena.

    arena = uslub.Arena.create(size="2GiB")
    loader = DataLoader(data, 128, num_workers=2, collate_fn=uslub.torch.collate(arena))

The stock loader maps a new shared segment for each tensor of each batch: the time goes
into fresh pages. Here a worker stacks the samples of a batch straight into an Object of
the arena, only a handle goes through the loader's queue, and what arrives in the main
process is a plain `torch.Tensor` over the same memory. When the last tensor over a slot
is dropped, the slot goes back to its cache with its pages in place, and the next batch,
from whichever worker, is assembled in it.

What the numbers are, in which order, and how they nest is stock: this module only
replaces where `torch.utils.data.default_collate` puts its tensors. Also without
workers, where the tensors are in the arena from the start.

A slot belongs to whoever holds a tensor over it. What a worker that was killed held is
given back by itself, at the latest by `arena.reap()`. Sizing: `num_workers *
prefetch_factor` batches are under way, and you hold some. A slot takes up to 13 % more
memory than its tensor, and large ones lie at powers of two, so the arena should be
twice the sum of all these or more. Memory is committed when it is first used: a
generous arena costs nothing.

Needs PyTorch, which uslub does not install.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

try:
    import torch
    from torch.utils.data import get_worker_info
    from torch.utils.data._utils.collate import collate as _collate_with
    from torch.utils.data._utils.collate import default_collate_fn_map
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "uslub.torch needs PyTorch: pip install torch", name=error.name
    ) from None

from uslub._engine import Arena, Cache, Object, _gather
from uslub.errors import BadArgument, BadSize, Error, OutOfMemory
from uslub.flags import SLAB_NO_MERGE

__all__ = ["Collate", "Parcel", "Pinned", "collate", "pin"]

STREAM_MIN = 4 << 20  #: bytes of a batch from which it is stacked past the caches
STREAM_PIECE_MIN = 4096  #: bytes of each of its samples
KMALLOC_MAX = 8192  #: bytes up to which `arena.kmalloc()` has size caches
CACHE_PREFIX = "torch-"


# -- slots -------------------------------------------------------------------------


def _slot_bytes(nbytes: int) -> int:
    """`nbytes` rounded up to one of eight sizes per power of two.

    Batches of many different sizes then share some dozens of caches.
    """
    step = 1 << max((nbytes - 1).bit_length() - 4, 0)
    return -(-nbytes // step) * step


def _tensor(
    obj: Object, dtype: Any, shape: tuple[int, ...], stride: tuple[int, ...] | None
) -> Any:
    """A tensor over the memory of `obj`; it keeps `obj`, and thereby the memory.

    `stride` is None for the usual order, last index fastest.
    """
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)  # looks at no memory
    flat = torch.frombuffer(obj, dtype=dtype, count=count)
    if stride is None:
        return flat.view(shape)
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if min(stride, default=0) < 0 or last >= count:  # in integers that do not overflow
        raise ValueError(
            f"strides {stride} of shape {shape} leave its {count} elements"
        )
    return flat.as_strided(shape, stride)


def _stride_of(tensor: Any) -> tuple[int, ...] | None:
    """How a copy of `tensor` is to lie: as itself if it has no gaps (channels last)."""
    if tensor.is_contiguous():
        return None
    return tuple(torch.empty_like(tensor, device="meta").stride())


class Parcel:
    """A tensor on its way out of a worker: pickled as a handle, a Tensor on arrival.

    Only code that looks at batches inside a worker ever meets one; see `tensor()`.
    """

    __slots__ = ("dtype", "object", "shape", "stride")

    def __init__(
        self,
        obj: Object,
        dtype: Any,
        shape: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
    ) -> None:
        self.object = obj  #: the slot
        self.dtype = dtype  #: of torch
        self.shape = shape
        self.stride = stride  #: None: contiguous

    def tensor(self) -> Any:
        """The `torch.Tensor` over the slot, in this process."""
        return _tensor(self.object, self.dtype, self.shape, self.stride)

    def __reduce__(self) -> tuple[Any, ...]:
        return _tensor, (self.object, self.dtype, self.shape, self.stride)

    def __repr__(self) -> str:
        return f"<uslub.torch.Parcel of {self.shape}, {self.dtype}, in {self.object!r}>"


def _require_arena(arena: object, call: str) -> None:
    if not isinstance(arena, Arena):
        kind = f"{type(arena).__module__}.{type(arena).__qualname__}"
        raise TypeError(
            f"uslub.torch.{call} takes a uslub.Arena, not"
            f" {kind.removeprefix('builtins.')}"
        )


# -- collate -----------------------------------------------------------------------


def _is_plain(tensor: Any) -> bool:
    """Dense numbers in main memory that no gradient runs through."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
        and not tensor.is_quantized
        and not tensor.requires_grad
    )


def _stackable(batch: Sequence[Any]) -> bool:
    """Whether `torch.stack` may write these into a slot like the first of them."""
    first = batch[0]
    dtype, shape = first.dtype, first.shape
    return _is_plain(first) and all(
        each.dtype is dtype and each.shape == shape and not each.requires_grad
        for each in batch
    )


def _is_bytes(tensor: Any) -> bool:
    """Whether the memory at `data_ptr()` is what the tensor says, in order."""
    return (
        type(tensor) is torch.Tensor
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg())
    )


def _streamed(obj: Object, batch: Sequence[Any]) -> bool:
    """Stack past the processor's caches, if that pays; whether it was done.

    A batch of this size leaves the caches anyway before anybody reads it, and storing
    it the ordinary way reads all of the slot first.
    """
    piece = batch[0].numel() * batch[0].element_size()
    if piece < STREAM_PIECE_MIN or piece * len(batch) < STREAM_MIN:
        return False
    if not all(map(_is_bytes, batch)):
        return False
    _gather(obj, [each.data_ptr() for each in batch], piece)
    return True


class Collate:
    """What `collate()` returns: a callable for `DataLoader(collate_fn=...)`."""

    def __init__(
        self, arena: Arena, function: Callable[[list[Any]], Any] | None = None
    ) -> None:
        self.arena = arena
        self.function = function
        self._forget()

    def _forget(self) -> None:
        self._caches: dict[int, Cache] = {}
        self._map: dict[Any, Callable[..., Any]] = {
            kind: self._stack if kind is torch.Tensor else self._placing(stock)
            for kind, stock in default_collate_fn_map.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Collate, (self.arena, self.function)

    def __call__(self, batch: list[Any]) -> Any:
        if self.function is None:
            return _collate_with(batch, collate_fn_map=self._map)
        made = self.function(batch)
        return made if get_worker_info() is None else self._carried(made)

    # Each returns what the loader is to see: a Parcel in a worker, else a tensor.

    def _stack(self, batch: Sequence[Any], *, collate_fn_map: Any = None) -> Any:
        """Tensors of one shape, stacked in a slot."""
        first = batch[0]
        # Without a worker the stock function lets the samples choose how a batch lies.
        usual = get_worker_info() is not None or first.is_contiguous()
        if not (usual and _stackable(batch)):
            stock = default_collate_fn_map[torch.Tensor]
            return self._placed(stock(batch, collate_fn_map=collate_fn_map))
        shape = (len(batch), *first.shape)
        obj = self._alloc(math.prod(shape) * first.element_size())
        out = _tensor(obj, first.dtype, shape, None)
        if not _streamed(obj, batch):
            torch.stack(tuple(batch), 0, out=out)
        return self._wrapped(obj, out)

    def _placing(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """The stock function for numbers, strings, NumPy scalars, into a slot."""

        def place(batch: Sequence[Any], *, collate_fn_map: Any = None) -> Any:
            return self._placed(stock(batch, collate_fn_map=collate_fn_map))

        return place

    def _placed(self, made: Any) -> Any:
        """A tensor copied into a slot; everything else as it is."""
        if not isinstance(made, torch.Tensor) or not _is_plain(made):
            return made
        obj = self._alloc(made.numel() * made.element_size())
        stride = _stride_of(made)
        out = _tensor(obj, made.dtype, tuple(made.shape), stride)
        out.copy_(made)
        return self._wrapped(obj, out, stride)

    def _wrapped(
        self, obj: Object, tensor: Any, stride: tuple[int, ...] | None = None
    ) -> Any:
        if get_worker_info() is None:
            return tensor
        return Parcel(obj, tensor.dtype, tuple(tensor.shape), stride)

    def _carried(self, made: Any) -> Any:
        """The result of the user's own function, with its tensors in slots."""
        if isinstance(made, torch.Tensor):
            return self._placed(made)
        if isinstance(made, Mapping):
            carried = {key: self._carried(value) for key, value in made.items()}
            if type(made) is dict:
                return carried
            clone: Any = copy.copy(made)
            try:
                clone.update(carried)
            except AttributeError:  # immutable
                clone = type(made)(carried)  # type: ignore[call-arg]
            return clone
        if isinstance(made, tuple) and hasattr(made, "_fields"):
            return type(made)(*map(self._carried, made))
        if type(made) in (list, tuple):
            return type(made)(map(self._carried, made))
        return made

    # -- memory

    def _alloc(self, nbytes: int) -> Object:
        try:
            return self._take(nbytes)
        except (OutOfMemory, BadSize):
            # Empty slots of other sizes may stand in the way. The kernel would shrink
            # its caches here, too.
            for cache in self.arena.caches():
                if cache.name.startswith(CACHE_PREFIX):
                    cache.shrink()
        try:
            return self._take(nbytes)
        except (OutOfMemory, BadSize) as error:
            raise OutOfMemory(
                f"{self.arena!r} has no room for a batch tensor of {nbytes} bytes"
                f" ({error}); the loader keeps num_workers * prefetch_factor batches"
                " under way besides those that you hold: make the arena larger, lower"
                " prefetch_factor, or hold fewer batches"
            ) from None

    def _take(self, nbytes: int) -> Object:
        if nbytes <= KMALLOC_MAX:
            return self.arena.kmalloc(max(nbytes, 1))
        size = _slot_bytes(nbytes)
        cache = self._caches.get(size)
        if cache is None:
            # No chains per CPU: who frees is rarely who allocates next.
            cache = self.arena.cache(
                f"{CACHE_PREFIX}{size}",
                size,
                align=64,
                flags=SLAB_NO_MERGE,
                cpu_partial=0,
            )
            self._caches[size] = cache
        return cache.alloc()


def collate(
    arena: Arena, function: Callable[[list[Any]], Any] | None = None
) -> Collate:
    """A `collate_fn` that assembles batches in `arena`.

        DataLoader(data, 128, num_workers=2, collate_fn=uslub.torch.collate(arena))

    Without `function` it does what `torch.utils.data.default_collate` does, to the bit:
    tensors, NumPy arrays and numbers become tensors of shape ``(batch, *sample)`` in
    slots of the arena; strings, bytes, dicts, tuples and sequences are as stock.

    Args:
        arena: Where the batches live. For `spawn` and `forkserver` workers it is
            pickled, like every argument of a worker.
        function: Your own collate function. Its result is copied into slots: tensors
            in dicts, lists, tuples and named tuples, at any depth. Anything else in
            it (tensors inside other objects, sparse ones) travels as stock.

    Tensors that a slot cannot hold (sparse, requiring gradients, on another device)
    are made by the stock function and travel as stock.

    Raises, when called: `uslub.OutOfMemory` if the arena has no room for the batch,
    with the number of bytes; what the stock function raises for samples of odd shapes.
    """
    _require_arena(arena, "collate(arena)")
    if function is not None and not callable(function):
        raise TypeError(f"function must be callable, not {type(function).__name__}")
    return Collate(arena, function)


# -- CUDA --------------------------------------------------------------------------


class Pinned:
    """A registration of an arena with CUDA in this process; see `pin()`."""

    def __init__(self, arena: Arena, active: bool) -> None:
        self.arena = arena
        self.active = False  #: whether CUDA has the memory registered now
        self._start = 0
        if active:
            self._register()

    def _register(self) -> None:
        info = self.arena.info()
        # Keeps the mapping, also beyond arena.close().
        self._anchor = self.arena.kmalloc(64)
        start = self._anchor.address - self._anchor.offset + info.data_offset
        cudart = torch.cuda.cudart()
        code = int(cudart.cudaHostRegister(start, info.size, PORTABLE))
        if code != 0:
            raise Error(
                f"CUDA refused to pin the {info.size} bytes of {self.arena!r}: error"
                f" {code} ({cudart.cudaGetErrorString(code)}); the whole arena must fit"
                " in memory, in /dev/shm and in `ulimit -l`"
            )
        self._start = start
        self.active = True

    def unpin(self) -> None:
        """End the registration; a second call does nothing. Wait for copies first."""
        if not self.active:
            return
        self.active = False
        code = int(torch.cuda.cudart().cudaHostUnregister(self._start))
        del self._anchor
        if code != 0:
            raise Error(f"CUDA refused to let go of {self.arena!r}: error {code}")

    def __enter__(self) -> Pinned:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unpin()

    def __repr__(self) -> str:
        state = "active" if self.active else "not active"
        return f"<uslub.torch.Pinned of {self.arena!r}, {state}>"


PORTABLE = 1  #: cudaHostRegisterPortable: pinned for every context of this process


def pin(arena: Arena) -> Pinned:
    """Register the whole arena with CUDA, so that copies to a GPU need no staging.

    Tensors over the arena are then `is_pinned()` in this process, and
    ``batch.to("cuda", non_blocking=True)`` copies from the slot itself; `DataLoader`
    needs no ``pin_memory=True`` (which finds nothing to do). Keep a batch until its
    copy has ended: a dropped slot is assembled anew by the next worker.

    All of the arena's memory is committed by this, and must stay: create the arena with
    ``keep=size`` and do not `trim()` it, or pages that CUDA knows would be exchanged.

    Returns:
        A `Pinned`: keep it, `unpin()` it, or use it with ``with``. Where there is no
        GPU nothing is registered and its `active` is False.

    Raises:
        BadArgument: The arena may give pages back: it was created without
            ``keep=size``.
        Error: CUDA refused, with its reason.
    """
    _require_arena(arena, "pin(arena)")
    info = arena.info()
    if info.keep < info.size:
        raise BadArgument(
            f"{arena!r} keeps {info.keep} free bytes and gives others back to the"
            " system; pages that CUDA knows must stay: create the arena with"
            f" keep={info.size}"
        )
    return Pinned(arena, bool(torch.cuda.is_available()))
