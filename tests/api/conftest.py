"""Arenas for the tests of the Python API; each is sound when its test ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import uslub


@pytest.fixture
def arena() -> Iterator[uslub.Arena]:
    """An anonymous arena with 2 CPUs and 2 nodes, validated afterwards."""
    arena = uslub.Arena.create(size="32MiB", cpus=2, nodes=2)
    yield arena
    if not arena.closed:
        assert arena.validate() == []


@pytest.fixture
def cache(arena: uslub.Arena) -> uslub.Cache:
    return arena.cache("thing", 64)


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no other test run has; its arena is unlinked afterwards."""
    name = f"test-{os.getpid()}-{os.urandom(4).hex()}"
    yield name
    with contextlib.suppress(uslub.ArenaNotFound):
        uslub.Arena.unlink(name)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Stays on one CPU: what is freed last is allocated next."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def in_use(cache: uslub.Cache) -> Callable[[], int]:
    """Counts the objects of `cache` that are in somebody's hands."""

    def count() -> int:
        snapshot = cache.snapshot()
        waiting = sum(len(cpu.freelist) for cpu in snapshot.cpus)
        return sum(slab.inuse for slab in snapshot.slabs) - waiting

    return count


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs code in a new interpreter and returns what it prints."""

    def run(code: str, *arguments: str, **options: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            **options,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return str(done.stdout).strip()

    return run
