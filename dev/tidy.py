"""Check the rules of this repository that a machine can check; see CONTRIBUTING.md.

    python3 dev/tidy.py [ROOT]

Prints one `file:line: message` per finding and exits with 1 if there is any. Each rule
is one function in RULES; tests/test_tidy.py holds a tree that breaks each of them.
Needs nothing but Python; looks at the files git knows or would add.
"""

from __future__ import annotations

import ast
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

# A room of libuslub/ includes itself, rooms to its left, and the public header.
ROOMS = (
    "base",
    "arena",
    "slab",
    "debug",
    "cache",
    "share",
    "inspect",
    "explore",
    "killer",
    "fuzz",
    "chaos",
    "api",
)
PUBLIC = "libuslub/include/"
LAYOUT = "libuslub/arena/layout.h"
ATOMICS_LIVE_IN = {"libuslub/base/atomic.h", "libuslub/base/cpu.c"}

# Python modules that import nothing of uslub but each other.
BOTTOM = ("uslub.errors", "uslub.snapshot")

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
RECORDED = ("tests/data/", "bench/results/", "docs/reference/")  # not written by hand


class Finding(NamedTuple):
    """One broken rule at one place."""

    path: str
    line: int
    text: str


class Tree:
    """The files of a checkout, by their paths relative to its root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def paths(self) -> list[str]:
        git = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        done = subprocess.run(git, cwd=self.root, capture_output=True, text=True)
        if done.returncode == 0:
            names = [name for name in done.stdout.split("\0") if name]
        else:  # an unpacked archive
            files = [p.relative_to(self.root).as_posix() for p in self.root.rglob("*")]
            names = [
                name for name in files if not re.match(r"\.git/|\.venv|build/", name)
            ]
        return sorted(name for name in names if (self.root / name).is_file())

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        return enumerate(self.text(path).splitlines(), 1)

    def c_files(self) -> list[str]:
        code = [p for p in self.paths if p.endswith((".c", ".h"))]
        return [p for p in code if p.startswith(("libuslub/", "binding/", "bench/"))]

    def python_files(self) -> list[str]:
        return [p for p in self.paths if p.endswith((".py", ".pyi"))]


def c_code(text: str) -> str:
    """Blank out comments and strings, so that lines and columns stay."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def room_of(path: str) -> str | None:
    """The room a file of libuslub/ stands in; None for the public header and others."""
    if not path.startswith("libuslub/") or path.startswith(PUBLIC):
        return None
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else "api"


def includes(tree: Tree, path: str) -> Iterator[tuple[int, str, str | None]]:
    """Line, name as written, and file of this tree (None: outside) of each include."""
    known = set(tree.paths)
    roots = (posixpath.dirname(path), "libuslub", PUBLIC)
    for number, line in tree.lines(path):
        if match := re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line):
            tried = [posixpath.normpath(f"{root}/{match[1]}") for root in roots]
            target = next((name for name in tried if name in known), None)
            yield number, match[1], target


def include_trouble(path: str, name: str, target: str | None) -> str | None:
    """Why `path` may not include `name`, found at `target`; None if it may."""
    if path.startswith("libuslub/") and name == "Python.h":
        return "the engine knows nothing of Python"
    if target is None or target.startswith(PUBLIC):
        return None
    if path.startswith(PUBLIC):
        return "the public header stands alone"
    if path.startswith("binding/") and target.startswith("libuslub/"):
        return "the binding uses <uslub/uslub.h> only"
    here, there = room_of(path), room_of(target)
    if here and there in ROOMS and ROOMS.index(there) > ROOMS.index(here):
        return f"room {there} is above {here}"
    return None


def rule_c_rooms(tree: Tree) -> Iterator[Finding]:
    """No room includes upwards, and the engine knows nothing of Python."""
    for path in tree.c_files():
        room = room_of(path)
        if room and room not in ROOMS:
            yield Finding(path, 1, f"no such room: {room!r}; rooms are {ROOMS}")
            continue
        for line, name, target in includes(tree, path):
            if trouble := include_trouble(path, name, target):
                yield Finding(path, line, f"includes {name}: {trouble}")


def struct_bodies(code: str) -> Iterator[tuple[int, int]]:
    """Start and end of each `struct us_x { ... }`, nested braces inside."""
    for match in re.finditer(r"\b(?:struct|union)\s+us_\w+\s*\{", code):
        depth, end = 1, match.end()
        while depth and end < len(code):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        yield match.start(), end


def rule_c_layout(tree: Tree) -> Iterator[Finding]:
    """Shared structs live in arena/layout.h, and hold no pointer."""
    for path in tree.c_files():
        code = c_code(tree.text(path))
        for start, end in struct_bodies(code):
            if path == LAYOUT:
                for star in re.finditer(r"\*(?![^\[\]\n]*\])", code[start:end]):
                    line = line_of(code, start + star.start())
                    yield Finding(path, line, "a pointer in shared memory: use offsets")
                continue
            first = line_of(code, start)
            around = tree.text(path).splitlines()[max(0, first - 2) : first]
            if any(re.search(r"/\* *shared\b", line) for line in around):
                yield Finding(path, first, f"a shared struct outside {LAYOUT}")


