"""The charts of a comparison, as Vega-Lite.

One specification serves both: the page draws it in the browser, and `draw()` writes it
as SVG or PNG with the same library compiled into vl-convert. A specification is plain
data; the rows are in it. Colours are of the Okabe-Ito palette, dashes tell the lines
apart where colour does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uslub.errors import BadArgument
from uslub.lab.compare.comparison import Comparison
from uslub.lab.compare.outcome import Record, by_cache

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: What vl-convert calls the same version.
VEGALITE = "6.4"
MIB = 1 << 20
#: Okabe and Ito: told apart by nearly everybody.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
)
#: Largest over smallest, above which an axis is logarithmic.
LOG_FROM = 20
#: Caches in the chart of changes.
CACHES_SHOWN = 12


def memory_over_time(comparison: Comparison) -> Spec:
    """Memory held in slabs against time, one line per point, live bytes beneath.

    The rows are mebibytes against seconds since the first event.
    """
    rows: list[Record] = []
    for outcome in comparison.outcomes:
        series = outcome.series
        start = series["time_ns"][0] if series["time_ns"] else 0
        for index, time in enumerate(series["time_ns"]):
            memory = series["memory_bytes"][index] / MIB
            rows.append(row(outcome.point.label, time - start, memory))
    base = comparison.outcomes[comparison.base].series
    live: list[Record] = []
    if "live_bytes" in base and base["time_ns"]:
        start = base["time_ns"][0]
        for time, held in zip(base["time_ns"], base["live_bytes"], strict=True):
            live.append(row("in live objects", time - start, held / MIB))
    x = axis("seconds", "seconds since tracing began")
    return {
        **frame("Memory in slabs over time"),
        "width": 760,
        "height": 300,
        "layer": [
            {
                "data": {"values": live},
                "mark": {"type": "area", "opacity": 0.18, "color": "#555555"},
                "encoding": {
                    "x": x,
                    "y": axis("mib", "MiB"),
                    "tooltip": [{"field": "point"}, *shown("seconds", "mib")],
                },
            },
            {
                "data": {"values": rows},
                "params": [pick()],
                "mark": {"type": "line", "interpolate": "step-after", "tooltip": True},
                "encoding": {
                    "x": x,
                    "y": axis("mib", "MiB"),
                    "color": colour(comparison),
                    "strokeDash": dash(comparison),
                    "opacity": faded(),
                    "tooltip": [{"field": "point"}, *shown("seconds", "mib")],
                },
            },
        ],
    }


def row(point: str, time_ns: int, mib: float) -> Record:
    """One point of a line."""
    return {"point": point, "seconds": round(time_ns / 1e9, 6), "mib": round(mib, 4)}


#: What the trade can show upwards: field of the totals, words, divisor.
COSTS = (
    ("list_lock", "list-lock acquisitions", 1),
    ("double_cas", "double-word compare-and-swaps", 1),
    ("line_transfers", "cache lines moved between CPUs", 1),
    ("remote_frees", "frees on another CPU", 1),
)


def trade(comparison: Comparison, cost: str = "list_lock") -> Spec:
    """Locks against memory, one mark per point of the grid: what does each buy?

    Args:
        comparison: What to show.
        cost: Field of the totals along x.

    Raises:
        BadArgument: No outcome has that field.
    """
    words = dict((name, text) for name, text, _ in COSTS).get(cost, cost)
    rows = [
        {
            "point": outcome.point.label,
            "cost": outcome.totals[cost],
            "end": round(outcome.totals["memory_bytes"] / MIB, 4),
            "peak": round(outcome.totals["peak_memory_bytes"] / MIB, 4),
        }
        for outcome in comparison.outcomes
        if cost in outcome.totals
    ]
    if not rows:
        raise BadArgument(f"comparison: no replay counted {cost!r}")
    scale = {"zero": False, "nice": True}
    costs = [row["cost"] for row in rows]
    # SLOB takes its lock for everything; the others would be one point beside it.
    far = min(costs) > 0 and max(costs) > LOG_FROM * min(costs)
    across = {"type": "log", "nice": True} if far else scale
    return {
        **frame("Locks against memory: towards the lower left is better"),
        "width": 760,
        "height": 340,
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.4},
                "encoding": {
                    "x": axis("cost", words, scale=across),
                    "y": axis(
                        "end", "MiB: at the end (●) and at the peak (▲)", scale=scale
                    ),
                    "y2": {"field": "peak"},
                    "color": colour(comparison),
                },
            },
            {
                "params": [pick()],
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {
                    "x": {"field": "cost", "type": "quantitative"},
                    "y": {"field": "end", "type": "quantitative"},
                    "color": colour(comparison),
                    "opacity": faded(),
                    "tooltip": [{"field": "point"}, *shown("cost", "end", "peak")],
                },
            },
            {
                "mark": {"type": "point", "shape": "triangle-up", "size": 60},
                "encoding": {
                    "x": {"field": "cost", "type": "quantitative"},
                    "y": {"field": "peak", "type": "quantitative"},
                    "color": colour(comparison),
                    "tooltip": [{"field": "point"}, *shown("cost", "end", "peak")],
                },
            },
        ],
    }


def changes(comparison: Comparison) -> Spec:
    """Which caches pay: bytes against the base, for those where it matters most."""
    base = memory_by_cache(comparison, comparison.base)
    rows: list[Record] = []
    for index, outcome in enumerate(comparison.outcomes):
        if index == comparison.base:
            continue
        for cache, held in memory_by_cache(comparison, index).items():
            if cache not in base:  # as those of SLOB, which knows no caches
                continue
            changed = (held - base[cache]) / 1024
            rows.append(
                {"point": outcome.point.label, "cache": cache, "kib": round(changed, 3)}
            )
    largest: dict[str, float] = {}
    for one in rows:
        largest[one["cache"]] = max(largest.get(one["cache"], 0.0), abs(one["kib"]))
    order = sorted(largest, key=lambda cache: (-largest[cache], cache))[:CACHES_SHOWN]
    return {
        **frame(
            "Which caches pay: memory at the end, against"
            f" {comparison.outcomes[comparison.base].point.label}"
        ),
        "width": 760,
        "height": {"step": 9 if len(comparison) > 2 else 16},
        "data": {"values": [one for one in rows if one["cache"] in order]},
        "params": [pick()],
        "mark": {"type": "bar"},
        "encoding": {
            "y": {"field": "cache", "sort": order, "title": None},
            "yOffset": {"field": "point", "sort": labels(comparison)},
            "x": axis("kib", "KiB more (right) or less (left)"),
            "color": colour(comparison),
            "opacity": faded(),
            "tooltip": [{"field": "cache"}, {"field": "point"}, *shown("kib")],
        },
    }


def memory_by_cache(comparison: Comparison, index: int) -> dict[str, int]:
    """Bytes in slabs at the end, by cache."""
    return {
        record["cache"]: record["memory_bytes"]
        for record in by_cache(comparison.outcomes[index])
        if "memory_bytes" in record
    }


def labels(comparison: Comparison) -> list[str]:
    """The points in the order of the grid."""
    return [outcome.point.label for outcome in comparison.outcomes]


def frame(title: str) -> Spec:
    """What all charts share."""
    return {
        "$schema": SCHEMA,
        "title": {"text": title, "anchor": "start"},
        "background": "white",
        # A picture is seen with other fonts than it was measured with.
        "padding": {"left": 5, "top": 5, "bottom": 5, "right": 60},
        "config": {"axis": {"labelLimit": 240}, "legend": {"labelLimit": 320}},
    }


def axis(field: str, title: str, **more: Any) -> Spec:
    """A channel of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def shown(*fields: str) -> list[Spec]:
    """Numbers of a tooltip."""
    return [{"field": field, "type": "quantitative"} for field in fields]


