"""Handles of blocks and batches that mean nothing any more, or never did."""

from __future__ import annotations

import os
import pickle
import random

import pytest

import uslub


class Trap:
    """Whoever unpickles this finds out that he did."""

    sprung = 0

    def __reduce__(self):
        return Trap.spring, ()

    @staticmethod
    def spring():
        Trap.sprung += 1


@pytest.fixture(autouse=True)
def untouched():
    Trap.sprung = 0
    yield
    assert Trap.sprung == 0


def in_child(work):
    """What `work()` returns in a forked child: bytes."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, work())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        made = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return made


def test_a_block_of_somebody_who_died_is_stale(arena):
    handle = in_child(lambda: pickle.dumps(arena.dumps(Trap())))
    while arena.reap().waiting:
        pass
    with pytest.raises(uslub.StaleHandle):
        pickle.loads(handle)


def test_a_block_of_an_arena_that_was_made_anew_is_stale(name):
    with uslub.Arena.create(name, size="4MiB") as first:
        handle = pickle.dumps(first.dumps(Trap()))
    uslub.Arena.unlink(name)
    del first
    with uslub.Arena.create(name, size="4MiB") as second:
        keep = [second.dumps(Trap()) for _ in range(9)]
        with pytest.raises(uslub.StaleHandle):
            pickle.loads(handle)
        del keep


def test_a_handle_with_other_bytes_is_refused_or_another_object(arena):
    """Whatever the bytes: an error, or an object of this arena; nothing is run."""
    obj = arena.dumps(Trap())
    handle = pickle.dumps(obj)
    start = handle.index(bytes.fromhex(arena.id))
    rng = random.Random(3)
    refused = 0
    for _ in range(300):
        forged = bytearray(handle)
        for _ in range(rng.randrange(1, 4)):
            forged[start + rng.randrange(44)] = rng.randrange(256)
        try:
            found = pickle.loads(bytes(forged))
        except uslub.Error:
            refused += 1
        else:
            assert isinstance(found, uslub.Object) and found.arena is arena
    assert refused > 250
    assert arena.validate() == []


# -- batches -----------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")


def parcel_of(arena, torch, *more, shape=(2, 3)):
    import uslub.torch

    obj = arena.kmalloc(24, zero=True)
    return uslub.torch.Parcel(obj, torch.float32, shape, *more)


def test_a_batch_of_a_worker_that_died_is_stale(arena, torch):
    made = in_child(lambda: pickle.dumps(parcel_of(arena, torch)))
    while arena.reap().waiting:
        pass
    with pytest.raises(uslub.StaleHandle):
        pickle.loads(made)


def test_a_batch_that_claims_more_than_its_slot_is_refused(arena, torch):
    whole = pickle.loads(pickle.dumps(parcel_of(arena, torch)))
    assert whole.shape == (2, 3)
    for parcel in (
        parcel_of(arena, torch, shape=(3, 3)),
        parcel_of(arena, torch, shape=(1 << 40, 1)),
        parcel_of(arena, torch, (300, 1)),
        parcel_of(arena, torch, (1, 1 << 40)),
        parcel_of(arena, torch, (1 << 63, 1 << 62)),
        parcel_of(arena, torch, (-1, 1)),
        parcel_of(arena, torch, (1,)),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            pickle.loads(pickle.dumps(parcel))


def test_a_collate_function_of_a_deleted_arena_is_stale(name, torch):
    import uslub.torch

    arena = uslub.Arena.create(name, size="4MiB")
    pickled = pickle.dumps(uslub.torch.collate(arena))
    arena.close()
    uslub.Arena.unlink(name)
    with pytest.raises(uslub.StaleHandle):
        pickle.loads(pickled)
