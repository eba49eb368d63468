"""Opening files whatever they are packed with, and telling what they are.

Relies on pyarrow for decompression; compressed streams are read piece by piece.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from uslub.lab.trace.errors import NotATrace, TraceError, TraceTruncated

#: First bytes of a file to what it is.
MAGIC = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PAR1", "compact"),
    (b"\x17\x08\x44tracing", "trace.dat"),
    (b"PERFILE2", "perf.data"),
)
PACKED = ("zstd", "gzip", "bz2", "lz4")


def magic(head: bytes) -> str:
    """What a file with these first bytes is: a name of MAGIC, "text", or "binary"."""
    for start, name in MAGIC:
        if head.startswith(start):
            return name
    return "binary" if b"\0" in head else "text"


class Unpacked(io.RawIOBase):
    """A compressed file as a stream of what is in it.

    Reading raises TraceTruncated or NotATrace where the packing is broken.
    """

    def __init__(self, path: str, packing: str) -> None:
        self.path = path
        self._file = pa.OSFile(path, "rb")
        self._stream = pa.CompressedInputStream(self._file, packing)
        self._size = Path(path).stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; all of them where it is negative."""
        try:
            if size is None or size < 0:
                return bytes(self._stream.read())
            return bytes(self._stream.read(size))
        except (OSError, ValueError, pa.ArrowException) as error:
            text = str(error)
            kind = (
                TraceTruncated if "runcated" in text or "nd of" in text else NotATrace
            )
            raise kind(
                f"{self.path}: cannot be unpacked ({text}); copy or record it again"
            ) from None

    def done(self) -> float:
        """How much of the packed file has been read, 0 to 1."""
        return float(self._file.tell() / max(self._size, 1))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()


@contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """A file as bytes, unpacked where it is packed.

    Raises:
        TraceError: There is no such file, or it may not be read.
    """
    name = str(path)
    try:
        with open(name, "rb") as file:
            packing = magic(file.read(16))
            if packing not in PACKED:
                file.seek(0)
                yield file
                return
    except FileNotFoundError:
        raise TraceError(f"{name}: no such file; expected a trace") from None
    except (PermissionError, IsADirectoryError) as error:
        raise TraceError(
            f"{name}: {error.strerror}; expected a readable file"
        ) from None
    stream: Any = Unpacked(name, packing)
    try:
        yield stream
    finally:
        stream.close()


def not_onto_itself(source: Path, target: Path) -> None:
    """Refuse to write a trace over the one it is made of.

    Raises:
        TraceError: They are one file.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise TraceError(
            f"{target}: is the trace that is read; give another name to write to"
        )
