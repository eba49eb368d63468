"""free() finds every hidden view, whoever else holds the object, however it is called.

A mere reference is what `np.ndarray(buffer=obj)` keeps. Here it hides among references
of every kind that Python code can make, and free() is called in every way there is.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import gc
import itertools
import operator
import queue
import random
import threading
import types

import pytest

import uslub

np = pytest.importorskip("numpy")

free = uslub.Object.free
leave = uslub.Object.__exit__


class Instance:
    pass


class Slots:
    __slots__ = ("one", "two")


class SubList(list):
    pass


# -- what may refer to an object, besides a view -----------------------------------


def in_an_instance(obj):
    thing = Instance()
    thing.obj = obj
    return thing


def in_an_instance_with_a_dictionary(obj):
    thing = in_an_instance(obj)
    return thing, thing.__dict__


def in_slots(obj):
    thing = Slots()
    thing.one = thing.two = obj
    return thing


def in_a_waiting_generator(obj):
    def generate(obj):
        yield 1
        yield obj

    generator = generate(obj)
    next(generator)
    return generator


def in_a_waiting_coroutine(obj):
    @types.coroutine
    def pause():
        yield

    async def work(obj):
        await pause()
        return obj

    coroutine = work(obj)
    coroutine.send(None)
    return coroutine


def in_a_traceback(obj):
    def fail(obj):
        raise ValueError

    try:
        fail(obj)
    except ValueError as error:
        return error


def in_a_closure(obj):
    return lambda: obj


def in_a_default(obj):
    return lambda obj=obj: obj


def in_iterators(obj):
    iterators = [
        enumerate([obj, obj]),
        zip([obj, 1], [2, obj], strict=False),
        itertools.chain([obj], [obj]),
        itertools.cycle([obj]),
        itertools.product([obj, 1], [2]),
        itertools.groupby([obj, obj]),
        iter({1: obj}.items()),
    ]
    for iterator in iterators:
        next(iterator)
    return iterators


def in_a_thread_local(obj):
    local = threading.local()
    local.obj = obj
    return local


def in_a_context(obj):
    context = contextvars.copy_context()
    context.run(contextvars.ContextVar("obj").set, obj)
    return context


def in_a_cached_function(obj):
    cached = functools.lru_cache(lambda number: obj)
    cached(1)
    return cached


def in_a_queue(obj):
    fifo = queue.SimpleQueue()
    fifo.put(obj)
    return fifo


HOLDERS = (
    in_an_instance,
    in_an_instance_with_a_dictionary,
    in_slots,
    in_a_waiting_generator,
    in_a_waiting_coroutine,
    in_a_traceback,
    in_a_closure,
    in_a_default,
    in_iterators,
    in_a_thread_local,
    in_a_context,
    in_a_cached_function,
    in_a_queue,
    lambda obj: [obj, obj],
    lambda obj: (obj,),
    lambda obj: (1, obj),
    lambda obj: {obj, 1},
    lambda obj: {obj: obj},
    lambda obj: collections.deque([obj]),
    lambda obj: collections.OrderedDict(obj=obj),
    lambda obj: collections.defaultdict(list, obj=obj),
    lambda obj: collections.namedtuple("Named", "obj")(obj),
    lambda obj: SubList([obj]),
    lambda obj: types.SimpleNamespace(obj=obj),
    lambda obj: types.MappingProxyType({"obj": obj}),
    lambda obj: slice(obj, None),
)
#: These could be what called us, so that free() refuses even without a view.
DOUBTFUL = (
    lambda obj: obj.free,
    lambda obj: types.MethodType(print, obj),
    lambda obj: functools.partial(print, obj),
)


# -- how it may be called ----------------------------------------------------------


def directly(obj):
    obj.free()


def with_an_argument(obj):
    obj.free(cpu=int("0") + 1)


def from_a_list(obj):
    objs = [obj]
    del obj
    objs[0].free()


def from_an_attribute(obj):
    thing = in_an_instance(obj)
    del obj
    thing.obj.free()


def by_a_bound_method(obj):
    method = obj.free
    del obj
    method()


def by_a_bound_method_on_an_attribute(obj):
    thing = Instance()
    thing.free = obj.free
    thing.free()


def by_getattr(obj):
    getattr(obj, "free")()  # noqa: B009


def by_the_function(obj):
    free(obj)


def by_a_star(obj):
    arguments = (obj,)
    free(*arguments)


def by_with(obj):
    with obj:
        pass


def by_exit(obj):
    obj.__exit__(None, None, None)


def by_an_exit_stack(obj):
    with contextlib.ExitStack() as stack:
        stack.enter_context(obj)


def by_a_foreign_exit(obj):
    class Manager:
        def __enter__(self):
            return self

        __exit__ = staticmethod(obj.__exit__)

    with Manager():
        pass


def by_a_partial_exit(obj):
    class Manager:
        def __enter__(self):
            return self

        __exit__ = staticmethod(functools.partial(leave, obj))

    del obj
    with Manager():
        pass


def by_a_partial_on_an_attribute(obj):
    thing = Instance()
    thing.free = functools.partial(free, obj)
    thing.free()


def by_a_partial_with_all_arguments(obj):
    functools.partial(leave, obj)(None, None, None)


def by_map(obj):
    list(map(free, [obj]))


def by_starmap(obj):
    arguments = [(obj,)]
    list(itertools.starmap(uslub.Object.free, arguments))


def by_starmap_with_all_arguments(obj):
    arguments = [(obj, None, None, None)]
    del obj
    list(itertools.starmap(leave, arguments))


def by_a_method_caller(obj):
    operator.methodcaller("free")(obj)


def by_sorting(obj):
    sorted([obj], key=uslub.Object.free)


def by_reducing(obj):
    functools.reduce(lambda _, obj: obj.free(), [None, obj])


def in_a_comprehension(obj):
    [each.free() for each in [obj]]


def in_a_generator(obj):
    list(each.free() for each in [obj])


def in_a_thread(obj):
    errors = []

    def work():
        try:
            obj.free()
        except BufferError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def in_exec(obj):
    exec("obj.free()")


CALLS = (
    directly,
    with_an_argument,
    from_a_list,
    from_an_attribute,
    by_a_bound_method,
    by_a_bound_method_on_an_attribute,
    by_getattr,
    by_the_function,
    by_a_star,
    by_with,
    by_exit,
    by_an_exit_stack,
    by_a_foreign_exit,
    by_a_partial_exit,
    by_a_partial_on_an_attribute,
    by_a_partial_with_all_arguments,
    by_map,
    by_starmap,
    by_starmap_with_all_arguments,
    by_a_method_caller,
    by_sorting,
    by_reducing,
    in_a_comprehension,
    in_a_generator,
    in_a_thread,
    in_exec,
)


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Hides what the test runner has from the collector: free() looks at less."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def attempt(cache, call, holders, *, view: bool) -> bool:
    """Does `call` free an object that had a buffer exported once?"""
    obj = cache.alloc()
    memoryview(obj).release()
    hidden = np.ndarray((64,), "u1", buffer=obj) if view else None
    held = [holder(obj) for holder in holders]
    try:
        # Through a tuple: Python 3.10 hides the arguments of ordinary calls.
        call(*[obj])
    except uslub.ObjectInUse:
        assert not obj.freed
        return False
    assert obj.freed and len(held) == len(holders)
    del hidden
    return True


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_hidden_view_is_found(cache, call):
    rng = random.Random(call.__name__)
    assert not attempt(cache, call, [], view=True)
    for _ in range(6):
        holders = rng.sample(HOLDERS + DOUBTFUL, rng.randint(1, 3))
        assert not attempt(cache, call, holders, view=True)


@pytest.mark.check
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_hidden_view_is_found_among_everything(cache, call):
    rng = random.Random()
    for _ in range(300):
        holders = rng.sample(HOLDERS + DOUBTFUL, rng.randint(0, 4))
        assert not attempt(cache, call, holders, view=True)


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_only_holds_is_not_in_the_way(cache, holder):
    assert attempt(cache, directly, [holder], view=False)


@pytest.mark.parametrize(
    "call",
    [
        directly,
        with_an_argument,
        from_a_list,
        from_an_attribute,
        by_a_bound_method,
        by_getattr,
        by_with,
        by_exit,
        by_an_exit_stack,
        in_a_comprehension,
        in_a_generator,
        in_a_thread,
    ],
)
def test_every_usual_call_goes_ahead(cache, call):
    assert attempt(cache, call, [], view=False)
