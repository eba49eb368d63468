"""The views of the kernel's slabinfo tool, as text, over rows.

Here: the table, activity, report, totals, aliases, NUMA and /proc/slabinfo views, and
the orders in which rows are shown. Pure: rows in, lines out. Column meanings are in
LEGEND, which `uslub info --explain` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uslub.flags import Flags
from uslub.tools.render import Row, percent
from uslub.tools.text import scaled

TABLE_HEAD = (
    "Name                   Objects Objsize           {space} Slabs/Part/Cpu"
    "  O/S O %Fr %Ef Flg"
)
ACTIVITY_HEAD = (
    "Name                   Objects      Alloc       Free   %Fast Fallb O CmpX   UL"
)

LEGEND = """\
Name            first name of the cache; the id (":0000064") if more names share it
Objects         objects in use; those waiting on CPU slabs and chains count as in use
Objsize         bytes that a user asked for, per object
Space           bytes of all slabs (with -L: Loss, those that no user asked for)
Slabs/Part/Cpu  slabs on no CPU / slabs on node partial lists / slabs on CPUs and chains
O/S             objects per slab
O               order: a slab is 2**order pages
%Fr             slabs that are partial, of all slabs
%Ef             bytes that users asked for, of the bytes of all slabs
Flg             * shared names, d DMA, A on cache lines, P poison, a reclaimable,
                Z red zones, F sanity checks, U user tracking

-D, activity:
Alloc, Free     calls since the counters were cleared
%Fast           of those, on the fast path: allocations, frees
Fallb           slabs made of the smallest order because pages were short
CmpX            swaps of a slab's freelist that had to be tried again
UL              swaps of a CPU's freelist that had to be tried again"""


@dataclass(frozen=True)
class Look:
    """How rows are shown."""

    plain_bytes: bool = False  #: -B
    show_loss: bool = False  #: -L
    first_alias: bool = False  #: -f

    def amount(self, value: int) -> str:
        return str(value) if self.plain_bytes else scaled(value)


# -- the table and its orders --------------------------------------------------------

ORDERS: dict[str, Callable[[Row], int]] = {
    "size": lambda row: row.space,
    "loss": lambda row: row.loss,
    "partial": lambda row: row.partial,
    "activity": lambda row: row.activity,
}


def ordered(
    rows: Sequence[Row],
    by: str = "name",
    *,
    inverted: bool = False,
    first_alias: bool = False,
) -> list[Row]:
    """Rows by title, or by one of ORDERS from the largest down; ties by title."""
    named = sorted(rows, key=lambda row: row.title(first_alias=first_alias).lower())
    if by == "name":
        return named[::-1] if inverted else named
    return sorted(named, key=ORDERS[by], reverse=not inverted)


def table(rows: Sequence[Row], look: Look) -> list[str]:
    """One line per cache."""
    head = TABLE_HEAD.format(space=" Loss" if look.show_loss else "Space")
    return [head, *(table_line(row, look) for row in rows)]


def table_line(row: Row, look: Look) -> str:
    where = f"{row.slabs - row.cpu_slabs}/{row.partial}/{row.cpu_slabs}"
    space = look.amount(row.loss if look.show_loss else row.space)
    line = (
        f"{row.title(first_alias=look.first_alias):<21} {row.objects:>8}"
        f" {row.object_size:>7} {space:>15} {where:>14} {row.objs_per_slab:>4}"
        f" {row.order:>1} {row.percent_partial:>3} {row.percent_used:>3}"
        f" {row.flag_letters}"
    )
    return line.rstrip()


def activity(rows: Sequence[Row], look: Look) -> list[str]:
    """One line of counters per cache (-D)."""
    return [ACTIVITY_HEAD, *(activity_line(row, look) for row in rows)]


def activity_line(row: Row, look: Look) -> str:
    alloc, free = row.alloc_total, row.free_total
    fast_alloc = percent(row.stat("alloc_fastpath"), alloc) if alloc else 0
    fast_free = percent(row.stat("free_fastpath"), free) if free else 0
    return (
        f"{row.title(first_alias=look.first_alias):<21} {row.objects:>8} {alloc:>10}"
        f" {free:>10} {fast_alloc:>3} {fast_free:>3} {row.stat('order_fallback'):>5}"
        f" {row.order:>1} {row.stat('cmpxchg_double_fail'):>4}"
        f" {row.stat('cmpxchg_double_cpu_fail'):>4}"
    )


