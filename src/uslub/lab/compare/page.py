"""A comparison as one HTML file that needs no network.

The libraries are inside: Vega, Vega-Lite and Vega-Embed, bundled by vl-convert from the
very version that writes the pictures, and Tabulator (assets/, MIT). Data is JSON in the
page; what the page does with it is assets/page.js. A content policy forbids the page to
load or send anything, and to evaluate text as code: names come out of traces, and a
trace may be anybody's.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from uslub.lab.compare.charts import CHARTS, converter
from uslub.lab.compare.comparison import Comparison
from uslub.lab.compare.outcome import Record, by_cache
from uslub.lab.replay import SETTINGS

#: Columns from the left; the others follow in the order of the records.
FIRST = (
    *("point", "cache", "design", "cpus", "nodes", "nomerge"),
    # The order of a cache is not the setting.
    *(name for name in SETTINGS if name != "order"),
    *("memory_bytes", "peak_memory_bytes", "live_bytes", "live", "slabs", "partial"),
    *("cpu_slabs", "peak_slabs", "external_fragmentation", "internal_fragmentation"),
    *("list_lock", "double_cas", "line_transfers", "remote_frees"),
    *("new_slabs", "discarded_slabs", "slab_bytes", "slot_bytes", "object_bytes"),
)
#: Records kept in a page; beyond, the caches that nowhere hold a slab are left out.
ROWS_MAX = 60_000


def page(comparison: Comparison) -> str:
    """The whole page.

    Returns:
        HTML; the same comparison gives the same text.

    Raises:
        ImportError: vl-convert-python is not installed.
    """
    title = f"uslub compare: {Path(comparison.trace).name}"
    return Template(asset("page.html")).substitute(
        title=html.escape(title),
        lead=html.escape(lead(comparison)),
        tabulator_css=without_map(asset("tabulator_simple.min.css")),
        page_css=asset("page.css"),
        vega_js=closed(vega()),
        tabulator_js=closed(without_map(asset("tabulator.min.js"))),
        page_js=closed(asset("page.js")),
        data=as_json(content(comparison)),
    )


def content(comparison: Comparison) -> Record:
    """Everything that the page shows, as JSON has it."""
    parameters = list(comparison.parameters)
    return {
        "points": table(
            # What its design does not have is not the default either.
            [
                {**dict.fromkeys(parameters, "-"), **one}
                for one in comparison.to_records()
            ],
            parameters,
        ),
        "parameters": parameters,
        "base": comparison.outcomes[comparison.base].point.label,
        "caches": table(cache_rows(comparison)),
        "headers": [
            {"point": outcome.point.label, **outcome.header}
            for outcome in comparison.outcomes
        ],
        "charts": {name: chart(comparison) for name, chart in CHARTS.items()},
    }


def cache_rows(comparison: Comparison) -> list[Record]:
    """One row per point and cache."""
    rows = [
        {"point": outcome.point.label, **record}
        for outcome in comparison.outcomes
        for record in by_cache(outcome)
    ]
    if len(rows) > ROWS_MAX:
        used = {row["cache"] for row in rows if row.get("slabs")}
        rows = [row for row in rows if row["cache"] in used]
    return rows


def table(records: list[Record], keep: Sequence[str] = ()) -> Record:
    """Records as columns' names and rows: a third of the bytes.

    The columns that matter most come first; those with nothing but zeros not at all,
    unless `keep` names them.
    """
    seen = dict.fromkeys(name for record in records for name in record)
    told = [
        name for name in seen if name in keep or any(one.get(name) for one in records)
    ]
    rank = {name: place for place, name in enumerate(FIRST)}
    names = sorted(told, key=lambda name: rank.get(name, len(rank)))
    return {
        "columns": names,
        "rows": [[rounded(record.get(name)) for name in names] for record in records],
    }


def rounded(value: Any) -> Any:
    """Fractions to six digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def lead(comparison: Comparison) -> str:
    """One sentence on what was replayed."""
    header = comparison.outcomes[0].header
    events = header.get("events")
    kernel = header.get("kernel")
    words = [f"{len(comparison)} replays of {Path(comparison.trace).name}"]
    if isinstance(events, int):
        words.append(f"{events:,} events")
    if kernel:
        words.append(f"recorded on Linux {kernel}")
    return ", ".join(words) + "."


def as_json(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028")


def closed(script: str) -> str:
    """JavaScript that cannot end the element it stands in."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def without_map(text: str) -> str:
    """A script or style without the comment that names its source map: the map is not
    shipped, and browsers would ask for it."""
    return re.sub(r"^/[/*]# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)


@functools.cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, as `vegaEmbed`."""
    return str(converter().javascript_bundle("window.vegaEmbed = vegaEmbed;"))


@functools.cache
def asset(name: str) -> str:
    """A file of assets/."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")
