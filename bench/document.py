"""summary.md beside the samples, and docs/benchmarks.md: both written from the run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from python.transports import entry
from ratios import Line, percentile, span
from rounds import Samples, Series
from verdicts import PEERS, lines, overheads, size_name
from verdicts_recovery import CALLS, HELD, victim
from verdicts_sharing import WORDS, size_word
from workloads.recovery import LOCKS
from workloads.sharing import SIZES, WAYS

CAPTIONS = {
    "pair.svg": "The hottest path: one object, again and again.",
    "live.svg": "Cost against the number of live objects.",
    "caches.svg": "Cost against the number of caches.",
    "large.svg": "A picture-sized object.",
    "python.svg": "What one statement costs in Python.",
    "handoff.svg": "Made here, freed elsewhere.",
    "memory.svg": "Memory beside the payload.",
    "transfer.svg": "One message from a process to another, made in place.",
    "recovery.svg": "Until all of a killed process is back.",
    "sharing.svg": "DataLoader, one table to four workers, many processes.",
}

#: Workload, head of its table.
LAB = (
    ("lab replay", "Lab: replay, per event"),
    ("lab import", "Lab: import, per line"),
    ("lab peer", "Lab: whole processes, per event"),
)

READING = """\
## How to read it

- A figure is the median over processes of each process's median; *ratio* is the median
  over rounds of the ratio within a round, *calm* that of the best process on either
  side. Whiskers and bands in the plots are quartiles over the processes.
- Subjects take turns, a fresh process each, so that a noisy neighbour meets all of
  them; how busy the machine was with others is in the table at the end.
- A target is *met* if both ratios meet it, *undecided (noise)* if only one does.
- C figures are through a shared library (`libuslub.so`, `LD_PRELOAD` for the others),
  as a C program would call them; "static" is linked in, as in the Python extension.
  Python figures carry a tenth of timeit's loop (the row *empty loop*), on both sides.

## What the plots cannot show

- **Hot means hot.** In `pair` the same 64 bytes come back each time. It measures
  instructions and two locked 16-byte swaps, not memory. `live`, random replacement, is
  the other end: there every step misses the processor's caches, and the dotted line
  (touching alone) is the floor that no allocator can go below.
- **Flatness depends on the pattern.** A pair beside n live objects asks whether
  anything in the allocator grows with n. Random replacement asks something else: how
  many cache lines a free needs that is not for the CPU's own slab. Both are shown, with
  the peers measured in the same way; the target is put on the first. With n caches in
  turn the cost includes the misses on n sets of per-CPU words; the plain mutex and
  free list pays for its own.
- **uslub does more than its peers.** Each pair also keeps an owner tag and an intent
  record (so that a killed process can be cleaned up after), checks the address, and
  works for all processes that map the arena. No peer here can hand memory to another
  process.
- **Hand-over of the mallocs is between threads**, since they cannot do it between
  processes; "mutex + free list" stands there for copying 64 bytes through the ring,
  with no allocator at all.
- **Memory** is what the arena's file occupies (`us_arena_stat`); the page tables of
  each process come on top. For malloc it is the growth of the resident set, whose
  resolution is a page.
- **The lab's peer answers one of two questions.** `perf kmem stat` counts bytes and
  hits by call site, in C. `uslub trace stat` answers the same, with peaks and
  lifetimes, in columns (NumPy, pyarrow); half of its time is the start of Python and
  of these two. `uslub replay` runs every event through the executable specification of
  the allocator, in Python, and predicts slabs, lists and locks of each cache. The
  events are those of `sample:linux-6.18` for all: for perf as a perf.data file that
  `bench/python/perf_data.py` wrote, for uslub in its compact form. Times are of whole
  processes, start of the interpreter included; the replay is also timed without that.
- **Memory of the lab** is the peak resident size of a process that replays one life of
  a kernel again and again, each time freed to the last object.
- **Where the source lies matters for large copies.** Source and target exactly
  2^28 + 16 bytes apart, which is where a large `malloc()` after the creation of a
  256 MiB arena ends up, make the copy slower (the line *unlucky distance*). Everywhere
  else here the source moves.
- **Sharing.** A message is looked at by its receiver (its number, one byte of each
  4 KiB page), so that a figure holds what it costs to *have* it, and no more. *Made in
  place* means eight bytes written per message: bytes a second are then delivered, not
  moved, and SharedMemory per message is spared the filling of its fresh pages. Who
  cannot make a message in place sends an ordinary array there. At most eight messages
  are under way. *Latency* is of one message at a time, with the sender pausing 50 µs in
  between so that a receiver that sleeps does sleep; a CPU of a virtual machine that
  fell idle adds 25 to 60 µs to any wake-up, for all who sleep alike. Who polls burns
  two CPUs and is pinned to them; nobody else is pinned. The rings are written by hand
  for one size, one sender and one receiver: the floor, and no peer. The row *uslub
  Channel* sends objects of a cache, each new, the row *arrays* what `arena.ndarray()`
  gives, with dtype and shape.
