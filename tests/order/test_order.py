"""Memory orders under relacy: a few schedules; `make order` has all of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(HERE))
    try:
        path = HERE / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"order_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(HERE))


run = load("run")


def test_the_checker_knows_every_builtin_of_the_engine() -> None:
    atomic = (ROOT / "libuslub" / "base" / "atomic.h").read_text()
    used = set(re.findall(r"(__atomic_\w+)\(", atomic))
    known = set(
        re.findall(r"#define (__atomic_\w+)\(", (HERE / "builtins.h").read_text())
    )
    assert used and used <= known


def test_every_order_of_the_engine_is_one_that_the_checker_has() -> None:
    atomic = (ROOT / "libuslub" / "base" / "atomic.h").read_text()
    used = set(re.findall(r"__ATOMIC_(\w+)", atomic))
    known = set(re.findall(r"case __ATOMIC_(\w+)", (HERE / "checker.cc").read_text()))
    assert used - known == {"SEQ_CST"}  # the default


def test_every_twin_fits_the_engine_as_it_is() -> None:
    for twin in run.TWINS:
        for path, changes in run.changed(twin.model, twin).items():
            assert run.replaced(path, changes) != (run.ENGINE / path).read_text()


def test_every_model_has_a_twin() -> None:
    assert {twin.model for twin in run.TWINS} == set(run.models())


@pytest.mark.skipif(not run.there(), reason="no relacy (Debian: relacy-dev)")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", ["pair", "stray"])
def test_a_few_schedules_of_a_model_are_right(model: str) -> None:
    assert run.check_model(model, run.QUICK) is None
