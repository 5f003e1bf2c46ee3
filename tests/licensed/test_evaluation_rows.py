"""Tests of humr.licensed.evaluation: rows of a whole evaluation, its switches, bad inputs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import smpl_world as world
import torch
from formats import write_mask

from humr import evaluation
from humr.files import DATA
from humr.geometry import box_info
from humr.licensed import evaluation as licensed_evaluation
from humr.licensed.datasets import TEST
from humr.licensed.evaluation import UNKNOWN, curve, evaluate, load_evaluator

SIZES = {"vertices": world.V, "smplx_vertices": world.X, "face": world.FACE}
SETS = {"3dpw-test-cam": "3DPW", "emdb-p1": "EMDB"}
KINDS = ("mpjpe", "pa_mpjpe", "pve")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return world.write(tmp_path_factory.mktemp("licensed"))


@pytest.fixture(scope="module")
def evaluator(root):
    return load_evaluator(root=root, dtype=torch.float64, **SIZES)


@pytest.fixture(scope="module")
def model(untrained):
    """A network with another feature width and no window, as the official one."""
    model = untrained(features=720, window_info=False)
    model.flow.standardize(torch.eye(3)[:2].flatten().repeat(22) + 0.2 * torch.randn(50, 132))
    return model


def with_diagonal(batch):
    focal = (batch.image_size**2).sum(-1) ** 0.5
    info = box_info(batch.box[:, :2], batch.box[:, 2], focal, batch.image_size)
    return replace(batch, focal=focal, box_info=info)


def drawn(model, batch, noise):
    """Hypotheses from the network, each by itself."""
    people = model.people(model.observe(batch), noise)
    parts = people.rotations, people.betas, people.translation
    return [[tuple(part[i, h].detach().double().numpy() for part in parts)
             for h in range(noise.shape[1])] for i in range(len(batch))]  # fmt: skip


def noise(count, hypotheses, seed):
    random = torch.randn(count, hypotheses, 132, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.zeros(count, 1, 132), random], 1)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("focal", ["diagonal", "given"])
def test_rows_equal_the_reference(name, focal, model, evaluator):
    batch, labels = world.people(name, 3)
    rows = evaluate(model, [(batch, labels)], evaluator, hypotheses=4, seed=5, focal=focal)
    assert rows["data_set"].tolist() == [name] * 3
    assert rows["dataset"].tolist() == [SETS[name]] * 3
    assert rows["row"].tolist() == [7, 8, 9]
    first = 100_000 * TEST.index(name)  # no person of any set has the number of another
    assert rows["image"].tolist() == [first + 7, first + 8, first + 9]
    assert rows["photograph"].tolist() == labels.image.tolist()
    assert rows["hypotheses"].tolist() == [4] * 3
    seen = with_diagonal(batch) if focal == "diagonal" else batch
    people = drawn(model, seen, noise(3, 3, 5))
    for i in range(3):
        person = world.reference(SETS[name], labels, seen, i, people[i])
        visible = labels.keypoints[i, :, 2].numpy() > 0.5
        error = world.distance(person["pixels"], person["target"])
        for kind, errors in zip(KINDS, person["errors"].T, strict=True):
            np.testing.assert_allclose(rows[f"{kind}_mode"][i], errors[0], rtol=1e-5)
            np.testing.assert_allclose(rows[f"{kind}_best"][i], errors.min(), rtol=1e-5)
        np.testing.assert_allclose(rows["pixels_mode"][i], error[0, visible].mean(), rtol=1e-4)
        samples = error[1:][:, visible].mean()
        np.testing.assert_allclose(rows["pixels_samples"][i], samples, rtol=1e-4)


def test_columns_are_those_of_the_open_world(model, evaluator):
    """Visible is what the detector is sure of, under both names; what is unknown is empty."""
    rows = evaluate(model, [world.people("emdb-p1", 2)], evaluator, hypotheses=3)
    known = pd.read_parquet(DATA / "checkpoint" / "test_rows.parquet").columns
    assert set(known) <= set(rows.columns)
    for name in ("pixels_mode", "pixels_samples", "spread_visible", "spread_hidden",
                 "percent_inside", "mask_distance", "hidden"):  # fmt: skip
        pd.testing.assert_series_equal(rows[f"paper_{name}"], rows[name], check_names=False)
    assert rows[list(UNKNOWN)].isna().all(axis=None)
    assert rows["spread_hidden"].notna().any()


def test_hypotheses_in_pieces_and_batches_in_parts(model, evaluator, monkeypatch):
    batch, labels = world.people("emdb-p1", 5)
    whole = evaluate(model, [(batch, labels)], evaluator, hypotheses=1)
    pairs = [(batch[:2], labels[:2]), (batch[2:], labels[2:])]
    cut = evaluate(model, pairs, evaluator, hypotheses=1)
    np.testing.assert_allclose(cut["pve_mode"], whole["pve_mode"], rtol=1e-5)
    assert cut["image"].tolist() == whole["image"].tolist()
    held = []
    original = licensed_evaluation.forecast

    def forecast(pieces, truth, *args, **options):
        pieces = list(pieces)
        held.extend((len(truth.seen), piece.sixd.shape[1]) for piece in pieces)
        return original(pieces, truth, *args, **options)

    monkeypatch.setattr(licensed_evaluation, "forecast", forecast)
    monkeypatch.setattr(licensed_evaluation, "BODIES", 24)
    monkeypatch.setattr(evaluation, "PIECE", 8)
    rows = evaluate(model, [(batch, labels)], evaluator, hypotheses=12)
    assert held == [(2, 8), (2, 4), (2, 8), (2, 4), (1, 8), (1, 4)]
    assert len(rows) == 5
    assert np.isfinite(rows["pve_best"]).all()


def test_seeds_repeat_and_differ(model, evaluator):
    pair = world.people("emdb-p1", 2)

    def best(seed):
        return evaluate(model, [pair], evaluator, hypotheses=3, seed=seed)["mpjpe_best"].tolist()

    assert best(0) == best(0) != best(1)


def test_masks_of_emdb(model, evaluator, tmp_path):
    batch, labels = world.people("emdb-p1-occl", 4)
    for i in range(4):
        write_mask(tmp_path, labels.name, str(labels.image[i]), np.ones((1920, 1440), bool))
    rows = evaluate(model, [(batch, labels)], evaluator, hypotheses=3, root=tmp_path)
    hidden = (labels.keypoints[..., 2] <= 0.5).sum(-1).tolist()
    assert rows["counted"].tolist() == [hidden[0], 0, hidden[2], hidden[3]]
    assert rows["percent_inside"].notna().tolist() == [True, False, True, True]
    assert rows["mask_distance"].notna().tolist() == [True, False, True, True]
    both = [(batch[:2], labels[:2]), world.people("emdb-p1", 1)]
    mixed = evaluate(model, both, evaluator, hypotheses=2, root=tmp_path)
    assert mixed["data_set"].tolist() == ["emdb-p1-occl"] * 2 + ["emdb-p1"]
    assert mixed["counted"].tolist() == [hidden[0], 0, 0]


# ------------------------------------------------------------------------ curves


def test_the_curve_ends_where_the_evaluation_is(model, evaluator):
    batch, labels = world.people("3dpw-test-cam", 3)
    rows = evaluate(model, [(batch, labels)], evaluator, hypotheses=6, seed=2)
    table = curve(model, [(batch, labels)], evaluator, [1, 2, 6], seed=2)
    by_n = {n: part.reset_index(drop=True) for n, part in table.groupby("n")}
    for kind in KINDS:
        np.testing.assert_allclose(by_n[1][f"{kind}_best"], rows[f"{kind}_mode"], rtol=1e-6)
        np.testing.assert_allclose(by_n[6][f"{kind}_best"], rows[f"{kind}_best"], rtol=1e-6)
        np.testing.assert_allclose(by_n[6][f"{kind}_expected"], rows[f"{kind}_best"], rtol=1e-6)
        between = by_n[2][f"{kind}_expected"]
        assert (between <= by_n[1][f"{kind}_best"] + 1e-6).all()
        assert (between >= by_n[6][f"{kind}_best"] - 1e-6).all()
    np.testing.assert_allclose(by_n[1]["energy_score"], rows["mpjpe_mode"], rtol=1e-6)
    assert by_n[2]["energy_score"].isna().all()
    np.testing.assert_allclose(by_n[6]["energy_score"], rows["energy_score"], rtol=1e-5)
    with pytest.raises(ValueError, match="counts must be positive"):
        curve(model, [(batch, labels)], evaluator, [])


# ------------------------------------------------------------------------ bad inputs


def test_bad_inputs(model, untrained, evaluator):
    batch, labels = world.people("emdb-p1", 2)
    shifted = replace(batch, box=batch.box + torch.tensor([0.0, 1.0, 0.0]))
    other = world.people("emdb-p1", 2, features=48)[0]
    train = replace(labels, name="agora-bfh")
    for pair, message in (
        ((batch[:1], labels), "of the same people; got 1 and 2"),
        ((shifted, labels), "must agree; they differ by 1 px"),
        ((other, labels), "reads 720 image features; the batch holds 48"),
        ((batch, train), "agora-bfh is for training"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(model, [pair], evaluator, hypotheses=2)
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(model, [], evaluator)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        evaluate(model, [(batch, labels)], evaluator, hypotheses=0)
    with pytest.raises(ValueError, match="one of diagonal, given; got 'true'"):
        evaluate(model, [(batch, labels)], evaluator, focal="true")
    training = untrained(features=720, window_info=False).train()
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        evaluate(training, [(batch, labels)], evaluator)
