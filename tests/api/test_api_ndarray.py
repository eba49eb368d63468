"""arena.ndarray(): NumPy arrays whose memory is the arena's."""

from __future__ import annotations

import pytest

import uslub

np = pytest.importorskip("numpy")


def test_it_is_an_ordinary_array(arena):
    array = arena.ndarray((3, 4), "f4", zero=True)
    assert type(array) is uslub.SharedArray and isinstance(array, np.ndarray)
    assert type(array + 1) is np.ndarray and type(array.sum()) is np.float32
    assert (array.shape, array.dtype, array.sum()) == ((3, 4), np.float32, 0)
    assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned
    array[1] = 5
    assert array.sum() == 20


def test_shapes_dtypes_and_orders(arena):
    assert arena.ndarray(5).dtype == np.float64
    assert arena.ndarray(5, np.int16).shape == (5,)
    assert arena.ndarray((), "i8").shape == ()
    assert arena.ndarray([2, 3], "c16", order="F").flags.f_contiguous
    assert arena.ndarray((2, 2), [("x", "f4"), ("y", "u1")]).itemsize == 5
    assert arena.ndarray(np.zeros((2, 3)).shape, "M8[ns]").dtype.kind == "M"
    assert arena.ndarray((np.int64(4), 2)).size == 8
    assert arena.ndarray(0).size == arena.ndarray((4, 0, 2)).size == 0
    assert arena.ndarray(64, "u1", node=1).base.node == 1


def test_memory_returns_with_the_last_view(arena):
    before = arena.info().free_pages
    array = arena.ndarray((1000, 1000), "u1")
    part = array[10:20, ::2].T
    del array
    assert arena.info().free_pages < before
    del part
    assert arena.info().free_pages == before


def test_it_outlives_the_arena():
    array = uslub.Arena.create(size="8MiB").ndarray((1000, 100), zero=True)
    array += 1
    assert array.sum() == 100_000


def test_its_object_can_be_found_and_cannot_be_freed(arena):
    array = arena.ndarray((10, 10), "u1")
    obj = array.base
    assert isinstance(obj, uslub.Object) and obj.nbytes == 100
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    part = array[2:]
    del array
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    del part
    obj.free()


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (-1, "u1", uslub.BadSize),
        ((4, -4), "u1", uslub.BadSize),
        ((1 << 40, 1 << 40), "f8", uslub.BadSize),
        ((1 << 62, 4), "u1", uslub.BadSize),
        (1 << 40, "u1", MemoryError),
        (1.5, "u1", TypeError),
        ("12", "u1", TypeError),
        (None, "u1", TypeError),
        (5, "object", uslub.BadArgument),
        (5, [("a", "f4"), ("b", "O")], uslub.BadArgument),
        (5, "no such type", TypeError),
    ],
)
def test_what_cannot_be_is_refused(arena, shape, dtype, error):
    before = arena.info().free_pages
    with pytest.raises(error):
        arena.ndarray(shape, dtype)
    assert arena.info().free_pages == before


def test_without_numpy_it_says_what_to_install(run_python):
    code = """
import sys
sys.modules["numpy"] = None
import uslub
try:
    uslub.Arena.create(size="1MiB").ndarray(5)
except ModuleNotFoundError as error:
    print(error)
"""
    assert "pip install 'uslub[numpy]'" in run_python(code)


def test_numpy_is_imported_late(run_python):
    code = "import sys, uslub; print('numpy' in sys.modules)"
    assert run_python(code) == "False"
