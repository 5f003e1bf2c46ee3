"""Notebooks of both lifting systems in the profile paper-smoke, on tiny licensed files."""

import json

import paper_house
import pytest

from humr import execution

SHOWN = {  # what says that tables are of licensed images
    "20": "Human3.6M",
    "21": "ours, Human3.6M",
    "22": "3DHP noGS",
    "25": "ours, Human3.6M",
    "26": "ours, Human3.6M",
    "27": "noGS ↔ 3DHP noGS",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One house for all: what a notebook has trained serves the next ones."""
    return paper_house.build(tmp_path_factory.mktemp("house"))


def checked(path):
    """Outputs of the cells whose output is the same in every profile."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    chosen = [c for c in cells if "nbval-check-output" in c["metadata"].get("tags", [])]
    return [execution.readable(cell["outputs"]) for cell in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("number", SHOWN)
def test_it_runs_on_licensed_files(house, number, monkeypatch):
    monkeypatch.setenv("HUMR_PROFILE", "paper-smoke")
    monkeypatch.setenv("HUMR_THREADS", "1")
    done = paper_house.execute(house, number)
    assert done.returncode == 0, done.stdout + done.stderr
    path = house / "out" / f"{number}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    text = execution.readable(outputs)
    assert SHOWN[number] in text
    assert "profile paper-smoke" in text
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert checked(path) == checked(execution.find(number))
