"""Notebooks of both lifting systems in the profile paper-smoke, on tiny licensed files."""

import paper_house
import pytest

SHOWN = {  # what says that tables are of licensed images
    "20": "Human3.6M",
    "21": "ours, Human3.6M",
    "22": "3DHP noGS",
    "25": "ours, Human3.6M",
    "26": "ours, Human3.6M",
    "27": "3DHP noGS",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One house for all: what a notebook has trained serves the next ones."""
    return paper_house.build(tmp_path_factory.mktemp("house"))


@pytest.mark.slow
@pytest.mark.parametrize("number", SHOWN)
def test_it_runs_on_licensed_files(house, number):
    cells = paper_house.execute(house, number)
    text = paper_house.text_of(cells)
    assert SHOWN[number] in text
    assert "profile paper-smoke" in text
    assert paper_house.agrees(cells, number)
