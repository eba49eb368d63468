"""The lines of the sharing workloads: one heap, several processes, beside the peers.

*rate*: how many times as many messages a second; *latency*: how many times as quick, at
the median. Who sleeps is compared with who sleeps, who polls with who polls; the
Channel that sleeps must also have the better rate than those that poll.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from python import transports
from ratios import Line, compare, span
from rounds import Samples, Series
from workloads.sharing import SIZES, WAYS

#: Written by hand for one size and one receiver: the floor, and no peer.
RINGS = (transports.RING, transports.RING_POLLED)
WORDS = {"copied": "copied in", "made": "made in place"}
EQUAL = 0.9  # differences under a tenth mean nothing (docs/benchmarks.md)


def size_word(size: int) -> str:
    words = dict(zip(SIZES, ("4 KB", "1 MB", "1080p frame"), strict=True))
    return words[size]


def cheapest(rows: list[Series], *, polls: bool | None) -> Series | None:
    """The best peer that waits in this way (None: in any); None if there is none."""
    peers = [
        one
        for one in rows
        if not one.subject.startswith("uslub")
        and one.subject not in RINGS
        and polls in (None, transports.entry(one.subject).polls)
    ]
    return min(peers, key=lambda one: one.typical, default=None)


def against(what: str, ours: Series, other: Series | None, asked: float | None) -> Line:
    """How many times better ours is; without a peer the figure alone."""
    if other is None:
        return Line(what, span(ours.typical), "nobody here", 1.0, 1.0)
    return compare(what, ours, other, at_least=asked, upside_down=True)


def frame_lines(samples: Samples) -> Iterator[Line]:
    """A 1080p frame, made in place, to a waiting process."""
    asked = {
        transports.QUEUE: 100.0,
        transports.SEGMENTS: 30.0,
        transports.RING: EQUAL,
    }
    for subject, target in asked.items():
        for size in reversed(SIZES):
            rows = samples.find("transfer", size=size, way="made")
            found = {one.subject: one for one in rows if one.metric == "ns"}
            if found:
                ours, other = found[transports.CHANNEL], found[subject]
                frame = size == SIZES[-1]
                what = f"Sharing: {size_word(size)}, made in place, rate"
                yield against(what, ours, other, target if frame else None)


def peer_lines(samples: Samples) -> Iterator[Line]:
    """The same and smaller ones, beside everybody else's queues."""
    for size, way in itertools.product(SIZES, WAYS):
        rows = samples.find("transfer", size=size, way=way)
        for metric, word in (("ns", "rate"), ("latency_ns", "latency")):
            found = [one for one in rows if one.metric == metric]
            for ours in found:
                if ours.subject in (transports.CHANNEL, transports.CHANNEL_POLLED):
                    polls = transports.entry(ours.subject).polls
                    how = "polling" if polls else "sleeping"
                    what = f"Sharing: {size_word(size)}, {WORDS[way]}, {word}, {how}"
                    everybody = metric == "ns" and not polls
                    other = cheapest(found, polls=None if everybody else polls)
                    yield against(what, ours, other, 1.0)


def handle_lines(samples: Samples) -> Iterator[Line]:
    """A queue that knows nothing of uslub, and user code as it was."""
    for size in SIZES:
        for way in reversed(WAYS):
            rows = samples.find("transfer", size=size, way=way)
            found = {one.subject: one for one in rows if one.metric == "latency_ns"}
            if found:
                what = f"Sharing: {size_word(size)}, {WORDS[way]}, as a handle through"
                what += " multiprocessing.Queue, latency"
                ours, other = found[transports.HANDLES], found[transports.QUEUE]
                asked = 20.0 if way == "made" and size > SIZES[0] else None
                yield against(what, ours, other, asked)


def frame_to_workers_lines(samples: Samples) -> Iterator[Line]:
    """One table of 60 MB to four workers."""
    for table in ("Arrow table", "DataFrame"):
        rows = {one.subject: one for one in samples.find("frames", table=table)}
        if rows:
            handle, pickled = rows["uslub handle, Pipe"], rows["pickled, Pipe"]
            what = f"Sharing: {table} of 60 MB to four workers, per worker"
            yield against(what, handle, pickled, 300.0)
            once = rows["uslub arena.dumps, once"]
            yield against(f"Sharing: {table}, arena.dumps, once", once, pickled, None)


def loader_lines(samples: Samples) -> Iterator[Line]:
    """DataLoader of PyTorch."""
    for workers in (1, 2):
        rows = {one.subject: one for one in samples.find("loader", workers=workers)}
        if rows:
            what = "Sharing: DataLoader, batches of 128x3x224x224 uint8,"
            what += f" {workers} worker{'s' if workers > 1 else ''}"
            yield against(what, rows["uslub.torch.collate"], rows["stock"], 8.0)


def crowd_lines(samples: Samples) -> Iterator[Line]:
    """Processes on one arena, beside two of them."""
    rows = [one for one in samples.find("crowd") if one.metric == "ns"]
    two = next((one for one in rows if one.params["n"] == 2), None)
    for one in rows:
        if two is not None and one is not two:
            count = one.params["n"]
            what = "Sharing: allocate here, free there, 64 B,"
            what += f" {count} process{'es' if count > 1 else ''}"
            line = compare(what, one, two, 1.5)
            beside = f"two processes {span(two.typical)}"
            yield Line(what, line.ours, beside, line.typical, line.best, 1.5)


def sharing_lines(samples: Samples) -> list[Line]:
    """All of them."""
    return [
        *frame_lines(samples),
        *peer_lines(samples),
        *handle_lines(samples),
        *loader_lines(samples),
        *frame_to_workers_lines(samples),
        *crowd_lines(samples),
    ]
