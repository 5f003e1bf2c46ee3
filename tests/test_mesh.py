from dataclasses import fields, replace

import pytest
import torch

from humr.bodies import load_body
from humr.config import Model
from humr.datasets import Batch, Pool
from humr.mesh import DIM, Humr, to_crop

SMALL = Model(features=2016, feature_width=16, pose_hidden=16, pose_width=8, window_info=True,
              blocks=2, hidden=24, head_hidden=16, normalise=True)  # fmt: skip


@pytest.fixture(scope="module")
def body():
    return load_body("small")


@pytest.fixture
def model(records):
    torch.manual_seed(0)
    model = Humr(SMALL)
    model.fit_statistics(Pool.of({"labelled": records}))
    return model.eval()


@pytest.fixture
def batch(records, generator) -> Batch:
    return records.batch(samples=6, generator=generator)


def seeded():
    return torch.Generator().manual_seed(3)


def test_paper_sizes_are_those_of_the_paper():
    model = Humr(Model())
    assert model.encoder.width == 979
    parameters = sum(p.numel() for p in model.flow.parameters())
    assert parameters / 1e6 == pytest.approx(36.10, abs=0.01)


def test_hypotheses_share_shape_and_camera_and_differ_in_pose(model, batch):
    drawn = model.sample(batch, 5, generator=seeded())
    assert drawn.samples.rotations.shape == (16, 5, 22, 3, 3)
    assert (drawn.samples.betas == drawn.mode.betas[:, None]).all()
    assert (drawn.samples.translation == drawn.mode.translation[:, None]).all()
    assert drawn.samples.sixd.std(1).min() > 0


def test_sampling_is_repeatable(model, batch):
    first, second = (model.sample(batch, 3, generator=seeded()) for _ in range(2))
    assert torch.equal(first.samples.sixd, second.samples.sixd)


def test_a_batch_of_one_equals_its_row_in_a_larger_batch(model, batch):
    noise = model.noise(len(batch), 3, seeded())
    every = model.people(model.observe(batch), noise)
    alone = model.people(model.observe(batch[:1]), noise[:1])
    torch.testing.assert_close(alone.sixd, every.sixd[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.translation, every.translation[:1])


def test_stream_gives_the_count_asked_for_in_chunks(model, batch):
    pieces = list(model.stream(batch, 10, generator=seeded(), chunk=4))
    assert [p.sixd.shape[1] for p in pieces] == [4, 4, 2]


def test_density_follows_the_change_of_variables(model, batch):
    noise = model.noise(len(batch), 2, seeded())
    observation = model.observe(batch)
    sixd, log_det = model.flow.generate(noise, observation.condition)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
    actual = model.log_prob(batch, sixd.unflatten(-1, (22, 6)))
    torch.testing.assert_close(actual, base - log_det, atol=1e-3, rtol=1e-4)
    assert sixd.shape[-1] == DIM


def test_label_projection_lands_in_the_crop(batch, body):
    points = body.keypoints(batch.rotations, batch.betas, "coco17") + batch.translation[:, None]
    pixel = batch.crop.to_image(to_crop(points, batch))
    direct = batch.focal[:, None, None] * points[..., :2] / points[..., 2:] + batch.centre[:, None]
    torch.testing.assert_close(pixel, direct, atol=1e-2, rtol=1e-4)


def test_a_batch_holds_nothing_that_only_the_evaluation_may_know():
    names = {f.name for f in fields(Batch)}
    assert not names & {"visibility", "true_keypoints", "person", "occluder"}


@pytest.mark.parametrize(
    "change",
    [
        {"flow": "glow"},
        {"box": False, "pose": False, "window_info": False},
        {"embedding": True, "embedding_samples": 6, "pose_width": 8},
    ],
)
def test_variants_of_the_network_draw_and_score(change, records, batch):
    model = Humr(replace(SMALL, **change))
    model.fit_statistics(Pool.of({"labelled": records}))
    drawn = model.eval().sample(batch, 3, generator=seeded())
    assert drawn.samples.sixd.isfinite().all()
    assert model.log_prob(batch, drawn.samples.sixd).shape == (16, 3)
    if "box" in change:
        moved = replace(batch, box_info=batch.box_info + 1, keypoints=batch.keypoints * 0.5)
        assert torch.equal(
            model.sample(moved, 3, generator=seeded()).samples.sixd, drawn.samples.sixd
        )
