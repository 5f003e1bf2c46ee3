from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from humr import metrics
from humr.lifting import evaluation
from humr.lifting.config import LiftingModel
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.flow import LiftingFlow
from humr.skeletons import CONDITION13, H36M17
from humr.world.poses import TEMPLATE_NAMES
from tests.lifting.test_data import lifting_records

STD = (0.02, 0.03, 0.05)  # of the toys' posterior, along the axes
KINDS = [f"{error}_{which}" for error in ("mpjpe", "pa_mpjpe")
         for which in ("mode", "best", "sample", "mean", "median", "worst")]  # fmt: skip
COLUMNS = {
    "image", "hypotheses", "action", "subject", "group", "ambiguous", *KINDS,
    *(f"{error}_best{n}" for error in ("mpjpe", "pa_mpjpe") for n in (1, 5, 10)),
    *(f"{name}_{which}" for name in ("pck", "auc") for which in ("mode", "best", "sample")),
    "cps_mode", "cps_best", "cps_pose", "cps_best_unaligned",
    "energy_score", "joint_energy_score",
    *(f"spread_{name}" for name in ("x", "y", "z", *H36M17.names)),
    *(f"drank_{name}" for name in H36M17.names[1:]),
    *(f"cover{level}_{axis}" for level in (50, 90) for axis in "xyz"),
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """As much of a split as the evaluation needs."""

    everything: LiftingBatch
    template: Tensor
    subject: Tensor
    ambiguous: Tensor

    @property
    def action(self):
        return [TEMPLATE_NAMES[index] for index in self.template.tolist()]

    def __len__(self):
        return len(self.template)

    def __getitem__(self, index):
        return Split(
            self.everything[index],
            self.template[index],
            self.subject[index],
            self.ambiguous[index],
        )

    def batch(self, *, gaussians, doubled):
        assert (gaussians, doubled) == ("fit", True)
        return self.everything


class Toy:
    """Knows the middle of the posterior, from the labels, and how wide it should be."""

    scale = 1.0

    def mode(self, batch):
        return complete(batch.pose)

    def sample(self, batch, count, *, generator=None):
        noise = torch.randn(len(batch), count, 17, 3, generator=generator)
        noise[:, :, 0] = 0
        return self.mode(batch)[:, None] + self.scale * noise * torch.tensor(STD)


class Point(Toy):
    scale = 0.0


class WithDensity(Toy):
    def log_prob(self, batch):
        return 48 * torch.arange(len(batch)).float()


def split(images, generator):
    """Poses whose truth lies around `pose` as the toy believes."""
    pose = 0.3 * torch.randn(images, 16, 3, generator=generator)
    width = 0.05 + 0.2 * torch.rand(images, 13, 2, generator=generator)
    cross = 0.5 * width.prod(-1, keepdim=True)
    return Split(
        LiftingBatch(
            pose=pose - pose.mean(1, keepdim=True),
            points=torch.randn(images, 16, 2, generator=generator),
            condition=torch.cat(
                [torch.ones(images, 13, 3), width[..., :1] ** 2, cross, width[..., 1:] ** 2], -1
            ),
            target=complete(pose) + _noise(images, generator),
        ),
        template=torch.arange(images).to(torch.uint8) % 3,
        subject=torch.arange(images).to(torch.uint8) % 2,
        ambiguous=torch.arange(images) % 4 == 0,
    )


def _noise(images, generator):
    noise = torch.randn(images, 17, 3, generator=generator) * torch.tensor(STD)
    noise[:, 0] = 0
    return noise


@pytest.fixture
def data(generator):
    return split(7, generator)


def drawn_by_hand(data, count, seed=0):
    batch = data.everything
    return Toy().sample(batch, count, generator=torch.Generator().manual_seed(seed)), batch.target


# ----------------------------------------------------------------------------- rows


def test_one_row_per_image_and_the_same_rows_again(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=20, group="rooms")
    assert set(rows) == COLUMNS
    assert rows.equals(evaluation.evaluate(Toy(), data, hypotheses=20, group="rooms"))
    assert rows.image.tolist() == list(range(7))
    assert rows.action.tolist() == [TEMPLATE_NAMES[i % 3] for i in range(7)]
    assert rows.subject.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert rows.ambiguous.tolist() == [True, False, False, False, True, False, False]
    assert set(rows.group) == {"rooms"}
    numbers = rows.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy(float)).all()


