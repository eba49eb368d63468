"""Channel: a bounded queue of objects in an arena, between threads and processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import pickle
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import uslub
from sharing.crew import Crew, Raised

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 60  # seconds, for what must happen and takes a moment
MOMENT = 0.02  # seconds, for what must not happen
SIZE = 64


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no other test run has; its arena is unlinked afterwards."""
    yield (name := f"test-{os.getpid()}-{os.urandom(4).hex()}")
    with contextlib.suppress(uslub.ArenaNotFound):
        uslub.Arena.unlink(name)


@pytest.fixture
def arena(name: str) -> Iterator[uslub.Arena]:
    """Sound when its test ends."""
    arena = uslub.Arena.create(name, "16MiB", cpus=2, nodes=1)
    yield arena
    gc.collect()
    if not arena.closed:
        assert arena.validate() == []
        arena.close()


@pytest.fixture
def cache(arena: uslub.Arena) -> uslub.Cache:
    return arena.cache("message", SIZE)


@pytest.fixture
def channel(arena: uslub.Arena) -> uslub.Channel:
    return uslub.Channel(arena, 4)


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


def stamped(cache: uslub.Cache, *numbers: int) -> uslub.Object:
    """A new object that begins with these numbers, 8 bytes each."""
    obj = cache.alloc(zero=True)
    data = b"".join(number.to_bytes(8, "little") for number in numbers)
    memoryview(obj)[: len(data)] = data
    return obj


def stamps(obj: Any, count: int = 1) -> tuple[int, ...]:
    """The first numbers of an object."""
    data = bytes(memoryview(obj)[: 8 * count])
    parts = (data[at : at + 8] for at in range(0, len(data), 8))
    return tuple(int.from_bytes(part, "little") for part in parts)


def in_use(cache: uslub.Cache) -> int:
    snapshot = cache.snapshot()
    waiting = sum(len(cpu.freelist) for cpu in snapshot.cpus)
    return sum(slab.inuse for slab in snapshot.slabs) - waiting


