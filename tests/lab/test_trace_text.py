"""Text importers: what the tools of real kernels printed, line by line and by block."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lab.trace_lines import DATA, line, page, write
from uslub.lab.trace import Kind, Trace, convert, open_trace
from uslub.lab.trace.importing import ground_beside


def whole(trace: Trace) -> dict[str, np.ndarray]:
    """All columns of a small trace."""
    chunks = list(trace.chunks())
    names = (
        "time",
        "kind",
        "cpu",
        "cache",
        "object",
        "pointer",
        "requested",
        "allocated",
    )
    more = ("node", "site", "pid", "flags")
    return {n: np.concatenate([getattr(c, n) for c in chunks]) for n in names + more}


def imported(source: Path, tmp_path: Path, **options: object) -> Trace:
    """A compact trace of a source, in a folder of the test's own."""
    convert(source, tmp_path / "t.trace.parquet", **options)
    return open_trace(tmp_path / "t.trace.parquet")


def text_of(path: Path) -> list[str]:
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        return stream.read().decode().splitlines()


EVENT = re.compile(
    r"\s\[(?P<cpu>\d+)\]\s+(?:\S{5}\s+)?(?P<s>\d+)\.(?P<us>\d{6})\d*:\s+(?:kmem:)?"
    r"(?P<event>k\w+|mm_page\w+):.*?(?:ptr|pfn)=(?:0x)?(?P<pointer>[0-9a-f]+)(?P<rest>.*)"
)
SAMPLES = ("ftrace-6.18", "ring-6.18", "perf-script-6.18", "trace-cmd-6.18")
STARTS = (Kind.ALLOC, Kind.LARGE_ALLOC, Kind.PAGE_ALLOC, Kind.PAGE_FREE)
Told = tuple[int, int, int, int, str]


def told_by(text: str) -> Told | None:
    """Time, CPU, address, size and name of a printed event; None for other lines."""
    match = EVENT.search(text)
    if match is None:
        return None
    pointer, starts = int(match["pointer"], 16), "free" not in match["event"]
    starts |= match["event"].startswith("mm")
    if match["event"].startswith("k") and pointer <= 16:
        return None
    size = re.search(r"(?:bytes_req|order)=(\d+)", match["rest"])
    name = re.search(r"name=(\S+)", match["rest"])
    return (
        int(match["s"]) * 10**6 + int(match["us"]),
        int(match["cpu"]),
        pointer if starts else 0,
        int(size[1]) if size else 0,
        name[1] if name and starts else "",
    )


def told_by_rows(trace: Trace) -> list[Told]:
    """The same of the rows of a trace."""
    names = [info.name for info in trace.header.caches]
    rows = whole(trace)
    found = []
    for at in np.flatnonzero(
        ~np.isin(rows["kind"], (Kind.CHECKPOINT, Kind.IMPLIED_FREE))
    ):
        name = names[rows["cache"][at]] if rows["kind"][at] == Kind.ALLOC else ""
        found.append(
            (
                int(rows["time"][at]) // 1000,
                int(rows["cpu"][at]),
                int(rows["pointer"][at]) if rows["kind"][at] in STARTS else 0,
                int(rows["requested"][at]),
                "" if "kmalloc-" in name else name,
            )
        )
    return found


@pytest.mark.parametrize("name", SAMPLES)
def test_columns_hold_what_each_printed_line_says(name: str, tmp_path: Path) -> None:
    """The import by blocks against a plain loop over the lines."""
    source = DATA / f"{name}.txt.zst"
    wanted = [told for text in text_of(source) if (told := told_by(text))]
    assert len(wanted) > 1000
    assert sorted(told_by_rows(imported(source, tmp_path))) == sorted(wanted)


def test_an_object_is_one_number_from_allocation_to_free(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, at_us=1),
        line("kmem_cache_alloc", 0x2000, at_us=2, name="dentry", size=192),
        line("kfree", 0x1000, at_us=3, cpu=1),
        line("kmalloc", 0x1000, at_us=4),
        line("kmem_cache_free", 0x2000, at_us=5, name="dentry"),
        line("kfree", 0x1000, at_us=6),
    )
    rows = whole(open_trace(source))
    assert rows["object"].tolist() == [0, 1, 0, 2, 1, 2]
    assert rows["kind"].tolist() == [0, 0, 1, 0, 1, 1]
    assert rows["cpu"].tolist() == [0, 0, 1, 0, 0, 0]
    assert rows["time"].tolist() == [1000, 2000, 3000, 4000, 5000, 6000]


