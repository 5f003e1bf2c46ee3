"""The committed notebooks and figures, checked without running anything; nbval runs them."""

import ast
import json
import re

import nbformat
import pytest

from humr.files import FIGURES, NOTEBOOKS
from humr.launch import execution

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
RECORDS = sorted(FIGURES.glob("*.json"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def tagged(path, tag):
    return [cell for cell in code(path) if tag in cell["metadata"].get("tags", [])]


def test_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in PATHS) <= 9_000_000


@each_notebook
def test_it_is_fit_to_be_committed(path):
    assert execution.faults(nbformat.read(path, as_version=4)) == []


@each_notebook
def test_it_is_a_valid_stripped_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert nbformat.writes(execution.strip(notebook)) + "\n" == path.read_text(encoding="utf-8")
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)


@each_notebook
def test_it_shows_outputs(path):
    assert any(cell["outputs"] for cell in code(path))


@each_notebook
def test_it_begins_and_ends_as_all_do(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith(f"# {path.stem[:2]} · ")
    sources = execution.code_cells(path)
    assert f'notebooks.start("{path.stem}", profile, seed)' in "\n".join(sources[:3])
    assert sources[-1] == "run.finish()"


@each_notebook
def test_its_parameters_are_typed_and_commented(path):
    (cell,) = tagged(path, "parameters")
    lines = "".join(cell["source"]).splitlines()
    assert 2 <= len(lines) <= 8
    assert all(re.fullmatch(r"\w+: [\w\[\], |]+ = .+  # .+", line) for line in lines)
    assert lines[0].startswith('profile: str = "laptop"')
    assert lines[1].startswith("seed: int = 0")


@each_notebook
def test_it_has_a_checked_cell_that_depends_on_no_profile(path):
    cells = tagged(path, "nbval-check-output")
    assert cells
    text = "".join(execution.readable(cell["outputs"]) for cell in cells)
    assert text.strip()
    assert not re.search(r"\d\.\d{5,}", text), "round, or print whether a bound holds"


@each_notebook
def test_long_code_lives_in_the_package(path):
    for source in execution.code_cells(path):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 20, f"move {node.name} into humr"


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_figure_is_as_new_as_the_code_that_draws_it(record):
    origin = read(record)
    source = NOTEBOOKS / f"{origin['notebook']}.ipynb"
    assert origin["code"] == execution.code_hash(source), f"run: humr notebooks {source.stem[:2]}"
    assert record.with_suffix(".png").exists()
