"""Memory that runs out is an exception: a full /dev/shm, a file size limit, a cgroup.

Each test runs a program of its own, in a mount namespace, under a resource limit or in
a control group of its own; where the machine does not allow that, it says so and skips.
The program allocates until it is refused, then shows that nothing was lost: what it got
can be written, `validate` is clean, and what it frees it can have again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent(
    """
    import sys
    import uslub

    name, size, item = sys.argv[1] or None, sys.argv[2], int(sys.argv[3])
    arena = uslub.Arena.create(name, size=size)
    try:
        cache = arena.cache("item", item)
        kept = []
        try:
            for _ in range(100_000):
                kept.append(cache.alloc())
        except uslub.OutOfMemory as error:
            print("refused:", error)
        else:
            sys.exit("was never refused")
        assert kept, "not even one"
        for obj in kept:
            memoryview(obj)[:] = b"x" * item
        assert arena.validate() == []
        count = len(kept)
        obj = None
        kept.clear()
        # A little may have become metadata of pages that were not used before.
        again = [cache.alloc() for _ in range(count - count // 50 - 1)]
        assert arena.validate() == []
        print("objects:", count)
    finally:
        if name:
            uslub.Arena.unlink(name)
    """
)


def run(name: str, size: str, item: int, prefix: list[str]) -> str:
    """Output of the program; fails the test if it was killed by anything."""
    command = [*prefix, sys.executable, "-c", PROGRAM, name, size, str(item)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert "refused:" in done.stdout
    return done.stdout


@pytest.mark.parametrize("item", [64, 4096, 300_000])
def test_a_full_arena_is_an_exception(item: int) -> None:
    assert "no free block" in run("", "2MiB", item, [])


@pytest.mark.parametrize("item", [100, 1 << 20])
def test_a_full_dev_shm_is_an_exception_and_no_sigbus(item: int) -> None:
    mount = "mount -t tmpfs -o size=8M tmpfs /dev/shm"
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*namespace, mount], capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here: cannot make /dev/shm small")
    script = [*namespace, f'{mount} && exec "$@"', "sh"]
    assert "/dev/shm is full" in run(f"full-{uuid.uuid4().hex}", "64MiB", item, script)


def test_a_file_size_limit_is_an_exception() -> None:
    code = (
        "import resource, sys, uslub\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    uslub.Arena.create(size='64MiB')\n"
        "except uslub.BadSize as error:\n"
        "    sys.exit(0 if 'File too large' in str(error) else str(error))\n"
        "sys.exit('created')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_address_space_limit_is_an_exception() -> None:
    code = (
        "import resource, sys, uslub\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try:\n"
        "    uslub.Arena.create(size='64GiB')\n"
        "except uslub.OutOfMemory as error:\n"
        "    sys.exit(0)\n"
        "sys.exit('created')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def control_group(limit: int) -> Path | None:
    """A fresh memory control group (version 1 or 2) with that limit, if we may."""
    name = f"uslub-test-{uuid.uuid4().hex}"
    for root, knob in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / knob).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def test_the_limit_of_a_control_group_is_an_exception_and_nobody_is_killed() -> None:
    group = control_group(96 << 20)
    if group is None:
        pytest.skip("no writable memory control group here")
    try:
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        assert "control group" in run("", "1GiB", 1 << 20, enter)
    finally:
        os.rmdir(group)