def test_kmalloc_caches_follow_size_and_gfp_bits(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, size=100, slot=128),
        line("kmalloc", 0x2000, size=2000, slot=2048, gfp="GFP_KERNEL_ACCOUNT"),
        line("kmalloc", 0x3000, gfp="GFP_KERNEL|__GFP_RECLAIMABLE|__GFP_ACCOUNT"),
        line("kmalloc", 0x4000, gfp="GFP_DMA|__GFP_RECLAIMABLE"),
        line("kmalloc", 0x8000, size=8193, slot=16384),
        line("kfree", 0x8000),
    )
    trace = open_trace(source)
    rows = whole(trace)
    named = [trace.header.caches[i].name for i in rows["cache"][:4]]
    assert named == ["kmalloc-128", "kmalloc-cg-2k", "kmalloc-rcl-64", "dma-kmalloc-64"]
    assert rows["kind"][4:].tolist() == [Kind.LARGE_ALLOC, Kind.LARGE_FREE]
    assert rows["cache"][4:].tolist() == [-1, -1]
    assert len(trace.header.caches) == 4


def test_null_and_empty_allocations_are_counted_and_left_out(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kfree", 0),
        line("kfree", "0000000000000010"),
        line("kmalloc", "(null)"),
        line("kmalloc", 0x1000),
    )
    header = open_trace(source).header
    assert header.events == 1
    assert header.notes["frees of NULL"] == 2
    assert header.notes["allocations that failed"] == 1


def test_names_with_spaces_and_odd_command_names_are_read(tmp_path: Path) -> None:
    source = write(
        tmp_path / "t.txt",
        line("kmem_cache_alloc", 0x1000, name="two words", comm="a] [003] b: c"),
        line(
            "kmem_cache_free", 0x1000, name="two words", comm="kworker/u8:1-ev", cpu=1
        ),
        line("kmalloc", 0x2000, comm="x=1 ptr=2", pid=1234567),
    )
    trace = open_trace(source)
    rows = whole(trace)
    assert trace.header.caches[0].name == "two words"
    assert rows["cpu"].tolist() == [0, 1, 0]
    assert rows["pid"].tolist() == [7, 7, 1234567]
    assert rows["object"].tolist() == [0, 0, 1]


def test_other_events_and_more_fields_are_counted(tmp_path: Path) -> None:
    other = line("kmalloc", 0x1000).replace(
        "kmalloc: call_site=f+0x1/0x2", "sched_wakeup:"
    )
    source = write(
        tmp_path / "t.txt",
        line("kmalloc", 0x1000, extra=" colour=blue"),
        other.replace("ptr=", "comm=x pid="),
    )
    notes = open_trace(source).header.notes
    assert notes["rows with unknown fields: colour"] == 1
    assert notes["other events, left out"] == {"sched_wakeup": 1}


def test_allocations_without_names_get_them_from_frees_sites_and_sizes(
    tmp_path: Path,
) -> None:
    """Kernels 5.12 to 6.17 name the cache when an object is freed, not before."""

    def alloc(pointer: int, size: int, site: str, at: int) -> str:
        text = line("kmem_cache_alloc", pointer, size=size, at_us=at)
        return text.replace("f+0x1/0x2", f"{site}+0x1/0x2")

    source = write(
        tmp_path / "t.txt",
        alloc(0x1000, 192, "d_alloc", 1),
        line("kmem_cache_free", 0x1000, name="dentry", at_us=2),
        alloc(0x2000, 192, "d_alloc", 3),  # never freed: by its call site
        alloc(0x3000, 48, "other", 4),  # nothing tells: by its size
        alloc(0x4000, 192, "sometimes", 5),
        line("kmem_cache_free", 0x4000, name="filp", at_us=6),
    )
    trace = open_trace(source)
    rows = whole(trace)
    named = [trace.header.caches[i].name for i in rows["cache"]]
    assert named == ["dentry", "dentry", "dentry", "unnamed-48", "filp", "filp"]
    assert trace.header.notes["unnamed allocations: by call site"] == 1
    assert not list(tmp_path.glob(".*"))  # the file of the first reading is gone


def test_events_of_5_10_with_their_own_names_are_read(tmp_path: Path) -> None:
    """Up to 6.0 allocations on a node had events of their own; pfn was decimal."""
    node = line("kmalloc", 0x1000, size=64).replace("kmalloc:", "kmalloc_node:")
    node = node.replace(" accounted=false", "").replace("node=-1", "node=1")
    plain = line("kmalloc", 0x2000).replace(" node=-1 accounted=false", "")
    pages = page("mm_page_alloc", 0x105).replace("pfn=0x105", "pfn=261")
    source = write(tmp_path / "t.txt", node, plain, pages)
    rows = whole(open_trace(source))
    assert rows["node"][:2].tolist() == [1, -1]
    assert rows["kind"].tolist() == [Kind.ALLOC, Kind.ALLOC, Kind.PAGE_ALLOC]
    assert rows["pointer"][2] == 0x105