def rule_c_atomics(tree: Tree) -> Iterator[Finding]:
    """Memory orders are chosen in one file."""
    raw = re.compile(r"__atomic_\w+|__sync_\w+|\b_Atomic\b|\b_*asm_*\b|stdatomic\.h")
    for path in tree.c_files():
        if path in ATOMICS_LIVE_IN or path.startswith("bench/"):
            continue
        for number, line in enumerate(c_code(tree.text(path)).splitlines(), 1):
            if match := raw.search(line):
                yield Finding(path, number, f"{match[0]} outside base/atomic.h")


def module_name(path: str) -> str:
    name = re.sub(r"\.pyi?$", "", path.removeprefix("src/")).replace("/", ".")
    return name.removesuffix(".__init__")


def imports(tree: Tree, path: str) -> Iterator[tuple[int, str]]:
    """Line and full name of each module of uslub that a file imports."""
    files = tree.python_files()
    modules = {module_name(p) for p in files if p.startswith("src/")}
    package = path.removeprefix("src/").split("/")[:-1]
    for node in ast.walk(ast.parse(tree.text(path), path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in whole]
        for name in dict.fromkeys(names):
            if name == "uslub" or name.startswith("uslub."):
                yield node.lineno, name


def within(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def import_trouble(module: str, name: str) -> str | None:
    """Why `module` may not import `name`; None if it may."""
    if module in BOTTOM and not within(name, *BOTTOM):
        return "errors and snapshot are at the bottom"
    if within(module, "uslub.model") and not within(name, "uslub.model", *BOTTOM):
        return "the model owes nothing to the engine"
    if module == "uslub.tools.decisions" and not within(name, *BOTTOM):
        return "decision files are read without engine or model"
    tools = within(module, "uslub.tools", "uslub.__main__")
    if not tools and within(name, "uslub.tools"):
        return "tools are at the top"
    return None


def rule_python_layers(tree: Tree) -> Iterator[Finding]:
    """No module imports upwards."""
    for path in (p for p in tree.python_files() if p.startswith("src/uslub/")):
        module = module_name(path)
        for line, name in imports(tree, path):
            if trouble := import_trouble(module, name):
                yield Finding(path, line, f"{module} imports {name}: {trouble}")


def rule_sizes(tree: Tree) -> Iterator[Finding]:
    """Files and functions that a reader can hold."""
    for path in (*tree.c_files(), *tree.python_files()):
        size = len(tree.text(path).splitlines())
        if size > FILE_LINES_MAX:
            yield Finding(path, size, f"{size} lines, {FILE_LINES_MAX} at most")
    for path in tree.c_files():
        start = 0
        for number, line in tree.lines(path):
            start = number if line == "{" else start
            size = number - start + 1
            if line == "}" and start and size > FUNCTION_LINES_MAX:
                text = f"a function of {size} lines, {FUNCTION_LINES_MAX} at most"
                yield Finding(path, start, text)
            start = 0 if line == "}" else start


def rule_test_names(tree: Tree) -> Iterator[Finding]:
    """A second test of one name hides the first."""
    for path in (p for p in tree.python_files() if p.startswith("tests/")):
        module = ast.parse(tree.text(path), path)
        classes = [node for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
        for scope in (module, *classes):
            seen: dict[str, int] = {}
            for node in scope.body:
                name = getattr(node, "name", "")
                if name.startswith("test") and name in seen:
                    text = f"{name} stands on line {seen[name]} too"
                    yield Finding(path, node.lineno, text)
                seen[name] = node.lineno


def rule_own_paths(tree: Tree) -> Iterator[Finding]:
    """No file knows the machine it was written on."""
    ours = re.compile(r"(?<![A-Za-z0-9_.])/(work|farm)/")
    for path in (p for p in tree.paths if not p.startswith(RECORDED)):
        for number, line in tree.lines(path):
            if ours.search(line):
                yield Finding(path, number, "an absolute path of one machine")


def rule_links(tree: Tree) -> Iterator[Finding]:
    """Relative links of documents lead somewhere."""
    for path in (p for p in tree.paths if p.endswith(".md")):
        fenced = False
        for number, line in tree.lines(path):
            fenced ^= line.lstrip().startswith("```")
            for target in re.findall(r"\]\(([^)\s]+)", "" if fenced else line):
                name = target.split("#")[0]
                elsewhere = not name or re.match(r"[a-z]+:", name)
                if (
                    not elsewhere
                    and not (tree.root / path).parent.joinpath(name).exists()
                ):
                    yield Finding(path, number, f"a dead link: {target}")


RULES = (
    rule_c_rooms,
    rule_c_layout,
    rule_c_atomics,
    rule_python_layers,
    rule_sizes,
    rule_test_names,
    rule_own_paths,
    rule_links,
)


def check(root: Path) -> list[Finding]:
    """Every finding of every rule under `root`, by place."""
    tree = Tree(root.resolve())
    return sorted({finding for rule in RULES for finding in rule(tree)})


if __name__ == "__main__":
    findings = check(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    for finding in findings:
        print("{}:{}: {}".format(*finding))
    sys.exit(1 if findings else 0)
