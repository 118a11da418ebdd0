"""The notebook runs from its first cell to its last, and ends with predictions."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
CLASSES = ("Bag", "Sneaker", "Trouser")


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


def test_it_is_kept_without_outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    for cell in cells:
        ast.parse(cell.source)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_runs_and_predicts(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    NotebookClient(notebook, timeout=300).execute()
    trained, predicted = (printed(cell) for cell in notebook.cells if cell.cell_type == "code" and printed(cell))
    assert [line.split()[0] for line in trained.splitlines()] == ["teachers/conv", "teachers/involution", "student"]
    student = float(trained.splitlines()[-1].split(", ")[1].split("%")[0])
    assert student > 60  # a third would be chance
    rows = [line.split() for line in predicted.splitlines()]
    assert [row[0] for row in rows] == list(CLASSES)
    assert sum(row[0] == row[2] for row in rows) >= 2
