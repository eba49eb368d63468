"""arena.dumps() and uslub.loads(): whole Python objects in one block."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import multiprocessing
import pickle
import random
import zlib

import pytest

import uslub
from uslub import _dumps

np = pytest.importorskip("numpy")


@dataclasses.dataclass
class Reading:
    """A plain object with an array in it."""

    where: str
    values: object


Point = collections.namedtuple("Point", "x y")


def lies_in(obj, address, nbytes=1):
    return obj.address <= address and address + nbytes <= obj.address + obj.nbytes


def array_in(obj, array):
    return lies_in(obj, array.__array_interface__["data"][0], array.nbytes)


# -- what goes in comes out --------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        None,
        (),
        "",
        b"",
        "text é 😀",
        1 << 200,
        {"a": [1, 2.5, (None, True)], (1, 2): {3, 4}, "deep": [[[[]]]]},
        datetime.datetime(2026, 11, 22, 20, 25),
        Point(1, Point(2, 3)),
        bytes(range(256)) * 1000,
    ],
    ids=repr,
)
def test_plain_objects_come_back(arena, x):
    if isinstance(x, bytes):
        assert uslub.loads(arena.dumps(x)) == x
    else:
        back = uslub.loads(arena.dumps(x))
        assert back == x and type(back) is type(x)


def test_nested_containers_keep_their_shape_and_their_identities(arena):
    array = np.arange(1000)
    x = {"reading": Reading("here", array), "pair": [array, array], "name": "n"}
    x["self"] = x
    back = uslub.loads(arena.dumps(x))
    assert back["self"] is back and back["name"] == "n"
    assert back["pair"][0] is back["pair"][1] is back["reading"].values
    assert isinstance(back["reading"], Reading)
    assert (back["pair"][0] == array).all()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="f4").reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(100)[::3],
        np.zeros((0, 3)),
        np.array(7),
        np.array([(1, 2.5)], dtype=[("a", "u1"), ("b", "f8")]),
        np.array(["2026-11-22"], dtype="M8[D]"),
        np.array(["text", "é"]),
        np.array([1, "object", None], dtype=object),
        np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_of_every_kind_come_back(arena, array):
    back = uslub.loads(arena.dumps(array))
    assert type(back) is type(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tolist() == array.tolist()


def test_arrays_lie_in_the_block_at_multiples_of_64(arena):
    arrays = [np.full(n, n % 251, dtype="u1") for n in (1, 63, 64, 65, 1000, 100_000)]
    obj = arena.dumps(arrays)
    for array, back in zip(arrays, uslub.loads(obj), strict=True):
        assert array_in(obj, back)
        assert back.__array_interface__["data"][0] % 64 == 0
        assert (back == array).all()
    assert obj.nbytes < sum(array.nbytes for array in arrays) + 64 * 7 + 1000


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10_000).astype("M8[ns]").reshape(100, 100),
        np.asfortranarray(np.arange(10_000).astype("m8[s]").reshape(100, 100)),
        np.arange(20_000)[::2],
        np.arange(20_000).reshape(100, 200)[:, 50:150],
        np.zeros(10_000, [("when", "M8[s]"), ("what", "f4")]),
    ],
    ids=["dates", "times", "gaps", "columns", "records"],
)
def test_what_numpy_would_put_into_the_pickle_is_out_of_band(arena, array):
    obj = arena.dumps(array)
    back = uslub.loads(obj)
    assert array_in(obj, back) and not back.flags.writeable
    assert (back == array).all() and back.dtype == array.dtype
    if array.flags.contiguous or array.flags.f_contiguous:
        assert back.strides == array.strides


@pytest.mark.parametrize("size", [1, 10, 50, 100, 150, 300, 700, 5000, 70_000])
def test_small_blocks_are_aligned_too(arena, size):
    keep = [arena.dumps([np.ones(size, "u1"), np.ones(3, "u1")]) for _ in range(9)]
    for obj in keep:
        for back in uslub.loads(obj):
            assert back.__array_interface__["data"][0] % 64 == 0


def test_read_only_unless_asked_otherwise(arena):
    obj = arena.dumps({"a": np.zeros(10), "bytes": b"12345"})
    back = uslub.loads(obj)["a"]
    assert not back.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        back[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        back.flags.writeable = True
    open_ = uslub.loads(obj, writable=True)["a"]
    open_[3] = 5
    assert back[3] == 5  # the same memory


def test_what_was_read_only_stays_so(arena):
    array = np.arange(5)
    array.flags.writeable = False
    back = uslub.loads(arena.dumps(array), writable=True)
    assert not back.flags.writeable


def test_the_result_keeps_the_block(arena):
    before = arena.info().free_pages
    obj = arena.dumps([np.arange(100_000), np.arange(5)])
    back = uslub.loads(obj)
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    part = back[0][10:20]
    del obj, back
    assert arena.info().free_pages < before
    assert part.tolist() == list(range(10, 20))
    del part
    assert arena.info().free_pages == before


def test_a_block_without_buffers_is_not_held(arena):
    obj = arena.dumps({"a": 1})
    back = uslub.loads(obj)
    obj.free()
    assert back == {"a": 1}


def test_the_block_is_a_copy(arena):
    array = np.zeros(100)
    obj = arena.dumps(array)
    array[:] = 1
    assert uslub.loads(obj).sum() == 0


def test_an_array_of_the_arena_goes_in_as_data(arena):
    array = arena.ndarray((20, 30), "i4", zero=True)
    array += 7
    obj = arena.dumps({"whole": array, "part": array[2:4, ::2]})
    del array
    assert obj.nbytes > 20 * 30 * 4
    back = uslub.loads(obj)
    assert type(back["whole"]) is np.ndarray and array_in(obj, back["whole"])
    assert back["whole"].sum() == 20 * 30 * 7 and back["part"].shape == (2, 15)


def test_an_object_inside_goes_in_as_a_handle(arena):
    obj = arena.kmalloc(100, zero=True)
    block = arena.dumps({"object": obj, "arena": arena})
    back = uslub.loads(block)
    assert back["object"].offset == obj.offset and back["arena"].id == arena.id
    memoryview(obj)[7] = 9
    assert memoryview(back["object"])[7] == 9


def test_it_works_after_close_as_far_as_objects_do():
    arena = uslub.Arena.create(size="8MiB")
    obj = arena.dumps([np.arange(1000)])
    arena.close()
    assert uslub.loads(obj)[0].sum() == 499_500
    with pytest.raises(uslub.ClosedArena):
        arena.dumps(1)


# -- the real libraries ------------------------------------------------------------


def test_a_pandas_frame_crosses_in_place(arena):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "number": np.arange(10_000),
            "real": np.linspace(0, 1, 10_000),
            "when": pd.date_range("2013-01-01", periods=10_000, freq="min"),
            "text": [f"row {n % 50}" for n in range(10_000)],
            "kind": pd.Categorical(["a", "b"] * 5000),
        },
        index=pd.RangeIndex(5, 10_005),
    )
    obj = arena.dumps(frame)
    back = uslub.loads(obj)
    pd.testing.assert_frame_equal(back, frame)
    for name in ("number", "real", "when"):
        assert array_in(obj, back[name].to_numpy(copy=False)), name
    assert not back["number"].to_numpy(copy=False).flags.writeable
    assert (
        back.groupby("text")["real"].mean().equals(frame.groupby("text")["real"].mean())
    )


def test_an_arrow_table_crosses_in_place(arena):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "n": pa.array(range(10_000), pa.int32()),
            "text": pa.array(
                [None if n % 7 == 0 else f"row {n}" for n in range(10_000)]
            ),
            "list": pa.array([[n, n + 1] for n in range(10_000)]),
        }
    )
    obj = arena.dumps(table)
    allocated = pa.total_allocated_bytes()
    back = uslub.loads(obj)
    assert pa.total_allocated_bytes() == allocated
    assert back.equals(table) and back.schema == table.schema
    seen = 0
    for column in back.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                if buffer is not None and buffer.size:
                    assert lies_in(obj, buffer.address, buffer.size)
                    seen += 1
    assert seen >= 6
    del buffer, chunk, column, back


def test_torch_tensors_come_back(arena):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(1000).reshape(10, 100)
    assert torch.equal(uslub.loads(arena.dumps({"t": tensor}))["t"], tensor)


# -- another process ---------------------------------------------------------------


def summed(obj):
    back = uslub.loads(obj)
    return back["text"], int(back["array"].sum()), back["array"].flags.writeable


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_block_is_sent_like_any_object(arena, method):
    obj = arena.dumps({"text": "hello", "array": np.arange(100_000)})
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(summed, (obj,)) == ("hello", 4_999_950_000, False)
        pool.close()
        pool.join()


def test_a_block_goes_through_a_channel(arena):
    channel = uslub.Channel(arena, 4)
    channel.send(arena.dumps({"array": np.arange(10)}))
    assert uslub.loads(channel.recv())["array"].tolist() == list(range(10))


# -- bad input ---------------------------------------------------------------------


class Trap:
    """Whoever unpickles this finds out that he did."""

    sprung = 0

    def __reduce__(self):
        return Trap.spring, ()

    @staticmethod
    def spring():
        Trap.sprung += 1
        return "sprung"


@pytest.fixture
def block(arena):
    """A block that notices when it is unpickled, and has three buffers."""
    Trap.sprung = 0
    return arena.dumps([Trap(), np.arange(10), np.arange(1000), np.ones(3)])


def resealed(obj):
    """Makes the header's checksum right again: the work of an attacker."""
    view = memoryview(obj)
    buffers = int.from_bytes(view[12:16], "little")
    table = view[40 : 40 + 16 * buffers]
    crc = zlib.crc32(table, zlib.crc32(view[:36]))
    view[36:40] = crc.to_bytes(4, "little")


