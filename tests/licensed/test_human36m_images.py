"""Tests of humr.licensed.human36m: Gaussians, the condition, choosing, and the evaluation."""

from dataclasses import replace

import lifting_formats as formats
import numpy as np
import pytest
import torch

from humr.licensed import human36m
from humr.licensed.human36m import ACTIONS, LicensedLifting, every, fitted, stored_fits, sure
from humr.lifting import evaluation
from humr.lifting.data import complete
from humr.skeletons import CONDITION13, H36M17, MPII16


def images(count, actions=None):
    """Images with fits as they are stored."""
    poses = formats.people(count)
    points = formats.mpii(formats.seen(poses))
    fits = stored_fits(torch.from_numpy(formats.official_fits(points)))
    return LicensedLifting(
        joints=torch.from_numpy(poses).float() / 1000,
        points=torch.from_numpy(points).float(),
        fits=fits,
        moments=fits.flip(1),
        action=tuple(actions or ["Sitting"] * count),
        subject=torch.arange(count).to(torch.uint8),
    )


class Perfect:
    """Knows the truth, and misses it by `miss` metres along x in every joint but the pelvis."""

    def __init__(self, miss=None):
        self.miss = miss

    def mode(self, batch):
        pose = complete(batch.pose)
        if self.miss is not None:
            pose[:, 1:, 0] += self.miss[:, None]
        return pose

    def sample(self, batch, count, *, generator=None):
        return self.mode(batch)[:, None].expand(-1, count, -1, -1)


# ------------------------------------------------------------------------ conventions


def test_a_batch_has_metres_y_up_z_near_and_no_swapped_side():
    found = images(3)
    batch = found.batch()
    assert batch.target[:, 0].abs().max() == 0
    assert batch.pose.mean(1).abs().max() < 1e-6
    joints = {name: batch.target[0, i] for i, name in enumerate(H36M17.names)}
    assert 0.6 < joints["head_top"][1] < 0.9  # up, in metres
    assert joints["right_ankle"][2] > 0.5  # the right leg kicks towards the camera: z near
    assert abs(joints["left_ankle"][2]) < 0.2
    assert joints["left_wrist"][1] > 0.8  # the left arm is up
    assert joints["right_wrist"][1] < 0
    assert joints["right_hip"][0] < 0 < joints["left_hip"][0]
    points = {name: batch.points[0, i] for i, name in enumerate(MPII16.names)}
    assert points["left_wrist"][1] > points["head_top"][1] > points["right_wrist"][1]
    assert points["right_ankle"][1] > points["left_ankle"][1]


def test_stored_fits_become_the_official_condition():
    """The recipe of the official code (A3.2 of our notes), written independently."""
    points = formats.mpii(formats.seen(formats.people(4)))
    fits = formats.official_fits(points)
    fits[0, 0, 3], fits[0, 1, 5], fits[1, 4, 0] = -2.4, 40.0, 1.7  # runaway widths, high peak
    fits[2, 5, 1:3] = -8.0, 90.0  # a mean outside of the heatmap
    found = images(4)
    found = replace(found, fits=stored_fits(torch.from_numpy(fits))).batch(doubled=True)

    mean = np.clip(fits[..., 1:3], 0, 63)
    mean = (mean - mean.mean(1, keepdims=True)) * [1, -1]
    mean /= mean.reshape(4, -1).std(1)[:, None, None]
    sigma = np.clip(fits[..., [3, 5]], 0.2, 10)
    sigma = np.where(sigma > 2.1, 2 * sigma, sigma) / 20
    cos, sin = np.cos(fits[..., 4] % np.pi), np.sin(fits[..., 4] % np.pi)
    x, y = np.moveaxis(sigma**2, -1, 0)
    expected = np.stack(
        [np.clip(fits[..., 0], 0, 1.2), *np.moveaxis(mean, -1, 0), cos**2 * x + sin**2 * y,
         cos * sin * (x - y), sin**2 * x + cos**2 * y], -1
    )  # fmt: skip
    kept = [0, 1, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15]  # without hips
    np.testing.assert_allclose(found.condition, expected[:, kept], atol=2e-5)


def test_the_sign_of_a_stored_angle():
    """A blob along the line to the upper right has a positive angle, and yx > 0 with y up."""
    fits = torch.tensor([0.9, 20, 30, 4.0, 0.5, 1.0, 0.0]).repeat(1, 16, 1)
    found = replace(images(1), fits=stored_fits(fits))
    assert (found.gaussians().covariance[..., 0, 1] < 0).all()  # y down
    assert (found.batch().condition[..., 4] > 0).all()