def colour(comparison: Comparison) -> Spec:
    """One colour per point, the same in all charts."""
    points = labels(comparison)
    wheel = [COLOURS[index % len(COLOURS)] for index in range(len(points))]
    return {
        "field": "point",
        "type": "nominal",
        "title": "grid point",
        "scale": {"domain": points, "range": wheel},
    }


def dash(comparison: Comparison) -> Spec:
    """A dash for each turn of the colour wheel."""
    points = labels(comparison)
    kinds = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
    chosen = [kinds[(i // len(COLOURS)) % len(kinds)] for i in range(len(points))]
    return {
        "field": "point",
        "type": "nominal",
        "title": "grid point",  # as the colour's: one legend for both
        "scale": {"domain": points, "range": chosen},
    }


def pick() -> Spec:
    """Points chosen by a click in the legend."""
    return {
        "name": "chosen",
        "select": {"type": "point", "fields": ["point"]},
        "bind": "legend",
    }


def faded() -> Spec:
    """Others step back while some are chosen."""
    return {"condition": {"param": "chosen", "value": 1}, "value": 0.12}


#: Chart name to the function that makes it.
CHARTS = {"memory": memory_over_time, "trade": trade, "changes": changes}


def draw(comparison: Comparison, chart: str, path: Path) -> None:
    """Write one chart as a picture, without a browser.

    Args:
        comparison: What to show.
        chart: "memory", "trade" or "changes".
        path: Ends in .svg, .png or .pdf.

    Raises:
        BadArgument: No such chart, or another ending.
        ImportError: vl-convert-python is not installed.
        OSError: The file cannot be written.
    """
    if chart not in CHARTS:
        raise BadArgument(
            f"comparison: no chart {chart!r}; there are {', '.join(CHARTS)}"
        )
    convert = converter()
    spec = CHARTS[chart](comparison)
    if path.suffix == ".svg":
        path.write_text(convert.vegalite_to_svg(spec, vl_version=VEGALITE))
    elif path.suffix == ".png":
        path.write_bytes(convert.vegalite_to_png(spec, vl_version=VEGALITE, scale=2))
    elif path.suffix == ".pdf":
        path.write_bytes(convert.vegalite_to_pdf(spec, vl_version=VEGALITE))
    else:
        raise BadArgument(
            f"chart file {str(path)!r}: the name decides the format; end it in .svg,"
            " .png or .pdf"
        )


def converter() -> Any:
    """The vl_convert module.

    Raises:
        ImportError: It is not there; says what to install.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ImportError(
            "charts need vl-convert-python, which cannot be imported; install it with"
            " `pip install 'uslub[lab]'`",
            name="vl_convert",
        ) from error
    return vl_convert