def test_a_sound_block_springs_the_trap(block):
    assert uslub.loads(block)[0] == "sprung"
    assert Trap.sprung == 1


def test_dumps_and_transport_unpickle_nothing(arena, block):
    pickle.loads(pickle.dumps(block))
    repr(block)
    arena.validate()
    assert Trap.sprung == 0


@pytest.mark.parametrize(
    "nbytes", [1, 8, 39, 40, 64, 1000], ids=lambda nbytes: f"{nbytes} bytes"
)
def test_an_object_that_is_no_block_is_refused(arena, nbytes):
    obj = arena.kmalloc(nbytes, zero=True)
    with pytest.raises(uslub.BadArgument, match=r"dumps\(\) would have written"):
        uslub.loads(obj)
    obj.free()  # nothing holds it


@pytest.mark.parametrize(
    ("start", "number", "nbytes"),
    [
        (8, 2, 4),  # version
        (12, 2**32 - 1, 4),  # buffers
        (12, 1_000_000, 4),
        (12, 0, 4),
        (16, 2**64 - 1, 8),  # bytes of the pickle
        (16, 0, 8),
        (24, 2**64 - 1, 8),  # bytes in all
        (24, 0, 8),
        (40, 0, 8),  # offset of buffer 0: in the header
        (40, 65, 8),  # not aligned
        (40, 2**64 - 64, 8),  # beyond everything
        (48, 2**64 - 1, 8),  # its length
        (56, 64, 8),  # buffer 1 over buffer 0
    ],
)
@pytest.mark.parametrize("attacker", [False, True], ids=["damage", "attack"])
def test_a_header_that_cannot_be_is_refused(block, start, number, nbytes, attacker):
    memoryview(block)[start : start + nbytes] = number.to_bytes(nbytes, "little")
    if attacker and number < 1000:
        resealed(block)
    with pytest.raises(uslub.CorruptArena, match=r"damaged|version 2"):
        uslub.loads(block)
    assert Trap.sprung == 0


