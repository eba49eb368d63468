"""Several real processes live by one script, and a simple model knows who holds what.

Hypothesis writes the script: make, view, drop, send through a channel, receive, pickle,
unpickle (also twice, also after its sender is gone), move, fork, leave, get killed,
close the arena, come back. After every step as many objects are in use as the model
says, and every reference in every process still shows its object. In the end nothing is
in use and the arena is sound. A script that fails is printed and can be replayed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import uslub
from sharing.crew import Crew, Hand, Raised
from sharing.holders import ARRAY, LATE, OBJECT, VIEW, Holders, Party, Ticket
from sharing.member import ARRAY_BYTES, OBJECT_BYTES

FIRST = 3  # processes that attach by themselves
MOST = 6  # with the children of those
CAPACITY = 3
CHANNELS = 2

#: What a step does, with how many of a hundred steps.
VERBS = {
    "make": 10,
    "view": 6,
    "drop": 17,
    "send": 12,
    "recv": 12,
    "pickle": 9,
    "unpickle": 9,
    "again": 8,
    "move": 5,
    "fork": 4,
    "leave": 2,
    "kill": 2,
    "close": 2,
    "attach": 2,
}
#: Verb, process, and two choices among what there is to choose from.
STEPS = st.tuples(
    st.sampled_from([verb for verb, weight in VERBS.items() for _ in range(weight)]),
    st.integers(0, MOST - 1),
    st.integers(0, 11),
    st.integers(0, 11),
)
SCRIPTS = st.lists(STEPS, min_size=20, max_size=60)


class Life:
    """One arena, the processes that share it, and the model of both."""

    def __init__(self, mother: Hand) -> None:
        self.name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
        self.arena = uslub.Arena.create(self.name, "16MiB", cpus=2, nodes=1)
        self.cache = self.arena.cache("thing", OBJECT_BYTES)
        array = self.arena.ndarray(ARRAY_BYTES, "u1")
        self.arrays = array.base.cache
        del array
        self.channels = [uslub.Channel(self.arena, CAPACITY) for _ in range(CHANNELS)]
        self.before = self.in_use()
        self.model = Holders(CAPACITY, [deque() for _ in range(CHANNELS)])
        self.hands: dict[Party, Hand] = {}
        for i in range(FIRST):
            party = Party(f"process {i}")
            self.hands[party] = mother.fork()
            self.model.parties.append(party)
            self.attach(party, 0, 0)

    def in_use(self) -> int:
        """Objects of the two caches that are in somebody's hands."""
        count = 0
        for cache in (self.cache, self.arrays):
            snapshot = cache.snapshot()
            waiting = sum(len(cpu.freelist) for cpu in snapshot.cpus)
            count += sum(slab.inuse for slab in snapshot.slabs) - waiting
        return count

    def step(self, verb: str, who: int, first: int, second: int) -> None:
        """Do it, if there is anything to do it with; then compare."""
        party = self.model.parties[who % len(self.model.parties)]
        getattr(self, verb)(party, first, second)
        self.compare()

    def compare(self) -> None:
        """Process by process and in sum."""
        for party in self.model.parties:
            held = self.hands[party].do("held")
            assert held == {number: len(own) for number, own in party.refs.items()}
        sure, perhaps = self.model.surely_alive(), self.model.perhaps_alive()
        found = self.in_use() - self.before
        assert len(sure) <= found <= len(perhaps), (
            f"{found} objects are in use; held are {sorted(sure)}, and perhaps"
            f" {sorted(perhaps - sure)}; {self.arena.validate()}"
        )
        for channel, queue in zip(self.channels, self.model.channels, strict=True):
            assert len(channel) == len(queue)

    # --- steps: a process, and two choices ---

    def make(self, party: Party, first: int, second: int) -> None:
        if party.attached:
            kind = (OBJECT, ARRAY)[first % 2]
            number = self.model.make(kind)
            self.hands[party].do("make", kind, number)
            party.keep(number, kind)

    def view(self, party: Party, first: int, second: int) -> None:
        if party.refs:
            number, place = self.reference(party, first, second)
            self.hands[party].do("view", number, place)
            late = party.refs[number][place] == LATE
            array = self.model.kinds[number] == ARRAY
            party.keep(number, LATE if late else ARRAY if array else VIEW)

    def drop(self, party: Party, first: int, second: int) -> None:
        if party.refs:
            number, place = self.reference(party, first, second)
            self.hands[party].do("drop", number, place)
            party.drop(number, place)

    def reference(self, party: Party, first: int, second: int) -> tuple[int, int]:
        """One of a process's references, late ones too."""
        number = list(party.refs)[first % len(party.refs)]
        return number, second % len(party.refs[number])

    def send(self, party: Party, first: int, second: int) -> None:
        choices = party.sendable()
        if party.attached and choices:
            number, place = choices[first % len(choices)]
            queue = self.model.channels[second % CHANNELS]
            room = len(queue) < CAPACITY
            sent = self.hands[party].do("send", second % CHANNELS, number, place)
            assert sent is room
            if room:
                queue.append(number)

    def recv(self, party: Party, first: int, second: int) -> None:
        if party.attached:
            queue = self.model.channels[second % CHANNELS]
            number = self.hands[party].do("recv", second % CHANNELS)
            assert number == (queue.popleft() if queue else None)
            if number is not None:
                party.keep(number, self.model.kinds[number])

    def pickle(self, party: Party, first: int, second: int) -> None:
        choices = party.sendable()
        if party.attached and choices:
            number, place = choices[first % len(choices)]
            handle = self.hands[party].do("pickled", number, place)
            epoch = self.model.epochs[number]
            ticket = Ticket(number, handle, party, party.visit, epoch)
            self.model.tickets.append(ticket)

    def unpickle(self, party: Party, first: int, second: int) -> None:
        if party.attached and self.model.tickets:
            ticket = self.model.tickets[first % len(self.model.tickets)]
            number = ticket.number
            same = ticket.epoch == self.model.epochs[number]
            sure = number in self.model.surely_alive() and same
            perhaps = number in self.model.perhaps_alive() and same
            try:
                self.hands[party].do("unpickled", ticket.handle, number)
            except Raised as error:
                assert error.name == "StaleHandle" and not sure
                if same:
                    self.model.given_back(number)
            else:
                assert perhaps
                ticket.pending = False
                party.keep(number, self.model.kinds[number])

    def again(self, party: Party, first: int, second: int) -> None:
        """The newest handle once more: one reference more, for the same process."""
        if self.model.tickets:
            newest = len(self.model.tickets) - 1
            for _ in range(1 + second % 2):
                self.unpickle(party, newest, 0)

    def move(self, party: Party, first: int, second: int) -> None:
        """Hand over what only this process holds; refused if others hold it too."""
        single = [number for number, own in party.refs.items() if own == [OBJECT]]
        if not party.attached or not single:
            return
        number = single[first % len(single)]
        others = [one for one in self.model.parties if one.attached]
        to = others[second % len(others)]
        if self.model.holds_alone(party, number):
            handle = self.hands[party].do("move", number)
            party.drop(number, 0)
            self.hands[to].do("adopt", handle, number)
            to.keep(number, OBJECT)
            self.model.epochs[number] += 1
        elif number not in {
            one.number for one in self.model.tickets if self.model.loose(one)
        }:
            with pytest.raises(Raised, match="NotOwner"):
                self.hands[party].do("move", number)

    def fork(self, party: Party, first: int, second: int) -> None:
        if party.attached and len(self.model.parties) < MOST:
            child = Party(f"a child of {party.name}", attached=True)
            child.refs = {number: list(own) for number, own in party.refs.items()}
            self.hands[child] = self.hands[party].fork()
            self.model.parties.append(child)

    def leave(self, party: Party, first: int, second: int) -> None:
        if len(self.model.parties) > 1:
            self.hands.pop(party).leave()
            self.model.leave(party)

    def kill(self, party: Party, first: int, second: int) -> None:
        if len(self.model.parties) > 1:
            self.hands.pop(party).kill()
            self.model.leave(party)
            self.arena.reap()

    def close(self, party: Party, first: int, second: int) -> None:
        if party.attached:
            self.hands[party].do("close")
            party.close()

    def attach(self, party: Party, first: int, second: int) -> None:
        if not party.attached:
            handles = [pickle.dumps(channel) for channel in self.channels]
            self.hands[party].do("attach", self.name, handles)
            party.attached = True

    # --- the end ---

    def end(self) -> None:
        """Everybody lets go; what is on its way is received here."""
        for i, party in enumerate(self.model.parties):
            if i % 3 == 0:
                self.hands[party].leave()
            elif i % 3 == 1:
                self.hands[party].kill()
            else:
                self.hands[party].do("drop_all")
                if party.attached:
                    self.hands[party].do("close")
        for ticket in self.model.tickets:
            if ticket.pending:
                with contextlib.suppress(uslub.StaleHandle):
                    pickle.loads(ticket.handle)
        for channel in self.channels:
            while channel.try_recv() is not None:
                pass
        self.arena.reap()
        assert self.in_use() == self.before
        self.channels.clear()
        assert self.arena.validate() == []

    def unlink(self) -> None:
        self.channels.clear()
        self.arena.close()
        uslub.Arena.unlink(self.name)


class Scene:
    """A process that is in no arena: the mother of those that play each script."""

    def __init__(self) -> None:
        self.crew = Crew()
        self.mother = self.crew.start()

    def play(self, script: list[tuple[str, int, int, int]]) -> None:
        life = Life(self.mother)
        try:
            for step in script:
                life.step(*step)
            life.end()
        finally:
            for hand in self.crew.hands[1:]:
                hand.kill()
            life.unlink()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.crew.close()


@given(script=SCRIPTS)
def test_processes_hold_what_the_model_says(
    scene: Scene, script: list[tuple[str, int, int, int]]
) -> None:
    scene.play(script)


@pytest.mark.check
@pytest.mark.timeout(900)
@settings(max_examples=300)
@given(script=st.lists(STEPS, min_size=100, max_size=300))
def test_processes_hold_what_the_model_says_for_longer(
    scene: Scene, script: list[tuple[str, int, int, int]]
) -> None:
    scene.play(script)