def test_errors_are_those_of_the_hypotheses(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=12)
    samples, target = drawn_by_hand(data, 12)
    mode = complete(data.everything.pose)
    for name, measure in (("mpjpe", metrics.mpjpe), ("pa_mpjpe", metrics.pa_mpjpe)):
        error = 1000 * measure(samples, target[:, None])
        middle = metrics.medoid(samples)
        expected = {
            "mode": 1000 * measure(mode, target),
            "best1": error[:, 0],
            "best5": error[:, :5].amin(1),
            "best10": error[:, :10].amin(1),
            "best": error.amin(1),
            "sample": error.mean(1),
            "worst": error.amax(1),
            "mean": 1000 * measure(samples.mean(1), target),
            "median": error[torch.arange(7), middle],
        }
        for which, value in expected.items():
            np.testing.assert_allclose(rows[f"{name}_{which}"], value, rtol=1e-4)
    assert "mpjpe_best50" not in rows


def test_correct_joints_and_poses_are_those_of_the_hypotheses(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=12)
    samples, target = drawn_by_hand(data, 12)
    moved = evaluation.aligned(samples, target[:, None])
    nearest = metrics.mpjpe(moved, target[:, None]).argmin(1)
    worst = evaluation.largest_error(moved, target[:, None])
    expected = {
        "cps_best": evaluation.correct_poses_score(worst).amax(1),
        "cps_pose": evaluation.correct_poses_score(worst[torch.arange(7), nearest]),
        "cps_best_unaligned": evaluation.correct_poses_score(
            evaluation.largest_error(samples, target[:, None])
        ).amax(1),
        "pck_best": 0.1 * evaluation.pck14(samples, target[:, None]).amax(1),
        "auc_sample": 0.1 * evaluation.auc14(samples, target[:, None]).mean(1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(rows[name], 1000 * value, rtol=1e-4)
    assert (rows.cps_best >= rows.cps_pose).all()
    assert rows.cps_best.mean() > rows.cps_best_unaligned.mean()


def test_a_single_hypothesis_is_a_point_forecast(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=1)
    assert set(rows) == COLUMNS - {f"{e}_best{n}" for e in ("mpjpe", "pa_mpjpe") for n in (5, 10)}
    for name in ("best", "best1", "mean", "median", "worst"):
        np.testing.assert_allclose(rows[f"mpjpe_{name}"], rows.mpjpe_sample, rtol=1e-5)
        np.testing.assert_allclose(rows[f"pa_mpjpe_{name}"], rows.pa_mpjpe_sample, rtol=1e-4)
    np.testing.assert_allclose(rows.energy_score, rows.mpjpe_sample, rtol=1e-5)
    assert (rows.filter(like="spread_") == 0).all(axis=None)
    assert rows.filter(like="cover").isna().all(axis=None)


def test_a_batch_of_one_and_many_batches(data):
    one = evaluation.evaluate(Point(), data[slice(3, 4)], hypotheses=2, batch=1)
    by_two = evaluation.evaluate(Point(), data, hypotheses=2, batch=2)
    whole = evaluation.evaluate(Point(), data, hypotheses=2)
    pd.testing.assert_frame_equal(by_two, whole, rtol=1e-4, atol=1e-3)
    pd.testing.assert_frame_equal(
        one.drop(columns="image"), whole[3:4].reset_index(drop=True).drop(columns="image"),
        rtol=1e-4, atol=1e-3,
    )  # fmt: skip


def test_spread_is_that_of_the_posterior(generator):
    rows = evaluation.evaluate(Toy(), split(20, generator), hypotheses=200)
    for axis, std in zip("xyz", STD, strict=True):
        assert rows[f"spread_{axis}"].mean() == pytest.approx(1000 * std * 16 / 17, rel=0.02)
    assert rows.spread_nose.mean() == pytest.approx(1000 * np.linalg.norm(STD), rel=0.03)
    assert (rows.spread_pelvis == 0).all()


def test_calibration_of_a_right_a_narrow_and_a_point_forecast(generator):
    data = split(200, generator)
    right = evaluation.evaluate(Toy(), data, hypotheses=40)
    narrow = Toy()
    narrow.scale = 0.5
    narrow = evaluation.evaluate(narrow, data, hypotheses=40)
    point = evaluation.evaluate(Point(), data, hypotheses=1)
    assert evaluation.ece(right) < 0.03
    assert evaluation.ece(narrow) > 0.2
    assert evaluation.ece(point) == pytest.approx(np.linspace(0, 0.95, 20).sum() / 21)
    for level in (50, 90):
        covered = right.filter(like=f"cover{level}").mean()
        np.testing.assert_allclose(covered, level / 100, atol=0.03)
        assert (narrow.filter(like=f"cover{level}").mean() < covered - 0.1).all()
    assert right.energy_score.mean() < narrow.energy_score.mean() < point.energy_score.mean()


def test_ece_of_rows_is_that_of_the_hypotheses(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=20)
    samples, target = drawn_by_hand(data, 20)
    expected = metrics.expected_calibration_error(samples[:, :, 1:], target[:, 1:])
    assert evaluation.ece(rows) == pytest.approx(expected.item(), abs=1e-6)


def test_as_many_clusters_as_hypotheses_are_as_good_as_the_best(data):
    rows = evaluation.evaluate(Toy(), data, hypotheses=8, clusters=[1, 8])
    np.testing.assert_allclose(rows.mpjpe_kmeans8, rows.mpjpe_best, rtol=1e-4)
    np.testing.assert_allclose(rows.pa_mpjpe_kmeans8, rows.pa_mpjpe_best, rtol=1e-4)
    np.testing.assert_allclose(rows.mpjpe_kmeans1, rows.mpjpe_mean, rtol=1e-4)
    without = evaluation.evaluate(Toy(), data, hypotheses=8)
    assert without.equals(rows[without.columns])


def test_likelihood_is_there_if_the_model_has_one(data):
    rows = evaluation.evaluate(WithDensity(), data, hypotheses=2)
    assert set(rows) - COLUMNS == {"nll"}
    assert rows.nll.tolist() == [-i for i in range(7)]


def test_records_of_the_lifting_world_will_do(generator):
    records = lifting_records(3, generator)
    actions = [TEMPLATE_NAMES[i] for i in records.template.tolist()]
    for inputs in (evaluation.Inputs(), evaluation.Inputs(gaussians="moments", doubled=False)):
        rows = evaluation.evaluate(Toy(), records, hypotheses=2, inputs=inputs)
        assert rows.action.tolist() == actions
        assert rows.ambiguous.dtype == bool
        assert rows.mpjpe_mode.notna().all()


def test_lifting_flow_has_a_likelihood_if_it_is_noisy(generator):
    records = lifting_records(3, generator)
    small = LiftingModel(blocks=1, hidden=8)
    exact = evaluation.evaluate(LiftingFlow(small), records, hypotheses=2)
    noisy = LiftingFlow(small, noisy=True)
    rows = evaluation.evaluate(noisy, records, hypotheses=2)
    assert set(rows) - set(exact) == {"nll"}
    with torch.no_grad():
        expected = -noisy.log_prob(records.batch()) / 48
    np.testing.assert_allclose(rows.nll, expected, rtol=1e-5)


# ----------------------------------------------------------------------------- curve


def test_curve_ends_at_the_best_of_all_and_starts_at_any(data):
    table = evaluation.curve(Toy(), data, [1, 3, 10, 12], hypotheses=12)
    rows = evaluation.evaluate(Toy(), data, hypotheses=12)
    by_n = {n: part.reset_index() for n, part in table.groupby("n")}
    for name in ("mpjpe", "pa_mpjpe"):
        for kind in ("best", "expected"):
            np.testing.assert_allclose(by_n[12][f"{name}_{kind}"], rows[f"{name}_best"], rtol=1e-5)
        np.testing.assert_allclose(by_n[1][f"{name}_expected"], rows[f"{name}_sample"], rtol=1e-5)
        np.testing.assert_allclose(by_n[10][f"{name}_best"], rows[f"{name}_best10"], rtol=1e-5)
        falling = np.stack([by_n[n][f"{name}_expected"] for n in (1, 3, 10, 12)])
        assert (np.diff(falling, axis=0) < 0).all()
    assert all(part.image.tolist() == list(range(7)) for part in by_n.values())


def test_more_hypotheses_come_with_fewer_images_at_a_time(data, monkeypatch):
    sizes = []

    class Watched(Toy):
        def sample(self, batch, count, *, generator=None):
            sizes.append((len(batch), count))
            return super().sample(batch, count, generator=generator)

    monkeypatch.setattr(evaluation, "POSES", 50)
    table = evaluation.curve(Watched(), data, [1, 20], hypotheses=20)
    assert sizes == [(2, 20)] * 3 + [(1, 20)]
    assert table.groupby("n").image.apply(list).tolist() == [list(range(7))] * 2
    sizes.clear()
    evaluation.evaluate(Watched(), data, hypotheses=60)
    assert sizes == [(1, 60)] * 7


# ----------------------------------------------------------------------------- actions


def test_average_is_over_actions_not_over_images():
    rows = pd.DataFrame(
        {"action": ["walk", "sit", "sit", "sit"], "error": [10.0, 30.0, 40.0, 50.0],
         "other": [1.0, 2.0, 2.0, 5.0]}
    )  # fmt: skip
    table = evaluation.by_action(rows, ["error", "other"])
    assert table.columns.tolist() == ["sit", "walk", "average"]
    assert table.loc["error"].tolist() == [40, 10, 25]
    assert table.loc["other"].tolist() == [3, 1, 2]
    assert rows.error.mean() == 32.5


def test_actions_need_rows_and_their_columns():
    with pytest.raises(ValueError, match="they lack 'cps'"):
        evaluation.by_action(pd.DataFrame({"action": ["sit"]}), ["cps"])
    with pytest.raises(ValueError, match="they are empty"):
        evaluation.by_action(pd.DataFrame({"action": [], "cps": []}), ["cps"])


# ----------------------------------------------------------------------------- baseline


def test_noise_baseline_has_the_covariance_of_the_heatmaps(generator):
    data = split(2, generator)
    batch = data.everything
    baseline = evaluation.NoiseBaseline(Toy(), depth=0.04)
    assert torch.equal(baseline.mode(batch), complete(batch.pose))
    drawn = baseline.sample(batch, 10_000, generator=generator) - baseline.mode(batch)[:, None]
    assert (drawn[:, :, 0] == 0).all()
    for place, name in enumerate(CONDITION13.names):
        joint = H36M17.index(name)
        xx, xy, yy = (0.01 * batch.condition[1, place, 3:]).tolist()
        expected = np.array([[xx, xy, 0], [xy, yy, 0], [0, 0, 0.04**2]])
        np.testing.assert_allclose(
            drawn[1, :, joint].T.cov(), expected, atol=0.05 * expected.max()
        )
    nose = drawn[0, :, H36M17.index("nose")].std(0)
    np.testing.assert_allclose(nose, [0.01, 0.01, 0.04], rtol=0.04)


def test_noise_baseline_is_a_lifter(data):
    baseline = evaluation.NoiseBaseline(Toy(), depth=0.05)
    rows = evaluation.evaluate(baseline, data, hypotheses=30)
    assert rows.spread_z.mean() == pytest.approx(50 * 16 / 17, rel=0.1)
    assert (rows.mpjpe_best < rows.mpjpe_sample).all()


# ----------------------------------------------------------------------------- bad input


def test_inputs_go_to_the_device_of_the_weights():
    flow = LiftingFlow(LiftingModel(blocks=1, hidden=8)).to("meta")
    for model in (flow, evaluation.NoiseBaseline(flow, depth=0.05)):
        assert evaluation.device_of(model).type == "meta"
    assert evaluation.device_of(Toy()).type == "cpu"


def test_bad_inputs_are_refused(data):
    with pytest.raises(ValueError, match="hypotheses must be at least 1; got 0"):
        evaluation.evaluate(Toy(), data, hypotheses=0)
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluation.evaluate(Toy(), data[slice(0, 0)], hypotheses=2)
    for counts in ([], [0, 1], [1, 9]):
        with pytest.raises(ValueError, match=r"counts must lie in 1..8, the hypotheses; got \["):
            evaluation.curve(Toy(), data, counts, hypotheses=8)


def test_lifters_that_return_something_else_are_refused(data):
    class Sixteen(Toy):
        def mode(self, batch):
            return super().mode(batch)[:, 1:]

        def sample(self, batch, count, *, generator=None):
            return Toy().sample(batch, count, generator=generator)

    class Diverged(Toy):
        scale = torch.nan

    class Few(Toy):
        def sample(self, batch, count, *, generator=None):
            return super().sample(batch, 1, generator=generator)

    with pytest.raises(
        ValueError, match=r"mode must return poses of shape \(7, 17, 3\); got \(7, 16"
    ):
        evaluation.evaluate(Sixteen(), data, hypotheses=2)
    with pytest.raises(
        ValueError, match=r"sample must return .*\(7, 4, 17, 3\); got \(7, 1, 17, 3"
    ):
        evaluation.evaluate(Few(), data, hypotheses=4)
    with pytest.raises(ValueError, match=r"sample must return finite poses.*did training diverge"):
        evaluation.evaluate(Diverged(), data, hypotheses=2)
