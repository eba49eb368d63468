"""The binding: Arena, Cache and Object over the C engine (libuslub).

Reference text. Conventions: sizes and offsets are bytes; a size is an int or text such
as ``"512M"``, ``"64KiB"``, ``"1GiB"`` (K, M, G, T and KiB, MiB, GiB, TiB are powers of
1024; kB, MB, GB, TB powers of 1000). ``cpu=None`` and ``node=None`` mean the nearest.
Every call may be made from any thread. Every error is a `uslub.Error`; a wrong type is
a TypeError. Calls raise `ClosedArena` after `arena.close()` unless their text says so.
"""

from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Literal, TypeAlias, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer, Self

from uslub._shared_array import SharedArray
from uslub.flags import Flags
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
from uslub.snapshot import ArenaSnapshot, CacheSnapshot

Size: TypeAlias = int | str
Kind: TypeAlias = Literal["normal", "reclaimable", "dma", "account"]

__version__: str

@final
class Arena:
    """A heap that several processes map.

    Made by `create` or `attach`. A named arena is the file /dev/shm/uslub.NAME, mode
    0600, until `unlink`; an anonymous one lasts as long as somebody maps it. Picklable:
    who unpickles it attaches (an anonymous one through the sender's descriptor). At
    most 64 processes take part.
    """

    @classmethod
    def create(
        cls,
        name: str | None = None,
        size: Size = ...,
        *,
        cpus: int | None = None,
        nodes: int | None = None,
        reserve: Size = 0,
        keep: Size | None = None,
        order_cpus: int | None = None,
    ) -> Arena:
        """Make an arena and attach to it.

        Args:
            name: 1 to 200 bytes, no slash. None: anonymous, to be passed on by
                `fileno()` or inherited over fork.
            size: Bytes for objects; required. Memory is committed as it is used.
            cpus: CPU slots; None: as many as the machine has (at most 512).
            nodes: Memory nodes; None: as many as the machine has (at most 16).
            reserve: Bytes per node that only `emergency=True` may use.
            keep: Free bytes that stay committed; None: size / 4, at most 256 MiB.
            order_cpus: CPUs that the slab-order formula counts; None: `cpus`.

        Raises:
            ArenaExists: The name is taken.
            BadName, BadSize, BadArgument: With the limits in the text.
            OutOfMemory: /dev/shm or the system has no room for the metadata.
        """

    @classmethod
    def attach(cls, name: str | int) -> Arena:
        """Map an arena that exists, by name or by file descriptor (stays yours).

        Raises:
            ArenaNotFound: No arena of that name.
            CorruptArena: Not an arena, cut short or overwritten.
            Poisoned: (a CorruptArena) Recovery gave it up; `uslub doctor` says more.
            LayoutMismatch: Made by a build with another layout.
        """

    @staticmethod
    def unlink(name: str) -> None:
        """Take the name away. Who has the arena attached keeps it.

        Raises:
            ArenaNotFound: No arena of that name.
        """

    def close(self) -> None:
        """End the use of this arena; a second call does nothing.

        Existing objects and views stay valid. Their memory returns when they are
        dropped, and the mapping goes with the last of them.
        """

    def __enter__(self) -> Arena: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """`close()`."""

    @property
    def closed(self) -> bool: ...
    @property
    def name(self) -> str | None:
        """None if anonymous. Valid after `close()`."""

    @property
    def id(self) -> str:
        """32 hex digits, random, made at creation. Valid after `close()`."""

    @property
    def size(self) -> int:
        """Bytes for objects. Valid after `close()`."""

    @property
    def cpus(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def owner(self) -> int:
        """Tag of this process in this arena; see `Handle.owner`."""

    def fileno(self) -> int:
        """The file descriptor behind the arena; it stays the arena's."""

    @overload
    def cache(self, name: str) -> Cache: ...
    @overload
    def cache(
        self,
        name: str,
        object_size: Size,
        *,
        align: int = 0,
        flags: int = 0,
        ctor: Buffer | Callable[[memoryview], object] | None = None,
        order: int | None = None,
        min_partial: int | None = None,
        cpu_partial: int | None = None,
        useroffset: int = 0,
        usersize: int = 0,
        defrag_ratio: int | None = None,
    ) -> Cache:
        """kmem_cache_create(): the cache of this name, made if need be.

        Args:
            name: 1 to 63 bytes.
            object_size: Bytes per object. Left out: the cache must exist.
            align: A power of two; 0: what the object size asks for.
            flags: `uslub.Flags`.
            ctor: What every object is before its first use: exactly `object_size`
                bytes; or (anonymous arenas only) a callable that gets each object as
                a writable memoryview, valid during the call. An exception in it is
                the exception of the `alloc()` that needed the slab.
            order: A slab is ``2**order`` pages; None: by the kernel's formula.
            min_partial: Empty slabs that a node keeps; None: by formula.
            cpu_partial: Objects that a CPU's chain may hold; None: by formula.
            useroffset, usersize: Region open to user copies; never merges.
            defrag_ratio: remote_node_defrag_ratio, 0..1000 or 1024; None: 1000.

        Raises:
            CacheExists: It exists with other parameters, named in the text.
            CacheNotFound: `object_size` was left out and there is no such cache.
            BadName, BadSize, BadArgument: With the limits in the text.
            LimitReached: The arena's table of caches is full.
        """

    def caches(self) -> list[Cache]:
        """All caches in order of creation, those of kmalloc included."""

    def kmalloc(
        self,
        n: Size,
        *,
        zero: bool = False,
        node: int | None = None,
        cpu: int | None = None,
        kind: Kind = "normal",
        emergency: bool = False,
    ) -> Object:
        """A buffer of `n` bytes: up to 8192 from the size caches, larger from pages.

        Raises:
            BadSize: Zero, negative, or more than an arena can hold.
            OutOfMemory: No room.
        """

    def krealloc(
        self,
        buffer: Object,
        n: Size,
        *,
        zero: bool = False,
        cpu: int | None = None,
        kind: Kind = "normal",
    ) -> Object:
        """Give a kmalloc buffer another size.

        The same object if it still fits its slot (then views stay valid), else a new
        one with the contents; the old one is freed. `zero`: new bytes are zero.

        Raises:
            ObjectInUse: It would have to move, or a large one to give pages back,
                while something still refers to it.
            WrongCache: The object comes from a cache, not from `kmalloc()`.
            OutOfMemory: No room; `buffer` is as it was.
        """

    def ndarray(
        self,
        shape: int | Sequence[int],
        dtype: npt.DTypeLike = "float64",
        *,
        zero: bool = False,
        order: Literal["C", "F"] = "C",
        node: int | None = None,
    ) -> SharedArray:
        """A NumPy array in the arena; contents undefined unless `zero`.

        The memory returns when the array and its last view are gone. Its Object is
        ``array.base``. It pickles as a handle, like an Object.

        Raises:
            BadSize: A negative dimension, or more bytes than an arena can hold.
            BadArgument: The dtype holds Python objects.
            ModuleNotFoundError: NumPy is not installed.
        """

    def reap(self) -> Reaped:
        """Give back what dead processes held, and what they sent and nobody received;
        mend what they, or threads that ended inside a call, were in the middle of.

        Happens by itself when a process attaches, forks, finds the arena full or lets
        go of something that others hold; handles of the dead that are on their way are
        then given ten more seconds. Never waits for a stopped process for more than
        some milliseconds: see `Reaped.waiting`.
        """

    def _receive(self, wire: bytes) -> Object: ...
    def dumps(self, x: object, *, protocol: int = 5) -> Object:
        """A whole Python object in one block of the arena; `uslub.loads()` reads it.

        Pickled with protocol 5, every large buffer out of band: NumPy arrays, pandas
        frames and Arrow tables are copied once, here, and looked at in place by
        everybody who loads the block. Arrays of `arena.ndarray()` are copied too, so a
        block stands for itself; other objects of an arena go in as handles.

        Args:
            x: Anything that can be pickled.
            protocol: Of pickle; 5 is the first that can leave buffers out.

        Returns:
            An Object like any other: send it, move it, keep it. Its first buffer and
            each further one begin at a multiple of 64 bytes.

        Raises:
            BadArgument: A protocol without out-of-band buffers.
            OutOfMemory: No room for the block.
            BadSize: More bytes than an arena can hold.
            Whatever pickle raises for `x`.
        """

    def adopt(self, handle: Handle) -> Object:
        """Take over an object that another process let go with `obj.move()`.

        Raises:
            NotOwner: Somebody else was first, or the sender has freed it.
            ForeignAddress: The handle is of another arena, or names no object.
        """

    def validate(self) -> list[str]:
        """Check every invariant of the arena: one sentence per finding, [] if sound.

        Repairs nothing. The arena should be at rest: what is caught during an
        update may look wrong.
        """

    def snapshot(self) -> ArenaSnapshot:
        """What the arena looks like now, as plain frozen values."""

    def stats(self) -> dict[str, int]:
        """Every statistics counter, summed over caches and CPUs."""

    def info(self) -> ArenaInfo: ...
    def processes(self) -> list[ProcessInfo]:
        """Who takes part, the dead that are not settled yet included; by slot."""

    def threads(self) -> list[ThreadInfo]:
        """Threads that have been in the arena, and what each is in the middle of.

        Takes no lock and stops nobody: the answer may be old when it arrives.
        """

    def health(self) -> Health:
        """What recovery has done since the arena was made, and what is owed.

        Takes no lock and repairs nothing.
        """

    def trim(self) -> int:
        """Give free pages back to the operating system; how many bytes."""

    def cpu_dead(self, cpu: int) -> None:
        """What happens when a CPU goes away: its slot is flushed in every cache."""

@final
class Cache:
    """Objects of one size (kmem_cache). Made by `arena.cache()`.

    Two Cache objects are equal if they are the same cache of one arena.
    """

    @property
    def arena(self) -> Arena: ...
    @property
    def name(self) -> str:
        """As asked for; a merged cache has several."""

    @property
    def object_size(self) -> int:
        """Bytes that an object of this cache may use; larger if merged."""

    @property
    def size(self) -> int:
        """Bytes from one object to the next."""

    @property
    def align(self) -> int: ...
    @property
    def order(self) -> int:
        """A slab is ``2**order`` pages."""

    @property
    def objects_per_slab(self) -> int: ...
    @property
    def flags(self) -> Flags: ...
    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names merged into this cache, oldest first."""

    @property
    def min_partial(self) -> int:
        """Empty slabs that a node keeps; can be set."""

    @min_partial.setter
    def min_partial(self, value: int) -> None: ...
    @property
    def cpu_partial(self) -> int:
        """Objects that a CPU's chain may hold; setting it flushes every CPU."""

    @cpu_partial.setter
    def cpu_partial(self, value: int) -> None: ...
    @property
    def cpu_partial_slabs(self) -> int:
        """The same limit in slabs; can be set by itself."""

    @cpu_partial_slabs.setter
    def cpu_partial_slabs(self, value: int) -> None: ...
    def alloc(
        self,
        *,
        zero: bool = False,
        cpu: int | None = None,
        node: int | None = None,
        thisnode: bool = False,
        emergency: bool = False,
    ) -> Object:
        """kmem_cache_alloc(): one object.

        Args:
            zero: All bytes are zero; otherwise they are what the last user (or the
                constructor) left.
            cpu: Through this CPU's slot.
            node: Preferably from this memory node.
            thisnode: Only from there.
            emergency: May use the arena's reserve.

        Raises:
            OutOfMemory: No room.
            CacheNotFound: The cache was destroyed.
        """

    def alloc_bulk(
        self,
        n: int,
        *,
        zero: bool = False,
        cpu: int | None = None,
        node: int | None = None,
        thisnode: bool = False,
        emergency: bool = False,
    ) -> list[Object]:
        """`n` objects, or an exception and none."""

    def free_bulk(self, objects: Sequence[Object], *, cpu: int | None = None) -> None:
        """Free all of `objects`, or raise and free none.

        Raises:
            WrongCache: One is of another cache.
            DoubleFree: One is free already, or stands there twice.
            ObjectInUse: Something still refers to the memory of one.
        """

    def flush(self, cpu: int | None = None) -> None:
        """Deactivate the CPU slab and drain the chain of one CPU, or of all."""

    def flush_slab(self, cpu: int) -> None:
        """The first half of a flush, for replaying recorded interleavings."""

    def flush_chain(self, cpu: int) -> None:
        """The second half of a flush."""

    def shrink(self) -> None:
        """Flush all CPUs, discard empty slabs, sort the rest fullest first."""

    def shrink_nodes(self) -> None:
        """The node half of a shrink: no flush."""

    def destroy(self) -> None:
        """Take the cache (or, of a merged one, this name) away.

        Raises:
            CacheBusy: Objects are in use; nothing was changed.
        """

    def validate(self) -> list[str]:
        """Check every invariant of this cache; see `Arena.validate`."""

    @overload
    def stats(self) -> dict[str, int]: ...
    @overload
    def stats(self, *, per_cpu: Literal[False]) -> dict[str, int]: ...
    @overload
    def stats(self, *, per_cpu: Literal[True]) -> dict[str, tuple[int, ...]]:
        """Every counter of `uslub.snapshot.STATS`, summed or per CPU."""

    def clear_stats(self) -> None:
        """Set every counter to zero."""

    def info(self) -> CacheInfo: ...
    def snapshot(self) -> CacheSnapshot: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Object:
    """One object of a cache, or one kmalloc buffer: writable bytes (buffer protocol).

    Its memory returns when the last reference is gone: the object's own, or that of
    any view of it (memoryview, ndarray, tensor). `free()` and leaving ``with`` do it
    earlier and refuse while a view exists. Pickling one makes a handle: whoever
    unpickles it, in any process, holds the same memory. Then, and after a fork, `free`
    and dropping it only give up this process's hold; the last one frees.
    """

    @property
    def shared(self) -> bool:
        """Was it ever sent or inherited over fork: its holders own it together."""

    @property
    def holders(self) -> tuple[int, ...]:
        """Slots of the participants that hold it; see `Arena.processes`."""

    @property
    def in_flight(self) -> int:
        """Handles and messages of it that nobody has received yet."""

    def _send(self) -> bytes: ...
    def free(self, *, cpu: int | None = None) -> None:
        """Give the memory back now.

        Raises:
            ObjectInUse: (a BufferError) Something else still refers to the memory: an
                exported buffer, or a reference that is no variable, container or
                attribute, such as that of ``torch.frombuffer``. Nothing was changed.
            DoubleFree: It was freed before.
            NotOwner: It belongs to another process.
            ClosedArena: The arena was closed; the memory returns when it is dropped.
        """

    def move(self) -> Handle:
        """Let go of the object without freeing it: for `arena.adopt()` elsewhere.

        Raises:
            ObjectInUse, ObjectFreed, NotOwner, ClosedArena: As `free()`.
        """

    def __enter__(self) -> Object: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """`free()`, unless that happened already.

        If the block raised and views still exist (its traceback keeps them), the
        block's exception goes on and the memory returns with the last view.
        """

    @property
    def nbytes(self) -> int:
        """Bytes asked for; the length of every view."""

    @property
    def usable_size(self) -> int:
        """Bytes that the slot really has."""

    @property
    def freed(self) -> bool:
        """True after `free()`, `move()` or a `krealloc()` that moved it."""

    @property
    def offset(self) -> int:
        """From the start of the arena, the same in every process."""

    @property
    def address(self) -> int:
        """In this process."""

    @property
    def page(self) -> int:
        """First page of its slab, from the first page for objects."""

    @property
    def slab(self) -> int:
        """Creation number of its slab in its cache."""

    @property
    def index(self) -> int:
        """Of the object in its slab."""

    @property
    def node(self) -> int:
        """Memory node of its slab."""

    @property
    def cache(self) -> Cache | None:
        """None for buffers straight from the page allocator (more than 8192 bytes)."""

    @property
    def arena(self) -> Arena: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes:
        """A copy."""

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The bytes for ``from_dlpack()`` of NumPy, PyTorch, JAX and others: uint8.

        No copy; counts as an exported buffer. Arrays of `arena.ndarray()` have their
        own, with shape and dtype.

        Raises:
            ModuleNotFoundError: NumPy is not installed; it makes the capsule.
            ObjectFreed: The object has no memory any more.
        """

    def __dlpack_device__(self) -> tuple[int, int]:
        """(1, 0): main memory."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __release_buffer__(self, view: memoryview, /) -> None: ...

class Probe:
    """Measures its own references during a call, for `uslub._references`.

    A measurement is (references, what `reader` said of the caller's code).
    """

    seen: tuple[int, int]  #: what `__exit__` measured
    def __new__(cls, reader: Callable[[FrameType, str], int], /) -> Probe: ...
    def free(self) -> tuple[int, int]: ...
    def __enter__(self) -> Probe: ...
    def __exit__(self, *details: object) -> None: ...

def geometry(
    object_size: Size,
    *,
    align: int = 0,
    flags: int = 0,
    ctor: bool = False,
    order: int | None = None,
    min_partial: int | None = None,
    cpu_partial: int | None = None,
    useroffset: int = 0,
    usersize: int = 0,
    cpus: int | None = None,
) -> Geometry:
    """What a cache with these parameters would look like, without an arena.

    `cpus`: CPUs that the slab-order formula counts; None: this machine's.
    """

def size_bytes(size: Size) -> int:
    """Read a size as every call here does: 4096, "64KiB", "1.5G"."""

def _gather(obj: Object, addresses: list[int], nbytes: int, /) -> None:
    """Copy pieces of `nbytes` each into `obj`, past the caches; believes addresses."""

def _examine(
    name: str, /
) -> tuple[Health, list[ProcessInfo], list[ThreadInfo], list[str]]:
    """A look from outside, also at a poisoned arena: attaches, waits, reaps nothing.

    Returns:
        Health, participants, threads, and the names of the caches in doubt.

    Raises:
        As `Arena.attach`, but for Poisoned.
    """

class ChannelBase:
    """The half of `uslub.Channel` that is C."""

    def __init__(self, arena: Arena, capacity: int) -> None: ...
    def send(
        self, obj: Object | np.ndarray[Any, Any], timeout: float | None = None
    ) -> None:
        """Share an object with whoever receives it; the sender goes on holding it.

        Args:
            obj: An Object or array of this channel's arena.
            timeout: Seconds to wait for room; None: for ever.

        Raises:
            TimedOut: (a TimeoutError) The channel stayed full.
            ChannelClosed: (an EOFError) It is closed.
            ForeignAddress: The object is of another arena.
        """

    def try_send(self, obj: Object | np.ndarray[Any, Any], /) -> bool:
        """The same if there is room now; whether there was."""

    def recv(self, timeout: float | None = None) -> Any:
        """The oldest message: an Object, or an array as it was sent.

        Raises:
            TimedOut: (a TimeoutError) The channel stayed empty.
            ChannelClosed: (an EOFError) It is closed, and nothing is left in it.
        """

    def try_recv(self) -> Any | None:
        """The same, or None if there is none now."""

    def close(self) -> None:
        """No more messages; what is in it may still be received. For all processes."""

    @property
    def closed(self) -> bool: ...
    @property
    def capacity(self) -> int: ...
    @property
    def arena(self) -> Arena: ...
    def __len__(self) -> int: ...
    def _wait(self, timeout: float | None) -> bool: ...
    def _send_handle(self) -> bytes: ...
    @classmethod
    def _open(cls, arena: Arena, wire: bytes) -> Self: ...
