import json
import math
from dataclasses import replace

import pytest
import torch

from humr import refine
from humr.geometry import geodesic_distance
from humr.refine import Constants, Evidence
from humr.skeletons import COCO17


def known(**changes):
    defaults = {
        "temperature": 1.2,
        "noise": 0.01,
        "rates": torch.tensor([0.9, 0.06, 0.02, 0.02]),
        "shape_mean": torch.zeros(11),
        "shape_slope": torch.ones(11),
        "shape_factor": torch.eye(11),
        "camera_mean": torch.zeros(3),
        "camera_factor": torch.diag(torch.tensor([0.12, 0.05, 0.06])),
        "offsets": torch.zeros(17, 3),
    }
    return Constants(**{**defaults, **changes})


def seeded():
    return torch.Generator().manual_seed(0)


def sure(batch):
    """The same batch with every joint certain."""
    keypoints = batch.keypoints.clone()
    keypoints[..., 2] = 0.95
    return replace(batch, keypoints=keypoints)


def run(model, body, batch, count=5, **options):
    options = {"generator": seeded(), "steps": 8, **options}
    return refine.refine(model, body, batch, options.pop("constants", known()), count, **options)


# ---- the method


def test_linear_gaussian_draws_have_the_exact_posterior(generator):
    """Posterior N(m, S): S = (I + A'A / s^2)^-1, m = S A'y / s^2."""
    dim, draws, sigma = 4, 8000, 0.7
    matrix = torch.randn(34, dim, generator=generator) / 4
    seen = torch.randn(34, generator=generator)
    covariance = torch.linalg.inv(torch.eye(dim) + matrix.T @ matrix / sigma**2)
    mean = covariance @ matrix.T @ seen / sigma**2
    anchor = torch.randn(1, draws, dim, generator=generator)
    noise = sigma * torch.randn(1, draws, 34, generator=generator)
    told = Evidence(
        (seen + noise).unflatten(-1, (17, 2)),
        torch.full((1, draws, 17), sigma),
        torch.ones(1, draws, 17),
    )

    def energy(u):
        predicted = (u @ matrix.T).unflatten(-1, (17, 2))
        return 0.5 * (u - anchor).square().sum(-1) + told.misfit(predicted, freedom=torch.inf)

    found = refine.descend(energy, anchor, steps=150, rate=0.1)[0]
    torch.testing.assert_close(found.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(found.T.cov(), covariance, atol=0.03, rtol=0)


def test_two_peaks_of_a_heatmap_stay_two(batch, generator):
    """Three draws in four lie left; the hypotheses do so as well, and none lies between."""
    samples = torch.full((1, 80, 17, 2), 0.3)
    samples[:, :60] = -0.3
    picture = replace(batch[:1], samples=samples, density=torch.ones(1, 80, 17))
    told = refine.drawn(picture, 0.01, 1000, generator=generator)
    anchor = torch.randn(1, 1000, 34, generator=generator)

    def energy(u):
        return 0.5 * (u - anchor).square().sum(-1) + told.misfit(u.unflatten(-1, (17, 2)))

    found = refine.descend(energy, anchor, steps=80, rate=0.2).unflatten(-1, (17, 2))
    along = found.sum(-1)
    assert (along < 0).double().mean() == pytest.approx(0.75, abs=0.03)
    assert (along.abs() < 0.15).double().mean() < 0.05


def test_rows_descend_by_themselves_and_bad_gradients_do_not_spread():
    def energy(u):
        broken = torch.tensor([1.0, torch.nan])[: u.shape[1]]
        return (u - 1).square().sum(-1) * broken

    start = torch.tensor([[[0.0, 3.0], [9.0, 9.0]]])
    both = refine.descend(energy, start, steps=100, rate=0.1)
    torch.testing.assert_close(both[:, 0], torch.ones(1, 2), atol=5e-2, rtol=0)
    assert both[:, 1].eq(9).all()
    torch.testing.assert_close(
        both[:, :1], refine.descend(energy, start[:, :1], steps=100, rate=0.1)
    )


def test_student_misfit_is_gaussian_near_and_bounded_in_pull_far():
    points = torch.zeros(1, 1, 17, 2)
    told = Evidence(points, torch.full((1, 1, 17), 0.1), torch.ones(1, 1, 17))
    near = points + 1e-3
    ratio = told.misfit(near) / told.misfit(near, freedom=torch.inf)
    assert float(ratio) == pytest.approx(1 + 2 / refine.FREEDOM, rel=1e-2)
    far = (points + 1e6).requires_grad_()
    (pull,) = torch.autograd.grad(told.misfit(far).sum(), far)
    assert pull.abs().max() < 1e-4


# ---- evidence


def test_labellings_exchange_what_they_say():
    names = [[COCO17.names[i] for i in order] for order in refine.PERMUTATIONS.tolist()]
    assert names[0] == list(COCO17.names)
    assert names[1] == [COCO17.names[i] for i in COCO17.mirrored]
    assert names[2][5:7] == ["left_shoulder", "right_shoulder"]
    assert names[2][15:] == ["right_ankle", "left_ankle"]
    assert names[3][5:7] == ["right_shoulder", "left_shoulder"]
    assert names[3][15:] == ["left_ankle", "right_ankle"]


def test_a_swapped_picture_is_told_as_it_is(batch):
    told = refine.best_guess(batch, 0.01)
    swapped = told.relabelled(refine.PERMUTATIONS[1].expand(len(batch), 1, -1))
    again = swapped.likeliest(told.points, known().rates)
    assert again.points.equal(told.points)
    assert again.sigma.equal(told.sigma)


def test_draws_of_the_floor_tell_nothing(batch):
    density = torch.ones_like(batch.density)
    density[:, ::2] = 1e-4
    samples = batch.samples.clone()
    samples[:, ::2] = 0.9
    samples[:, 1::2] = 0.1
    picture = replace(batch, density=density, samples=samples)
    told = refine.drawn(picture, 0.01, 400, generator=seeded())
    assert told.weight.mean() == pytest.approx(0.5, abs=0.03)
    inside = told.points[told.weight > 0]
    torch.testing.assert_close(inside.mean(0), torch.tensor([0.1, 0.1]), atol=1e-3, rtol=0)
    assert inside.std() == pytest.approx(0.01, rel=0.05)
    assert refine.sigma_of(picture, 0.01).amin() == pytest.approx(0.01, rel=1e-3)


def test_joints_outside_the_photograph_are_told_vaguely(batch):
    keypoints = batch.keypoints.clone()
    keypoints[:, 0, :2] = 50.0
    samples = keypoints[:, None, :, :2].expand_as(batch.samples)
    picture = replace(batch, keypoints=keypoints, samples=samples)
    sigma = refine.sigma_of(picture, 0.01)
    assert (sigma[:, 0] >= refine.OUTSIDE_SIGMA).all()
    assert sigma[:, 1:].amin() < 0.02


@pytest.mark.parametrize(
    "bad",
    [
        {"density": torch.zeros(16, 6, 17)},
        {"density": torch.full((16, 6, 17), math.nan)},
        {"samples": torch.full((16, 6, 17, 2), math.nan)},
    ],
)
def test_heatmaps_of_nothing_are_refused(upright, body, batch, bad):
    with pytest.raises(ValueError, match="finite and of positive density"):
        run(upright, body, replace(batch, **bad))


# ---- the chain


def test_hypotheses_have_their_own_shape_and_camera_and_repeat(upright, body, batch):
    found, again = run(upright, body, batch), run(upright, body, batch)
    samples = found.hypotheses.samples
    assert samples.sixd.shape == (len(batch), 5, 22, 6)
    assert samples.sixd.equal(again.hypotheses.samples.sixd)
    assert samples.betas.std(1).amin() > 0
    assert samples.translation.std(1).amin() > 0
    assert samples.sixd.isfinite().all()
    assert not samples.sixd.requires_grad


def test_images_do_not_see_each_other(upright, body, batch):
    """The noise of the first image is the same, whoever stands beside it."""
    one = run(upright, body, sure(batch)[:1], count=3)
    two = run(upright, body, sure(batch)[:1], count=3)
    torch.testing.assert_close(one.optimum.sixd, two.optimum.sixd)
    many = run(upright, body, sure(batch), count=3)
    torch.testing.assert_close(many.optimum.sixd[:1], one.optimum.sixd, atol=1e-4, rtol=1e-4)


def test_refinement_comes_nearer_to_what_the_detector_sees(upright, body, batch):
    """Key points of a body of the flow's own: the optimum finds them, the flow's mode does not."""
    constants, some = known(), sure(batch)[:4]
    observation = upright.observe(some)
    unknowns = refine.Unknowns(upright, observation, some, constants)
    hidden = 0.7 * torch.randn(4, 1, 146, generator=seeded())
    with torch.no_grad():
        seen = unknowns.points(hidden, body)
    keypoints = torch.cat([seen[:, 0], some.keypoints[..., 2:]], -1)
    samples, density = seen.expand(-1, 6, -1, -1), torch.ones(4, 6, 17)
    some = replace(some, keypoints=keypoints, samples=samples, density=density)
    found = run(upright, body, some, constants=constants, steps=60)

    def error(people):
        points = refine.detected(people, body, constants.offsets)
        return (some.to_crop(points) - seen[:, 0]).norm(dim=-1).mean()

    assert error(found.optimum) < 0.4 * error(found.flow_mode)


def test_without_a_certain_joint_the_flow_answers(upright, body, batch):
    keypoints = batch.keypoints.clone()
    keypoints[..., 2] = 0.5
    keypoints[0, :, 2] = 0.9
    found = run(upright, body, replace(batch, keypoints=keypoints))
    assert found.informed.tolist() == [True] + [False] * (len(batch) - 1)
    assert found.hypotheses.mode.sixd[1:].equal(found.flow_mode.sixd[1:])
    shared = found.hypotheses.samples.betas[1:]
    assert shared.equal(shared[:, :1].expand_as(shared))
    assert not found.hypotheses.mode.sixd[0].equal(found.flow_mode.sixd[0])
    assert found.remark(1).startswith("no joint is certain")


def test_a_root_that_turns_far_keeps_the_flows_mode(upright, body, batch, monkeypatch):
    monkeypatch.setattr(refine, "TURNED", 1.0)
    found = run(upright, body, sure(batch))
    turn = geodesic_distance(found.optimum.rotations[:, 0], found.flow_mode.rotations[:, 0])
    assert found.turned.any()
    assert found.turned.equal(turn.rad2deg() > 1)
    assert "turn the body around" in found.remark(int(found.turned.nonzero()[0, 0]))
    kept = found.hypotheses.mode.sixd
    assert kept[found.turned].equal(found.flow_mode.sixd[found.turned])
    assert kept[~found.turned].equal(found.optimum.sixd[~found.turned])


def test_nobody_lands_behind_the_camera(upright, body, batch):
    """However far the camera is pushed, and however absurd the head's answer."""
    unknowns = refine.Unknowns(
        upright,
        replace(upright.observe(batch), weak=torch.tensor([[-3.0, 0.0, 0.0]]).expand(16, -1)),
        batch,
        known(),
    )
    u = torch.full((16, 1, 146), 1e3).requires_grad_()
    people = unknowns.people(u * torch.tensor([0.0] * 132 + [1.0] * 14))
    assert (people.translation[..., 2] > 0).all()
    assert people.betas.abs().max() < 20
    told = refine.best_guess(batch, 0.01)
    (gradient,) = torch.autograd.grad(told.misfit(unknowns.points(u * 0, body)).sum(), u)
    assert gradient.isfinite().all()


def test_few_certain_joints_are_remarked(upright, body, batch):
    keypoints = batch.keypoints.clone()
    keypoints[..., 2] = 0.5
    keypoints[:, :2, 2] = 0.9
    found = run(upright, body, replace(batch, keypoints=keypoints))
    quiet = replace(found, turned=torch.zeros_like(found.turned))
    assert quiet.remark(0) == "only 2 of 17 joints are certain"
    assert replace(quiet, certain=quiet.certain + 9).remark(0) == ""


def test_no_hypotheses_are_refused(upright, body, batch):
    with pytest.raises(ValueError, match="count must be at least 1"):
        run(upright, body, batch, count=0)


# ---- constants


def test_constants_survive_their_file_and_know_their_weights(tmp_path):
    checkpoint = tmp_path / "net"
    checkpoint.with_suffix(".safetensors").write_bytes(b"weights")
    constants = known(offsets=0.01 * torch.randn(17, 3, generator=seeded()))
    path = constants.write(checkpoint, {"images": 3})
    assert json.loads(path.read_text())["images"] == 3
    again = Constants.read(checkpoint)
    torch.testing.assert_close(again.offsets, constants.offsets, atol=1e-6, rtol=0)
    assert again.temperature == constants.temperature
    checkpoint.with_suffix(".safetensors").write_bytes(b"others")
    with pytest.raises(ValueError, match="other weights than net"):
        Constants.read(checkpoint)
    with pytest.raises(FileNotFoundError, match="refine fit"):
        Constants.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"noise": -1.0}, "noise must be positive"),
        ({"rates": torch.tensor([1.0, 0.0, 0.0, 0.0])}, "rates must be positive"),
    ],
)
def test_senseless_constants_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        known(**change)
