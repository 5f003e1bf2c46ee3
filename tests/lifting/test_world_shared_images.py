import numpy as np
import pytest
import torch

from humr import storage
from humr.lifting import evaluation, world
from humr.lifting.config import LiftingWorld

WORLD = LiftingWorld(
    train=3, validation=3, test=3, transfer=3, shard=3, window=128, backgrounds=2,
    train_subjects=3, subjects=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "DATA", tmp_path_factory.mktemp("data"))
        store = world.store(WORLD)
        store.generate(splits=["test"], workers=1)
        generator = torch.Generator().manual_seed(0)
        yield world.shared_images(WORLD, "test", 2, generator=generator)


def test_both_records_are_of_the_same_images(images):
    lifting, mesh = images.lifting, images.mesh
    assert len(images) == len(mesh) == len(images.pictures) == 2
    torch.testing.assert_close(lifting.keypoints, mesh.keypoints)
    torch.testing.assert_close(lifting.box, mesh.box)
    assert torch.equal(lifting.template, mesh.template)
    assert images.pictures.shape[1:] == (128, 128, 3)


def test_labels_of_both_agree(images, body, generator):
    batch = images.mesh.batch(samples=1, generator=generator)
    joints = body.keypoints(batch.rotations, batch.betas, "h36m17") + batch.translation[:, None]
    expected = images.lifting.batch().target
    torch.testing.assert_close(world.upright(joints), expected, atol=1e-4, rtol=0)


def test_upright_people_have_their_head_above(images):
    target = images.lifting.batch().target
    assert (target[:, 0] == 0).all()
    assert (target[:, 10, 1] > 0).float().mean() > 0.4  # head_top, y up; some lie


def test_a_mesh_model_is_measured_like_a_lifter(images, body, upright, generator):
    drawn = world.of_mesh_model(upright, body, images, 20, generator=generator)
    assert drawn.mode.shape == (2, 17, 3)
    assert drawn.samples.shape == (2, 20, 17, 3)
    assert torch.equal(drawn.target, images.lifting.batch().target)
    found = evaluation.measures(drawn)
    assert found["cover90_z"].shape == (2,)
    assert found["cover90_z"].isfinite().all()
    assert (found["mpjpe_best"] <= found["mpjpe_sample"]).all()


class Still:
    """Says the label, and labels with noise."""

    def mode(self, batch):
        return batch.target

    def sample(self, batch, count, *, generator=None):
        noise = torch.randn(len(batch), count, 17, 3, generator=generator)
        noise[:, :, 0] = 0
        return batch.target[:, None] + 0.1 * noise


def test_a_lifter_gets_the_numbers_of_the_usual_evaluation(images):
    generator = torch.Generator().manual_seed(0)
    batch = images.lifting.batch()
    found = evaluation.measures(evaluation.forecast(Still(), batch, 20, generator=generator))
    usual = evaluation.evaluate(Still(), images.lifting, hypotheses=20, seed=0)
    assert (found["mpjpe_mode"] == 0).all()
    for name in ("mpjpe_best", "energy_score", "spread_z", "cover50_x"):
        np.testing.assert_allclose(found[name], usual[name], rtol=1e-5)
    assert list(images.lifting.action) == list(usual["action"])


def test_images_beyond_the_first_shard_are_refused(generator):
    with pytest.raises(
        ValueError, match=r"count must lie in 1\.\.3, the images of a shard; got 4"
    ):
        world.shared_images(WORLD, "test", 4, generator=generator)
