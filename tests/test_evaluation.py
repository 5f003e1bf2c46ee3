import numpy as np
import pytest
import torch

from humr import evaluation
from humr.bodies import load_body
from humr.config import Model
from humr.mesh import Humr, Hypotheses, People

SMALL = Model(features=2016, feature_width=16, pose_width=8, blocks=1, hidden=16, head_hidden=16)


@pytest.fixture(scope="module")
def body():
    return load_body("small")


def exact(truth, count, noise, generator):
    """Hypotheses around the truth: the mode is the truth, samples have some pose noise."""
    people = truth.people
    sixd = people.sixd[:, None].expand(-1, count, -1, -1)
    jitter = noise * torch.randn(sixd.shape, generator=generator)
    samples = People(
        sixd + jitter,
        people.betas[:, None].expand(-1, count, -1),
        people.translation[:, None].expand(-1, count, -1),
    )
    return Hypotheses(people, samples)


@pytest.fixture
def truth(records, generator):
    return evaluation.truth_of(records, records.batch(samples=1, generator=generator))


def test_a_perfect_forecast_has_no_error(truth, body, records, generator):
    drawn = exact(truth, 3, 0.0, generator)
    accuracy = evaluation.accuracy(drawn, truth, body)
    for name, value in accuracy.items():
        assert value.abs().max() < 0.02, name
    consistency = evaluation.consistency(drawn, truth, body)
    assert consistency["pixels_mode"].nan_to_num().max() < 1e-2
    assert consistency["spread_hidden"].nan_to_num().max() < 1e-2


def test_best_is_at_most_the_mode_and_the_score_rewards_truth(truth, body, generator):
    tight = evaluation.accuracy(exact(truth, 8, 0.02, generator), truth, body)
    wide = evaluation.accuracy(exact(truth, 8, 0.2, generator), truth, body)
    assert (wide["mpjpe_best"] <= wide["mpjpe_mode"] + 1e-6).all()
    assert tight["energy_score"].mean() < wide["energy_score"].mean()


def test_coverage_counts_the_truth_inside_its_own_samples(truth, body, generator):
    shares = evaluation.calibration(exact(truth, 60, 0.1, generator), truth, body)
    assert shares["cover90_xy_visible"].nanmean() > 0.9
    assert (shares["cover50_z_hidden"] <= shares["cover90_z_hidden"] + 1e-6).nan_to_num(1).all()


def test_evaluate_gives_one_row_per_image_and_repeats(records, body):
    torch.manual_seed(0)
    model = Humr(SMALL).eval()
    rows = evaluation.evaluate(model, body, records, hypotheses=4, batch=6)
    again = evaluation.evaluate(model, body, records, hypotheses=4, batch=6)
    assert len(rows) == len(records)
    assert rows.equals(again)
    assert np.isfinite(rows["energy_score"]).all()
    assert set(evaluation.summary(rows)) >= {"mpjpe_best", "percent_inside", "pa_limbs_detector"}
    with pytest.raises(ValueError, match="hypotheses must be at least 2"):
        evaluation.evaluate(model, body, records, hypotheses=1)
