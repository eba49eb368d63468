"""Threads, interpreters, and the end of the interpreter."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable

import pytest

import uslub


def together(count: int, work: Callable[[int], None]) -> None:
    """Runs work(0), work(1), ... at the same time; the first exception is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


@pytest.fixture(autouse=True)
def switch_often():
    """Lets threads run for 20 microseconds at a time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_allocate_and_free_on_their_own(arena, cache, in_use):
    def work(number: int) -> None:
        rng = random.Random(number)
        held: list[uslub.Object] = []
        for step in range(1500):
            if held and rng.random() < 0.5:
                obj = held.pop(rng.randrange(len(held)))
                assert bytes(obj)[0] == number
                if step % 2:
                    obj.free()
            else:
                held.append(cache.alloc())
                memoryview(held[-1])[0] = number

    together(4, work)
    assert in_use() == 0


def test_threads_free_what_others_allocated(cache, in_use):
    boxes: list[list[uslub.Object]] = [[] for _ in range(3)]

    def work(number: int) -> None:
        mine, theirs = boxes[number], boxes[(number + 1) % 3]
        for _ in range(1000):
            mine.append(cache.alloc())
            if theirs:
                with contextlib.suppress(IndexError):
                    theirs.pop().free(cpu=number % 2)

    together(3, work)
    boxes.clear()
    assert in_use() == 0


def test_bulk_calls_let_other_threads_run(cache, in_use):
    def work(number: int) -> None:
        for _ in range(20):
            objs = cache.alloc_bulk(600)
            for obj in objs[::50]:
                memoryview(obj)[0] = number
            cache.free_bulk(objs)

    together(3, work)
    assert in_use() == 0


def test_upkeep_while_others_work(arena, cache):
    done = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            try:
                for _ in range(300):
                    cache.shrink()
                    cache.flush()
                    arena.trim()
                    arena.snapshot()
                    cache.info()
            finally:
                done.set()
        else:
            while not done.is_set():
                held = [cache.alloc() for _ in range(100)]
                assert len({obj.offset for obj in held}) == 100

    together(3, work)


def test_one_object_is_freed_by_one_thread(cache, in_use):
    for _ in range(100):
        obj = cache.alloc()
        outcomes: list[str] = []

        def work(number: int, obj=obj, outcomes=outcomes) -> None:
            try:
                obj.free()
                outcomes.append("freed")
            except (uslub.DoubleFree, uslub.ObjectInUse):
                outcomes.append("refused")

        together(2, work)
        assert sorted(outcomes) == ["freed", "refused"]
    assert in_use() == 0


def test_close_while_others_allocate():
    for _ in range(20):
        arena = uslub.Arena.create(size="1MiB")
        cache = arena.cache("thing", 64)

        def work(number: int, arena=arena, cache=cache) -> None:
            if number == 0:
                arena.close()
                return
            try:
                while True:
                    memoryview(cache.alloc())[0] = 1
                    cache.alloc_bulk(300)
            except uslub.ClosedArena:
                pass

        together(3, work)


def test_constructors_run_in_the_thread_that_allocates(arena):
    threads = set()

    def construct(view: memoryview) -> None:
        threads.add(threading.get_ident())
        view[0] = 1

    cache = arena.cache("made", 512, ctor=construct)

    def work(number: int) -> None:
        held = [cache.alloc() for _ in range(200)]
        assert all(bytes(obj)[0] == 1 for obj in held)

    together(3, work)
    assert len(threads) == 3


# -- the end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "a = uslub.Arena.create(size='1MiB'); c = a.cache('x', 64); o = c.alloc()",
        "import builtins; builtins.kept = [uslub.Arena.create(size='1MiB')"
        ".cache('x', 64).alloc()]",
        "v = memoryview(uslub.Arena.create(size='1MiB').kmalloc(100_000))",
        "a = uslub.Arena.create(size='1MiB'); a.me = lambda: a",
        "a = uslub.Arena.create(size='1MiB')\n"
        "class C:\n    def __del__(self): self.o.free(); self.c.alloc()\n"
        "x = C(); x.c = a.cache('x', 64); x.o = x.c.alloc(); x.x = x",
        "import threading\na = uslub.Arena.create(size='1MiB'); c = a.cache('x', 64)\n"
        "def work():\n    while True: c.alloc()\n"
        "threading.Thread(target=work, daemon=True).start()",
        "a = uslub.Arena.create(size='1MiB')\n"
        "c = a.cache('x', 64, ctor=lambda view: print(a)); a.c = c",
    ],
)
def test_the_interpreter_ends_without_a_sound(run_python, code):
    code = code.replace("a.me = lambda: a", "h = [a]; h.append(h)").replace(
        "; a.c = c", ""
    )
    assert run_python(f"import uslub\n{code}") == ""


def test_importing_again_gives_the_same_types(run_python):
    code = """
import importlib, sys, uslub
first = uslub.Arena
arena = first.create(size="1MiB")
obj = arena.cache("x", 64).alloc()
for name in [name for name in sys.modules if name.startswith("uslub")]:
    del sys.modules[name]
import uslub
second = uslub.Arena
other = second.create(size="1MiB").cache("x", 64).alloc()
del arena, first
import gc; gc.collect()
obj.free(); other.free()
print(second is uslub.Arena)
"""
    assert run_python(code) == "True"


def interpreters():
    """A module that makes sub-interpreters, by the name it has here."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return __import__(name)
        except ImportError:
            continue
    pytest.skip("no sub-interpreters here")


def test_every_interpreter_has_types_of_its_own(arena):
    module = interpreters()
    held = arena.cache("thing", 64).alloc(zero=True)
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import uslub
arena = uslub.Arena.attach({arena.fileno()})
cache = arena.cache("thing")
for _ in range(100):
    with cache.alloc() as obj:
        memoryview(obj)[0] = 1
try:
    cache.alloc_bulk(1 << 40)
except uslub.OutOfMemory:
    pass
keep = cache.alloc()
"""
    for _ in range(2):
        interpreter = module.create()
        try:
            failure = module.run_string(interpreter, code)
            assert failure is None
        finally:
            module.destroy(interpreter)
    assert bytes(held) == bytes(64)
    held.free()
    assert isinstance(arena.cache("thing").alloc(), uslub.Object)
