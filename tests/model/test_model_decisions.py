"""Recorded decisions of real kernels, replayed; and files that are not recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.ground_truth import find
from uslub.tools.decisions import DecisionFileError, read_recording
from uslub.tools.verify_model import replay_decisions

SLAB_FILES = {
    "cps0_min1.txt": 2985,
    "cps4_min20.txt": 6002,
    "default_a.txt": 4085,
    "default_shrink.txt": 4206,
}


@pytest.mark.parametrize("design", ["classic", "6.8", "6.18"])
@pytest.mark.parametrize("name", SLAB_FILES)
def test_the_model_decides_as_the_kernel_did(name: str, design: str) -> None:
    result = replay_decisions(find(f"decisions/{name}"), design)
    assert (result.checks, result.mismatches) == (SLAB_FILES[name], 0), result.first


@pytest.mark.parametrize("design", ["classic", "6.18"])
def test_sheaves_hand_out_the_recorded_objects(design: str) -> None:
    result = replay_decisions(find("decisions/sheaf_vma.txt"), design)
    assert (result.checks, result.mismatches) == (2798, 0), result.first


def test_the_5_10_design_is_told_apart_by_a_6_18_recording() -> None:
    assert replay_decisions(find("decisions/default_a.txt"), "5.10").mismatches > 0


HEADER = (
    "H size=512 order=1 objs=16 cpu_partial_slabs=7 min_partial=5 free0=2 off={off}\n"
)


def write(folder: Path, *lines: str, off: int = 2) -> Path:
    path = folder / "recording.txt"
    path.write_text(HEADER.format(off=off) + "\n".join(lines) + "\n")
    return path


def test_a_recording_of_three_cpus_is_read_from_its_events(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "U 1",
        "C 2 0 1 0 32",
        "F 2 1 5",  # was full: to the chain of CPU 2
        "C 2 0 2 1 32",
        "A 2 1 5 E",
        "F 2 1 5",
        "S p2 d0 d2",  # CPU 2 owns slab 1 since the allocation
        "C 2 2 0 0 29",
    )
    result = replay_decisions(path)
    assert read_recording(path).header.cpus == 3
    assert (result.line().split(": ")[1], result.first) == (
        "4 checks, 0 mismatches",
        None,
    )


@pytest.mark.parametrize("off", [2, 3])
def test_unlisted_full_slabs_are_counted_either_way(tmp_path: Path, off: int) -> None:
    # 2: everything at the start; 3: one more slab that no event touches.
    path = write(tmp_path, "U 1", f"C {off} 0 1 0 {16 * off}", off=off)
    assert replay_decisions(path).mismatches == 0


def test_a_first_counter_line_tells_that_off_means_unlisted_slabs(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "U 1", "C 7 0 1 0 112", off=5)
    assert replay_decisions(path).mismatches == 0


def test_the_first_mismatch_is_explained_with_the_state(tmp_path: Path) -> None:
    path = write(tmp_path, "A 0 0 3 S", "F 0 0 3", "A 0 0 4 E", "C 9 9 9 9 9")
    result = replay_decisions(path)
    assert (result.checks, result.mismatches) == (3, 2)
    text = str(result.first)
    assert "line 4: A 0 0 4 E" in text
    assert "expected object 4 of slab 0" in text
    assert "got      object 3 of slab 0" in text
    assert "cpu 0: slab 0" in text


def test_a_wrong_decision_does_not_stop_the_replay(tmp_path: Path) -> None:
    path = write(tmp_path, "A 0 7 3 N", "F 0 7 3", "A 0 0 3 S")
    result = replay_decisions(path)
    assert (result.checks, result.mismatches) == (2, 2)


@pytest.mark.parametrize(
    "line", ["X 1", "A 0 1 2", "A 0 1 2 Q", "F 0 1", "C 1 2 3", "S q0", "F a b c"]
)
def test_a_line_out_of_format_is_refused_with_its_number(
    tmp_path: Path, line: str
) -> None:
    with pytest.raises(DecisionFileError, match="line 2"):
        read_recording(write(tmp_path, line))


def test_a_file_without_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.txt"
    path.write_text("A 0 0 0 E\n")
    with pytest.raises(DecisionFileError, match="no header"):
        read_recording(path)
    path.write_text("H size=8\n")
    with pytest.raises(DecisionFileError, match="bad header"):
        read_recording(path)


def test_a_free_of_an_object_that_nobody_holds_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "A 0 0 3 S", "F 0 0 3", "F 0 0 3")
    with pytest.raises(DecisionFileError, match="nobody holds"):
        replay_decisions(path)


def test_sheaf_recordings_of_other_sizes_are_read_from_their_header(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sheaf.txt"
    lines = ["H cache=x capacity=2 max_full=1 cpus=1 nodes=1"]
    lines += [f"A 0 {n} R" for n in range(8)]
    lines += [f"F 0 {n}" for n in range(8)]
    # main holds 6 7, the barn 2 3; the spare 4 5 was swapped, 0 1 flushed to slabs
    lines += [f"A 0 {n} E" for n in (7, 6)]
    path.write_text("\n".join(lines) + "\n")
    result = replay_decisions(path, "6.18")
    assert (result.checks, result.mismatches) == (10, 0), result.first
