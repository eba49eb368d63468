"""Capturing a running kernel: `record()` writes a compact trace.

Works through tracefs with a buffer of its own (an instance), so other tracing on the
machine is neither seen nor disturbed; reads the binary pages, where addresses are raw;
puts the kernel's own counters of every cache into the same stream; counts what was
lost; and leaves nothing behind, however it ends.

Needs root and a kernel with the kmem trace events; what is missing is named.
Design: docs/design/06-lab.md, "Record".
"""

from uslub.lab.record.errors import CannotRecord
from uslub.lab.record.session import Recording, record

__all__ = ["CannotRecord", "Recording", "record"]
