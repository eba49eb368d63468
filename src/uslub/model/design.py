"""The five designs, as small differences in policy over one core.

Here: `Design`, a list of named decisions, and `DESIGNS`. Every field is read at
one or two places of the transitions; nothing else tells the designs apart.
Not here: the transitions themselves.

`classic` is what the engine of this project does: the decision rules of 6.17
with slabs on CPU chains frozen, as up to 6.7, and a reserve that ordinary
requests cannot reach even through a CPU freelist.
"""

from __future__ import annotations

from dataclasses import dataclass

from uslub.model.errors import CacheError


@dataclass(frozen=True, slots=True)
class Design:
    """One generation of SLUB."""

    name: str
    era: str  #: which size formulae: "5.10", "6.8", "6.18"
    cpu_slabs: bool = True  #: False: no CPU slabs, no chains (7.x)
    chain_frozen: bool = False  #: slabs on a CPU's chain are frozen (up to 6.7)
    chain_counts_objects: bool = False  #: chains bounded by free objects (5.10)
    pop_rechecks: bool = False  #: a popped slab becomes the CPU slab first (5.10)
    pop_counts_all: bool = False  #: CPU_PARTIAL_ALLOC for every pop (up to 6.8)
    thisnode_first: bool = True  #: a named node is tried alone before others
    thisnode_may_dip: bool = False  #: that try may use the reserve (classic)
    named_node_ends_search: bool = False  #: a named node is the only one (to 6.8)
    deactivates_singly: bool = False  #: two stages, object by object (5.10)
    shields_reserve: bool = False  #: reserve slabs never stay CPU slabs (classic)
    destroy_refuses: bool = False  #: a busy cache survives destroy (classic)
    reclaims: bool = False  #: out of memory only after flushing all (classic)
    sheaves: str = "none"  #: "none", "asked" (6.18) or "all" (7.x)


DESIGNS = {
    design.name: design
    for design in (
        Design(
            "5.10",
            "5.10",
            chain_frozen=True,
            chain_counts_objects=True,
            pop_rechecks=True,
            pop_counts_all=True,
            thisnode_first=False,
            named_node_ends_search=True,
            deactivates_singly=True,
        ),
        Design(
            "classic",
            "6.18",
            chain_frozen=True,
            thisnode_may_dip=True,
            shields_reserve=True,
            destroy_refuses=True,
            reclaims=True,
        ),
        Design(
            "6.8",
            "6.8",
            pop_counts_all=True,
            thisnode_first=False,
            named_node_ends_search=True,
        ),
        Design("6.18", "6.18", sheaves="asked"),
        Design("7.1", "6.18", cpu_slabs=False, sheaves="all"),
    )
}


def find_design(design: str | Design) -> Design:
    """The design of that name; a `Design` is passed through.

    Raises:
        CacheError: No such design; the text lists the known ones.
    """
    if isinstance(design, Design):
        return design
    if design not in DESIGNS:
        raise CacheError(f"no design {design!r}: choose one of {', '.join(DESIGNS)}")
    return DESIGNS[design]