def test_heatmaps_and_stored_fits_mean_the_same():
    """A map drawn by the formula of ICCV 2021, fitted by us, equals its own parameters."""
    fits = torch.tensor([0.8, 25, 37, 4.5, 0.6, 1.5, 0.0], dtype=torch.double).repeat(2, 16, 1)
    fits[..., 4] += torch.linspace(0, 3, 16)
    a, x0, y0, sx, theta, sy, _ = fits[..., None, None].unbind(2)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    dx, dy = x - x0, y - y0
    aa = theta.cos() ** 2 / (2 * sx**2) + theta.sin() ** 2 / (2 * sy**2)
    bb = -(2 * theta).sin() / (4 * sx**2) + (2 * theta).sin() / (4 * sy**2)
    cc = theta.sin() ** 2 / (2 * sx**2) + theta.cos() ** 2 / (2 * sy**2)
    maps = a * torch.exp(-(aa * dx**2 + 2 * bb * dx * dy + cc * dy**2))
    found, moments = fitted(maps.float())
    torch.testing.assert_close(found, stored_fits(fits), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(moments[..., 3:], found[..., 3:], atol=0.5, rtol=0.06)


def test_heatmaps_that_say_nothing():
    maps = torch.full((1, 16, 64, 64), -0.01)
    maps[:, 1:, 30, 20] = 0.7
    fits, moments = fitted(maps)
    assert fits.isfinite().all()
    assert (fits[0, 0, [3, 5]] > 10**2).all()
    assert moments[0, 1, 1:3].tolist() == [20, 30]


def test_a_sure_detector():
    points = torch.randn(2, 16, 2)
    found = replace(images(2), fits=sure(points), moments=None)
    assert not found.ambiguous.any()
    condition = found.batch().condition
    assert torch.allclose(condition[..., 3:], torch.tensor([0.01, 0.0, 0.01]))
    with pytest.raises(ValueError, match="there are no moments"):
        found.batch(gaussians="moments")


def test_ambiguous_images_have_one_wide_axis():
    fits = torch.tensor([0.9, 20, 30, 4.9, 0.5, 1.0, 0.0]).repeat(4, 16, 1)
    fits[1, 3, 5], fits[2, 15, 3], fits[3, 0, 3] = 5.1, 11.0, -20.0
    found = replace(images(4), fits=stored_fits(fits))
    assert found.ambiguous.tolist() == [False, True, True, False]
    assert found[found.ambiguous].subject.tolist() == [1, 2]


# ------------------------------------------------------------------------ selection


def test_every_counts_through_an_action():
    actions = ["a", "a", "b", "a", "b", "a", "b", "a"]
    assert every(actions, 2).tolist() == [0, 2, 3, 6, 7]
    assert every(actions, 1).tolist() == list(range(8))
    with pytest.raises(ValueError, match="stride must be at least 1; got 0"):
        every(actions, 0)


def test_images_are_chosen_and_joined():
    found = images(4, actions="abcd")
    parts = [found[1:3], found[torch.tensor([3, 0])], found[torch.tensor([1, 0, 0, 0]).bool()]]
    joined = LicensedLifting.join(parts)
    assert joined.action == tuple("bcdaa")
    assert joined.subject.tolist() == [1, 2, 3, 0, 0]
    assert torch.equal(joined.joints[2], found.joints[3])
    without = replace(found, moments=None)
    assert LicensedLifting.join([without, without]).moments is None


# ------------------------------------------------------------------------ evaluation


def test_a_perfect_prediction_has_no_error():
    found = images(5)
    rows = evaluation.evaluate(Perfect(), found, hypotheses=2, group="GS")
    for name in ("mpjpe_mode", "mpjpe_best", "pa_mpjpe_mode", "pa_mpjpe_best"):
        np.testing.assert_allclose(rows[name], 0, atol=1e-3)
    np.testing.assert_allclose(rows.pck_best, 100)
    assert rows.action.tolist() == ["Sitting"] * 5
    assert rows.subject.tolist() == [0, 1, 2, 3, 4]
    assert rows.ambiguous.tolist() == found.ambiguous.tolist()


def test_the_average_is_the_mean_of_fifteen_means():
    """Actions with other numbers of images: image i of action a misses by a + 1 + i mm."""
    actions = [name for number, name in enumerate(ACTIONS) for _ in range(1 + number % 3)]
    first = {name: actions.index(name) for name in ACTIONS}
    off = [ACTIONS.index(name) + 1 + i - first[name] for i, name in enumerate(actions)]
    rows = evaluation.evaluate(
        Perfect(torch.tensor(off) / 1000), images(len(actions), actions), hypotheses=1
    )
    table = evaluation.by_action(rows, ["mpjpe_mode"])
    assert table.shape == (1, 16)
    means = [number + 1 + (number % 3) / 2 for number in range(15)]
    assert table.average["mpjpe_mode"] == pytest.approx(np.mean(means) * 16 / 17, rel=1e-3)
    assert rows.mpjpe_mode.mean() != pytest.approx(table.average["mpjpe_mode"], rel=1e-2)


# ------------------------------------------------------------------------ bad input


def test_wrong_kinds_and_units_are_refused(tmp_path):
    found = images(2)
    with pytest.raises(ValueError, match="kind must be fit or moments; got 'peak'"):
        found.gaussians("peak")
    for scale, size in ((1000, r"5\d\d"), (0.001, r"0\.000\d+")):
        other = replace(found, joints=scale * found.joints)
        with pytest.raises(ValueError, match=f"joints lie {size} m from the pelvis"):
            human36m.checked(other, tmp_path / "x.h5")
    for name in ("joints", "points", "fits"):
        broken = getattr(found, name).clone()
        broken[0, 3, 1] = torch.nan
        with pytest.raises(ValueError, match=f"{name} hold values that are not finite"):
            human36m.checked(replace(found, **{name: broken}), tmp_path / "x.h5")
    with pytest.raises(ValueError, match="holds no image"):
        human36m.checked(found[:0], tmp_path / "x.h5")


def test_condition_joints_are_those_of_the_paper():
    assert CONDITION13.names == tuple(MPII16.names[i] for i in (0, 1, 4, 5, *range(7, 16)))