def test_checkpoints_in_the_stream_carry_the_kernels_counters() -> None:
    trace = open_trace(DATA / "caches-6.18.trace.parquet")
    assert [each.name for each in trace.checkpoints] == [
        "boot", "modules", "files", "fork", "net", "walk", "drop", "end",
    ]  # fmt: skip
    dentry = trace.checkpoints[3].caches[trace.header.cache_index("dentry")]
    assert (dentry.slabs, dentry.partial, dentry.cpu_slabs) == (
        (206, 10),
        (46, 0),
        (25, 7),
    )
    assert dentry.cpu_partial == {0: 8, 1: 11, 2: 4, 3: 5}
    assert dentry.cpu_partial_slabs == 28
    chunk = next(trace.chunks(dentry.row, dentry.row + 1))
    assert (chunk.kind[0], chunk.object[0]) == (Kind.CHECKPOINT, 3)
    assert chunk.cache[0] == trace.header.cache_index("dentry")


def test_a_ground_file_beside_a_text_is_found(tmp_path: Path) -> None:
    for name in ("a.ground.json.zst", "b.ground.json"):
        (tmp_path / name).touch()
    assert ground_beside(tmp_path / "a.txt.zst") == tmp_path / "a.ground.json.zst"
    assert ground_beside(tmp_path / "b.txt") == tmp_path / "b.ground.json"
    assert ground_beside(tmp_path / "c.txt") is None


def test_a_converted_text_is_used_again_until_it_changes(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", line("kmalloc", 0x1000))
    first = open_trace(source)
    made = first.path.stat().st_mtime_ns
    assert first.path.parent == tmp_path
    assert open_trace(source).path.stat().st_mtime_ns == made
    write(source, line("kmalloc", 0x1000), line("kfree", 0x1000))
    assert open_trace(source).header.events == 2


@pytest.mark.parametrize(
    ("name", "tool"), [("trace-cmd-6.18.dat", "trace-cmd"), ("perf-6.18.data", "perf")]
)
def test_files_of_other_tools_are_read_through_them(
    name: str, tool: str, tmp_path: Path
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    trace = imported(DATA / f"{name}.zst", tmp_path)
    kinds = trace.header.notes["rows by kind"]
    assert kinds["ALLOC"] > 100
    assert kinds["FREE"] > 100
    if tool == "trace-cmd":  # the very same events as the text of the same buffer
        other = imported(DATA / "ring-6.18.txt.zst", tmp_path)
        assert kinds == other.header.notes["rows by kind"]


def test_frees_that_a_probe_on_bulk_frees_tells_are_frees(tmp_path: Path) -> None:
    """As `lab.md` 2.4 has the kernel print them, among plain events of one moment."""
    plain = line("kfree", 0x1000, at_us=5, cpu=1, pid=9)
    head = plain.split("kfree:")[0]
    address = [
        f"{0xFFFF888000000000 + at:#x}" for at in (0x1000, 0x2000, 0x3000, 0x4000)
    ]
    probe = (
        f"{head}bulkfree: (kmem_cache_free_bulk+0x0/0x5a0) s=0x0 n=0x3"
        f" p0={{{address[0]},{address[1]}}} p1={{{address[2]},{address[3]}}}\n"
    )
    other = f"{head}kvfree: (kvfree_call_rcu+0x0/0x2b0) head=0x1 ptr={address[3]}\n"
    allocs = [line("kmalloc", at, at_us=1) for at in (0x1000, 0x2000, 0x3000, 0x4000)]
    source = write(
        tmp_path / "t.txt", *allocs, other, probe, line("kfree", 0x4000, at_us=6)
    )
    trace = open_trace(source)
    rows = whole(trace)
    assert rows["kind"].tolist() == [Kind.ALLOC] * 4 + [Kind.FREE] * 4
    assert rows["object"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert rows["cpu"][4:7].tolist() == [1, 1, 1]
    assert rows["pid"][4:7].tolist() == [9, 9, 9]
    assert trace.header.notes["frees told by a probe on bulk frees"] == 3
    assert trace.header.notes["other events, left out"] == {"bulkfree": 1, "kvfree": 1}
