from dataclasses import replace

import numpy as np
import pytest
import torch

from humr import evaluation
from humr.bodies.body import Body, load_body

COLUMNS = {
    "image", "template", "truncated", "hidden", "paper_hidden",
    *(f"{error}_{which}" for error in ("mpjpe", "pa_mpjpe", "pve")
      for which in ("mode", "best", "sample", "mean", "median", "worst")),
    "wpve_mode", "wpve_best",
    "energy_score", "joint_energy_score", "energy_visible", "energy_hidden", "nll", "log_det",
    *(f"{paper}{name}" for paper in ("", "paper_")
      for name in ("pixels_mode", "pixels_samples", "spread_visible", "spread_hidden",
                   "percent_inside", "mask_distance")),
    *(f"cover{level}_{axes}_{which}" for level in (50, 90) for axes in ("xy", "z")
      for which in ("visible", "hidden")),
    *(f"rank_{side}_{part}_{axis}" for side in ("left", "right") for part in ("wrist", "ankle")
      for axis in "xyz"),
    "pa_limbs_mode", "pa_limbs_detector",
}  # fmt: skip


def test_evaluate_gives_one_row_per_image_and_repeats(records, body, model):
    rows = evaluation.evaluate(model, body, records, hypotheses=4, batch=6)
    again = evaluation.evaluate(model, body, records, hypotheses=4, batch=6)
    assert rows.image.tolist() == list(range(len(records)))
    assert set(rows) == COLUMNS
    assert rows.equals(again)
    always = [c for c in rows if not c.startswith(("spread", "energy_h", "percent", "mask_"))]
    assert np.isfinite(rows["energy_score"]).all()
    assert rows[always].isna().mean().max() < 0.5
    assert set(evaluation.summary(rows)) == COLUMNS - {"image", "template"}


def test_everything_is_on_the_device_of_the_model(records, untrained, device, monkeypatch):
    model, body = untrained().to(device), load_body("small")
    moved, to = [], Body.to
    monkeypatch.setattr(Body, "to", lambda body, where: moved.append(where) or to(body, where))
    rows = evaluation.evaluate(model, body, records, hypotheses=2)
    assert moved == [model.flow.mean.device]
    assert np.isfinite(rows["energy_score"]).all()


def test_pieces_do_not_change_what_is_measured(records, body, model, monkeypatch):
    """Seven hypotheses in pieces of three: the same draws, whatever the batch's one image sees."""
    one = records[slice(0, 1)]
    monkeypatch.setattr(evaluation, "PIECE", 3)
    noises, noise = [], model.noise

    def remember(*arguments):
        noises.append(noise(*arguments))
        return noises[-1]

    monkeypatch.setattr(model, "noise", remember)
    rows = evaluation.evaluate(model, body, one, hypotheses=7)
    assert [n.shape[1] for n in noises] == [2, 3, 1]
    monkeypatch.setattr(evaluation, "PIECE", 100)
    monkeypatch.setattr(model, "noise", lambda *_: torch.cat(noises, 1))
    whole = evaluation.evaluate(model, body, one, hypotheses=7)
    np.testing.assert_allclose(rows.to_numpy(float), whole.to_numpy(float), rtol=1e-4, atol=1e-3)


def test_one_hypothesis_is_a_point_forecast(records, body, model):
    rows = evaluation.evaluate(model, body, records, hypotheses=1, batch=5)
    assert set(rows) == COLUMNS
    for error in ("mpjpe", "pa_mpjpe", "pve"):
        for which in ("best", "sample", "mean", "median", "worst"):
            np.testing.assert_allclose(
                rows[f"{error}_{which}"], rows[f"{error}_mode"], rtol=1e-4, atol=1e-2
            )
    np.testing.assert_allclose(rows.energy_score, rows.mpjpe_mode, rtol=1e-5)
    assert rows.pixels_samples.equals(rows.pixels_mode)
    assert (rows.spread_visible.dropna() == 0).all()
    assert (rows.cover90_z_visible.dropna() == 0).all()


