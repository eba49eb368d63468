"""`uslub explain --from TRACE --cache C`: a moment of a real kernel's life, drawn.

The trace is replayed up to the moment; then the cache's CPUs, lists and slabs are drawn
as in the other stories, and its next events are taken one by one. To show what leads to
the next slow path, the first remote free or the first drain, the trace is replayed
twice: once to find the event, once to stop a few events before it. Relies on
`uslub.lab.replay`; the drawings are those of `explain_draw`.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from rich.text import Text

from uslub.errors import BadArgument
from uslub.lab.replay import prepare
from uslub.lab.replay.replaying import Prepared, moment_time, opened
from uslub.lab.trace import Trace, TraceError
from uslub.model import Cache, Step
from uslub.tools.attach import UsageError, suggestion
from uslub.tools.explain_draw import Drawing, draw
from uslub.tools.explain_story import Done, Shown, Story

SLABS_DRAWN = 14
FAST = ("slab_alloc", "slab_free")
Item = tuple[int, int, int, int, int, int, int]

WHAT = {
    "slow": "the next event that leaves the fast path",
    "remote": "the first free from another CPU than the allocation's",
    "drain": "the first time that a CPU hands a chain or a sheaf back",
}


def moment_of_trace(
    trace: Trace | str | Path,
    cache: str | None,
    *,
    at: str | None = None,
    until: str | None = None,
    steps: int = 3,
    design: str | None = None,
) -> Story:
    """The story of one cache around one moment.

    Args:
        trace: Opened, or its path, or `sample:NAME`.
        cache: Name or alias.
        at: Seconds on the trace's clock, or a checkpoint's name; None: its beginning.
        until: One of `WHAT`: go on to the next such event of this cache.
        steps: Events of the cache to show; with `until` the last one is the one found.
        design: Of SLUB; None: the traced kernel's.

    Raises:
        UsageError: No such cache, moment or event, or a design that has no such lists.
    """
    try:
        source = opened(trace)
        index = find_cache(source, cache)
        time_ns = None if at is None else moment_time(source, at)
        ready, model = start(source, index, design, time_ns)
    except (BadArgument, TraceError) as error:
        raise UsageError(str(error)) from error
    name = source.header.caches[index].name
    story = Story(name, 0, question(source, name, ready, until))
    first_row = None
    if until is not None:
        first_row = find_event(ready, index, model, until, max(1, steps))
        ready, model = start(source, index, design, None)
        ready.replayer.run(until_row=first_row)
    now = ready.replayer.time_ns / 1e9
    lines = [Text("    ").append_text(line) for line in some(model, set()).values()]
    story.parts.append(
        Shown(f"at {now:.6f} s, before row {ready.replayer.row:,}", lines)
    )
    show_events(story, ready, index, model, max(0, steps))
    return story


def find_cache(trace: Trace, name: str | None) -> int:
    """Index of the cache.

    Raises:
        UsageError: None was named, or there is none of that name.
    """
    names = [info.name for info in trace.header.caches]
    if name is None:
        raise UsageError("explain --from: name one of the trace's caches with --cache")
    try:
        return trace.header.cache_index(name)
    except KeyError:
        raise UsageError(
            f"the trace has no cache {name!r}{suggestion(name, names)};"
            " `uslub trace info --caches` lists them"
        ) from None


def start(
    trace: Trace, index: int, design: str | None, time_ns: int | None
) -> tuple[Prepared, Cache]:
    """A replay up to that time, and the cache in it.

    Raises:
        UsageError: The design is not one of SLUB's.
    """
    ready = prepare(trace, design, own_objects="traced")
    model = ready.machine.caches[index]
    if not isinstance(model, Cache):
        raise UsageError(
            f"explain --from: design {design} has no CPU slabs, chains or sheaves to"
            " draw: choose one of SLUB's"
        )
    if time_ns is not None:
        ready.replayer.run(until_ns=time_ns)
    return ready, model


def question(trace: Trace, name: str, ready: Prepared, until: str | None) -> str:
    """What the story is about."""
    kernel, design = trace.header.kernel, ready.header["design"]
    seconds = ready.replayer.time_ns / 1e9
    text = f"{name} of {kernel} on design {design}, from {seconds:.6f} s on"
    return f"{text}: {WHAT[until]}" if until else text


def is_it(until: str, steps: list[Step], remote: bool) -> bool:
    """Is this the event that was asked for?"""
    if until == "remote":
        return remote
    if until == "drain":
        return any(
            (step.function == "put_cpu_partial" and "drained" in step.why)
            or step.function == "flush_sheaf"
            for step in steps
        )
    return any(step.function not in FAST for step in steps)


def remote_frees(cache: Cache) -> int:
    """Frees so far from another CPU."""
    return sum(c.lines.cross_cpu_frees for c in cache.cpus)


def find_event(
    ready: Prepared, index: int, model: Cache, until: str, context: int
) -> int:
    """The row from which `context` events of the cache lead to the event asked for.

    Raises:
        UsageError: There is none in what is left of the trace.
    """
    before: deque[int] = deque(maxlen=context)
    steps: list[Step] = []
    machine = model.machine
    begin = ready.replayer.time_ns / 1e9
    for item in ready.replayer.items():
        row, _, kind, cpu, cache, object_id, node = item
        mine = ours(ready, cache, index)
        if mine:
            before.append(row)
            steps.clear()
            remote = remote_frees(model)
            machine.watch = steps.append
        ready.replayer.do(kind, cpu, cache, object_id, node)
        machine.watch = None
        if mine and is_it(until, steps, remote_frees(model) > remote):
            return before[0]
    raise UsageError(
        f"explain --from: after {begin:.6f} s cache {model.name!r} has no such event"
        f" ({WHAT[until]}): begin earlier"
    )


def ours(ready: Prepared, cache: int, index: int) -> bool:
    """Is this an event of that cache? (Indexes beyond the caches carry a policy.)"""
    caches = ready.machine.caches
    return caches[cache % len(caches)] is caches[index]


def show_events(
    story: Story, ready: Prepared, index: int, model: Cache, count: int
) -> None:
    """The next events of the cache, each with its functions and the state after it."""
    machine, shown = model.machine, 0
    if not count:
        return
    for row, time, kind, cpu, cache, object_id, node in ready.replayer.items():
        if not ours(ready, cache, index):
            ready.replayer.do(kind, cpu, cache, object_id, node)
            continue
        steps: list[Step] = []
        held = ready.replayer.held
        position = held.get(object_id)
        touched = set() if position is None else {position[0]}
        before, counters = draw(model), model.stats()
        machine.watch = steps.append
        ready.replayer.do(kind, cpu, cache, object_id, node)
        machine.watch = None
        position = held.get(object_id, position)
        touched |= {step.slab for step in steps if step.slab is not None}
        if position is not None:
            touched.add(position[0])
        after = draw(model)
        counted = {
            name: number - counters.get(name, 0)
            for name, number in model.stats().items()
            if number != counters.get(name, 0)
        }
        what = said(kind, cpu, node, position, time, row)
        keys = wanted(model, touched)
        old = {key: line for key, line in before.items() if key in keys}
        new = {key: line for key, line in after.items() if key in keys}
        story.parts.append(Done(what, steps, old, new, counted))
        shown += 1
        if shown == count:
            return


def said(
    kind: int,
    cpu: int,
    node: int,
    position: tuple[int, int] | None,
    time: int,
    row: int,
) -> str:
    """An event in words."""
    where = "an object not seen before" if position is None else ""
    if position is not None:
        where = f"object {position[1]} of slab {position[0]}"
    verb = "free" if kind else "allocation"
    asked = f", node {node} asked for" if node >= 0 and not kind else ""
    return f"{time / 1e9:.6f} s, row {row:,}: {verb} on cpu {cpu}, {where}{asked}"


def wanted(model: Cache, touched: set[int]) -> set[str]:
    """Keys of the drawing that matter: CPUs, nodes, and the nearest slabs."""
    keys = {f"cpu {c.number}" for c in model.cpus}
    keys |= {f"node {node.number}" for node in model.nodes}
    slabs = sorted(touched)
    for c in model.cpus:
        slabs += [] if c.slab is None else [c.slab.number]
        slabs += [slab.number for slab in reversed(c.partial[-2:])]
    for node in model.nodes:
        slabs += [slab.number for slab in list(node.partial)[:2]]
    chosen = list(dict.fromkeys(slabs))[:SLABS_DRAWN]
    return keys | {f"slab {number}" for number in chosen}


def some(model: Cache, touched: set[int]) -> Drawing:
    """The part of the drawing that fits a screen, and how much is left out."""
    keys = wanted(model, touched)
    drawing = draw(model)
    part = {key: line for key, line in drawing.items() if key in keys}
    hidden = len(drawing) - len(part)
    if hidden:
        part["more"] = Text(f"... {hidden} more slabs")
    return part
