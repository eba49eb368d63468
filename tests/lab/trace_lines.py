"""Trace text for tests: one line per event, in the three dialects that tools print."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "lab"
HEAD = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 9/9   #P:2\n#\n"
PAGE0 = 0xFFFF888000000000


def line(
    event: str,
    pointer: int | str,
    *,
    at_us: int = 0,
    cpu: int = 0,
    size: int = 64,
    slot: int | None = None,
    name: str = "",
    gfp: str = "GFP_KERNEL",
    node: int = -1,
    extra: str = "",
    comm: str = "bash",
    pid: int = 7,
) -> str:
    """One event as ftrace prints it; a number as pointer is an offset from page 0."""
    if isinstance(pointer, int):
        pointer = f"{PAGE0 + pointer:016x}" if pointer else "0" * 16
    head = (
        f"{comm:>16}-{pid:<7} [{cpu:03}] ..... {at_us // 10**6:5}.{at_us % 10**6:06}: "
    )
    text = f"{event}: call_site=f+0x1/0x2 ptr={pointer}"
    if name:
        text += f" name={name}"
    if event in ("kmalloc", "kmem_cache_alloc"):
        text += f" bytes_req={size} bytes_alloc={slot or size}"
        text += f" gfp_flags={gfp}"
        text += f" node={node} accounted=false"
    return head + text + extra + "\n"


def page(event: str, pfn: int, *, at_us: int = 0, cpu: int = 0, order: int = 0) -> str:
    """A page event as ftrace prints it."""
    tail = " migratetype=0 gfp_flags=GFP_KERNEL" if event == "mm_page_alloc" else ""
    return (
        f"{'bash':>16}-7       [{cpu:03}] ..... {at_us // 10**6:5}.{at_us % 10**6:06}:"
        f" {event}: page={0xFFFFEA0000000000 + pfn * 64:016x} pfn={pfn:#x}"
        f" order={order}"
        f"{tail}\n"
    )


def write(path: Path, *lines: str, head: str = HEAD) -> Path:
    """A trace file of these lines."""
    path.write_text(head + "".join(lines))
    return path
