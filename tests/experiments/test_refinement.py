from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from humr import evaluation, refine
from humr.experiments import refinement, runs
from humr.model import Observation
from humr.skeletons import COCO17


@pytest.fixture
def seen(batch, body):
    """The same people, whose key points lie where a detector with offsets sees their joints."""
    offsets = torch.zeros(17, 3)
    offsets[COCO17.index("left_hip")] = torch.tensor([-0.02, 0.015, 0.03])
    offsets[COCO17.index("right_hip")] = torch.tensor([0.02, 0.015, 0.03])
    place = batch.to_crop(refine.detected(refinement.labels(batch), body, offsets))
    sure = torch.full_like(place[..., :1], 0.95)
    return looking_at(batch, torch.cat([place, sure], -1)), offsets


def looking_at(batch, keypoints):
    samples = keypoints[:, None, :, :2].expand_as(batch.samples)
    return replace(batch, keypoints=keypoints, samples=samples)


def test_offsets_are_found_and_the_same_on_both_sides(seen, body):
    batch, offsets = seen
    found = refinement.fit_offsets(batch, body, 0.01)
    torch.testing.assert_close(found, offsets, atol=4e-3, rtol=0)
    mirrored = found[list(COCO17.mirrored)] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(found, mirrored)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_noise_is_found(seen, body, generator, noise):
    batch, offsets = seen
    jitter = noise * torch.randn(batch.keypoints.shape, generator=generator)
    jitter[..., 2] = 0
    found = refinement.fit_noise(looking_at(batch, batch.keypoints + jitter), body, offsets)
    assert found == pytest.approx(noise, rel=0.4)


def test_exchanged_sides_are_counted(seen, body):
    """Four of sixteen people are seen with left and right exchanged."""
    batch, offsets = seen
    keypoints = batch.keypoints.clone()
    keypoints[:4] = keypoints[:4, list(COCO17.mirrored)]
    rates = refinement.fit_rates(looking_at(batch, keypoints), body, offsets, 0.01)
    assert float(rates.sum()) == pytest.approx(1)
    assert float(rates[1]) == pytest.approx(0.25, abs=0.02)
    assert rates.amin() > 0


def observed(betas, weak):
    nothing = torch.zeros(len(betas), 3)
    return Observation(nothing, betas, weak, nothing)


def test_shape_that_says_nothing_leaves_the_population(batch, generator):
    many = batch[torch.arange(16).repeat(40)]
    many = replace(many, betas=2 + torch.randn(640, 11, generator=generator))
    noise = torch.randn(640, 11, generator=generator)
    told = refinement.fit_shape(many, observed(noise, noise[:, :3]))
    assert told["shape_slope"].abs().max() < 0.15
    torch.testing.assert_close(told["shape_mean"], torch.full((11,), 2.0), atol=0.2, rtol=0)
    torch.testing.assert_close(told["shape_factor"], torch.eye(11), atol=0.15, rtol=0)
    known = refinement.fit_shape(many, observed(many.betas - 2, noise[:, :3]))
    assert known["shape_slope"].amin() > 0.95
    assert known["shape_factor"].abs().max() < 0.2


def test_camera_residuals_have_their_mean_and_factor(batch, generator):
    many = batch[torch.arange(16).repeat(100)]
    true = refinement.translation_to_weak(
        many.translation, many.box[:, :2], many.box[:, 2], many.focal, many.image_size
    )
    noise = torch.randn(1600, 3, generator=generator) * torch.tensor([0.1, 0.05, 0.02])
    scale = true[:, :1] * (noise[:, :1] - 0.03).exp()
    weak = torch.cat([scale, true[:, 1:] + noise[:, 1:]], -1)
    told = refinement.fit_camera(many, observed(many.betas, weak))
    torch.testing.assert_close(told["camera_mean"], torch.tensor([0.03, 0, 0]), atol=0.01, rtol=0)
    deviation = told["camera_factor"].square().sum(-1).sqrt()
    torch.testing.assert_close(deviation, torch.tensor([0.1, 0.05, 0.02]), rtol=0.1, atol=0)


