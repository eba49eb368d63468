"""The lab: traces of real kernels, replayed on the specification.

    uslub.lab.record    captures a running kernel through tracefs
    uslub.lab.trace     reads traces of any origin into one columnar form
    uslub.lab.replay    runs the model of the specification over a trace
    uslub.lab.compare   many replays side by side

The engine is not imported anywhere in here. NumPy and pyarrow are needed here and
nowhere else in the package: `pip install 'uslub[lab]'`.
Design: docs/design/06-lab.md.
"""

from __future__ import annotations

from importlib.util import find_spec

for _needed in ("numpy", "pyarrow"):
    if find_spec(_needed) is None:
        raise ImportError(
            f"uslub.lab needs {_needed}, which is not installed; install it with"
            " `pip install 'uslub[lab]'`",
            name=_needed,
        )
