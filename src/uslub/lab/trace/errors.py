"""What can be wrong with a trace, one class each, all under `TraceError`.

Every text says which file, what was found, what was expected and what to do.
Relies on `uslub.errors` and nothing else.
"""

from __future__ import annotations

from uslub.errors import Error

__all__ = [
    "ClockError",
    "EventsLost",
    "GroundMismatch",
    "NotATrace",
    "PointersHashed",
    "ToolMissing",
    "TraceError",
    "TraceTruncated",
    "UnknownFields",
]


class TraceError(Error, ValueError):
    """A trace, or a file that belongs to one, that cannot be used."""


class NotATrace(TraceError):
    """Empty, binary rubbish, or a format that is not known here."""


class TraceTruncated(TraceError):
    """The file ends in the middle of something. Next: copy or record it again."""


class EventsLost(TraceError):
    """The kernel dropped events. Next: record with larger buffers, or give
    `allow_loss=True` and take wider error bars."""


class PointersHashed(TraceError):
    """The kernel printed hashed pointers, so addresses mean nothing.

    Next: `echo 0 > options/hash-ptr` before reading the buffer, or `uslub record`.
    """


class ClockError(TraceError):
    """Time runs backwards, or is not time. Next: record with `trace_clock` mono."""


class UnknownFields(TraceError):
    """An event lacks a field that the lab needs; the text names those it has."""


class GroundMismatch(TraceError):
    """A ground file of another boot than the trace."""


class ToolMissing(TraceError):
    """An outside program that reads this format is not installed."""
