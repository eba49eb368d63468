"""A cache drawn in the terminal: slabs as rows of objects, lists as chains.

Here: `draw`, which turns a cache of the model into keyed lines of at most 78
columns, and `mark_changes`, which shows what moved between two drawings. Not
here: stories (`explain_story`), arguments and output (`explain`).
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from uslub.model import Cache
from uslub.model.state import CpuSlot, Sheaf, Slab
from uslub.model.view import find_places

LEGEND = (
    "objects: # in a user's hands, c on a CPU freelist, s in a sheaf, . free"
    " in its slab; > marks what has changed; lists begin with their head"
)
STYLES = {"#": "bold red", "c": "yellow", "s": "cyan", ".": "green"}
LIST_MAX = 9  # items of a list that are drawn before it is cut

Drawing = dict[str, Text]


def draw(cache: Cache) -> Drawing:
    """Every CPU, node and slab of a cache, in this order, by a key each."""
    lines: Drawing = {}
    for c in cache.cpus:
        lines[f"cpu {c.number}"] = draw_cpu(cache, c)
    for node in cache.nodes:
        pages = cache.machine.pages[node.number]
        barn = ""
        if cache.sheaf_capacity:
            barn = f", barn {len(node.barn.full)} full {len(node.barn.empty)} empty"
        chain = arrow(f"s{slab.number}" for slab in node.partial)
        lines[f"node {node.number}"] = Text(
            f"node {node.number} partial {chain}{barn},"
            f" pages {pages.free_pages} of {pages.pages} free"
        )
    places = find_places(cache)
    for number, slab in sorted(cache.slabs.items()):
        place = places.get(number, "full")
        lines[f"slab {number}"] = draw_slab(cache, slab, place)
    return lines


def draw_cpu(cache: Cache, c: CpuSlot) -> Text:
    """One CPU slot, or the two sheaves of one CPU."""
    if cache.sheaf_capacity:
        return Text(
            f"cpu {c.number}  main {draw_sheaf(c.main)}  spare {draw_sheaf(c.spare)}"
        )
    slab = "-" if c.slab is None else f"s{c.slab.number}"
    freelist = arrow(str(index) for index in reversed(c.freelist))
    chain = arrow(f"s{slab.number}" for slab in reversed(c.partial))
    return Text(f"cpu {c.number}  slab {slab}  freelist {freelist}  chain {chain}")


def draw_sheaf(sheaf: Sheaf | None) -> str:
    """A sheaf as a stack, its top first."""
    if sheaf is None:
        return "none"
    items = arrow((f"{p.slab}.{p.index}" for p in reversed(sheaf)), limit=4)
    return f"({len(sheaf)}) {items}"


def draw_slab(cache: Cache, slab: Slab, place: str) -> Text:
    """One slab: where it is, its objects as cells, its own freelist."""
    gap = " " if slab.number > 99 else ""
    text = Text(f"s{slab.number:<3}{gap}{place:<8}")
    for cell in cells(cache, slab):
        text.append(cell, STYLES[cell])
    text.append(f"  inuse {slab.inuse}/{slab.objects}")
    text.append("  frozen" if slab.frozen else "        ")
    text.append(f"  own {arrow(str(index) for index in reversed(slab.freelist))}")
    if slab.pfmemalloc:
        text.append("  reserve")
    return text


def cells(cache: Cache, slab: Slab) -> str:
    """One character per object."""
    row = ["#" if taken else "s" for taken in slab.taken]
    for c in cache.cpus:
        if c.slab is slab:
            for index in c.freelist:
                row[index] = "c"
    for index in slab.freelist:
        row[index] = "."
    return "".join(row)


def arrow(items: Iterable[str], limit: int = LIST_MAX) -> str:
    """``3>1>0``; long lists are cut."""
    shown = list(items)
    if not shown:
        return "-"
    text = ">".join(shown[:limit])
    return text if len(shown) <= limit else f"{text}>..({len(shown)})"


def mark_changes(before: Drawing, after: Drawing) -> list[Text]:
    """The lines of `after`, marked where they differ, and what has gone."""
    lines = []
    for key, text in after.items():
        same = key in before and before[key].plain == text.plain
        lines.append(Text("    " if same else "  > ").append_text(text))
    for key in before:
        if key not in after:
            lines.append(Text(f"  > {key} is gone: its pages were given back"))
    return lines
