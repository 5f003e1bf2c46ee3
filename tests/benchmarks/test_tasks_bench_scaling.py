"""Tests of humr.benchmarks.tasks."""

import pytest

from humr.benchmarks import tasks
from tests.benchmarks.test_bench import SMALL


@pytest.fixture(scope="module")
def works():
    axes = {"hypotheses": (1, 3), "images": (1, 2), "joints": (2, 3), "context": (4, 6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "AXES", axes)
        return tasks.scaling(SMALL, "cpu")


def test_every_axis_has_its_values(works):
    ours = [work.name for work in works if work.form == "humr"]
    assert ours == [
        "hypotheses: 1", "hypotheses: 3", "images: 1", "images: 2", "joints: 2", "joints: 3",
        "context: 4", "context: 6",
    ]  # fmt: skip
    assert [work.name for work in works if work.form == "plain"] == ["context: 4", "context: 6"]


def test_each_can_be_done_again(works):
    for work in works:
        work.run()
        work.run()


def test_counts_say_how_much_is_made(works):
    counts = {work.name: work.count for work in works}
    assert counts["hypotheses: 3"] == 3
    assert counts["images: 2"] == 2
    assert counts["joints: 2"] == counts["context: 6"] == 400


def test_both_forms_of_a_flow_draw_the_same(works):
    ours, plain = (work.run() for work in works if work.name == "context: 6")
    assert (ours - plain).abs().max() < 1e-4
