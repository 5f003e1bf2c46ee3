from dataclasses import fields, replace

import pytest
import torch

from humr.batches import Batch
from humr.config import Model
from humr.model import ContextEncoder, ShapeCameraHead

SMALL = Model(features=30, feature_width=12, pose_hidden=16, pose_width=8, window_info=True,
              embedding_samples=5, head_hidden=16)  # fmt: skip
COMMON = {"features", "window_info"}  # what every variant below reads
VARIANTS = [
    ({}, {"keypoints", "box_info"}, 12 + 8 + 3 + 5),
    ({"box": False}, {"keypoints"}, 12 + 8 + 5),
    ({"pose": False}, {"box_info"}, 12 + 3 + 5),
    ({"box": False, "pose": False}, set(), 12 + 5),
    ({"embedding": True}, {"keypoints", "box_info", "samples", "density"}, 12 + 8 + 3 + 5 + 8),
    ({"embedding": True, "pose": False}, {"box_info", "samples", "density"}, 12 + 3 + 5 + 8),
]


@pytest.fixture
def batch(generator) -> Batch:
    def normal(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(4, *shape, generator=generator)

    every = torch.ones(4, dtype=torch.bool)
    return Batch(
        features=normal(30), keypoints=normal(17, 3), box_info=normal(3), window_info=normal(5),
        box=normal(3), focal=normal(), image_size=normal(2), samples=normal(6, 17, 2),
        density=normal(6, 17).abs(), mask=normal(8, 8) > 0, rotations=normal(22, 3, 3),
        betas=normal(11), translation=normal(3), has_pose=every, has_points=every,
    )  # fmt: skip


def is_float(value) -> bool:
    return value is not None and value.is_floating_point()


def encoder_of(**switches) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder(replace(SMALL, **switches)).eval()


@torch.no_grad()
@pytest.mark.parametrize(("switches", "reads", "width"), VARIANTS)
def test_switches_change_the_width_and_what_is_read(switches, reads, width, batch):
    encoder = encoder_of(**switches)
    context = encoder(batch)
    assert context.shape == (4, width) == (4, encoder.width)
    changed = set()
    for name in (f.name for f in fields(batch) if is_float(getattr(batch, f.name))):
        perturbed = replace(batch, **{name: getattr(batch, name) + 0.1})
        if not torch.equal(encoder(perturbed), context):
            changed.add(name)
    assert changed == reads | COMMON


def test_without_window_info_the_window_is_not_read(batch):
    encoder = encoder_of(window_info=False)
    assert encoder.width == 12 + 8 + 3
    moved = replace(batch, window_info=batch.window_info + 1)
    assert torch.equal(encoder(moved), encoder(batch))


def test_only_the_parts_in_use_have_parameters():
    assert Model().features + Model().pose_width + 3 == ContextEncoder(Model()).width == 979
    names = {name.split(".")[0] for name, _ in encoder_of(pose=False).named_parameters()}
    assert names == {"feature"}
    names = {name.split(".")[0] for name, _ in encoder_of(embedding=True).named_parameters()}
    assert names == {"feature", "pose", "embedding"}


def test_the_embedding_leaves_the_rest_of_the_context_as_it_was(batch):
    plain = encoder_of()(batch)
    torch.testing.assert_close(encoder_of(embedding=True)(batch)[:, : plain.shape[1]], plain)


def test_too_few_heatmap_samples_are_refused(batch):
    few = replace(batch, samples=batch.samples[:, :4], density=batch.density[:, :4])
    with pytest.raises(ValueError, match="reads 5 heatmap samples per joint; the batch holds 4"):
        encoder_of(embedding=True)(few)
    assert encoder_of()(few).shape == (4, 28)


def test_features_are_standardised_and_cut(generator):
    encoder = encoder_of()
    images = 3 + 2 * torch.randn(200, 30, generator=generator)
    images[:, 7] = 3.0  # never changes: its deviation is bounded below
    encoder.standardise(images)
    torch.testing.assert_close(encoder.feature_mean, images.mean(0))
    assert encoder.feature_std[7].item() == pytest.approx(0.02)
    far, further = (torch.full((1, 30), value) for value in (1e3, 1e6))
    torch.testing.assert_close(encoder._feature(far), encoder._feature(further))


def test_features_of_the_papers_backbone_enter_as_they_are(batch):
    encoder = encoder_of(feature_width=None)
    assert encoder.width == 30 + 8 + 3 + 5
    assert torch.equal(encoder(batch)[:, :30], batch.features)


def test_the_head_starts_where_it_is_told_and_is_affine(generator):
    torch.manual_seed(0)
    head = ShapeCameraHead(7, SMALL).double().eval()
    first, second = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    mixture = head(0.3 * first + 0.7 * second)
    for mixed, a, b in zip(mixture, head(first), head(second), strict=True):
        torch.testing.assert_close(mixed, 0.3 * a + 0.7 * b)
    for layer in (head.decshape, head.deccam):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    head.start_at(torch.arange(11.0), torch.tensor([0.7, 0.1, 0.2]))
    betas, weak = head(first)
    torch.testing.assert_close(betas, torch.arange(11.0).double().expand(5, 11))
    torch.testing.assert_close(weak, torch.tensor([0.7, 0.1, 0.2]).double().expand(5, 3))
