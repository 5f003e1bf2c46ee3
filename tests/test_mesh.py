from dataclasses import fields, replace

import pytest
import torch

from humr.bodies import load_body
from humr.config import Model, Supervision, Weights
from humr.datasets import Batch, Pool
from humr.mesh import DIM, Humr, HumrObjective, to_crop

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


@pytest.fixture
def objective(model, body):
    return HumrObjective(model, body, Weights(), Supervision(), hypotheses=4).eval()


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


def test_every_parameter_learns(objective, batch):
    terms = objective(batch, generator=seeded())
    objective.total(terms).backward()
    for name, parameter in objective.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_unlabelled_images_never_look_at_labels(objective, batch):
    none = torch.zeros(len(batch), dtype=torch.bool)
    unlabelled = replace(batch, has_pose=none, has_points=none)
    other = replace(
        unlabelled,
        rotations=batch.rotations.roll(1, 0),
        betas=batch.betas + 1,
        translation=batch.translation + 0.1,
    )
    first = objective(unlabelled, generator=seeded())
    second = objective(other, generator=seeded())
    for name, value in first.items():
        assert value == second[name], name
    assert first["nll"] == first["shape"] == first["keypoints"] == 0
    assert first["heatmap"] != 0


def test_masks_with_holes_are_not_trusted(objective, batch):
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    assert objective(empty, generator=seeded())["mask"] == 0
    everywhere = replace(batch, mask=torch.ones_like(batch.mask))
    assert objective(everywhere, generator=seeded())["mask"] == 0  # nothing lies off it


def test_images_with_points_only_use_the_2d_labels(objective, batch):
    none = torch.zeros(len(batch), dtype=torch.bool)
    points = objective(replace(batch, has_pose=none), generator=seeded())
    assert points["nll"] == points["shape"] == 0
    assert points["keypoints"] > 0


def test_a_batch_holds_nothing_that_only_the_evaluation_may_know():
    names = {f.name for f in fields(Batch)}
    assert not names & {"visibility", "true_keypoints", "person", "occluder"}


def test_terms_and_weights_must_match(objective):
    with pytest.raises(ValueError, match="do not match weights"):
        objective.total({"nll": torch.tensor(0.0)})


def test_a_few_steps_lower_the_objective(objective, batch):
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        total = objective.total(objective(batch, generator=seeded()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]