# -- other tables --------------------------------------------------------------------


def aliases(rows: Sequence[Row], *, single: bool, inverted: bool) -> list[str]:
    """Which names share a cache (-a); `single`: also those that stand alone."""
    shown = [row for row in rows if row.aliases or single]
    if inverted:
        pairs = [(name, row.id) for row in shown for name in (row.name, *row.aliases)]
        return [f"{name:<22} -> {target}" for name, target in sorted(pairs)]
    shown.sort(key=lambda row: row.id)
    return [f"{row.id:<12} <- {' '.join((row.name, *row.aliases))}" for row in shown]


def numa(rows: Sequence[Row], *, plain_bytes: bool) -> list[str]:
    """Slabs, and partial slabs, of each cache on each node (-n)."""
    shown = [row for row in rows if row.slabs]
    count = max((node.node + 1 for row in shown for node in row.nodes), default=0)
    if not shown or not count:
        return ["no slabs on any node"]

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:<21}:" + "".join(f" {cell:>5}" for cell in cells)

    def number(value: int) -> str:
        return str(value) if plain_bytes else scaled(value)

    lines = [line("NUMA nodes", [str(n) for n in range(count)])]
    lines.append("-" * len(lines[0]))
    for row in shown:
        slabs = dict.fromkeys(range(count), 0) | {n.node: n.slabs for n in row.nodes}
        partial = {n.node: n.partial for n in row.nodes}
        lines.append(line(row.title(), [number(slabs[n]) for n in range(count)]))
        if row.partial:
            cells = [number(partial.get(n, 0)) for n in range(count)]
            lines.append(line("  partial", cells))
    return lines


PROC_HEAD = (
    "slabinfo - version: 2.1",
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor>"
    " : slabdata <active_slabs> <num_slabs> <sharedavail>",
)


def proc(rows: Sequence[Row]) -> list[str]:
    """The format of /proc/slabinfo, in the order of creation.

    Free objects are counted exactly; the kernel estimates above 10,000 slabs.
    """
    return [*PROC_HEAD, *(proc_line(row) for row in rows)]


def proc_line(row: Row) -> str:
    return (
        f"{row.name:<17} {row.objects:>6} {row.total_objects:>6} {row.slab_size:>6}"
        f" {row.objs_per_slab:>4} {1 << row.order:>4} : tunables {0:>4} {0:>4} {0:>4}"
        f" : slabdata {row.slabs:>6} {row.slabs:>6} {0:>6}"
    )


# -- the report of one cache (-r) ----------------------------------------------------

NOTES = (
    (Flags.HWCACHE_ALIGN, "** Hardware cacheline aligned"),
    (Flags.CACHE_DMA, "** Memory is allocated in a special DMA zone"),
    (Flags.TYPESAFE_BY_RCU, "** Slabs are destroyed via RCU"),
    (Flags.RECLAIM_ACCOUNT, "** Reclaim accounting active"),
)


def report(row: Row, look: Look) -> list[str]:
    """Everything about one cache."""
    names = f"  Aliases: {len(row.aliases):>2}"
    head = (
        f"Slabcache: {row.title(first_alias=look.first_alias):<15}{names}"
        f" Order : {row.order:>2} Objects: {row.objects}"
    )
    lines = ["", head]
    lines += [text for flag, text in NOTES if row.flags & flag]
    if row.aliases:
        lines.append(f"** Also named {', '.join(row.aliases)}")
    lines += ["", *report_sizes(row)]
    if any(node.slabs for node in row.nodes):
        lines += ["", *numa([row], plain_bytes=look.plain_bytes)]
    if row.stat("alloc_slab"):
        lines += ["", *report_counters(row)]
    return lines


