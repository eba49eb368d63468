"""Channel: a bounded queue of objects in an arena, between any processes.

    >>> import uslub
    >>> with uslub.Arena.create(size="16MiB") as arena:
    ...     ch = uslub.Channel(arena, 4)
    ...     ch.send(arena.kmalloc(100, zero=True))
    ...     len(ch), len(ch.recv())
    (1, 100)

What is sent is not copied: sender and receiver hold the same object, and it is freed
when the last of them, and of the messages that carry it, is gone. Waiting is a short
spin, then a futex; nothing in a Channel belongs to a waiting process, so one that is
killed disturbs nobody. The queue itself is C (libuslub/share/channel.c).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from uslub import _wire
from uslub._engine import ChannelBase
from uslub.errors import BadArgument, ChannelClosed, Error, TimedOut

_STEP = 0.05  # seconds; how long a watcher sleeps before it looks if it is needed
_NAP = 0.001  # seconds; between attempts of asend()


class _Watcher:
    """An event descriptor that is readable while the channel is: eventfd and thread.

    The thread sets the descriptor once and rests until rearm(), which whoever found the
    channel empty calls. It does not keep the channel alive, and closes the descriptor
    when the channel is gone.
    """

    def __init__(self, channel: Channel) -> None:
        self.pid = os.getpid()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._armed = threading.Event()
        self._armed.set()
        threading.Thread(
            target=self._run,
            args=(weakref.ref(channel),),
            name="uslub-channel",
            daemon=True,
        ).start()

    def _run(self, channel: weakref.ref[Channel]) -> None:
        while True:
            armed = self._armed.wait(_STEP)
            alive = channel()
            if alive is None:
                break
            if not armed:
                continue
            try:
                ready = alive._wait(_STEP)
            except Exception:  # the arena was closed: whoever reads will hear of it
                ready = True
            del alive
            if ready:
                self._armed.clear()
                os.eventfd_write(self.fd, 1)
        os.close(self.fd)

    def rearm(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        self._armed.set()


class Channel(ChannelBase):
    """A bounded queue of objects in an arena; many senders, many receivers.

    First in, first out for each sender. A message may be an `Object` of this arena, or
    an array of `arena.ndarray()` or a view of one; shape and dtype are kept. Picklable:
    what arrives is the same channel.

    Args:
        arena: Where it lives; so must what is sent.
        capacity: Messages that fit; 1 to 16,777,216.

    Raises:
        BadArgument: A capacity that cannot be.
        OutOfMemory: No room in the arena.
        LimitReached: 1024 channels exist.
    """

    _watcher: _Watcher | None = None

    # send(), try_send(), recv(), close(), closed, capacity: ChannelBase, in C

    def try_recv(self) -> Any | None:
        """The oldest message, or None if there is none now. ChannelClosed as recv()."""
        message = super().try_recv()
        watcher = self._watcher
        if message is None and watcher is not None and watcher.pid == os.getpid():
            watcher.rearm()
        return message

    def send_many(self, objs: Iterable[Any], timeout: float | None = None) -> None:
        """Send each; `timeout` seconds for all of them together.

        Raises:
            Error: What send() raises; its `sent` says how many went before. TimedOut if
                the channel stayed full.
        """
        end = None if timeout is None else time.monotonic() + timeout
        sent = 0
        try:
            for obj in objs:
                self.send(
                    obj, None if end is None else max(0.0, end - time.monotonic())
                )
                sent += 1
        except TimedOut:
            late = TimedOut(
                f"the channel of {self.capacity} messages stayed full: {sent} were sent"
                f" in {timeout} seconds"
            )
            late.sent = sent  # type: ignore[attr-defined]
            raise late from None
        except Error as error:
            error.sent = sent  # type: ignore[attr-defined]
            raise

    def recv_many(self, max: int, timeout: float | None = None) -> list[Any]:
        """At least one message, waiting for it like recv(), and at most `max`.

        An error after the first message has them in its `received`; that the channel
        is closed is said by the next call.
        """
        if max < 1:
            raise BadArgument(f"max is {max}: expected 1 or more messages")
        first = self.recv(timeout)
        return [first, *self._more(max - 1, first)]

    def _more(self, max: int, *messages_before: Any) -> list[Any]:
        messages: list[Any] = []
        while len(messages) < max:
            try:
                message = self.try_recv()
            except ChannelClosed:
                break
            except Error as error:
                error.received = [*messages_before, *messages]  # type: ignore[attr-defined]
                raise
            if message is None:
                break
            messages.append(message)
        return messages

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """recv(), until the channel is closed and empty."""
        try:
            return self.recv()
        except ChannelClosed:
            raise StopIteration from None

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *details: object) -> None:
        """close(): for all processes; what is in the channel may still be received."""
        self.close()

    # -- asyncio, select ----------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that is readable when the channel is, or is closed.

        For select, poll and event loops. After waking up call try_recv() until it
        returns None; that makes the descriptor wait again. Costs a thread that sleeps.
        """
        if self._watcher is None or self._watcher.pid != os.getpid():
            self._watcher = _Watcher(self)
        return self._watcher.fd

    async def arecv(self) -> Any:
        """recv() for asyncio; cancelling it loses no message (`asyncio.wait_for`)."""
        loop = asyncio.get_running_loop()
        fd = self.fileno()
        while True:
            message = self.try_recv()
            if message is not None:
                return message
            ready = loop.create_future()
            waiting = _readers(loop, fd)
            waiting.append(ready)
            try:
                await ready
            finally:
                _forget(loop, fd, ready)

    def try_send_many(self, objs: Iterable[Any]) -> int:
        """As many of them as there is room for now; how many."""
        sent = 0
        for obj in objs:
            if not self.try_send(obj):
                break
            sent += 1
        return sent

    def try_recv_many(self, max: int) -> list[Any]:
        """At most `max` of the messages there are now; ChannelClosed as recv()."""
        message = self.try_recv()
        return [] if message is None else [message, *self._more(max - 1, message)]

    async def asend(self, obj: Any) -> None:
        """send() for asyncio; tries every millisecond while the channel is full."""
        while not self.try_send(obj):
            await asyncio.sleep(_NAP)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.arecv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def __reduce__(self) -> Any:
        return _wire.reduce_channel(self)

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        return f"<uslub.Channel of {self.capacity}, {len(self)} waiting{closed}>"


# Several tasks may wait for one channel; an event loop takes one callback a descriptor.
_waiting: dict[tuple[int, int], list[asyncio.Future[None]]] = {}


def _readers(loop: asyncio.AbstractEventLoop, fd: int) -> list[asyncio.Future[None]]:
    key = (id(loop), fd)
    if key not in _waiting:
        _waiting[key] = []
        loop.add_reader(fd, _wake, key)
    return _waiting[key]


def _wake(key: tuple[int, int]) -> None:
    for future in _waiting.get(key, ()):
        if not future.done():
            future.set_result(None)


def _forget(
    loop: asyncio.AbstractEventLoop, fd: int, future: asyncio.Future[None]
) -> None:
    waiting = _waiting[(id(loop), fd)]
    waiting.remove(future)
    if not waiting:
        del _waiting[(id(loop), fd)]
        if not loop.is_closed():
            loop.remove_reader(fd)
