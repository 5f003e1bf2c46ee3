"""Notebooks of HuMR in the profile paper-smoke, on tiny licensed files."""

import paper_house
import pytest

SHOWN = {  # what says that tables are of licensed people
    "11": "ours, EMDB",
    "12": "ours, EMDB",
    "13": "ours, EMDB",
    "14": "1 seeds, 2 images, 20 hypotheses",
    "15": "ours, EMDB",
    "16": "ours, by confidence as well",
    "18": "<td>EMDB</td>",
}
OPEN = ("07", "10")  # show the open world in any profile
FEWER = "18"  # says how many claims it tests: fewer than in the open world


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One house for all: what a notebook has trained serves the next ones."""
    return paper_house.build(tmp_path_factory.mktemp("house"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [*SHOWN, *OPEN])
def test_it_runs_beside_licensed_files(house, number):
    cells = paper_house.execute(house, number)
    text = paper_house.text_of(cells)
    assert SHOWN.get(number, "") in text
    assert "profile paper-smoke" in text
    assert number == FEWER or paper_house.agrees(cells, number)


def test_an_official_checkpoint_stands_beside_the_trained_networks(house):
    text = paper_house.text_of(paper_house.execute(house, "15"))
    rows = [line for line in text.splitlines() if line.startswith("HuMR, official ")]
    assert len(rows) >= 2
    assert rows[0].count("±") == 6


def test_tables_of_emdb_have_what_only_its_masks_tell(house):
    """PercIn and MinDist, of the occluded people alone, beside the paper's."""
    cells = paper_house.execute(house, "16")
    (cell,) = [c for c in cells if "".join(c["source"]).startswith('table_2("paper_"')]
    lines = paper_house.text_of([cell]).splitlines()
    (full,) = [line for line in lines if line.startswith("HuMR w/ L_mask")]
    assert "91.4" in full  # the paper's
    assert full.count("±") == 10  # ours: four columns of 3DPW, six of EMDB
