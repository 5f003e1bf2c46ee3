"""Tests of humr.licensed.evaluation against a slow reference (`smpl_world`)."""

import numpy as np
import pytest
import smpl_world as world
import torch

from humr.licensed import evaluation
from humr.licensed.evaluation import forecast, load_evaluator, truth_of
from humr.skeletons import COCO17
from tests.licensed.test_evaluation_points import (
    DOUBLE,
    SETS,
    SIZES,
    by_person,
    close,
    hypotheses,
)

HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
EACH = 6


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    root = world.write(tmp_path_factory.mktemp("licensed"))
    return load_evaluator(root=root, dtype=DOUBLE, **SIZES)


@pytest.fixture
def measured(evaluator, generator):
    """Make a function that measures people of a set: columns, reference, visible joints."""

    def of(name, count=3):
        batch, labels = world.people(name, count, dtype=DOUBLE)
        truth = truth_of(labels, batch, evaluator)
        people = hypotheses(batch, EACH, generator, spread=0.8)
        drawn = forecast([people[:, :2], people[:, 2:]], truth, evaluator)
        columns = evaluation.scores(drawn, truth) | evaluation.calibration(drawn, truth)
        found = [world.reference(SETS[name], labels, batch, i, by_person(people, i))
                 for i in range(count)]  # fmt: skip
        return columns, found, labels.keypoints[..., 2].numpy() > 0.5

    return of


def energy(samples, target):
    """Energy score of points (hypotheses, joints, 3), joint by joint, in mm."""
    n = len(samples)
    near = np.mean([world.distance(x, target) for x in samples], 0)
    pairs = [world.distance(a, b) for i, a in enumerate(samples)
             for j, b in enumerate(samples) if i != j]  # fmt: skip
    return 1e3 * (near - np.sum(pairs, 0) / (2 * n * (n - 1)))


def coco_of(person):
    """Random hypotheses and label of COCO-17 about the middle of the hips."""
    neutral, mesh = world.smpl_arrays("neutral"), person["true_mesh"]
    many = np.concatenate([neutral["J_regressor"] @ mesh, mesh[world.FACE_ORDER],
                           np.zeros((16, 3))])  # fmt: skip
    target, samples = many[world.COCO17], person["coco"][1:]
    return samples - samples[:, HIPS].mean(1, keepdims=True), target - target[HIPS].mean(0)


@pytest.mark.parametrize("name", ["3dpw-test-cam", "emdb-p1"])
def test_scores_equal_the_reference(name, measured):
    columns, found, visible = measured(name)
    for i, person in enumerate(found):
        of_joints = energy(person["joints"][1:], person["true_joints"])
        close(columns["energy_score"][i], of_joints.mean())
        of_coco = energy(*coco_of(person))
        close(columns["energy_visible"][i], of_coco[visible[i]].mean())
        close(columns["energy_hidden"][i], of_coco[~visible[i]].mean())
    assert (columns["joint_energy_score"] > 0).all()


def test_ranks_and_coverage_equal_the_reference(measured):
    columns, found, visible = measured("emdb-p1")
    for i, person in enumerate(found):
        samples, target = coco_of(person)
        wrist = COCO17.index("left_wrist")
        below = (samples[:, wrist] < target[wrist]).sum(0)
        assert [int(columns[f"rank_left_wrist_{axis}"][i]) for axis in "xyz"] == below.tolist()
        low, high = np.quantile(samples, [0.05, 0.95], axis=0, method="weibull")
        inside = (target >= low) & (target <= high)
        shares = {"xy": inside[:, :2].mean(-1), "z": inside[:, 2]}
        for axes, share in shares.items():
            close(columns[f"cover90_{axes}_visible"][i], share[visible[i]].mean())
            close(columns[f"cover90_{axes}_hidden"][i], share[~visible[i]].mean())
    covered = torch.stack([columns["cover90_xy_visible"], columns["cover90_z_visible"]])
    assert 0 < covered.mean() < 1
