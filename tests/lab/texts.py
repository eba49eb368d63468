"""ftrace text, line by line, as a 6.18 kernel prints it."""

from __future__ import annotations

HEAD = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {count}/{count}   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def alloc(at: float, pointer: int, cpu: int = 0, name: str = "dentry") -> str:
    """A `kmem_cache_alloc` of 192 bytes."""
    return event(
        at,
        cpu,
        f"kmem_cache_alloc: call_site=__d_alloc+0x2e/0x1d0 ptr={pointer:016x}"
        f" name={name} bytes_req=192 bytes_alloc=192 gfp_flags=GFP_KERNEL node=-1"
        " accounted=false",
    )


def free(at: float, pointer: int, cpu: int = 0, name: str = "dentry") -> str:
    """A `kmem_cache_free`."""
    site = "call_site=__d_free+0x13/0x20"
    return event(at, cpu, f"kmem_cache_free: {site} ptr={pointer:016x} name={name}")


def event(at: float, cpu: int, said: str) -> str:
    """One line."""
    return f"            bash-100     [{cpu:03}] ..... {at:11.6f}: {said}\n"


def address(number: int) -> int:
    """Of an object, 21 in a page as dentries are."""
    page, index = divmod(number, 21)
    return 0xFFFF888000100000 + page * 4096 + index * 192


def load(count: int = 200) -> list[str]:
    """Objects come, and half of them go again on the other CPU."""
    lines = []
    for number in range(count):
        lines.append(alloc(1 + number / 1000, address(number)))
        if number % 2:
            lines.append(free(1 + number / 1000 + 0.0001, address(number // 2), cpu=1))
    return lines


def trace(lines: list[str]) -> str:
    """A whole file."""
    return HEAD.format(count=len(lines)) + "".join(lines)