def test_a_buffer_at_an_odd_place_is_refused(block):
    view = memoryview(block)
    place = int.from_bytes(view[40:48], "little") + 8  # of buffer 0; still in bounds
    view[40:48] = place.to_bytes(8, "little")
    resealed(block)
    with pytest.raises(uslub.CorruptArena, match="buffer 0"):
        uslub.loads(block)
    assert Trap.sprung == 0


def test_every_flipped_bit_outside_the_data_is_noticed(arena):
    rng = random.Random(4)
    block = arena.dumps([Trap(), np.arange(5)])
    before = bytes(block)
    start, nbytes = _dumps.ENTRY.unpack(before[40:56])
    head = 56 + int.from_bytes(before[16:24], "little")
    assert start >= head and nbytes == 40
    Trap.sprung = 0
    for position in range(head):
        view = memoryview(block)
        view[position] ^= 1 << rng.randrange(8)
        with pytest.raises((uslub.CorruptArena, uslub.BadArgument)):
            uslub.loads(block)
        view[position] = before[position]
    assert Trap.sprung == 0
    assert uslub.loads(block)[1].tolist() == list(range(5))


def test_random_bytes_never_unpickle(arena):
    rng = random.Random(5)
    for _ in range(300):
        obj = arena.kmalloc(rng.randrange(1, 400))
        view = memoryview(obj)
        view[:] = rng.randbytes(obj.nbytes)
        if obj.nbytes > 16 and rng.random() < 0.8:
            view[:12] = _dumps.MAGIC + (1).to_bytes(4, "little")
        with pytest.raises((uslub.CorruptArena, uslub.BadArgument)):
            uslub.loads(obj)
        del view
        obj.free()


def test_a_block_that_was_cut_short_is_refused(arena, block):
    short = arena.kmalloc(block.nbytes - 1)
    memoryview(short)[:] = bytes(block)[:-1]
    with pytest.raises(uslub.CorruptArena, match="bytes long"):
        uslub.loads(short)
    assert Trap.sprung == 0


def test_a_freed_block_is_refused(arena):
    obj = arena.dumps(1)
    obj.free()
    with pytest.raises(uslub.ObjectFreed):
        uslub.loads(obj)


@pytest.mark.parametrize("wrong", [None, 5, b"bytes", np.zeros(5), memoryview(b"x")])
def test_only_objects_are_loaded(wrong):
    with pytest.raises(TypeError, match=r"the Object of arena\.dumps\(\)"):
        uslub.loads(wrong)


@pytest.mark.parametrize(
    ("protocol", "error"),
    [
        (4, uslub.BadArgument),
        (-1, uslub.BadArgument),
        (99, uslub.BadArgument),
        ("5", TypeError),
        (None, TypeError),
    ],
)
def test_other_protocols_are_refused(arena, protocol, error):
    with pytest.raises(error, match="protocol"):
        arena.dumps(1, protocol=protocol)


def test_what_cannot_be_pickled_leaves_nothing(arena):
    before = arena.info().free_pages
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        arena.dumps([np.zeros(100_000), lambda: 0])
    assert arena.info().free_pages == before


def test_what_does_not_fit_leaves_nothing(arena):
    before = arena.info().free_pages
    with pytest.raises(uslub.OutOfMemory):
        arena.dumps([np.zeros(1000), np.zeros(arena.size, "u1")])
    assert arena.info().free_pages == before
