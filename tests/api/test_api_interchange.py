"""NumPy, pyarrow, PyTorch and DLPack look at objects without a copy."""

from __future__ import annotations

import sys

import pytest

import uslub

np = pytest.importorskip("numpy")


def filled(arena):
    """Made by a call: a fixture's value has references that nobody can explain."""
    obj = arena.kmalloc(1000, zero=True)
    memoryview(obj)[:4] = b"\x01\x02\x03\x04"
    return obj


def numpy_of(obj):
    return np.asarray(obj)


def numpy_by_dlpack(obj):
    return np.from_dlpack(obj)


def numpy_of_arrow(obj):
    pa = pytest.importorskip("pyarrow")
    return np.frombuffer(pa.py_buffer(obj), "u1")


def numpy_of_torch(obj):
    torch = pytest.importorskip("torch")
    return torch.frombuffer(obj, dtype=torch.uint8).numpy()


def numpy_of_torch_by_dlpack(obj):
    torch = pytest.importorskip("torch")
    return torch.from_dlpack(obj).numpy()


@pytest.mark.parametrize(
    "view_of",
    [
        numpy_of,
        numpy_by_dlpack,
        numpy_of_arrow,
        numpy_of_torch,
        numpy_of_torch_by_dlpack,
    ],
)
def test_a_library_sees_the_bytes_in_place(arena, view_of):
    obj = filled(arena)
    view = view_of(obj)
    assert view.dtype == np.uint8 and view.shape == (1000,)
    assert view.__array_interface__["data"][0] == obj.address
    assert view[:4].tolist() == [1, 2, 3, 4]
    memoryview(obj)[500] = 77
    assert view[500] == 77
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    del view
    obj.free()


@pytest.mark.parametrize("view_of", [numpy_by_dlpack, numpy_of_torch_by_dlpack])
def test_a_view_by_dlpack_keeps_the_memory(arena, view_of):
    before = arena.info().free_pages
    obj = arena.kmalloc(100_000, zero=True)
    view = view_of(obj)
    view[7] = 9
    del obj
    assert arena.info().free_pages < before
    assert view[7] == 9 and view.sum() == 9
    del view
    assert arena.info().free_pages == before


def test_a_capsule_that_nobody_takes_holds_nothing(arena):
    obj = filled(arena)
    capsule = obj.__dlpack__()
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    del capsule
    obj.free()


def test_the_device_is_main_memory(arena):
    obj = filled(arena)
    assert obj.__dlpack_device__() == (1, 0) == np.zeros(1).__dlpack_device__()


def test_a_freed_object_has_no_capsule(arena):
    obj = arena.kmalloc(10)
    obj.free()
    with pytest.raises(uslub.ObjectFreed):
        np.from_dlpack(obj)


def test_an_array_keeps_shape_and_dtype_through_dlpack(arena):
    array = arena.ndarray((3, 4, 5), "f4", zero=True)
    array[1, 2, 3] = 8
    view = np.from_dlpack(array)
    assert (view.shape, view.dtype) == ((3, 4, 5), np.float32)
    assert np.shares_memory(view, array) and view[1, 2, 3] == 8
    torch = pytest.importorskip("torch")
    for tensor in (torch.from_dlpack(array), torch.from_numpy(array)):
        assert tensor.shape == (3, 4, 5) and tensor.dtype == torch.float32
        assert tensor.data_ptr() == array.__array_interface__["data"][0]
        tensor[0, 0, 0] = 6
    assert array[0, 0, 0] == 6


def test_a_tensor_alone_keeps_the_array(arena):
    torch = pytest.importorskip("torch")
    before = arena.info().free_pages
    tensor = torch.from_dlpack(arena.ndarray((100, 1000), "u1", zero=True))
    assert arena.info().free_pages < before
    tensor += 1
    assert int(tensor.sum()) == 100_000
    del tensor
    assert arena.info().free_pages == before


def test_arrow_tables_can_be_read_from_an_object(arena):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": list(range(1000)), "text": [str(n) for n in range(1000)]})
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        wire = sink.getvalue()
    obj = arena.kmalloc(wire.size)
    memoryview(obj)[:] = memoryview(wire).cast("B")
    allocated = pa.total_allocated_bytes()
    back = pa.ipc.open_stream(pa.py_buffer(obj)).read_all()
    assert pa.total_allocated_bytes() == allocated
    assert back.equals(table)
    address = back["n"].chunk(0).buffers()[1].address
    assert obj.address <= address < obj.address + obj.nbytes


def test_an_array_is_at_home_in_the_array_api(arena):
    array = arena.ndarray((4, 4), "f8", zero=True)
    xp = array.__array_namespace__()
    assert xp is np
    total = xp.sum(xp.astype(array + 1, xp.float32))
    assert float(total) == 16


def test_without_numpy_dlpack_says_what_to_install(run_python):
    code = """
import sys
sys.modules["numpy"] = None
import uslub
obj = uslub.Arena.create(size="1MiB").kmalloc(5)
try:
    obj.__dlpack__()
except ModuleNotFoundError as error:
    print(error)
"""
    assert "pip install 'uslub[numpy]'" in run_python(code)


def test_nothing_of_it_is_imported_early(run_python):
    code = (
        "import sys, uslub;"
        "print([m for m in ('numpy', 'torch', 'uslub._dlpack') if m in sys.modules])"
    )
    assert run_python(code) == "[]"
    assert sys.modules["uslub"] is uslub
