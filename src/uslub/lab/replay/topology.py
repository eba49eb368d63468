"""Another machine under the same events: fewer or more CPUs, other nodes.

Here: `Topology`, which maps the CPU and node columns of a chunk. Fewer CPUs: fold
(CPU modulo). More CPUs: spread by task; a task keeps to one virtual CPU of those
that its real CPU is split into, so that each migration of the trace remains one,
and an interrupt stays with the task that it interrupted. Nodes: CPUs are dealt
contiguously, a node asked for is scaled. All but the identity is a model of a
machine, not a measurement, and the result's header says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from uslub.lab.replay.settings import BadSetting

Column = npt.NDArray[Any]


@dataclass(frozen=True)
class Topology:
    """CPUs and nodes as traced and as replayed."""

    traced_cpus: int
    traced_nodes: int
    cpu_node: tuple[int, ...]  #: of the replayed machine

    @property
    def cpus(self) -> int:
        return len(self.cpu_node)

    @property
    def nodes(self) -> int:
        return max(self.cpu_node) + 1

    @property
    def kind(self) -> str:
        """`as traced`, `folded`, or `spread by task`."""
        if self.cpus == self.traced_cpus:
            return "as traced"
        return "folded" if self.cpus < self.traced_cpus else "spread by task"

    def map_cpus(self, cpu: Column, pid: Column) -> Column:
        """The replayed CPU of each row."""
        if self.cpus == self.traced_cpus:
            return cpu
        if self.cpus < self.traced_cpus:
            return np.asarray(cpu % self.cpus)
        ways = -(-self.cpus // self.traced_cpus)
        way = (pid.astype(np.int64) * 0x9E3779B1 >> 8) % ways
        return np.asarray((cpu + self.traced_cpus * way) % self.cpus)

    def map_nodes(self, node: Column) -> Column:
        """The node asked for by each row; -1 stays "any"."""
        if self.nodes == self.traced_nodes:
            return node
        return np.where(node < 0, -1, node * self.nodes // self.traced_nodes)


def make_topology(
    cpu_node: tuple[int, ...], cpus: int | None, nodes: int | None
) -> Topology:
    """The machine to replay on.

    Args:
        cpu_node: The node of each traced CPU.
        cpus: How many CPUs; None: as traced.
        nodes: How many nodes; None: as traced, or one per CPU if there are fewer.

    Raises:
        BadSetting: No CPU, no node, or more nodes than CPUs.
    """
    traced_nodes = max(cpu_node) + 1
    if cpus is not None and not 1 <= cpus <= 4096:
        raise BadSetting(f"{cpus} CPUs: replay on 1 to 4096")
    count = len(cpu_node) if cpus is None else cpus
    if nodes is None:
        if count == len(cpu_node):
            return Topology(len(cpu_node), traced_nodes, cpu_node)
        nodes = min(traced_nodes, count)
    if not 1 <= nodes <= count:
        raise BadSetting(f"{nodes} nodes on {count} CPUs: each node needs a CPU")
    dealt = tuple(cpu * nodes // count for cpu in range(count))
    if count == len(cpu_node) and nodes == traced_nodes:
        dealt = cpu_node
    return Topology(len(cpu_node), traced_nodes, dealt)
