"""Measuring in rounds: in every round each subject gets a turn, in a fresh process.

A neighbour on the machine then disturbs all subjects alike. Kept is every sample; a
process speaks through its median, a subject through the median and the best of its
processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

TIMEOUT_SECONDS = 120
PROBES: list[list[float]] = []  # by Watch, so far


@dataclass
class Series:
    """What one subject gave in one workload."""

    workload: str
    params: dict[str, Any]
    subject: str
    metric: str  #: "ns" per operation unless it says otherwise
    rounds: list[list[float]] = field(default_factory=list)  #: samples by process

    @property
    def medians(self) -> list[float]:
        return [statistics.median(samples) for samples in self.rounds]

    @property
    def typical(self) -> float:
        return statistics.median(self.medians)

    @property
    def best(self) -> float:
        return min(self.medians)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the medians."""
        if len(self.medians) < 2:
            return self.best, self.best
        low, _, high = statistics.quantiles(self.medians, n=4, method="inclusive")
        return low, high


@dataclass
class Load:
    """How busy the machine was with others while a workload ran."""

    workload: str
    seconds: float
    foreign: float  #: CPU time of others, as a part of all CPU time
    steal: float  #: CPU time that the hypervisor gave to somebody else
    slowdown: float  #: of a fixed loop between the processes, typical over best


class Samples:
    """Everything that was measured, in order."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.loads: list[Load] = []

    def get(
        self, workload: str, subject: str, metric: str = "ns", **params: Any
    ) -> Series:
        """The one series with these properties.

        Raises:
            KeyError: There is none.
        """
        for one in self.series:
            same = (one.workload, one.subject, one.metric) == (
                workload,
                subject,
                metric,
            )
            if same and all(one.params.get(k) == v for k, v in params.items()):
                return one
        raise KeyError((workload, subject, metric, params))

    def find(self, workload: str, **params: Any) -> list[Series]:
        """All series of a workload with these parameters."""
        return [
            one
            for one in self.series
            if one.workload == workload
            and all(one.params.get(k) == v for k, v in params.items())
        ]

    def add(
        self,
        workload: str,
        params: Mapping[str, Any],
        subject: str,
        metric: str,
        samples: Sequence[float],
    ) -> None:
        """One process's samples; times to four digits, the noise is in the second."""
        try:
            series = self.get(workload, subject, metric, **params)
        except KeyError:
            series = Series(workload, dict(params), subject, metric)
            self.series.append(series)
        if metric.endswith("ns"):
            samples = [float(f"{value:.4g}") for value in samples]
        series.rounds.append(list(samples))

    def to_json(self) -> str:
        """One series per line: raw, and readable by a diff."""
        rows = [json.dumps(asdict(one)) for one in self.series]
        loads = [json.dumps(asdict(one)) for one in self.loads]
        series, busy = ",\n  ".join(rows), ",\n  ".join(loads)
        return f'{{"schema": 1,\n "loads": [\n  {busy}],\n "series": [\n  {series}]}}\n'


class Watch:
    """A context manager that adds a Load to the samples."""

    def __init__(self, samples: Samples, workload: str) -> None:
        self.samples, self.workload = samples, workload

    def __enter__(self) -> None:
        PROBES.append([])
        self.start = time.monotonic(), *machine_seconds(), own_seconds()

    def __exit__(self, *details: object) -> None:
        start, busy, steal, own = self.start
        seconds = time.monotonic() - start
        busy_now, steal_now = machine_seconds()
        busy, steal = busy_now - busy, steal_now - steal
        room = max(seconds * (os.cpu_count() or 1), 1e-9)
        foreign = max(0.0, busy - (own_seconds() - own)) / room
        shares = (round(foreign, 3), round(steal / room, 3))
        probes = PROBES[-1]
        slowdown = statistics.median(probes) / min(map(min, PROBES)) if probes else 1.0
        load = Load(self.workload, round(seconds, 2), *shares, round(slowdown, 2))
        self.samples.loads.append(load)


def probe() -> float:
    """Seconds of a fixed piece of work: a neighbour on the same core shows here."""
    start = time.perf_counter()
    sum(range(30_000))
    return time.perf_counter() - start


def machine_seconds() -> tuple[float, float]:
    """CPU seconds that anybody used, and that were stolen, since boot."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq) / tick, steal / tick


def own_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def ask(
    command: Sequence[str],
    preload: str | None = None,
    timeout: int = TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Run one measuring process; its JSON."""
    if PROBES:
        PROBES[-1].append(probe())
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)
    if preload:
        environment["LD_PRELOAD"] = preload
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode != 0:
        words = " ".join(command)
        raise RuntimeError(f"{words}: status {done.returncode}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
