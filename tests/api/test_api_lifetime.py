"""When memory returns, and what free() refuses: no view ever dangles."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading

import pytest

import uslub

np = pytest.importorskip("numpy")

# A function's caller keeps its arguments on a stack that nobody can see.
old_python = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10")


@pytest.fixture
def exported(cache):
    """Makes objects that had a buffer exported once, which is gone."""

    def make() -> uslub.Object:
        obj = cache.alloc(zero=True)
        np.frombuffer(obj, "u1")[:] = 1
        return obj

    return make


def refuses(call, *arguments) -> bool:
    """Does the call raise BufferError, of the one tree of errors?"""
    try:
        call(*arguments)
    except uslub.ObjectInUse as error:
        return isinstance(error, BufferError)
    return False


# -- views hold the object ---------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        memoryview,
        lambda obj: memoryview(obj)[8:16],
        lambda obj: np.frombuffer(obj, "u1"),
        lambda obj: np.frombuffer(obj, "u1")[4:].reshape(2, -1)[1:],
        lambda obj: np.asarray(obj),
        lambda obj: np.ndarray((8,), "f8", buffer=obj),
        lambda obj: np.ndarray((8,), "f8", buffer=obj)[2:4],
    ],
)
def test_a_view_keeps_the_memory_and_stops_free(cache, in_use, make):
    obj = cache.alloc()
    view = make(obj)
    assert refuses(obj.free)
    with pytest.raises(BufferError):
        obj.move()
    assert not obj.freed
    del obj
    assert in_use() == 1
    del view
    gc.collect()
    assert in_use() == 0


def test_a_refused_free_changes_nothing_and_can_be_tried_again(cache, in_use):
    obj = cache.alloc(zero=True)
    view = memoryview(obj)
    for _ in range(3):
        assert refuses(obj.free)
    view[0] = 7
    assert bytes(obj)[0] == 7
    assert memoryview(obj)[0] == 7
    view.release()
    obj.free()
    assert in_use() == 0


def test_the_refusal_says_what_is_in_the_way(exported):
    obj = exported()
    view = memoryview(obj)
    with pytest.raises(uslub.ObjectInUse, match="1 exported buffer"):
        obj.free()
    view.release()
    view = np.ndarray((64,), "u1", buffer=obj)
    with pytest.raises(uslub.ObjectInUse, match=r"1 reference .*torch\.frombuffer"):
        obj.free()


def test_torch_frombuffer_keeps_the_memory_and_stops_free(cache, in_use):
    torch = pytest.importorskip("torch")
    obj = cache.alloc(zero=True)
    tensor = torch.frombuffer(obj, dtype=torch.uint8)
    assert refuses(obj.free)
    tensor[0] = 9
    assert bytes(obj)[0] == 9
    part = tensor[10:20].clone()
    del tensor
    obj.free()
    assert in_use() == 0
    assert part.sum() == 0


def test_torch_tensors_alone_keep_the_memory(cache, in_use):
    torch = pytest.importorskip("torch")
    tensor = torch.frombuffer(cache.alloc(), dtype=torch.uint8)
    assert in_use() == 1
    del tensor
    assert in_use() == 0


# -- free() goes ahead when every reference is explained ----------------------------


def test_a_variable(exported, in_use):
    obj = exported()
    obj.free()
    assert in_use() == 0


def test_two_variables(exported):
    obj = same = exported()
    obj.free()
    assert same.freed


def test_a_loop_over_a_list(exported, in_use):
    objs = [exported() for _ in range(10)]
    for obj in objs:
        obj.free()
    assert in_use() == 0


def test_a_loop_over_anything_with_numbers(exported, in_use):
    objs = tuple(exported() for _ in range(3))
    for _number, obj in enumerate(objs):
        obj.free()
    for obj in (exported(), exported()):
        obj.free()
    for obj in [exported()]:
        obj.free()
    assert in_use() == 0


def test_comprehensions(exported, in_use):
    objs = [exported() for _ in range(3)]
    [obj.free() for obj in objs]
    [obj.free() for obj in [exported()]]
    assert in_use() == 0


def test_an_element(exported):
    objs = [exported() for _ in range(5)]
    objs[3].free()
    assert objs[3].freed and not objs[2].freed


def test_an_element_many_times(exported):
    obj = exported()
    objs = [obj] * 5 + [obj, (obj, obj), {obj}]
    objs[3].free()
    assert obj.freed


def test_a_dictionary_and_a_nested_container(exported):
    by_name = {"a": exported(), "b": [exported(), {"c": exported()}]}
    by_name["a"].free()
    by_name["b"][0].free()
    by_name["b"][1]["c"].free()


class Holder:
    def __init__(self, obj: uslub.Object) -> None:
        self.buf = obj
        self.bufs = [obj]

    def release(self) -> None:
        self.buf.free()


class Slotted:
    __slots__ = ("buf",)


@old_python
def test_an_attribute(exported):
    holder = Holder(exported())
    holder.buf.free()
    holder = Holder(exported())
    holder.release()
    slotted = Slotted()
    slotted.buf = exported()
    slotted.buf.free()
    assert holder.bufs[0].freed


def test_attributes_that_were_looked_at_as_a_dictionary(exported):
    holder = Slotted()
    holder.buf = exported()
    thing = type("Thing", (), {})()
    thing.buf = holder.buf
    assert thing.__dict__["buf"] is holder.buf
    thing.buf.free()


@old_python
def test_a_function_that_frees_its_argument(exported, in_use):
    def release(obj):
        obj.free()

    def outer(obj):
        release(obj)

    obj = exported()
    outer(obj)
    assert obj.freed and in_use() == 0


def test_a_closure(exported):
    obj = exported()

    def look():
        return obj.nbytes

    obj.free()
    assert look() == 64


def test_generators_running_and_waiting(exported):
    def running():
        obj = exported()
        yield obj.nbytes
        obj.free()
        yield obj.freed

    assert list(running()) == [64, True]

    def waiting(obj):
        yield
        yield obj

    obj = exported()
    generator = waiting(obj)
    next(generator)
    obj.free()
    assert next(generator).freed


def test_a_bound_method(exported, cache):
    obj = exported()
    free = obj.free
    free()
    with contextlib.ExitStack() as stack:
        stack.callback(exported().free)
        np.frombuffer(stack.enter_context(cache.alloc()), "u1")[:] = 1


def test_a_local_dictionary(exported):
    obj = exported()
    everything = locals()
    obj.free()
    assert everything["obj"].freed


def test_with(cache, in_use):
    with cache.alloc() as obj:
        np.frombuffer(obj, "u1")[:] = 1
    assert obj.freed
    with cache.alloc() as one, cache.alloc() as two:
        memoryview(one)[:] = memoryview(two)[:]
    with cache.alloc():
        pass
    assert in_use() == 0


def test_free_bulk(exported, cache, in_use):
    objs = [exported() for _ in range(10)]
    first = objs[0]
    cache.free_bulk(objs)
    cache.free_bulk([exported(), exported()])
    cache.free_bulk(tuple(exported() for _ in range(3)))
    cache.free_bulk(exported() for _ in range(3))
    assert first.freed and in_use() == 0


def test_krealloc_and_move(arena, exported):
    buf = arena.kmalloc(64)
    np.frombuffer(buf, "u1")[:] = 3
    buf = arena.krealloc(buf, 10_000)
    assert bytes(buf)[:64] == b"\3" * 64
    bufs = [arena.kmalloc(64)]
    np.frombuffer(bufs[0], "u1")
    larger = arena.krealloc(bufs[0], 10_000)
    assert larger.nbytes == 10_000
    obj = exported()
    arena.adopt(obj.move()).free()


def test_after_an_exception_was_caught(exported):
    obj = exported()
    with contextlib.suppress(IndexError):
        memoryview(obj)[1000] = 1
    obj.free()


def test_from_another_thread(exported, in_use):
    box = [exported()]
    errors = []

    def work() -> None:
        try:
            obj = box.pop()
            obj.free()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == [] and in_use() == 0


def test_from_another_thread_while_this_one_has_a_variable(exported):
    obj = exported()
    errors = []

    def work() -> None:
        try:
            objs[0].free()
        except BaseException as error:
            errors.append(error)

    objs = [obj]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == [] and obj.freed


# -- ... and only then -------------------------------------------------------------


def hidden_view(obj: uslub.Object) -> object:
    """A view that keeps a reference only."""
    return np.ndarray((64,), "u1", buffer=obj)


def test_with_and_a_view(cache):
    with pytest.raises(uslub.ObjectInUse), cache.alloc() as obj:
        view = memoryview(obj)
    assert not obj.freed and len(view) == 64
    with pytest.raises(uslub.ObjectInUse), cache.alloc() as obj:
        view = hidden_view(obj)
    assert not obj.freed


def test_with_prefers_the_exception_of_the_block(cache, in_use):
    def work() -> None:
        with cache.alloc() as obj:
            view = memoryview(obj)
            view[0] = 1
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        work()
    assert in_use() == 1
    del caught
    gc.collect()
    assert in_use() == 0


def test_a_view_and_a_list(exported):
    objs = [exported() for _ in range(3)]
    view = hidden_view(objs[1])
    objs[0].free()
    assert refuses(lambda: objs[1].free())
    with pytest.raises(uslub.ObjectInUse):
        objs[1].free()
    for obj in objs[1:]:
        if obj is objs[1]:
            with pytest.raises(uslub.ObjectInUse):
                obj.free()
    del view
    objs[1].free()


def test_a_view_and_a_bound_method(exported):
    obj = exported()
    free = obj.free
    view = hidden_view(obj)
    with pytest.raises(uslub.ObjectInUse):
        free()
    holder = type("Holder", (), {})()
    holder.free = obj.free
    del free
    with pytest.raises(uslub.ObjectInUse):
        holder.free()
    del obj
    with pytest.raises(uslub.ObjectInUse):
        holder.free()
    assert len(view) == 64


def test_a_view_and_a_partial(exported):
    obj = exported()
    holder = type("Holder", (), {})()
    holder.free = functools.partial(uslub.Object.free, obj)
    view = hidden_view(obj)
    with pytest.raises(uslub.ObjectInUse):
        holder.free()
    del obj
    with pytest.raises(uslub.ObjectInUse):
        holder.free()
    assert len(view) == 64


def test_a_view_and_arguments_in_a_tuple(exported):
    obj = exported()
    arguments = (obj,)
    view = hidden_view(obj)
    with pytest.raises(uslub.ObjectInUse):
        uslub.Object.free(*arguments)
    del obj
    with pytest.raises(uslub.ObjectInUse):
        uslub.Object.free(*arguments)
    with pytest.raises(uslub.ObjectInUse):
        uslub.Object.__exit__(*arguments, None, None, None)
    assert len(view) == 64


def test_a_view_and_a_thread(exported):
    obj = exported()
    view = hidden_view(obj)
    thread = threading.Thread(target=uslub.Object.free, args=(obj,))
    with pytest.raises(uslub.ObjectInUse):
        thread.run()
    assert len(view) == 64


def test_a_view_and_a_generator(exported):
    def running():
        obj = exported()
        view = hidden_view(obj)
        with pytest.raises(uslub.ObjectInUse):
            obj.free()
        yield len(view)

    assert list(running()) == [64]


def test_a_view_and_free_bulk(exported, cache):
    objs = [exported() for _ in range(4)]
    view = hidden_view(objs[2])
    assert refuses(cache.free_bulk, objs)
    assert not any(obj.freed for obj in objs)
    assert refuses(cache.free_bulk, tuple(objs))
    assert refuses(cache.free_bulk, iter(objs))
    del view
    cache.free_bulk(objs)


def test_a_view_and_krealloc(arena):
    buf = arena.kmalloc(64)
    view = hidden_view(buf)
    with pytest.raises(uslub.ObjectInUse):
        arena.krealloc(buf, 10_000)
    bufs = [buf]
    with pytest.raises(uslub.ObjectInUse):
        arena.krealloc(bufs[0], 10_000)
    assert arena.krealloc(buf, 60) is buf
    del view
    arena.krealloc(buf, 10_000)


def test_a_view_and_everything_else(exported):
    obj = exported()
    holders = [obj, (obj, 1), {"obj": obj}, {obj}, Holder(obj), lambda: obj]
    view = hidden_view(obj)
    with pytest.raises(uslub.ObjectInUse):
        obj.free()
    del view
    obj.free()
    assert len(holders) == 6


def test_two_views_of_one_object(exported):
    obj = exported()
    one, two = hidden_view(obj), hidden_view(obj)
    with pytest.raises(uslub.ObjectInUse, match="2 references"):
        obj.free()
    del one
    with pytest.raises(uslub.ObjectInUse, match="1 reference "):
        obj.free()
    del two
    obj.free()


def test_looking_at_frames_keeps_nothing_alive(exported, in_use):
    def work() -> None:
        obj = exported()
        other = exported()
        view = memoryview(other)
        assert refuses(obj.move) is False
        del view
        other.free()

    work()
    assert in_use() == 1  # the one that was moved


def test_many_frees_after_views_take_no_time_of_note(exported):
    objs = [exported() for _ in range(2000)]
    for obj in objs:
        obj.free()
    assert all(obj.freed for obj in objs)


def test_a_view_that_was_made_while_free_looked_is_impossible(exported):
    """Threads export and free at once: one of them wins, no view dangles."""
    for _ in range(30):
        obj = exported()
        start = threading.Barrier(2)
        views = []

        def look(obj=obj, start=start, views=views) -> None:
            start.wait()
            with contextlib.suppress(uslub.ObjectFreed):
                views.append(memoryview(obj))

        thread = threading.Thread(target=look)
        thread.start()
        start.wait()
        with contextlib.suppress(uslub.ObjectInUse):
            obj.free()
        thread.join()
        assert obj.freed != bool(views)
