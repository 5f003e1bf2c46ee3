from dataclasses import fields, replace

import pytest
import torch

from humr import losses
from humr.batches import Labels2D
from humr.config import Supervision, Weights
from humr.objective import HumrObjective, supervision_variant

EVERY = Weights(random_keypoints=1e-3)


@pytest.fixture
def objective(fitted, body):
    return HumrObjective(fitted, body, EVERY, Supervision(heatmap_samples=6), hypotheses=4).eval()


def seeded():
    return torch.Generator().manual_seed(3)


def with_rule(objective, **rule):
    supervision = replace(objective.supervision, **rule)
    return HumrObjective(objective.model, objective.body, EVERY, supervision, 4).eval()


def terms_of(objective, batch):
    with torch.no_grad():
        return objective(batch, generator=seeded())


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


def test_terms_of_weight_zero_are_left_out(objective, batch):
    weights = Weights(heatmap=0.0, mask=0.0, camera=0.0)
    few = HumrObjective(objective.model, objective.body, weights, objective.supervision, 4).eval()
    terms = terms_of(few, batch)
    assert set(terms) == {
        "nll", "shape", "keypoints", "orthonormal_mode", "orthonormal_samples"}  # fmt: skip
    every = terms_of(objective, batch)
    assert set(every) == {f.name for f in fields(Weights)}
    for name, value in terms.items():
        assert value == every[name], name  # the same draws, whatever else is computed
    assert few.total(terms) > 0


CHANGES = {
    "estimator": ({"estimator": "biased"}, "heatmap"),
    "first": ({"estimator": "biased", "first_is_point": True}, "heatmap"),
    "shuffled": ({"heatmaps": "shuffled"}, "heatmap"),
    "samples": ({"heatmap_samples": 3}, "heatmap"),
    "floor": ({"floor": 0.49}, "heatmap"),
    "confidence": ({"confidence": "samples"}, "heatmap"),
    "certain": ({"follow": "certain"}, "heatmap"),
    "articulated": ({"follow": "articulated"}, "heatmap"),
    "all": ({"follow": "all"}, "heatmap"),
    "visible": ({"random_visible": True}, "random_keypoints"),
    "any": ({"mask_target": "any"}, "mask"),
    "whole": ({"mask_whole": True}, "mask"),
    "noise": ({"target_noise": 0.0}, "nll"),
}


@pytest.fixture
def doubtful(batch):
    """Doubt about every limb, joints off the photograph, and a mask with a hole."""
    keypoints = batch.keypoints.clone()
    keypoints[:, 7:, 2] = torch.linspace(0.05, 0.65, 10)
    mask = torch.zeros_like(batch.mask)
    mask[:, 20:70, 20:95] = True
    return replace(batch, keypoints=keypoints, mask=mask)


@pytest.mark.parametrize("name", CHANGES)
def test_a_switch_changes_its_own_term_and_no_other(objective, doubtful, name):
    rule, term = CHANGES[name]
    trusting = {"mask_misses": 1.0}
    plain = terms_of(with_rule(objective, **trusting), doubtful)
    switched = terms_of(with_rule(objective, **trusting, **rule), doubtful)
    different = {n for n in plain if plain[n] != switched[n]}
    allowed = {term, "mask"} if term == "heatmap" else {term}  # the mask pulls to samples too
    assert term in different
    assert different <= allowed