def report_sizes(row: Row) -> list[str]:
    """The four columns: sizes, slabs, debugging, memory."""
    full = row.slabs - row.partial - row.cpu_slabs
    pad = (row.slab_bytes - row.objs_per_slab * row.slab_size) * row.slabs
    lost = row.slab_size - row.object_size

    def switch(flag: Flags) -> str:
        return "On" if row.flags & flag else "Off"

    cells: list[tuple[str, int, str, int, str, str, str, int]] = [
        ("Object ", row.object_size, "Total  ", row.slabs, "Sanity Checks",
         switch(Flags.CONSISTENCY_CHECKS), "Total", row.space),
        ("SlabObj", row.slab_size, "Full   ", full, "Redzoning    ",
         switch(Flags.RED_ZONE), "Used ", row.used),
        ("SlabSiz", row.slab_bytes, "Partial", row.partial, "Poisoning    ",
         switch(Flags.POISON), "Loss ", row.loss),
        ("Loss   ", lost, "CpuSlab", row.cpu_slabs, "Tracking     ",
         switch(Flags.STORE_USER), "Lalig", lost * row.objects),
        ("Align  ", row.align, "Objects", row.objs_per_slab, "Tracing      ",
         "Off", "Lpadd", pad),
    ]  # fmt: skip
    lines = [
        "Sizes (bytes)     Slabs              Debug                Memory",
        "-" * 72,
    ]
    for size, a, slabs, b, debug, state, memory, c in cells:
        lines.append(
            f"{size}: {a:>7}  {slabs}: {b:>7}   {debug} : {state:<3}  {memory}: {c:>7}"
        )
    return lines


def report_counters(row: Row) -> list[str]:
    """The statistics counters, where allocations and frees went."""
    stat = row.stat
    alloc, free = row.alloc_total, row.free_total
    deactivated = stat("deactivate_to_head") + stat("deactivate_to_tail")
    pairs = [
        ("Fastpath", stat("alloc_fastpath"), stat("free_fastpath")),
        ("Slowpath", alloc - stat("alloc_fastpath"), free - stat("free_fastpath")),
        ("Page Alloc", stat("alloc_slab"), stat("free_slab")),
        ("Add partial", deactivated, stat("free_add_partial")),
        ("Remove partial", stat("alloc_from_partial"), stat("free_remove_partial")),
        ("Cpu partial list", stat("cpu_partial_alloc"), stat("cpu_partial_free")),
        ("RemoteObj/SlabFrozen", stat("deactivate_remote_frees"), stat("free_frozen")),
    ]
    lines = ["Slab Perf Counter       Alloc     Free %Al %Fr", "-" * 50]
    for name, a, f in pairs:
        shares = f"{part_of(a, alloc):>3} {part_of(f, free):>3}"
        lines.append(f"{name:<20} {a:>8} {f:>8} {shares}")
    lines += [f"{'Total':<20} {alloc:>8} {free:>8}", ""]
    if stat("cpuslab_flush"):
        lines += [f"Flushes {stat('cpuslab_flush'):>8}", ""]
    return lines + report_deactivation(row)


def report_deactivation(row: Row) -> list[str]:
    """What became of CPU slabs, and how often a swap was tried again."""
    stat = row.stat
    ends = (
        ("Slab full", stat("deactivate_full")),
        ("Slab empty", stat("deactivate_empty")),
        ("Moved to head of partial list", stat("deactivate_to_head")),
        ("Moved to tail of partial list", stat("deactivate_to_tail")),
        ("Deactivation bypass", stat("deactivate_bypass")),
    )
    total = sum(number for _, number in ends)
    others = (
        ("Refilled from foreign frees", stat("alloc_refill")),
        ("Node mismatch", stat("alloc_node_mismatch")),
    )
    lines = [f"{'Slab Deactivation':<30} Occurrences %", "-" * 49]
    for name, number in ends:
        lines.append(f"{name:<30} {number:>10} {part_of(number, total):>3}%")
    lines += [f"{name:<30} {number:>10}" for name, number in others]
    redos = stat("cmpxchg_double_fail"), stat("cmpxchg_double_cpu_fail")
    if any(redos):
        lines += ["", "Cmpxchg_double Looping", "-" * 22]
        lines.append(f"Locked Cmpxchg Double redos   {redos[0]}")
        lines.append(f"Unlocked Cmpxchg Double redos {redos[1]}")
    return lines


def part_of(part: int, whole: int) -> int:
    """Whole percent; 0 of nothing."""
    return part * 100 // whole if whole else 0
