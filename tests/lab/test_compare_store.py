"""Outcomes on disk: found again only for the same question, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import invented
from uslub.lab.compare import store as module
from uslub.lab.compare.grid import points
from uslub.lab.compare.store import Store, fingerprint

POINT, OTHER = points(["cpu_partial=0,30"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "kept", "trace-1")


def test_an_outcome_comes_back_as_it_was(store: Store) -> None:
    saved = invented.outcome(POINT)
    store.save(saved)
    assert store.load(POINT) == saved
    assert store.known([POINT, OTHER]) == {POINT: saved}


def test_the_order_of_the_axes_and_defaults_do_not_matter(store: Store) -> None:
    (one,) = points(["cpus=2", "cpu_partial=0", "design=default"])
    (same,) = points(["cpu_partial=0", "cpus=2"])
    store.save(invented.outcome(one))
    found = store.load(same)
    assert found is not None and found.point == same


def test_another_question_is_not_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(invented.outcome(POINT))
    assert store.load(OTHER) is None
    assert Store(store.folder, "trace-2").load(POINT) is None
    monkeypatch.setattr(module, "code_version", lambda: "of another commit")
    assert store.load(POINT) is None


def test_changed_code_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "guinea"
    package.mkdir()
    (package / "__init__.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "CODE", ("guinea",))
    module.code_version.cache_clear()
    before = module.code_version()
    (package / "__init__.py").write_text("A = 2\n")
    module.code_version.cache_clear()
    assert module.code_version() != before
    module.code_version.cache_clear()


@pytest.mark.parametrize("left", [0, 1, 40, -1])
def test_a_damaged_file_counts_as_missing(store: Store, left: int) -> None:
    store.save(invented.outcome(POINT))
    path = store.path(POINT)
    path.write_bytes(path.read_bytes()[:left])
    assert store.load(POINT) is None


def test_a_file_of_something_else_counts_as_missing(store: Store) -> None:
    import gzip

    store.save(invented.outcome(POINT))
    store.path(POINT).write_bytes(gzip.compress(b'{"point": 3}'))
    assert store.load(POINT) is None


def test_a_failed_write_leaves_nothing_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no room"):
        store.save(invented.outcome(POINT))
    assert list(store.folder.iterdir()) == []


def test_the_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_bytes(b"a" * 3_000_000)
    same.write_bytes(b"a" * 3_000_000)
    other.write_bytes(b"a" * 2_999_999 + b"b")
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