def test_forecast_of_one_shape_is_that_of_the_evaluation(fitted, body, records, generator):
    truth = records.truth(body, samples=6, generator=generator)
    drawn = fitted.sample(truth.batch, 3, generator=generator)
    ours = refinement.forecast(drawn, truth, body)
    both = (vars(p).values() for p in (drawn.mode, drawn.samples))
    people = type(drawn.mode)(*(torch.cat([m[:, None], s], 1) for m, s in zip(*both, strict=True)))
    theirs = evaluation.forecast([people], truth, body)
    for name in vars(ours):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-3
        )


def test_rows_of_flow_and_refinement(fitted, body, records, monkeypatch):
    monkeypatch.setattr(refinement, "HEATMAP_SAMPLES", 8)
    constants = refinement.fit(fitted, body, records)
    flow = refinement.flow_draw(fitted, 1.0, 4)
    refined = refinement.refined_draw(fitted, body, constants, 4)
    rows = [refinement.measured(draw, body, records, batch=6) for draw in (flow, refined)]
    for table in rows:
        assert table.image.tolist() == list(range(len(records)))
        assert np.isfinite(table[["energy_score", "mpjpe_mode", "pve_best", "root_degrees"]]).all(
            axis=None
        )
        assert (table.mpjpe_best <= table.mpjpe_mode + 1e-9).all()
    assert {"turned", "certain"} <= set(rows[1]) - set(rows[0])


def test_the_energy_score_decides_among_the_calibrated():
    def line(temperature, miscalibration, score):
        names = ("temperature", "miscalibration", "energy_score")
        return dict(zip(names, (temperature, miscalibration, score), strict=True))

    tried = [line(1.2, 0.05, 90.0), line(1.4, 0.015, 91.0), line(1.5, 0.01, 92.0)]
    assert refinement.choose_temperature(tried) == 1.4
    assert refinement.choose_temperature(tried[:1]) == 1.2


def test_miscalibration_is_the_mean_gap():
    columns = {
        f"cover{level}_{axes}_{seen}": [level / 100 - 0.1, level / 100 - 0.1]
        for level in (50, 90)
        for axes in ("xy", "z")
        for seen in ("visible", "hidden")
    }
    assert refinement.miscalibration(pd.DataFrame(columns)) == pytest.approx(0.1)


def test_comparison_shows_paired_differences():
    rows = pd.DataFrame(
        {
            "variant": ["flow"] * 3 + ["refined"] * 3,
            "seed": 0,
            "image": [0, 1, 2] * 2,
            "energy_score": [1.0, 2.0, 3.0, 0.5, 1.5, 2.5],
        }
    )
    shown = refinement.comparison(rows, "flow", ["energy_score"])
    assert shown.at["energy_score", "flow"] == "2"
    assert shown.at["energy_score", "refined"] == "1.5 (-0.5, -0.5 to -0.5)"


def test_the_table_is_shown(capsys):
    assert refinement.main(["table"]) == 0
    assert "energy_score" in capsys.readouterr().out


def test_a_missing_world_is_one_line(capsys, monkeypatch):
    def absent(profile_name):
        raise FileNotFoundError("shards are not there yet")

    monkeypatch.setattr(refinement, "_shipped", absent)
    assert refinement.main(["fit"]) == 1
    assert capsys.readouterr().out == "humr: shards are not there yet\n"


def test_the_shipped_constants_belong_to_the_shipped_weights():
    constants = refine.Constants.read(runs.SHIPPED)
    assert constants.temperature in refinement.TEMPERATURES
    assert constants.noise in refinement.NOISES
    assert constants.offsets.norm(dim=-1).max() < 0.08


def test_the_committed_rows_say_that_refinement_helps():
    rows = runs.read_results("refinement", "laptop")
    means = rows.groupby("variant")[["energy_score", "pa_mpjpe_mode", "detected_mode"]].mean()
    assert (means.loc["refined"] < means.loc["flow"]).all()