def targets(uncertain, valid):
    points = torch.tensor([[[0.0, 0.0], [0.5, 0.5], [2.0, 0.0], [0.1, 0.0]]])
    return losses.Targets(
        samples=points[:, None], points=points, uncertain=torch.tensor([uncertain]),
        valid=torch.tensor([valid]), invisible=torch.zeros(1, 4, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("follow", "labelled", "unlabelled"),
    [
        ("certain", [True, False, False, False], [False] * 4),
        ("articulated", [True, True, False, False], [False] * 4),
        ("all", [True, True, False, True], [False] * 4),
    ],
)
def test_controls_follow_what_they_say(follow, labelled, unlabelled):
    # joint 0 certain, 1 uncertain, 2 outside, 3 skipped by the paper
    given = targets([False, True, False, False], [True, True, False, False])
    for has_points, expected in ((True, labelled), (False, unlabelled)):
        result = supervision_variant(given, follow, torch.tensor([has_points]))
        assert result.valid[0].tolist() == expected
        assert not result.uncertain.any()
    assert supervision_variant(given, "heatmaps", torch.tensor([True])) is given


@pytest.mark.parametrize(
    ("follow", "alone"),
    [
        ("labelled", [False] * 4),
        ("sure", [True, False, False, False]),
        ("guess", [True, True, False, True]),
    ],
)
def test_labelled_images_keep_the_papers_rule(follow, alone):
    given = targets([False, True, False, False], [True, True, False, False])
    for has_points, valid in ((True, [True, True, False, False]), (False, alone)):
        result = supervision_variant(given, follow, torch.tensor([has_points]))
        assert result.uncertain[0].tolist() == [False, has_points, False, False]
        assert result.valid[0].tolist() == valid


def test_any_joint_targets_hold_the_labels_of_labelled_images_only(objective, doubtful):
    rule = {"mask_misses": 1.0, "mask_target": "any"}
    none = torch.zeros(len(doubtful), dtype=torch.bool)
    moved = replace(doubtful, has_pose=none, has_points=none)
    assert terms_of(with_rule(objective, **rule), doubtful)["mask"] > 0
    assert terms_of(with_rule(objective, **rule), moved)["mask"] == 0  # no mask is trusted


@pytest.fixture
def given(objective, doubtful):
    """The labels of the batch as 2D points: the same that it projects itself."""
    body, generator = objective.body, seeded()
    joints = body.joints(doubtful.rotations, doubtful.betas)[:, :24]
    points = body.keypoints(doubtful.rotations, doubtful.betas, "coco17")
    shift = doubtful.translation[:, None]
    every = torch.ones(len(doubtful), 17, dtype=torch.bool)
    return Labels2D(
        keypoints=doubtful.to_crop(points + shift),
        joints=doubtful.to_crop(joints + shift),
        peak=torch.rand(len(doubtful), 17, generator=generator),
        in_window=every,
        on_mask=losses.inside_mask(doubtful.samples, doubtful.mask),
        mask_valid=objective._mask_holds(doubtful.to_crop(points + shift), doubtful),
    )


def far(batch):
    """The same batch, whose people stand elsewhere: nothing may be read from that."""
    return replace(batch, translation=batch.translation + 3)


def test_given_labels_take_the_place_of_projected_ones(objective, doubtful, given):
    projected = terms_of(objective, doubtful)
    found = terms_of(objective, far(replace(doubtful, given=given)))
    for name, value in projected.items():
        if name != "keypoints":  # has jaw and left eye too
            assert found[name] == value, name
    assert found["keypoints"] > projected["keypoints"]


def test_given_joints_are_compared_one_by_one(objective, doubtful, given):
    batch = replace(doubtful, given=given)
    drawn = objective._drawn(batch, seeded(), None)
    joints = batch.to_crop(drawn.mode.joints(objective.body)).detach()
    for image in range(3):
        expected = sum(
            abs(joints[image, j, a] - given.joints[image, j, a]).item()
            for j in range(24)
            for a in range(2)
        )
        assert objective._keypoints(drawn)[image].item() == pytest.approx(expected, rel=1e-4)


def test_the_given_mask_flag_decides(objective, doubtful, given):
    none, every = (torch.full((len(doubtful),), value) for value in (False, True))
    off = terms_of(objective, replace(doubtful, given=replace(given, mask_valid=none)))
    on = terms_of(objective, replace(doubtful, given=replace(given, mask_valid=every)))
    assert off["mask"] == 0
    assert on["mask"] > 0
    trusting = with_rule(objective, mask_misses=1.0)
    assert terms_of(trusting, doubtful)["mask"] == on["mask"]


def test_the_mask_pulls_to_samples_that_are_given_as_on_it(objective, doubtful, given):
    every = replace(given, mask_valid=torch.ones(len(doubtful), dtype=torch.bool))
    none = replace(every, on_mask=torch.zeros_like(given.on_mask))
    assert terms_of(objective, replace(doubtful, given=every))["mask"] > 0
    assert terms_of(objective, replace(doubtful, given=none))["mask"] == 0


def test_the_given_peak_is_the_confidence_of_samples(objective, doubtful, given):
    sampled = with_rule(objective, confidence="samples")
    batch = replace(doubtful, given=given)
    targets = sampled._targets(batch, given.keypoints)
    assert torch.equal(targets.invisible & given.mask_valid[:, None], targets.invisible)
    inside = (given.keypoints.abs() <= 1).all(-1)
    limbs = torch.zeros(17, dtype=torch.bool)
    limbs[[7, 8, 9, 10, 13, 14, 15, 16]] = True
    assert torch.equal(targets.uncertain, limbs & (given.peak < 0.7) & inside)


def test_outside_the_detectors_window_a_joint_follows_its_label(objective, doubtful, given):
    seen = torch.rand(len(doubtful), 17, generator=seeded()) < 0.5
    batch = replace(doubtful, given=replace(given, in_window=seen))
    plain = objective._targets(batch, given.keypoints)
    ruled = with_rule(objective, window=True)._targets(batch, given.keypoints)
    assert torch.equal(ruled.uncertain, plain.uncertain & seen)
    assert not torch.equal(ruled.uncertain, plain.uncertain)
    assert torch.equal(ruled.valid, plain.valid)
    with pytest.raises(ValueError, match=r"supervision\.window needs given 2D labels"):
        terms_of(with_rule(objective, window=True), doubtful)


def test_given_labels_move_and_are_chosen_with_the_batch(doubtful, given):
    batch = replace(doubtful, given=given)
    part = batch[torch.tensor([2, 0])].to("cpu")
    for field in fields(Labels2D):
        expected = getattr(given, field.name)[[2, 0]]
        assert torch.equal(getattr(part.given, field.name), expected), field.name
    assert doubtful[slice(0, 2)].given is None
