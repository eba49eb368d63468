"""Many replays of one trace side by side: what would another choice have cost?

    >>> from uslub.lab.compare import compare
    >>> found = compare("sample:linux-6.18", {"cpu_partial": [0, 30]})  # doctest: +SKIP
    >>> found.to_frame()                                               # doctest: +SKIP

`compare` is the whole of it; `Comparison` what it returns; `draw` and `page` make
pictures and a web page of one. Read in this order: `grid` (which points), `sweep` (who
replays them), `store` (what is kept), `outcome` and `comparison` (what comes back),
`table`, `charts`, `page` (how it is shown). Relies on `uslub.lab.replay`.
"""

from uslub.lab.compare.charts import draw
from uslub.lab.compare.comparison import Comparison
from uslub.lab.compare.grid import BadGrid, Point
from uslub.lab.compare.outcome import Outcome
from uslub.lab.compare.page import page
from uslub.lab.compare.run import compare
from uslub.lab.compare.sweep import SweepFailed

__all__ = [
    "BadGrid",
    "Comparison",
    "Outcome",
    "Point",
    "SweepFailed",
    "compare",
    "draw",
    "page",
]