class Background:
    """A call in a thread; `result()` waits for it and raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.answer: Any = None
        self.error: BaseException | None = None
        self.function = function
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            self.answer = self.function()
        except BaseException as error:
            self.error = error

    def waits(self) -> bool:
        self.thread.join(MOMENT)
        return self.thread.is_alive()

    def result(self) -> Any:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), f"still there after {PATIENCE} s"
        if self.error is not None:
            raise self.error
        return self.answer


# --- what comes out --------------------------------------------------------------


def test_messages_come_out_in_the_order_in_which_they_went_in(channel, cache):
    for number in range(3):
        channel.send(stamped(cache, number))
    assert (len(channel), channel.capacity, channel.closed) == (3, 4, False)
    assert [stamps(channel.recv()) for _ in range(3)] == [(0,), (1,), (2,)]
    assert len(channel) == 0


def test_the_same_memory_comes_out(channel, cache):
    sent = cache.alloc(zero=True)
    channel.send(sent)
    received = channel.recv()
    memoryview(received)[:4] = b"seen"
    assert bytes(memoryview(sent)[:4]) == b"seen"
    assert in_use(cache) == 1


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i8", "c16", "M8[s]", "S5"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 0, 3)])
def test_an_array_keeps_its_dtype_and_its_shape(arena, channel, dtype, shape):
    sent = arena.ndarray(shape, dtype, zero=True)
    channel.send(sent)
    received = channel.recv()
    assert isinstance(received, uslub.SharedArray)
    assert (received.dtype, received.shape) == (np.dtype(dtype), shape)
    assert (received == sent).all()
    assert received.size == 0 or np.shares_memory(sent, received)


def test_a_record_array_is_refused_with_a_way_out(arena, channel):
    """Its dtype has no short name; a slice of one field has."""
    records = arena.ndarray(3, np.dtype([("x", "<i4"), ("y", "<f8", (2,))]), zero=True)
    with pytest.raises(uslub.BadArgument, match=r"send arena\.dumps\(array\)"):
        channel.send(records)
    channel.send(records["y"])
    channel.recv()[1] = (1.5, 2.5)
    assert records["y"].tolist() == [[0.0, 0.0], [1.5, 2.5], [0.0, 0.0]]


def test_a_slice_is_sent_as_what_it_is(arena, channel):
    whole = arena.ndarray((4, 5), "i4")
    whole[:] = np.arange(20).reshape(4, 5)
    channel.send(whole[1:3])
    received = channel.recv()
    assert received.tolist() == [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    received[0, 0] = -1
    assert whole[1, 0] == -1


def test_the_memory_returns_with_the_last_of_sender_and_receiver(channel, cache):
    obj = stamped(cache, 1)
    channel.send(obj)
    del obj
    assert in_use(cache) == 1  # the message holds it
    received = channel.recv()
    view = memoryview(received)
    del received
    assert in_use(cache) == 1  # so does a view
    view.release()
    del view
    assert in_use(cache) == 0


def test_a_channel_that_goes_gives_its_messages_back(arena, cache):
    channel = uslub.Channel(arena, 8)
    for number in range(5):
        channel.send(stamped(cache, number))
    assert in_use(cache) == 5
    del channel
    gc.collect()
    assert in_use(cache) == 0


# --- waiting ---------------------------------------------------------------------


def test_try_recv_of_an_empty_channel_is_none(channel, cache):
    assert channel.try_recv() is None
    channel.send(stamped(cache, 5))
    assert stamps(channel.try_recv()) == (5,)
    assert channel.try_recv() is None


def test_try_send_to_a_full_channel_is_false_and_keeps_the_object(channel, cache):
    assert all(channel.try_send(stamped(cache, number)) for number in range(4))
    obj = stamped(cache, 4)
    assert channel.try_send(obj) is False
    assert len(channel) == 4
    assert stamps(channel.recv()) == (0,)
    assert channel.try_send(obj) is True


@pytest.mark.parametrize("timeout", [0, MOMENT])
def test_waiting_ends_with_timed_out(channel, cache, timeout):
    with pytest.raises(uslub.TimedOut):
        channel.recv(timeout=timeout)
    with pytest.raises(TimeoutError):
        channel.recv_many(3, timeout=timeout)
    for number in range(4):
        channel.send(stamped(cache, number))
    with pytest.raises(uslub.TimedOut):
        channel.send(stamped(cache, 9), timeout=timeout)
    assert [stamps(channel.recv())[0] for _ in range(4)] == [0, 1, 2, 3]
    assert in_use(cache) == 0


def test_recv_waits_for_a_message(channel, cache):
    receiver = Background(lambda: stamps(channel.recv(timeout=PATIENCE)))
    assert receiver.waits()
    channel.send(stamped(cache, 7))
    assert receiver.result() == (7,)


def test_recv_without_a_timeout_waits_too(channel, cache):
    receiver = Background(lambda: stamps(channel.recv()))
    assert receiver.waits()
    channel.send(stamped(cache, 7))
    assert receiver.result() == (7,)


def test_send_waits_for_room(channel, cache):
    for number in range(4):
        channel.send(stamped(cache, number))
    sender = Background(lambda: channel.send(stamped(cache, 4), timeout=PATIENCE))
    assert sender.waits()
    assert stamps(channel.recv()) == (0,)
    sender.result()
    assert [stamps(channel.recv())[0] for _ in range(4)] == [1, 2, 3, 4]


def test_a_signal_handler_runs_while_recv_waits(channel):
    """And its exception ends the wait: Ctrl-C works."""

    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(Rung):
            channel.recv(timeout=PATIENCE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- batches ---------------------------------------------------------------------


def test_a_batch_keeps_its_order(channel, cache):
    channel.send_many([stamped(cache, number) for number in range(4)])
    assert [stamps(obj)[0] for obj in channel.recv_many(3)] == [0, 1, 2]
    assert [stamps(obj)[0] for obj in channel.recv_many(3)] == [3]  # what there is


def test_recv_many_waits_for_the_first(channel, cache):
    receiver = Background(lambda: channel.recv_many(3, timeout=PATIENCE))
    assert receiver.waits()
    channel.send(stamped(cache, 1))
    assert [stamps(obj)[0] for obj in receiver.result()] == [1]


def test_a_batch_larger_than_the_channel_goes_through_in_parts(channel, cache):
    objects = [stamped(cache, number) for number in range(20)]
    sender = Background(lambda: channel.send_many(objects, timeout=PATIENCE))
    found: list[int] = []
    while len(found) < 20:
        found += [stamps(obj)[0] for obj in channel.recv_many(20, timeout=PATIENCE)]
    sender.result()
    assert found == list(range(20))


def test_an_empty_batch_is_nothing(channel):
    channel.send_many([])
    assert len(channel) == 0


# --- closing ---------------------------------------------------------------------


def test_what_was_sent_before_close_is_still_received(channel, cache):
    channel.send_many([stamped(cache, number) for number in range(3)])
    channel.close()
    channel.close()  # does nothing
    assert channel.closed
    assert [stamps(obj)[0] for obj in channel] == [0, 1, 2]
    for receive in (channel.recv, channel.try_recv, lambda: channel.recv_many(2)):
        with pytest.raises(uslub.ChannelClosed):
            receive()


def test_sending_after_close_is_refused(channel, cache):
    obj = stamped(cache, 1)
    channel.close()
    for send in (channel.send, channel.try_send, lambda one: channel.send_many([one])):
        with pytest.raises(EOFError, match="closed"):
            send(obj)
    assert in_use(cache) == 1
    obj.free()


def test_close_wakes_who_waits_for_a_message(channel):
    receivers = [Background(channel.recv) for _ in range(3)]
    assert all(receiver.waits() for receiver in receivers)
    channel.close()
    for receiver in receivers:
        with pytest.raises(uslub.ChannelClosed):
            receiver.result()


def test_close_wakes_who_waits_for_room(channel, cache):
    channel.send_many([stamped(cache, number) for number in range(4)])
    sender = Background(lambda: channel.send(stamped(cache, 9)))
    assert sender.waits()
    channel.close()
    with pytest.raises(uslub.ChannelClosed):
        sender.result()
    assert [stamps(obj)[0] for obj in channel] == [0, 1, 2, 3]
    assert in_use(cache) == 0


# --- select and asyncio ----------------------------------------------------------


def readable(channel: uslub.Channel, seconds: float) -> bool:
    return bool(select.select([channel], [], [], seconds)[0])


def test_a_channel_is_readable_when_something_can_be_received(channel, cache):
    assert channel.fileno() == channel.fileno()
    assert not readable(channel, MOMENT)
    channel.send_many([stamped(cache, number) for number in range(3)])
    for left in (2, 1, 0):
        assert readable(channel, PATIENCE)
        assert channel.try_recv() is not None
        assert len(channel) == left
    channel.send(stamped(cache, 3))
    assert readable(channel, PATIENCE)
    assert channel.try_recv() is not None


def test_a_closed_channel_is_readable(channel):
    assert not readable(channel, MOMENT)
    channel.close()
    assert readable(channel, PATIENCE)


def test_arecv_waits_without_blocking_the_loop(channel, cache):
    async def work() -> tuple[int, ...]:
        receiving = asyncio.create_task(channel.arecv())
        await asyncio.sleep(MOMENT)  # the loop runs meanwhile
        assert not receiving.done()
        channel.send(stamped(cache, 8))
        return stamps(await asyncio.wait_for(receiving, PATIENCE))

    assert asyncio.run(work()) == (8,)


def test_asend_waits_for_room(channel, cache):
    async def work() -> list[int]:
        channel.send_many([stamped(cache, number) for number in range(4)])
        sending = asyncio.create_task(channel.asend(stamped(cache, 4)))
        await asyncio.sleep(MOMENT)
        assert not sending.done()
        found = [stamps(await channel.arecv())[0]]
        await asyncio.wait_for(sending, PATIENCE)
        channel.close()
        return found + [stamps(obj)[0] async for obj in channel]

    assert asyncio.run(work()) == [0, 1, 2, 3, 4]


def test_many_tasks_share_a_channel(channel, cache):
    async def receive(found: list[int]) -> None:
        async for obj in channel:
            found.append(stamps(obj)[0])

    async def work() -> list[list[int]]:
        parts: list[list[int]] = [[], [], []]
        receivers = [asyncio.create_task(receive(part)) for part in parts]
        for number in range(50):
            await channel.asend(stamped(cache, number))
        channel.close()
        await asyncio.wait_for(asyncio.gather(*receivers), PATIENCE)
        return parts

    parts = asyncio.run(work())
    assert sorted(number for part in parts for number in part) == list(range(50))
    assert all(part == sorted(part) for part in parts)


def test_a_cancelled_arecv_takes_nothing_with_it(channel, cache):
    async def work() -> tuple[int, ...]:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(channel.arecv(), MOMENT)
        channel.send(stamped(cache, 6))
        return stamps(await asyncio.wait_for(channel.arecv(), PATIENCE))

    assert asyncio.run(work()) == (6,)


def test_arecv_of_a_closed_channel_says_so(channel):
    async def work() -> None:
        receiving = asyncio.create_task(channel.arecv())
        await asyncio.sleep(MOMENT)
        channel.close()
        with pytest.raises(uslub.ChannelClosed):
            await asyncio.wait_for(receiving, PATIENCE)

    asyncio.run(work())


# --- processes -------------------------------------------------------------------


def produce(channel: uslub.Channel, cache: uslub.Cache, who: int, count: int) -> None:
    for number in range(count):
        channel.send(stamped(cache, who, number), timeout=PATIENCE)


def consume(channel: uslub.Channel, answers: Any) -> None:
    answers.put([stamps(obj, 2) for obj in channel])


def test_many_producers_and_consumers_lose_nothing_and_keep_each_order(arena, cache):
    channel = uslub.Channel(arena, 8)
    answers = SPAWN.Queue()
    consumers = [
        SPAWN.Process(target=consume, args=(channel, answers)) for _ in range(2)
    ]
    producers = [
        SPAWN.Process(target=produce, args=(channel, cache, who, 300))
        for who in range(2)
    ]
    for process in (*consumers, *producers):
        process.start()
    produce(channel, cache, 2, 300)
    for process in producers:
        process.join(PATIENCE)
        assert process.exitcode == 0
    channel.close()
    parts = [answers.get(timeout=PATIENCE) for _ in consumers]
    for process in consumers:
        process.join(PATIENCE)
        assert process.exitcode == 0
    everything = sorted(message for part in parts for message in part)
    assert everything == [(who, number) for who in range(3) for number in range(300)]
    for part in parts:
        for who in range(3):
            mine = [number for sender, number in part if sender == who]
            assert mine == sorted(mine)
    assert in_use(cache) == 0


def wait_in_recv(channel: uslub.Channel, ready: Any) -> None:
    ready.send("waiting")
    channel.recv()


def test_a_killed_consumer_that_waited_disturbs_nobody(arena, channel, cache):
    """A multiprocessing.Queue is dead for everybody after this."""
    for turn in range(3):
        ready, theirs = SPAWN.Pipe()
        victim = SPAWN.Process(target=wait_in_recv, args=(channel, theirs))
        victim.start()
        assert ready.poll(PATIENCE) and ready.recv() == "waiting"
        asleep(victim.pid)
        victim.kill()
        victim.join(PATIENCE)
        assert victim.exitcode == -signal.SIGKILL
        receiver = Background(lambda: stamps(channel.recv(timeout=PATIENCE)))
        channel.send(stamped(cache, turn))
        assert receiver.result() == (turn,)
    arena.reap()
    assert in_use(cache) == 0


def asleep(pid: int | None) -> None:
    """Wait until a process sleeps, which it does in recv() and nowhere else."""
    stat = f"/proc/{pid}/stat"
    calm = 0
    for _ in range(int(PATIENCE / 0.001)):
        with open(stat) as file:
            state = file.read().rsplit(")", 1)[1].split()[0]
        calm = calm + 1 if state == "S" else 0
        if calm == 5:
            return
        select.select([], [], [], 0.001)
    raise AssertionError(f"process {pid} never slept")


def send_and_hold(channel: uslub.Channel, cache: uslub.Cache, ready: Any) -> None:
    held = [stamped(cache, number) for number in range(6)]
    for obj in held[:3]:
        channel.send(obj)
    ready.send("sent")
    ready.recv()


def test_what_a_killed_producer_sent_arrives_and_what_it_held_returns(
    arena, channel, cache
):
    ready, theirs = SPAWN.Pipe()
    victim = SPAWN.Process(target=send_and_hold, args=(channel, cache, theirs))
    victim.start()
    assert ready.poll(PATIENCE) and ready.recv() == "sent"
    victim.kill()
    victim.join(PATIENCE)
    arena.reap()
    assert in_use(cache) == 3
    assert [stamps(channel.recv(timeout=PATIENCE))[0] for _ in range(3)] == [0, 1, 2]
    assert channel.try_recv() is None
    assert in_use(cache) == 0


def test_a_channel_arrives_by_a_plain_pickle(name, arena, channel, crew):
    hand = crew.start()
    handle = pickle.dumps(channel)
    assert len(handle) < 200
    hand.do("attach", name, [handle])
    hand.do("make", "array", 17)
    assert hand.do("send", 0, 17, 0) is True
    received = channel.recv(timeout=PATIENCE)
    assert int(received[:8].view(np.int64)[0]) == 17
    hand.leave()
    assert int(received[:8].view(np.int64)[0]) == 17


def test_a_forked_child_receives_from_the_channel_of_its_parent(channel, cache):
    child = os.fork()
    if child == 0:
        good = stamps(channel.recv(timeout=PATIENCE)) == (1,)
        channel.send(stamped(cache, 2), timeout=PATIENCE)
        os._exit(0 if good else 1)
    channel.send(stamped(cache, 1))
    assert os.waitpid(child, 0)[1] == 0
    assert stamps(channel.recv(timeout=PATIENCE)) == (2,)


# --- what cannot be --------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 1 << 40])
def test_a_capacity_that_cannot_be_is_refused(arena, capacity):
    with pytest.raises((ValueError, uslub.OutOfMemory), match=r"capacity|memory"):
        uslub.Channel(arena, capacity)


def test_an_object_of_another_arena_is_refused(channel):
    other = uslub.Arena.create(size="1MiB")
    for obj in (other.kmalloc(64), other.ndarray(8)):
        with pytest.raises(uslub.ForeignAddress, match="arena"):
            channel.send(obj)
    assert len(channel) == 0


@pytest.mark.parametrize("thing", [b"bytes", 7, None, [1]])
def test_what_is_no_object_is_refused(channel, thing):
    with pytest.raises(TypeError):
        channel.send(thing)


def test_an_ordinary_array_is_refused(arena, channel):
    shared = arena.ndarray(4, "f8", zero=True)
    for array in (np.zeros(4), shared + 1):  # a result is not in the arena
        with pytest.raises((TypeError, uslub.ForeignAddress)):
            channel.send(array)
    assert len(channel) == 0


def test_a_freed_object_is_refused(channel, cache):
    obj = cache.alloc()
    obj.free()
    with pytest.raises(uslub.ObjectFreed):
        channel.send(obj)


def test_a_closed_arena_ends_its_channels(arena, channel, cache):
    channel.send(stamped(cache, 1))
    arena.close()
    with pytest.raises(uslub.ClosedArena):
        channel.recv(timeout=0)
    with pytest.raises(uslub.ClosedArena):
        uslub.Channel(arena, 4)


def test_the_receiver_of_a_deleted_arena_is_told_nothing_false(name, arena, cache):
    """Unlinking takes the name away; who is attached goes on."""
    channel = uslub.Channel(arena, 4)
    uslub.Arena.unlink(name)
    channel.send(stamped(cache, 3))
    assert stamps(channel.recv(timeout=PATIENCE)) == (3,)


def test_a_handle_of_a_deleted_arena_is_stale_although_the_name_is_taken_again(name):
    old = uslub.Arena.create(name, "1MiB")
    channel = uslub.Channel(old, 4)
    array = old.ndarray(8, zero=True)
    obj = old.kmalloc(64)
    handles = [pickle.dumps(one) for one in (channel, array, obj)]
    old_id = old.id
    del channel, array, obj
    old.close()
    del old
    gc.collect()
    uslub.Arena.unlink(name)
    new = uslub.Arena.create(name, "1MiB")
    for handle in handles:
        with pytest.raises(uslub.StaleHandle, match=f"arena {old_id} .* unlinked"):
            pickle.loads(handle)
    assert new.validate() == []
    new.close()


def test_the_handle_of_a_dropped_channel_is_stale(arena, cache):
    channel = uslub.Channel(arena, 4)
    first, second = pickle.dumps(channel), pickle.dumps(channel)
    for handle in (first, second):
        pickle.loads(handle)  # received, and dropped
    del channel
    gc.collect()
    for handle in (first, second):
        with pytest.raises(uslub.StaleHandle):
            pickle.loads(handle)


def test_one_process_too_many_is_told_so_and_the_next_one_may_come(name, arena, crew):
    """At least 48 processes; this one is the first."""
    mother = crew.start()
    inside, refused = 1, None
    while refused is None and inside <= 512:
        child = mother.fork()
        try:
            child.do("attach", name, [])
            inside += 1
        except Raised as error:
            refused = error
    assert refused is not None and refused.name == "LimitReached", refused
    assert "process" in str(refused)
    assert inside >= 48
    crew.hands[1].leave()  # one that is inside
    child.do("attach", name, [])
    child.do("make", "object", 5)
    assert child.do("held") == {5: 1}
