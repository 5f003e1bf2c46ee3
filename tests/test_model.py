from dataclasses import fields, replace

import pytest
import torch

from humr.batches import Batch
from humr.config import Model
from humr.model import DIM, Humr
from humr.world.records import Pool


def seeded():
    return torch.Generator().manual_seed(3)


def test_paper_sizes_are_those_of_the_paper():
    model = Humr(Model())
    assert model.encoder.width == 979
    parameters = sum(p.numel() for p in model.flow.parameters())
    assert parameters / 1e6 == pytest.approx(36.10, abs=0.01)


def test_hypotheses_share_shape_and_camera_and_differ_in_pose(fitted, batch):
    drawn = fitted.sample(batch, 5, generator=seeded())
    assert drawn.samples.rotations.shape == (16, 5, 22, 3, 3)
    assert (drawn.samples.betas == drawn.mode.betas[:, None]).all()
    assert (drawn.samples.translation == drawn.mode.translation[:, None]).all()
    assert drawn.samples.sixd.std(1).min() > 0


def test_sampling_is_repeatable(fitted, batch):
    first, second = (fitted.sample(batch, 3, generator=seeded()) for _ in range(2))
    assert torch.equal(first.samples.sixd, second.samples.sixd)


def test_a_batch_of_one_equals_its_row_in_a_larger_batch(fitted, batch):
    noise = fitted.noise(len(batch), 3, seeded())
    every = fitted.people(fitted.observe(batch), noise)
    alone = fitted.people(fitted.observe(batch[:1]), noise[:1])
    torch.testing.assert_close(alone.sixd, every.sixd[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.translation, every.translation[:1])


def test_stream_gives_the_count_asked_for_in_chunks(fitted, batch):
    pieces = list(fitted.stream(fitted.observe(batch), 10, seeded(), mode=False, piece=4))
    assert [p.sixd.shape[1] for p in pieces] == [4, 4, 2]


def test_density_follows_the_change_of_variables(fitted, batch):
    noise = fitted.noise(len(batch), 2, seeded())
    observation = fitted.observe(batch)
    sixd, log_det = fitted.flow.generate(noise, observation.condition)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
    actual = fitted.log_prob(batch, sixd.unflatten(-1, (22, 6)))
    torch.testing.assert_close(actual, base - log_det, atol=1e-3, rtol=1e-4)
    assert sixd.shape[-1] == DIM


def test_label_projection_lands_in_the_crop(batch, body):
    points = body.keypoints(batch.rotations, batch.betas, "coco17") + batch.translation[:, None]
    pixel = batch.crop.to_image(batch.to_crop(points))
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
def test_variants_of_the_network_draw_and_score(change, untrained, records, batch):
    model = untrained(**change)
    pool = Pool.of({"labelled": records})
    model.fit_statistics(pool.records.features, pool.labelled())
    drawn = model.sample(batch, 3, generator=seeded())
    assert drawn.samples.sixd.isfinite().all()
    assert model.log_prob(batch, drawn.samples.sixd).shape == (16, 3)
    if "box" in change:
        moved = replace(batch, box_info=batch.box_info + 1, keypoints=batch.keypoints * 0.5)
        assert torch.equal(
            model.sample(moved, 3, generator=seeded()).samples.sixd, drawn.samples.sixd
        )
