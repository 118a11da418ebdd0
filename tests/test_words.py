"""The language of the project: plain sentences, and the words of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("libkd_sdk", "sdk", "runtimes", "trainer", "benchmarks", "examples", "tools", "tests")
FRAGMENT = re.compile(r"(Of|What|How|Whether|Where|Which|Whose|Those|As|For|So|Nobody|Whoever)\b")
"""The first words of a docstring that is not a sentence."""

ARCHAIC = re.compile(r"\b(picture|whoever|the house|reckon|mend)", re.IGNORECASE)
GOLDEN = re.compile(r"--golden pictures|blends, pictures|[\"`']pictures[\"`']")
"""The one place where the word stayed: a kind of golden images."""


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_begins_with_a_sentence(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    fragments = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in files
        for text in docstrings(path)
        if text and (FRAGMENT.match(text) or not re.search(r"[.:?!]", text.split("\n\n")[0]))
    ]
    assert files
    assert fragments == []


@pytest.mark.parametrize(
    "pattern",
    [
        *(f"{folder}/**/*.{kind}" for folder in FOLDERS for kind in ("py", "toml", "html")),
        "*.md",
        "docs/*.md",
        "spec/*.md",
    ],
)
def test_the_words_are_those_of_the_field(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.glob(pattern))
        if path != Path(__file__) and path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if ARCHAIC.search(GOLDEN.sub("", line))
    ]
    assert found == []