def test_a_batch_of_one_equals_its_row_among_others(records, body, model):
    many = evaluation.evaluate(model, body, records[slice(0, 3)], hypotheses=1, batch=3)
    one = evaluation.evaluate(model, body, records[slice(0, 1)], hypotheses=1, batch=1)
    np.testing.assert_allclose(one.to_numpy(float), many[:1].to_numpy(float), rtol=1e-3, atol=1e-2)


def test_likelihood_and_volume_are_those_of_the_model(records, body, model, generator):
    rows = evaluation.evaluate(model, body, records, hypotheses=2)
    batch = records.batch(samples=1, generator=generator)
    sixd = batch.rotations[..., :2, :].flatten(-2)
    with torch.no_grad():
        expected = -model.log_prob(batch, sixd[:, None])[:, 0] / 132
        _, log_det = model.flow.normalize(
            model.sample(batch, 1, generator=generator).mode.sixd.flatten(1)[:, None],
            model.observe(batch).condition,
        )
    np.testing.assert_allclose(rows.nll, expected, rtol=1e-5)
    np.testing.assert_allclose(rows.log_det, -log_det[:, 0], rtol=1e-3, atol=1e-3)


def test_an_unknown_focal_length_moves_the_camera_not_the_truth(records, body, model):
    told = evaluation.evaluate(model, body, records, hypotheses=3)
    guessed = evaluation.evaluate(model, body, records, hypotheses=3, default_focal=True)
    assert not np.allclose(told.mpjpe_mode, guessed.mpjpe_mode)
    same = ["image", "hidden", "paper_hidden", "pa_limbs_detector"]
    assert told[same].equals(guessed[same])


def test_a_network_that_reads_heatmap_samples_gets_them(records, body, untrained):
    reader = untrained(embedding=True, embedding_samples=5)
    rows = evaluation.evaluate(reader, body, records[slice(0, 3)], hypotheses=2)
    assert rows.nll.notna().all()


# -------------------------------------------------------------------------- curves


def test_curve_agrees_with_evaluate_and_with_enumeration(records, body, model):
    some = records[slice(0, 5)]
    curve = evaluation.curve(model, body, some, [1, 2, 4], batch=2)
    rows = evaluation.evaluate(model, body, some, hypotheses=4, batch=2)
    assert curve.groupby("n").image.apply(list).tolist() == [[0, 1, 2, 3, 4]] * 3
    for error in ("mpjpe", "pa_mpjpe", "pve", "wpve"):
        by_n = {n: part.reset_index() for n, part in curve.groupby("n")}
        np.testing.assert_allclose(by_n[1][f"{error}_best"], rows[f"{error}_mode"], rtol=1e-6)
        np.testing.assert_allclose(by_n[4][f"{error}_best"], rows[f"{error}_best"], rtol=1e-6)
        for n in (1, 4):  # no choice is left: the expectation is over one set
            np.testing.assert_allclose(by_n[n][f"{error}_expected"], by_n[n][f"{error}_best"])
        assert (by_n[2][f"{error}_expected"] <= by_n[1][f"{error}_best"] + 1e-3).all()


def test_expected_curve_is_the_mean_over_all_choices_of_random_hypotheses():
    errors = torch.tensor([[3.0, 5.0, 1.0, 4.0]], dtype=torch.float64)
    # the mode's 3 and one of 5, 1, 4; then two of them
    assert evaluation.expected(errors, 1).item() == 3
    assert evaluation.expected(errors, 2).item() == pytest.approx((3 + 1 + 3) / 3)
    assert evaluation.expected(errors, 3).item() == pytest.approx((1 + 3 + 1) / 3)


# ------------------------------------------------------------------------ bad input


def test_refuses_what_cannot_be_evaluated(records, body, model):
    with pytest.raises(ValueError, match="hypotheses must be at least 1; got 0"):
        evaluation.evaluate(model, body, records, hypotheses=0)
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluation.evaluate(model, body, records[slice(0, 0)], hypotheses=2)
    other = replace(records, features=records.features[:, :720])
    with pytest.raises(ValueError, match=r"reads 2016 image features; these records hold 720"):
        evaluation.evaluate(model, body, other, hypotheses=2)
    for counts in ([], [0, 3]):
        with pytest.raises(ValueError, match="counts must be positive"):
            evaluation.curve(model, body, records, counts)
