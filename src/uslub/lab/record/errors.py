"""The one error of recording."""

from __future__ import annotations

from uslub.errors import Error


class CannotRecord(Error):
    """This process, or this kernel, cannot record; the text names what is missing.

    Nothing is left behind: buffers, mounts and partial files are gone.
    """
