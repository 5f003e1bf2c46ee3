from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from matplotlib import pyplot as plt
from skimage import data

from humr import posterior, refine
from humr.detector import Detector, PersonNotFoundError
from humr.experiments import runs
from humr.figures import posteriors
from humr.skeletons import ARTICULATED, COCO17


@pytest.fixture(scope="module")
def chain(upright):
    return upright, Detector.load()


def draw(chain, image=None, **options):
    image = data.astronaut() if image is None else image
    generator = torch.Generator().manual_seed(0)
    return posterior.posterior_of(image, *chain, hypotheses=8, generator=generator, **options)


@pytest.fixture(scope="module")
def astronaut(chain):
    return draw(chain)


def test_camera_of_a_photograph_is_the_diagonal_unless_told(astronaut, chain):
    assert float(astronaut.focal) == pytest.approx(512 * 2**0.5)
    assert float(draw(chain, focal=700.0).focal) == 700
    assert astronaut.centre.tolist() == [256, 256]


def test_box_of_the_batch_is_larger_than_the_detected_one(astronaut):
    x0, y0, x1, y1 = astronaut.detection.box.tolist()
    assert float(astronaut.batch.box[0, 2]) == pytest.approx(1.2 * max(x1 - x0, y1 - y0), rel=1e-5)


def test_joint_table_has_units_and_agrees_with_the_samples(astronaut, body):
    table = astronaut.joint_table(body)
    assert list(table.joint) == list(COCO17.names)
    points = astronaut.keypoints(body)
    about = astronaut.about_body(points)
    spread = 1e3 * (about - about.mean(0)).norm(dim=-1).mean(0)
    np.testing.assert_allclose(table.spread_mm, spread, atol=0.06)
    assert (table.radius90_mm >= table.spread_mm * 0.9).all()
    assert astronaut.most_uncertain(body) in ARTICULATED


def test_spread_is_of_the_pose_and_depth_of_the_place(astronaut, body):
    away = astronaut.samples.translation.clone()
    away[:, 2] += torch.linspace(0, 1, len(away))
    moved = replace(astronaut.hypotheses.samples, translation=away[None])
    far = replace(astronaut, hypotheses=replace(astronaut.hypotheses, samples=moved))
    near, seen = astronaut.joint_table(body), far.joint_table(body)
    np.testing.assert_allclose(seen.spread_mm, near.spread_mm, atol=0.06)
    assert (seen.depth_mm > near.depth_mm + 100).all()


def test_written_files_can_be_read_by_others(astronaut, body, tmp_path):
    astronaut.write(tmp_path, body)
    assert len(pd.read_csv(tmp_path / "joints.csv")) == 17
    with np.load(tmp_path / "hypotheses.npz", allow_pickle=False) as stored:
        assert stored["rotations"].shape == (8, 22, 3, 3)
        assert stored["betas"].shape == (8, 11)
        assert stored["translation"].shape == (8, 3)
        np.testing.assert_allclose(stored["focal"], float(astronaut.focal), rtol=1e-6)
    mesh = trimesh.load(tmp_path / "mode.ply", process=False)
    np.testing.assert_allclose(mesh.vertices, astronaut.mode.vertices(body), atol=1e-5)


def test_a_refined_posterior_lies_on_the_detected_joints(chain, body):
    """Of the shipped network, with the constants that were fitted to it."""
    shipped = runs.shipped()[0], chain[1]
    flow = draw(shipped)
    refined = draw(shipped, refinement=(refine.Constants.read(runs.SHIPPED), body))
    sure = refined.batch.keypoints[0, :, 2] >= refine.CERTAIN

    def error(found):
        points = found.pixels(found.mode.keypoints(body, "coco17")[None])[0]
        return (points - found.detection.keypoints_image).norm(dim=-1)[sure].mean()

    assert error(refined) < 0.6 * error(flow)
    assert refined.samples.betas.std(0).amin() > 0
    assert flow.remark == refined.remark == ""


def test_panel_draws(astronaut, body, tmp_path):
    panel = posteriors.photo_panel(astronaut, body)
    panel.savefig(tmp_path / "panel.png", dpi=40)
    assert len(panel.axes) >= 12
    plt.close(panel)


def test_bad_requests_are_refused(chain):
    with pytest.raises(ValueError, match="hypotheses must be at least 2"):
        posterior.posterior_of(data.astronaut(), *chain, hypotheses=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="focal must be a positive"):
        draw(chain, focal=-1.0)
    with pytest.raises(PersonNotFoundError, match="found no person"):
        draw(chain, image=np.full((200, 200, 3), 127, np.uint8))
