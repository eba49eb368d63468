"""The texts that the shipped whole lives were made of, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uslub.lab.trace import Kind, check_ground, convert, load_ground, open_trace, sample

TRACES = Path(__file__).parents[3] / "shared" / "ground-truth" / "traces"
pytestmark = pytest.mark.check


@pytest.fixture(params=["6.18", "7.3"])
def whole(request: pytest.FixtureRequest) -> tuple[str, Path]:
    source = TRACES / f"qemu-boot-{request.param}-nomerge.txt.zst"
    if not source.is_file():
        pytest.skip("no shared/ground-truth/traces beside this checkout")
    return request.param, source


def test_the_text_still_gives_the_shipped_trace(
    whole: tuple[str, Path], tmp_path: Path
) -> None:
    name, source = whole
    ground = source.with_name(source.name.replace(".txt.zst", ".ground.json.zst"))
    convert(source, tmp_path / "t.trace.parquet", ground=ground)
    made, shipped = (
        open_trace(tmp_path / "t.trace.parquet"),
        open_trace(sample(f"linux-{name}")),
    )
    assert made.header.caches == shipped.header.caches
    assert made.checkpoints == shipped.checkpoints
    for one, two in zip(made.chunks(), shipped.chunks(), strict=True):
        for column in ("time", "kind", "cpu", "cache", "object", "requested", "node"):
            assert (getattr(one, column) == getattr(two, column)).all()


def test_checkpoints_in_the_stream_are_those_of_the_ground_file(
    whole: tuple[str, Path],
) -> None:
    name, source = whole
    trace = open_trace(sample(f"linux-{name}"))
    ground = load_ground(
        source.with_name(source.name.replace(".txt.", ".ground.json."))
    )
    check_ground(trace, ground)
    assert len(trace.checkpoints) == len(ground.checkpoints) == 8
    index = {info.name: at for at, info in enumerate(ground.caches)}
    for ours, theirs in zip(trace.checkpoints, ground.checkpoints, strict=True):
        for cache, told in ours.caches.items():
            other = theirs.caches[index[trace.header.caches[cache].name]]
            for field in ("slabs", "partial", "objects", "cpu_slabs", "cpu_partial"):
                assert getattr(told, field) == getattr(other, field)


def test_a_whole_life_begins_with_nothing_unknown(whole: tuple[str, Path]) -> None:
    """As `lab.md` 3.2 counts it: 25 frees of objects never seen in 6.18, 23 in 7.3."""
    trace = open_trace(sample(f"linux-{whole[0]}"))
    kinds = np.zeros(len(Kind), np.int64)
    for chunk in trace.chunks():
        kinds += np.bincount(chunk.kind, minlength=len(Kind))
    assert kinds[Kind.FREE_UNKNOWN] == {"6.18": 25, "7.3": 23}[whole[0]]
    assert kinds[Kind.FREE_UNKNOWN] < 1e-4 * kinds[Kind.FREE]
