"""The structure of the project: which package may import which, and no circles between files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("libkd_sdk", "sdk", "runtimes", "trainer")

ALLOWED = {
    "libkd_sdk": ("libkd_sdk", "trainer", "sdk", "runtimes.engines"),
    "sdk": ("sdk", "runtimes"),
    "runtimes": ("runtimes",),
    "runtimes.base": ("runtimes.errors",),
    "runtimes.cores": (),
    "runtimes.errors": (),
    "runtimes.fx": ("runtimes.base", "runtimes.errors"),
    "runtimes.rewrites": (),
    "trainer": (
        "trainer",
        "sdk.images",
        "sdk.children",
        "sdk.folders",
        "sdk.files",
        "sdk.tars",
        "sdk.errors",
        "sdk.traces",
        "runtimes.cores",
    ),
    "trainer.views": ("trainer.views",),
    "trainer.losses": (),
    "trainer.models": (
        "trainer.models",
        "trainer.recipe",
        "trainer.tensors",
        "trainer.data",
        "trainer.device",
        "trainer.errors",
        "sdk.errors",
        "sdk.images",
    ),
}
"""The project's own modules that a package, or a part of it, may import. A part's entry replaces the package's."""


class Import(NamedTuple):
    """An import of a module of the project. `for_types`: it stands under `if TYPE_CHECKING`."""

    module: str
    for_types: bool


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str) -> list[Import]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return [
        Import(name, for_types)
        for node, for_types in _nodes(ast.parse(path.read_text(encoding="utf-8")), False)
        for name in _imported(node, package)
        if name.partition(".")[0] in PACKAGES
    ]


def _nodes(node: ast.AST, for_types: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, for_types
    is_guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        yield from _nodes(child, for_types or is_guard)


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def _inside(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_the_reader_of_imports_sees_every_kind():
    assert Import("runtimes.base", False) in imports("sdk.classifier")
    assert Import("sdk.exporting.deployed", True) in imports("sdk.exporting.request")
    assert Import("sdk.exporting.deployed", False) in imports("sdk.exporting.exporter"), "inside a function"
    assert len(MODULES) > 80


@pytest.mark.parametrize("place", ALLOWED)
def test_arrows_run_one_way(place):
    own = [module for module in MODULES if _inside(module, (place,))]
    closest = {module: max((rule for rule in ALLOWED if _inside(module, (rule,))), key=len) for module in own}
    forbidden = [
        f"{module} imports {name}"
        for module in own
        if closest[module] == place
        for name, _ in imports(module)
        if not _inside(name, ALLOWED[place])
    ]
    assert own
    assert forbidden == []


def test_no_file_imports_itself_in_a_circle():
    graph = {module: {name for name, for_types in imports(module) if not for_types} - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(f"a circle of imports: {' <- '.join(fault.args[1])}")


def test_no_file_is_too_long():
    files = [
        path
        for folder in (*PACKAGES, "tests", "benchmarks", "examples", "tools")
        for path in (ROOT / folder).rglob("*.py")
    ]
    long = {
        str(path.relative_to(ROOT)): count for path in files if (count := len(path.read_bytes().splitlines())) > 350
    }
    assert long == {}
