"""dev/tidy.py: each rule is shown a tree that breaks it, and one that does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load_tidy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tidy", ROOT / "dev" / "tidy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tidy"] = module
    spec.loader.exec_module(module)
    return module


tidy = load_tidy()

GOOD = {
    "libuslub/include/uslub/uslub.h": "#include <stdint.h>\n",
    "libuslub/base/atomic.h": "#define us_load(p) __atomic_load_n(p, 2)\n",
    "libuslub/base/cpu.c": 'void f(void)\n{\n    __asm__("nop");\n}\n',
    "libuslub/arena/layout.h": "/* shared */\n"
    '#include "base/atomic.h"\n'
    "struct us_node {\n    uint32_t count; /* a * in words */\n"
    "    uint8_t pad[2 * 4];\n};\n"
    "static inline int us_count(struct us_node *node);\n",
    "libuslub/cache/cache.h": '#include "../arena/layout.h"\n',
    "libuslub/cache/alloc.c": "/* __atomic_load_n() in words */\n"
    '#include "cache.h"\n#include <uslub/uslub.h>\n'
    "struct us_found {\n    void *ours;\n};\n"
    "void f(void)\n{\n" + "    ;\n" * 68 + "}\n",
    "libuslub/api.c": '#include "cache/cache.h"\n',
    "binding/module.c": '#include <Python.h>\n#include "module.h"\n'
    "#include <uslub/uslub.h>\n",
    "binding/module.h": "",
    "src/uslub/__init__.py": "from uslub.arena import Arena\n",
    "src/uslub/errors.py": "",
    "src/uslub/snapshot.py": "from .errors import Error\n",
    "src/uslub/arena.py": "from uslub import _engine, snapshot\n",
    "src/uslub/_engine.pyi": "",
    "src/uslub/model/__init__.py": "from . import state\nfrom uslub import errors\n",
    "src/uslub/model/state.py": "from ..snapshot import Snapshot\n",
    "src/uslub/tools/cli.py": "import uslub\nfrom uslub.model import state\n",
    "src/uslub/tools/decisions.py": "import json\nfrom ..snapshot import Snapshot\n",
    "tests/test_x.py": "def test_a(): ...\nclass TestB:\n    def test_a(self): ...\n",
    "docs/x.md": "[up](../src/uslub/errors.py) [here](#x) [web](https://x.org/y)\n"
    "```\n[not](a-link)\n```\n",
    "tests/data/recorded.txt": "/wo" + "rk/trace\n",
    "README.md": "see https://example.org/wo" + "rk/trace\n",
}

# name of the case: (file, its text, line, part of the message)
BAD = {
    "an include of a room above": (
        "libuslub/arena/arena.c",
        '#include "arena/layout.h"\n#include "cache/cache.h"\n',
        2,
        "room cache is above arena",
    ),
    "an include of a room above, by a relative path": (
        "libuslub/arena/arena.c",
        '#include "../cache/cache.h"\n',
        1,
        "room cache is above arena",
    ),
    "a room that is not in the list": ("libuslub/util/x.c", "", 1, "no such room"),
    "Python in the engine": (
        "libuslub/api.c",
        "#include <Python.h>\n",
        1,
        "nothing of Python",
    ),
    "a public header that includes the engine": (
        "libuslub/include/uslub/more.h",
        '#include "base/atomic.h"\n',
        1,
        "stands alone",
    ),
    "a binding that includes the engine": (
        "binding/cache.c",
        '#include "cache/cache.h"\n',
        1,
        "<uslub/uslub.h> only",
    ),
    "a shared struct outside the layout": (
        "libuslub/cache/cache.h",
        "/* shared */\nstruct us_cpu {\n    int x;\n};\n",
        2,
        "outside libuslub/arena/layout.h",
    ),
    "a shared struct outside the layout, marked on its line": (
        "libuslub/cache/cache.h",
        "struct us_cpu { /* shared: one per CPU */\n    int x;\n};\n",
        1,
        "outside libuslub/arena/layout.h",
    ),
    "a pointer in shared memory": (
        "libuslub/arena/layout.h",
        "struct us_node {\n    struct {\n        void *x[4];\n    } in;\n};\n",
        3,
        "a pointer",
    ),
    "a function pointer in shared memory": (
        "libuslub/arena/layout.h",
        "union us_word {\n    void (*ctor)(int);\n};\n",
        2,
        "a pointer",
    ),
    "a raw atomic": (
        "libuslub/slab/slab.c",
        "int f(int *x)\n{\n    return __atomic_load_n(x, 0);\n}\n",
        3,
        "__atomic_load_n outside",
    ),
    "a raw compare-and-swap": (
        "libuslub/slab/slab.c",
        "x = __sync_val_compare_and_swap(x, 0, 1);\n",
        1,
        "outside base/atomic.h",
    ),
    "an atomic type": ("binding/x.c", "_Atomic int x;\n", 1, "_Atomic outside"),
    "inline assembly": ("libuslub/slab/x.h", '__asm__("nop");\n', 1, "__asm__ outside"),
    "a snapshot that imports the arena": (
        "src/uslub/snapshot.py",
        "from .arena import Arena\n",
        1,
        "at the bottom",
    ),
    "a model that imports the package": (
        "src/uslub/model/state.py",
        "import json\nimport uslub\n",
        2,
        "owes nothing to the engine",
    ),
    "a model that imports the engine in a function": (
        "src/uslub/model/state.py",
        "def f():\n    from .. import _engine\n",
        2,
        "owes nothing to the engine",
    ),
    "a core module that imports tools": (
        "src/uslub/arena.py",
        "from uslub.tools import cli\n",
        1,
        "tools are at the top",
    ),
    "a decision reader that imports the model": (
        "src/uslub/tools/decisions.py",
        "from uslub.model import state\n",
        1,
        "without engine or model",
    ),
    "a decision reader that imports the engine": (
        "src/uslub/tools/decisions.py",
        "from uslub import _engine\n",
        1,
        "without engine or model",
    ),
    "a long C file": ("libuslub/base/x.c", "\n" * 701, 701, "701 lines"),
    "a long Python file": ("src/uslub/arena.py", "#\n" * 701, 701, "701 lines"),
    "a long function": (
        "libuslub/base/x.c",
        "int x;\nvoid f(void)\n{\n" + "    ;\n" * 69 + "}\n",
        3,
        "a function of 71 lines",
    ),
    "two tests of one name": (
        "tests/test_x.py",
        "def test_a(): ...\ndef test_b(): ...\ndef test_a(): ...\n",
        3,
        "test_a stands on line 1 too",
    ),
    "two methods of one name": (
        "tests/test_x.py",
        "class TestX:\n    def test_a(self): ...\n    async def test_a(self): ...\n",
        3,
        "test_a stands on line 2 too",
    ),
    "a path of one machine": (
        "docs/x.md",
        "run\n/wo" + "rk/main/run\n",
        2,
        "an absolute path",
    ),
    "a dead link": ("docs/x.md", "see [it](gone.md#part)\n", 1, "a dead link: gone.md"),
}


def findings(root: Path, files: dict[str, str]) -> list[tuple[str, int, str]]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [tuple(finding) for finding in tidy.check(root)]


def test_a_tidy_tree_has_no_findings(tmp_path):
    assert findings(tmp_path, GOOD) == []


@pytest.mark.parametrize("case", BAD)
def test_each_rule_finds_the_tree_that_breaks_it(case, tmp_path):
    path, text, line, message = BAD[case]
    (found,) = findings(tmp_path, {**GOOD, path: text})
    assert found[:2] == (path, line)
    assert message in found[2]


def test_every_rule_is_broken_by_some_tree(tmp_path):
    broken = set()
    for number, (path, text, _, _) in enumerate(BAD.values()):
        root = tmp_path / str(number)
        findings(root, {**GOOD, path: text})
        tree = tidy.Tree(root)
        broken |= {rule for rule in tidy.RULES if list(rule(tree))}
    assert broken == set(tidy.RULES)