- **Recovery** is the time of one `arena.reap()` in another process, which also zeroes
  every object. It is the first in that process, which has never touched the dead one's
  pages and takes a page fault for each; *again* is a later one in the same process.
  *At work* means killed in a loop of allocations and frees: many of these died inside
  the allocator, and the cache was made anew from its owner tags.
- **A stopped holder** has taken the lock by the engine's own function and stopped
  itself. The first caller that cannot have the lock waits for some milliseconds and
  marks it, nobody waits after that: so the maximum is one call's, and the median that
  of the detour. Maxima hold whatever else the machine did: beside them stands the same
  with a stopped process that holds nothing.
- **The price of crash safety** is that of the intent and the owner tag, in a build that
  has neither (`US_NO_CRASH_SAFETY`, of no other use: nothing of the dead comes back,
  no double free is noticed). Locks that name their holder, bounded waiting and the
  versions of words are in both.
- **Page faults are dear in a virtual machine**, several times as dear as on bare metal:
  whoever maps fresh memory for each message looks worse here than there. The order
  stays, the ratios shrink.
- **Two vCPUs may be one core.** On such a machine a busy neighbour slows all figures by
  up to 1.8, and those with locked instructions most. Differences under 10 % mean
  nothing.
"""


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; all columns but the first and the last text ones are narrow."""
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(out + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def targets(found: list[Line]) -> str:
    """The lines of the issue."""
    header = ("what", "uslub", "beside", "ratio", "calm", "target", "")
    rows = [
        (
            line.what,
            line.ours,
            line.beside,
            f"{line.typical:.3g}",
            f"{line.best:.3g}",
            line.target,
            f"**{line.verdict}**" if line.verdict else "",
        )
        for line in found
    ]
    return table(header, rows)


def figures(series: list[Series], name: str) -> str:
    """Every subject of one workload."""
    header = (name, "typical", "quartiles", "best", "processes")
    rows = [
        (
            one.subject,
            span(one.typical),
            " to ".join(span(value) for value in one.spread),
            span(one.best),
            str(len(one.rounds)),
        )
        for one in sorted(series, key=lambda s: s.typical)
    ]
    return table(header, rows)


def transfers(samples: Samples) -> str:
    """Every transport: messages a second, and how long one takes, by size and way."""
    parts = []
    for size, way in itertools.product(SIZES, WAYS):
        rows = samples.find("transfer", size=size, way=way)
        late = {one.subject: one for one in rows if one.metric == "latency_ns"}
        rates = sorted(
            (one for one in rows if one.metric == "ns"), key=lambda s: s.typical
        )
        header = (f"{size_word(size)}, {WORDS[way]}", "receiver", "messages/s", "GB/s")
        header += ("latency p50", "p99", "of")
        cells = [
            (
                one.subject,
                "polls" if entry(one.subject).polls else "sleeps",
                f"{1e9 / one.typical:,.0f}",
                f"{size / one.typical:.3g}",
                span(percentile(late[one.subject], 50)),
                span(percentile(late[one.subject], 99)),
                str(sum(map(len, late[one.subject].rounds))),
            )
            for one in rates
        ]
        if cells:
            parts.append(table(header, cells))
    return "\n".join(parts)


def sharing(samples: Samples) -> str:
    """What was measured of several processes, beside the lines with targets."""
    parts = [transfers(samples)]
    for workers in (1, 2):
        if rows := samples.find("loader", workers=workers):
            parts.append(figures(rows, f"DataLoader, {workers} worker(s), a batch"))
    for name in ("Arrow table", "DataFrame"):
        if rows := samples.find("frames", table=name):
            parts.append(figures(rows, f"{name} of 60 MB to four workers"))
    rows = [
        Series("crowd", {}, f"{one.params['n']} processes, {word}", "ns", one.rounds)
        for metric, word in (("ns", "wall time"), ("cpu_ns", "CPU time"))
        for one in samples.find("crowd")
        if one.metric == metric
    ]
    parts.append(figures(rows, "Allocate here, free there, 64 B"))
    return "\n".join(parts)


def recovery(samples: Samples) -> str:
    """Every arena and number of objects, and every lock."""
    header = ("killed", "until all is back", "best", "CPU time", "again", "processes")
    cells = []
    for one in samples.find("recovery"):
        if one.metric == "ns":
            beside = [
                samples.get("recovery", "uslub", metric, **one.params).typical
                for metric in ("cpu_ns", "warm_ns")
            ]
            times = (one.typical, one.best, *beside)
            cells.append((victim(one), *map(span, times), str(len(one.rounds))))
    parts = [table(header, cells)]
    header = ("a stopped process holds", "call", "median", "99 %", "maximum", "failed")
    cells = []
    for lock in LOCKS:
        found = {one.metric: one for one in samples.find("stopped", lock=lock)}
        for call in CALLS if found else ():
            times = [found[f"{call}_{part}_ns"] for part in ("p50", "p99", "max")]
            failed = sum(map(sum, found["failed"].rounds))
            cells.append(
                (
                    HELD.get(lock, "no lock"),
                    call,
                    *(span(one.typical) for one in times),
                    f"{failed:g}",
                )
            )
    parts.append(table(header, cells))
    for threads, name in ((0, "one thread"), (2, "two threads at once")):
        if found := samples.find("price", threads=threads):
            parts.append(figures(found, f"C pair, 64 B, {name}"))
    return "\n".join(parts)


def memory(samples: Samples) -> str:
    """Bytes beside the payload."""
    rows = overheads(samples)
    peers = [peer for peer in PEERS if all(peer in row.peers for row in rows)]
    header = ("object", "live", "uslub", "of that, rounding of the size", *peers)
    cells = [
        (
            size_name(row.size),
            f"{row.count:,}",
            f"{row.ours:.4f}",
            f"{row.slots:.4f}",
            *(f"{row.peers[peer]:.4f}" for peer in peers),
        )
        for row in rows
    ]
    constant = min(row.constant for row in rows)
    return (
        "Bytes beside the payload per live byte (0.05: 5 % on top), the arena's own "
        f"{constant // 1024:,} KiB included.\n\n" + table(header, cells)
    )


def loads(samples: Samples) -> str:
    """How quiet it was."""
    rows = [
        (
            one.workload,
            f"{one.seconds:.0f} s",
            f"{one.foreign:.0%}",
            f"{one.steal:.0%}",
            f"{one.slowdown:.2f}",
        )
        for one in samples.loads
    ]
    header = ("workload", "took", "CPU used by others", "stolen", "slowdown")
    text = """
*Slowdown* is of a fixed loop between the processes, typical over the best of the whole
run: what neighbours outside of this virtual machine do to it shows there alone.
"""
    return table(header, rows) + text


def machine(env: dict[str, Any]) -> str:
    """One paragraph."""
    cpu, debian = env["cpu"], env["debian_packages"]
    versions = ", ".join(f"{name} {version}" for name, version in debian.items())
    missing = ", ".join(env["peers_missing"])
    text = (
        f"{env['date']}, {cpu['cpus']} CPUs, {cpu['model']} "
        f"(hypervisor: {cpu['hypervisor']}), Linux {env['kernel']}, "
        f"{env['compiler']}, Python {env['python']}; {versions}; "
        f"commit {env['commit']}."
    )
    return text + (f" Not measured: {missing}." if missing else "") + "\n"


def summary(samples: Samples, env: dict[str, Any]) -> str:
    """The whole outcome without plots."""
    parts = [f"# Benchmarks, {env['date']}\n", machine(env), targets(lines(samples))]
    if env["small"]:
        parts.insert(1, "**A small run: the figures are smoke, not measurements.**\n")
    names = ("one thread", "a second thread sleeps", "two threads at once")
    for threads, name in enumerate(names):
        rows = samples.find("pair", threads=threads)
        parts.append(figures(rows, f"C pair, 64 B, {name}"))
    parts.append(figures(samples.find("python micro"), "Python, one statement"))
    parts.append(figures(samples.find("python large"), "Python, 6.2 MB written"))
    parts.append(figures(samples.find("python handoff"), "Python, hand-over, 64 B"))
    for metric, name in (
        ("take_ns", "allocate"),
        ("give_ns", "free"),
        ("ns", "stream"),
    ):
        rows = [s for s in samples.find("handoff") if s.metric == metric]
        parts.append(figures(rows, f"C hand-over, 64 B: {name}"))
    for workload, name in LAB:
        if rows := samples.find(workload):
            parts.append(figures(rows, name))
    parts += [sharing(samples), recovery(samples), memory(samples), loads(samples)]
    return "\n".join(parts)


def document(
    samples: Samples, env: dict[str, Any], plots: list[str], folder: Path, page: Path
) -> str:
    """docs/benchmarks.md: the same with plots and what they cannot show."""
    where = Path(os.path.relpath(folder, page.parent)).as_posix()
    parts = [
        "# Benchmarks\n",
        "Written by `make bench` from its last full run; do not edit. "
        f"Raw samples and machine file: [{folder.name}]({where}/samples.json), "
        f"[env.json]({where}/env.json).\n",
        machine(env),
        targets(lines(samples)),
        READING,
    ]
    parts.append("## Plots\n")
    parts += [
        f"{CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({where}/{name})\n" for name in plots
    ]
    parts += ["## Sharing: every transport\n", sharing(samples)]
    parts += ["## Recovery, stopped holders, the price\n", recovery(samples)]
    parts += ["## Memory\n", memory(samples)]
    parts += ["## How quiet the machine was\n", loads(samples)]
    return "\n".join(parts)
