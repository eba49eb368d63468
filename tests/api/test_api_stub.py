"""_engine.pyi says what the binding has, neither more nor less."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import uslub
from uslub import _engine

STUB = Path(uslub.__file__).with_name("_engine.pyi")
TREE = ast.parse(STUB.read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef)}
# What every object has, and what only the type checker wants to know.
IGNORED = {"__buffer__", "__release_buffer__", "__new__", "__eq__", "__hash__"}


def written(node: ast.ClassDef) -> set[str]:
    names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    names |= {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return names - IGNORED


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_have_what_is_written(name):
    kind = getattr(_engine, name)
    there = {attribute for attribute in vars(kind) if not attribute.startswith("__")}
    known = written(CLASSES[name])
    assert {item for item in known if not item.startswith("__")} == there
    for attribute in known:
        assert hasattr(kind, attribute)


def test_functions_have_what_is_written():
    functions = {node.name for node in TREE.body if isinstance(node, ast.FunctionDef)}
    there = {name for name, value in vars(_engine).items() if inspect.isbuiltin(value)}
    assert functions == there


@pytest.mark.parametrize("name", ["Arena", "Cache", "Object"])
def test_signatures_are_what_is_written(name):
    for node in CLASSES[name].body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("__"):
            continue
        if any("overload" in ast.dump(item) for item in node.decorator_list):
            continue
        value = inspect.getattr_static(getattr(_engine, name), node.name)
        if inspect.isgetsetdescriptor(value) or inspect.ismemberdescriptor(value):
            continue
        arguments = node.args
        names = [a.arg for a in arguments.posonlyargs + arguments.args][1:]
        if isinstance(vars(getattr(_engine, name))[node.name], staticmethod):
            names = [a.arg for a in arguments.args]
        names += [a.arg for a in arguments.kwonlyargs]
        found = inspect.signature(getattr(getattr(_engine, name), node.name))
        shown = [p for p in found.parameters if p not in ("self", "type")]
        assert shown == names or node.name == "unlink", node.name


def test_everything_public_is_documented():
    for name in uslub.__all__:
        value = getattr(uslub, name)
        if inspect.isclass(value) or callable(value):
            assert value.__doc__, name
