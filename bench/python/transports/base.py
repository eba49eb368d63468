"""What every transport does, so that all are measured by the same loop.

The object is made in the sender's process and handed to the receiver as an argument of
`multiprocessing.Process` (spawn). Messages are arrays of `size` bytes (uint8). At most
`depth` of them may be under way and not yet received; `send` waits for room.

A message of the sender is either *copied in*: `send(source)` with an ordinary array; or
*made in place*: `send_made(array)` with what `make()` gave. Who cannot make a message
in place sends an ordinary array there too: that is what its user would do.
"""

from __future__ import annotations

from itertools import cycle
from multiprocessing.context import SpawnContext

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

#: Ordinary arrays in turn. More than `depth`, the one being received and the one being
#: written: a queue that pickles in a thread, later, finds its array untouched.
SOURCES = 12


class Transport:
    """The interface. One object per size of message, used by both processes."""

    def __init__(self, context: SpawnContext, size: int, depth: int) -> None:
        self.size, self.depth = size, depth

    def open_sender(self) -> None:
        """In the sender, once the receiver runs."""
        self.sources = cycle([np.ones(self.size, np.uint8) for _ in range(SOURCES)])

    def open_receiver(self) -> None:
        """In the receiver, before the sender's first message."""

    def make(self) -> Bytes:
        """Memory for a message, as near to its place as this transport can."""
        return next(self.sources)

    def send(self, source: Bytes) -> None:
        """Send what is in `source`, which may be written again soon (see SOURCES)."""
        raise NotImplementedError

    def send_made(self, array: Bytes) -> None:
        """Send what `make()` gave."""
        self.send(array)

    def receive(self) -> Bytes:
        """The next message; waits for it, in the way the transport is named for."""
        raise NotImplementedError

    def done(self) -> None:
        """The receiver has read the message and holds no array of it any more."""

    def close_receiver(self) -> None:
        """In the receiver, at the end."""

    def close_sender(self) -> None:
        """In the sender, when the receiver has ended."""
