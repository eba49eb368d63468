"""Who holds what: the simple model that real processes are compared with.

An object lives as long as anything holds it: a process (that counts its references for
itself), a message in a channel, or a handle that was sent and not yet received. That of
a sender that is gone may arrive or not ("loose"): its hold is given back after a while.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: What a reference is. A "late" one was got before its process closed the arena: it
#: stays valid, but nothing new can be done with it.
OBJECT, ARRAY, VIEW, LATE = "object", "array", "view", "late"
SENDABLE = (OBJECT, ARRAY, VIEW)


@dataclass
class Ticket:
    """One pickled handle."""

    number: int
    handle: bytes
    sender: Party
    visit: int  #: which time of the sender in the arena
    epoch: int  #: of the object: a handle does not outlive a move
    pending: bool = True


@dataclass(eq=False)
class Party:
    """One process: its references, in order, by the number of the object."""

    name: str
    refs: dict[int, list[str]] = field(default_factory=dict)
    attached: bool = False
    visit: int = 0
    alive: bool = True

    def keep(self, number: int, kind: str) -> None:
        self.refs.setdefault(number, []).append(kind)

    def drop(self, number: int, which: int) -> None:
        del self.refs[number][which]
        if not self.refs[number]:
            del self.refs[number]

    def sendable(self) -> list[tuple[int, int]]:
        """Object and place of each reference that may be sent."""
        return [
            (number, place)
            for number, kinds in self.refs.items()
            for place, kind in enumerate(kinds)
            if kind in SENDABLE
        ]

    def close(self) -> None:
        self.attached = False
        self.visit += 1
        self.refs = {number: [LATE] * len(own) for number, own in self.refs.items()}


@dataclass
class Holders:
    """The whole truth about one arena."""

    capacity: int
    channels: list[deque[int]]
    parties: list[Party] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    kinds: dict[int, str] = field(default_factory=dict)  #: of every object ever made
    epochs: dict[int, int] = field(default_factory=dict)

    def make(self, kind: str) -> int:
        """The number of a new object."""
        number = len(self.kinds) + 1
        self.kinds[number], self.epochs[number] = kind, 0
        return number

    def leave(self, who: Party) -> None:
        """A process ends, in whatever way."""
        self.parties.remove(who)
        who.alive = False
        who.refs.clear()
        who.close()

    def given_back(self, number: int) -> None:
        """A loose handle did not arrive: what it held is gone."""
        for ticket in self.tickets:
            if ticket.number == number and self.loose(ticket):
                ticket.pending = False

    def loose(self, ticket: Ticket) -> bool:
        return ticket.pending and ticket.visit != ticket.sender.visit

    def surely_alive(self) -> set[int]:
        """Objects that something holds for certain."""
        held = {number for party in self.parties for number in party.refs}
        held |= {number for channel in self.channels for number in channel}
        return held | {
            one.number for one in self.tickets if one.pending and not self.loose(one)
        }

    def perhaps_alive(self) -> set[int]:
        """And those that only the handle of a process that is gone may hold."""
        loose = {one.number for one in self.tickets if self.loose(one)}
        return self.surely_alive() | loose

    def holds_alone(self, who: Party, number: int) -> bool:
        """One reference, in this process, and nothing on its way."""
        others = any(number in one.refs for one in self.parties if one is not who)
        travels = any(number in channel for channel in self.channels) or any(
            one.number == number and one.pending for one in self.tickets
        )
        return who.refs[number] == [OBJECT] and not others and not travels
