"""`uslub verify` agrees with what kernels did, and can disagree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.recorder import Plan, record
from tools.rows import CLASSIC, DATA, SMALL, sysfs_row, write
from uslub.tools.cli import main
from uslub.tools.verify import EngineSlabs, verify

BACKENDS = ("engine", "model")
LINE = re.compile(r"(\S+): (\d+) checks, (\d+) mismatches")


def counts(output: str) -> tuple[int, int]:
    found = LINE.fullmatch(output.splitlines()[0])
    assert found, output
    return int(found[2]), int(found[3])


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["verify", *words])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CLASSIC)
def test_every_recorded_decision_comes_out_the_same(
    backend: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = DATA / "decisions" / name
    status, output, errors = run(capsys, "--backend", backend, str(path))
    checks, mismatches = counts(output)
    assert (status, mismatches, errors) == (0, 0, "")
    kinds = re.findall("^[AC]", path.read_text(), re.MULTILINE)
    assert checks == len(kinds) > 1000
    assert output.startswith(f"{name}: ")


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_235_recorded_caches_have_our_sizes_and_partners(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(DATA / "sysfs-6.18.json")
    status, output, errors = run(capsys, "--backend", backend, path)
    assert (status, output, errors) == (
        0,
        "sysfs-6.18.json: 235 checks, 0 mismatches\n",
        "",
    )


def test_sheaves_are_replayed_by_the_model_and_refused_by_the_engine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(DATA / "decisions" / "sheaf_vma.txt")
    status, output, _ = run(capsys, "--backend", "model", "--design", "6.18", path)
    assert (status, counts(output)[1]) == (0, 0)
    status, output, errors = run(capsys, path)
    assert (status, output) == (2, "")
    assert "sheaves" in errors and "--backend model" in errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_recording_is_replayed(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "small.txt", SMALL)
    status, output, errors = run(capsys, "--backend", backend, path)
    assert (status, output, errors) == (0, "small.txt: 4 checks, 0 mismatches\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_object_is_a_mismatch_that_is_explained(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "wrong.txt", SMALL.replace("A 1 0 1 E", "A 1 0 0 E"))
    status, output, errors = run(capsys, "--backend", backend, path)
    assert (status, errors) == (1, "")
    assert output.startswith("wrong.txt: 4 checks, 1 mismatches\n")
    assert "line 6: A 1 0 0 E" in output
    assert "expected object 0 of slab 0" in output
    assert "got      object 1 of slab 0" in output
    assert "cache replay: object 2048" in output


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_counter_is_a_mismatch(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "wrong.txt", SMALL.replace("C 2 0 2 1 4", "C 2 1 1 0 4"))
    status, output, _ = run(capsys, "--backend", backend, path)
    assert (status, counts(output)) == (1, (4, 1))
    assert "expected slabs 2, partial 1" in output
    assert "got      slabs 2, partial 0" in output


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CLASSIC)
def test_one_changed_event_in_a_long_recording_is_found(
    backend: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (DATA / "decisions" / name).read_text().splitlines()
    exact = [n for n, line in enumerate(lines) if re.match(r"A \d+ \d+ \d+ E", line)]
    at = exact[len(exact) // 2]
    words = lines[at].split()
    words[3] = str((int(words[3]) + 1) % 21)
    lines[at] = " ".join(words)
    path = write(tmp_path / name, "\n".join(lines) + "\n")
    status, output, _ = run(capsys, "--backend", backend, path)
    assert status == 1
    assert counts(output)[1] >= 1
    assert f"first mismatch: line {at + 1}: {lines[at]}" in output


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"slab_size": 72},
        {"order": 1},
        {"objs_per_slab": 63},
        {"cpu_partial": 52},
        {"min_partial": 6},
        {"aliases": 2},
        {"remote_node_defrag_ratio": 90},
        {"reclaim_account": 1},
    ],
)
def test_a_wrong_row_is_one_mismatch(
    backend: str,
    changes: dict[str, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {":0000064": sysfs_row(**changes), "own": own_row()}
    path = write(
        tmp_path / "sysfs.json", json.dumps({"cpus_present": 2, "caches": rows})
    )
    status, output, errors = run(capsys, "--backend", backend, path)
    assert (status, counts(output)) == (1, (2, 1)), errors + output
    assert "row :0000064" in output


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_ids_of_one_kind_and_size_cannot_both_be_right(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {":0000064": sysfs_row(), ":0000065": sysfs_row(alias_names=["three", "x"])}
    path = write(
        tmp_path / "sysfs.json", json.dumps({"cpus_present": 2, "caches": rows})
    )
    status, output, _ = run(capsys, "--backend", backend, path)
    assert (status, counts(output)) == (1, (2, 2))


def own_row() -> dict[str, object]:
    row = sysfs_row(has_ctor=True, slab_size=72, objs_per_slab=56, aliases=0)
    del row["alias_names"]
    return row


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A 0 0 1 S\n", "no header line"),
        ("H size=64\n", "bad header"),
        (SMALL + "Q 1\n", "line 7"),
        (SMALL + "F 0 7 1\n", "nobody holds this object"),
        ("H size=64 order=0 objs=9 cpu_partial_slabs=1 min_partial=5 free0=1\n", "64"),
    ],
)
def test_a_file_that_cannot_be_used_is_status_2(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "odd.txt", text)
    status, output, errors = run(capsys, path)
    assert (status, output) == (2, "")
    assert complaint in errors and "odd.txt" in errors
    assert "Traceback" not in errors


def test_a_bad_file_does_not_hide_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "small.txt", SMALL)
    status, output, errors = run(capsys, str(tmp_path / "none.txt"), good)
    assert (status, counts(output)) == (2, (4, 0))
    assert "none.txt: No such file" in errors


def test_verify_speaks_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "wrong.txt", SMALL.replace("A 1 0 1 E", "A 1 0 0 E"))
    status, output, _ = run(capsys, "--json", path)
    found = json.loads(output)
    assert status == 1
    assert (found["tool"], found["schema"], found["backend"]) == (
        "uslub verify",
        1,
        "engine",
    )
    (file,) = found["files"]
    assert (file["name"], file["checks"], file["mismatches"]) == ("wrong.txt", 4, 1)
    assert file["first"]["expected"] == "object 0 of slab 0"


def test_a_design_is_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run(capsys, "--design", "6.8", "x.txt")
    assert status == 2 and "--backend model" in errors


PLANS = st.builds(
    Plan,
    size=st.sampled_from([8, 24, 64, 192, 256, 1000, 2048, 4096]),
    order=st.integers(0, 3),
    cpus=st.integers(1, 8),
    cpu_partial_slabs=st.sampled_from([0, 1, 2, 4, 6, 12, 39]),
    min_partial=st.sampled_from([0, 1, 5, 20]),
    free0=st.integers(0, 600),
    full=st.integers(0, 3),
    events=st.integers(100, 1500),
    seed=st.integers(0, 2**32),
)


@given(PLANS)
def test_the_engine_agrees_with_the_model_on_other_sizes_and_more_cpus(
    tmp_path_factory: pytest.TempPathFactory, plan: Plan
) -> None:
    path = record(plan, tmp_path_factory.mktemp("recorded") / "model.txt")
    for backend in BACKENDS:
        verdict = verify(path, backend)
        assert verdict.good, (str(verdict.result.first), verdict.findings)
        assert verdict.result.checks >= plan.events // 10


def wrong_cpu(self: EngineSlabs, cpu: int, slab: object, index: int) -> None:
    assert isinstance(slab, int)
    self.held.pop((slab, index)).free(cpu=1 - cpu)


def no_chain(self: EngineSlabs, cpu: int) -> None:
    pass


def sorted_never(self: EngineSlabs) -> None:
    pass


@pytest.mark.parametrize(
    ("method", "wrong", "name"),
    [
        ("free", wrong_cpu, "default_a.txt"),
        ("flush_slab", no_chain, "default_shrink.txt"),
        ("flush_chain", no_chain, "default_shrink.txt"),
        ("shrink_nodes", sorted_never, "default_shrink.txt"),
    ],
)
def test_an_engine_that_does_one_thing_wrong_is_caught(
    method: str,
    wrong: Callable[..., None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EngineSlabs, method, wrong)
    verdict = verify(DATA / "decisions" / name, "engine")
    assert verdict.result.mismatches > 0
    assert verdict.result.first is not None


@pytest.mark.parametrize(
    ("limit", "by", "name"),
    [
        *(("cpu_partial_slabs", 1, name) for name in CLASSIC),
        ("min_partial", 1, "default_a.txt"),
        ("min_partial", -1, "default_shrink.txt"),
    ],
)
def test_a_limit_that_is_off_by_one_is_caught(
    limit: str, by: int, name: str, tmp_path: Path
) -> None:
    text = (DATA / "decisions" / name).read_text()
    old = re.search(rf" {limit}=(\d+)", text)
    assert old
    changed = text.replace(old[0], f" {limit}={int(old[1]) + by}", 1)
    path = write(tmp_path / name, changed)
    wrong = [verify(path, backend).result.mismatches for backend in BACKENDS]
    assert wrong[0] == wrong[1] > 0
