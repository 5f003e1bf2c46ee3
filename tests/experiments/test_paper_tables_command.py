"""Tests of paper_tables and of features: from files to the paper's tables."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import smpl_world
import torch
from licensed_world import write_networks, write_set

from humr import storage
from humr.config import Model, Training, to_dict
from humr.experiments import ablations, paper_tables, profiles, runs, systems
from humr.files import DATA
from humr.licensed import checkpoints, evaluation, features, training
from humr.licensed.checkpoints import HRNet
from humr.licensed.datasets import TEST, Licensed, PaperRun
from humr.licensed.evaluation import merge_occluded
from humr.licensed.people import SHAPE, read_annotations, sample_path, write_file
from humr.model import Humr
from humr.storage import save_model

PEOPLE = 3
MODEL = Model(features=30, pose_hidden=8, pose_width=4, blocks=2, hidden=16, head_hidden=16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("licensed")
    write_networks(folder)
    smpl_world.write(folder)
    for name in TEST:
        write_set(folder, name, PEOPLE)
    return folder


@pytest.fixture
def apart(root, tmp_path, monkeypatch):
    """Everything in folders of this test; small bodies in place of the official ones."""
    sizes = {"vertices": smpl_world.V, "smplx_vertices": smpl_world.X, "face": smpl_world.FACE}
    small = partial(evaluation.load_evaluator, **sizes)
    monkeypatch.setattr(training, "load_evaluator", small)
    monkeypatch.setattr(training, "ROOT", root)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    for module in (runs, paper_tables):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    run = PaperRun(model=MODEL)
    save_model(tmp_path / "humr", Humr(MODEL), {"system": "paper", "run": to_dict(run)})
    return tmp_path / "humr"


def test_features_are_computed_once_and_are_those_of_the_images(apart, root, monkeypatch):
    network = HRNet(2)
    network.load_state_dict(torch.load(root / checkpoints.BACKBONE, weights_only=True))
    people = read_annotations("emdb-p1", root=root)
    images = features.LicensedImages([people], Licensed(masks=False), root=root)
    crops = [images.crops(row, features.AS_ANNOTATED) for row in range(PEOPLE)]
    with torch.no_grad():
        direct = torch.cat([network.eval()(each.image) for each in crops])
    ((kept, same),) = features.batches("emdb-p1", root)
    monkeypatch.setattr(features, "features", None)  # must not be asked for again
    ((again, _),) = features.batches("emdb-p1", root)
    torch.testing.assert_close(kept.features, direct, rtol=1e-5, atol=1e-5)
    assert torch.equal(again.features, kept.features)
    assert kept.features.std(0).median() > 1e-4  # people differ
    assert torch.equal(kept.box, people.box)
    assert kept.image_size.tolist() == [[1440, 1920]] * PEOPLE
    assert people.image.tolist() == same.image.tolist()


def test_some_people_are_the_same_as_among_all(apart, root):
    whole = [people for _, people in features.batches("3dpw-test-cam", root)]
    ((batch, some),) = features.batches("3dpw-test-cam", root, 2)
    assert some.row.tolist() == [0, PEOPLE - 1]  # evenly spread
    assert torch.equal(some.box, whole[0].box[[0, PEOPLE - 1]])
    ((everybody, _),) = features.batches("3dpw-test-cam", root)
    torch.testing.assert_close(batch.features, everybody.features[[0, PEOPLE - 1]])
    ((_, many),) = features.batches("3dpw-test-cam", root, PEOPLE + 5)
    assert len(many) == PEOPLE


def test_networks_that_read_samples_get_the_stored_ones(apart, root, monkeypatch):
    name = "emdb-p1"
    run = PaperRun(model=replace(MODEL, embedding=True))
    monkeypatch.setattr(training.inventory, "inspect", lambda *args, **options: [])
    for act in (lambda: list(features.batches(name, root, samples=True)),
                lambda: training.check(run)):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=r"data samples (emdb-p1|3dpw-test-cam)"):
            act()
    people = read_annotations(name, root=root)
    stored = np.random.default_rng(0).uniform(100, 500, (PEOPLE, *SHAPE))
    for row in range(PEOPLE):
        write_file(sample_path(name, row, root=root), stored[row])
    ((batch, _),) = features.batches(name, root, samples=True)
    x, y, side = people.box[1].tolist()
    expected = 2 * (stored[1, ..., :2] - [x, y]) / side
    np.testing.assert_allclose(batch.samples[1], expected, rtol=1e-4, atol=1e-5)
    peak = stored[1, ..., 2].max(0)  # in units of the maximum, as in training
    np.testing.assert_allclose(batch.density[1], stored[1, ..., 2] / peak, rtol=1e-6)
    ((without, _),) = features.batches(name, root)
    assert without.samples.shape == (PEOPLE, 1, 17, 2)
    shutil.rmtree(root / "heatmap_samples")


def test_some_people_as_a_network_sees_them(apart, generator):
    run = PaperRun(model=MODEL)
    found = systems.tested_people(run, 2, dataset="EMDB", generator=generator)
    assert found.image == [100_000, 100_000 + PEOPLE - 1]
    assert len(found.batch) == 2
    with pytest.raises(ValueError, match="one of 3DPW, EMDB; got 'AGORA'"):
        systems.tested_people(run, 2, dataset="AGORA", generator=generator)
    diagonal = found.batch.image_size.square().sum(-1).sqrt()
    torch.testing.assert_close(found.batch.focal, diagonal)


def test_rows_of_a_study_have_the_columns_of_notebooks(apart, checkpoint):
    rows = paper_tables.rows_of({"a": checkpoint}, hypotheses=3)[0]
    found = merge_occluded(rows)
    known = pd.read_parquet(DATA / "checkpoint" / "test_rows.parquet").columns
    assert set(known) <= set(found.columns)
    assert rows["log_det"].notna().all()


def test_a_checkpoint_with_another_backbone_is_refused(apart, checkpoint):
    path = checkpoint.with_suffix(".json")
    about = json.loads(path.read_text()) | {"backbone": "another", "official": "humr.ckpt"}
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"humr\.ckpt was trained with another backbone"):
        paper_tables.rows_of({"a": checkpoint}, hypotheses=2)


def test_some_people_are_taken_from_the_features_of_all(apart, root, monkeypatch):
    list(features.batches("emdb-p1", root))
    monkeypatch.setattr(features, "features", None)  # must not be asked for again
    ((batch, some),) = features.batches("emdb-p1", root, 2)
    ((everybody, _),) = features.batches("emdb-p1", root)
    assert torch.equal(batch.features, everybody.features[some.row])


def test_curves_are_of_all_sets_but_the_occluded_people(apart, checkpoint):
    model, _ = runs.load(checkpoint)
    rows = training.curves(model, PaperRun().world, 2, [1, 2, 4])
    assert rows.groupby(["dataset", "n"]).size().tolist() == [2] * 6
    wide = rows.pivot(index="image", columns="n", values="mpjpe_best")
    assert (wide.diff(axis=1).iloc[:, 1:] <= 1e-4).all(axis=None)
    assert len(wide) == 4


def test_a_checkpoint_becomes_the_papers_tables(apart, checkpoint, capsys):
    arguments = ["--checkpoint", f"mask={checkpoint}", f"mine={checkpoint}", "--hypotheses", "4"]
    assert paper_tables.main(arguments) == 0
    printed = "".join(capsys.readouterr())
    folder = apart / "runs/paper/tables"
    rows = pd.read_parquet(folder / "rows.parquet")
    assert rows.groupby(["variant", "data_set"]).size().tolist() == [PEOPLE] * 6
    one, two = (rows[rows["variant"] == name].reset_index(drop=True) for name in ("mask", "mine"))
    pd.testing.assert_frame_equal(one.drop(columns="variant"), two.drop(columns="variant"))
    first = pd.read_csv(folder / "table_1.csv", header=[0, 1, 2], index_col=[0, 1], dtype=str)
    best = first.loc[("best of 100", "Ours")]
    expected = one.query("data_set == 'emdb-p1'")["mpjpe_best"].mean()
    assert best["EMDB (24)", "MPJPE", "paper"] == "63.6"
    assert float(best.filter(like="ours").to_numpy()[3]) == pytest.approx(expected, abs=0.06)
    assert ("best of 100", "mine") in first.index
    for name in ("1", "2", "3", "S1", "S2"):
        assert f"Table {name} " in printed
        assert (folder / f"table_{name}.csv").exists()
    about = json.loads((folder / "about.json").read_text())
    assert about["variants"] == ["mask", "mine"]
    assert about["people"] == 3 * PEOPLE


def test_nothing_is_evaluated_twice_and_the_focal_length_matters(apart, checkpoint, monkeypatch):
    usual = paper_tables.rows_of({"a": checkpoint}, hypotheses=2)[0]
    given = paper_tables.rows_of({"a": checkpoint}, hypotheses=2, focal="given")[0]
    assert not np.allclose(usual["pixels_mode"], given["pixels_mode"], equal_nan=True)
    monkeypatch.setattr(training.evaluation, "evaluate", None)
    again = paper_tables.rows_of({"b": checkpoint}, hypotheses=2)[0]
    pd.testing.assert_frame_equal(again.drop(columns="variant"), usual.drop(columns="variant"))


def test_finished_runs_are_found(apart, checkpoint, monkeypatch, capsys):
    sizes = profiles.profile("paper")
    small = replace(
        sizes, study=replace(sizes.study, model=MODEL, training=Training(steps=1)), hypotheses=2,
        seeds=2,
    )  # fmt: skip
    monkeypatch.setattr(runs, "profile", lambda name: small)
    made = ablations.variants("components", "paper")
    chosen = [replace(item, run=replace(item.run, model=MODEL)) for item in made[-2:]]
    monkeypatch.setattr(paper_tables, "variants", lambda study, name: chosen)
    assert paper_tables.rows_of_runs() == []
    directory = runs.run_directory(chosen[0].seeded(1).run)
    for suffix in (".safetensors", ".json"):
        target = directory / f"{chosen[0].checkpoint}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(checkpoint.with_suffix(suffix).read_bytes())
    (directory / "done.json").write_text(json.dumps({"seconds": 1.0, "step": 1}))
    (rows,) = paper_tables.rows_of_runs()
    assert set(rows["variant"]) == {chosen[0].name}
    assert set(rows["seed"]) == {1}
    assert len(rows) == len(TEST) * PEOPLE
    (few,) = paper_tables.rows_of_runs(test=["3dpw-test-cam"], hypotheses=3)
    assert set(few["data_set"]) == {"3dpw-test-cam"}
    assert set(few["hypotheses"]) == {3}
    name = chosen[0].name
    capsys.readouterr()
    command = ["--test", "3dpw-test-cam", "--hypotheses", "3", "--checkpoint"]
    assert paper_tables.main([*command, f"{name}={checkpoint}"]) == 1
    assert f"--checkpoint {name}=...: finished runs have that name" in capsys.readouterr().out
    assert paper_tables.main([*command, f"official={checkpoint}"]) == 0
    rows = pd.read_parquet(apart / "runs/paper/tables/rows.parquet")
    assert rows.groupby(["variant", "seed"]).size().to_dict() == {
        (name, 1): PEOPLE, ("official", 0): PEOPLE
    }  # fmt: skip


def test_missing_files_and_nothing_to_do_are_said(apart, checkpoint, root, capsys):
    assert paper_tables.main([]) == 1
    assert "nothing to evaluate" in "".join(capsys.readouterr())
    path = root / "utils/smplx2smpl.pkl"
    kept = path.rename(path.with_suffix(".away"))
    try:
        assert paper_tables.main(["--checkpoint", f"x={checkpoint}"]) == 1
    finally:
        kept.rename(path)
    assert "smplx2smpl.pkl" in "".join(capsys.readouterr())
    with pytest.raises(SystemExit):
        paper_tables.main(["--checkpoint", "nameless"])
    assert "expected NAME=STEM; got 'nameless'" in capsys.readouterr().err


def test_features_belong_to_their_files(root, tmp_path):
    one = features.described("emdb-p1", root)
    assert len(read_annotations("emdb-p1", root=root)) == PEOPLE
    assert one != features.described("emdb-p1-occl", root)
    with pytest.raises(FileNotFoundError, match=r"emdb_p1.npz; it is licensed"):
        features.described("emdb-p1", tmp_path)
