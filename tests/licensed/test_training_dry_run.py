"""The whole paper profile, tiny, on made files: from an inventory to the paper's tables."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import smpl_world
import torch
from licensed_world import write_networks, write_set
from official_layouts import random_state, vitpose_shapes

from humr import storage
from humr.config import Model, Training, Weights
from humr.experiments import paper_tables, runs, systems
from humr.experiments.ablations import variants
from humr.experiments.profiles import profile
from humr.licensed import evaluation, features, inventory, training, vitpose
from humr.licensed.datasets import TEST, Licensed, PaperRun
from humr.licensed.people import SHAPE, read_file, sample_path
from humr.licensed.vitpose import Sizes, read_vitpose
from humr.training import Validation

TRAIN = ("static-gym", "agora-bfh")
PEOPLE = 4
VITPOSE = Sizes(width=8, depth=1, heads=2, filters=4)
RUN = PaperRun(
    world=Licensed(train=TRAIN, variants=1, heatmap_samples=40, validation=2, mask_side=56),
    model=Model(features=30, pose_hidden=8, pose_width=4, blocks=2, hidden=16, head_hidden=16),
    training=Training(steps=20, batch=4, hypotheses=3, validate_every=10),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with everything but samples of heatmaps; all results beside it."""
    root = tmp_path / "licensed"
    write_networks(root)
    for name in (*TRAIN, *TEST):
        write_set(root, name, PEOPLE)
    shutil.rmtree(root / "heatmap_samples")
    shapes = vitpose_shapes(width=8, depth=1, filters=4, tokens=192)
    weights = random_state(shapes, torch.Generator().manual_seed(2))
    torch.save({"state_dict": weights}, root / "ckpt/vitpose-h-coco.pth")
    monkeypatch.setattr(vitpose, "read_vitpose", partial(read_vitpose, sizes=VITPOSE))
    monkeypatch.setattr(training, "ROOT", root)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    for module in (runs, paper_tables):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    sizes = {"vertices": smpl_world.V, "smplx_vertices": smpl_world.X, "face": smpl_world.FACE}
    small = partial(evaluation.load_evaluator, **sizes)
    monkeypatch.setattr(training, "load_evaluator", small)
    monkeypatch.setenv("HUMR_WORKERS", "0")
    system = replace(systems.SYSTEMS[PaperRun], check=lambda run: None)
    monkeypatch.setitem(systems.SYSTEMS, PaperRun, system)
    features.check_origin.cache_clear()
    study = replace(RUN, weights=Weights(mask=0.0))
    tiny = replace(profile("paper"), run=RUN, study=study, seeds=1, hypotheses=3)
    monkeypatch.setattr("humr.experiments.runs.profile", lambda name: tiny)
    monkeypatch.setattr("humr.experiments.ablations.profile", lambda name: tiny)
    monkeypatch.setattr("humr.experiments.paper_tables.profile", lambda name: tiny)
    return root


def states(root):
    return {each.file.paths[0]: each.state for each in inventory.inspect(root)}


def test_from_an_inventory_to_the_papers_tables(root, tmp_path, monkeypatch, capsys):
    # what is there, and what is not
    before = states(root)
    assert before["annotations/agora-bfh.npz"] == "ok"
    assert before["heatmap_samples/agora-bfh"] == "missing"

    # samples of heatmaps of the training sets
    assert vitpose.main([*TRAIN, "--workers", "0"], root=root) == 0
    for name in TRAIN:
        found = np.stack([read_file(sample_path(name, row, root=root)) for row in range(PEOPLE)])
        assert found.shape == (PEOPLE, *SHAPE)
        assert np.ptp(found[..., 0]) > 10
    assert states(root)["heatmap_samples/agora-bfh"] == "ok"

    # features, training, a stop in its middle, the rest
    (job,) = [v for v in variants("components", "paper") if v.name == "mask"]
    whole, calls = Validation.__call__, []

    def stops(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, model)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", stops)
        with pytest.raises(KeyboardInterrupt):
            runs.train(job.run, name=job.name, device="cpu")
    assert not runs.is_done(job)
    runs.train(job.run, name=job.name, device="cpu")
    assert runs.is_done(job)

    # evaluation needs the official bodies, which are others than the one that was trained with
    smpl_world.write(root)
    assert paper_tables.main(["--hypotheses", "3"]) == 0
    tables = tmp_path / "runs/paper/tables"
    rows = pd.read_parquet(tables / "rows.parquet")
    assert rows.groupby("data_set").size().to_dict() == dict.fromkeys(TEST, PEOPLE)
    assert set(rows["variant"]) == {"mask"}
    measured = ["mpjpe_mode", "pa_mpjpe_best", "pve_best", "pixels_samples"]
    assert rows[measured].notna().to_numpy().all()
    assert (rows["mpjpe_best"] <= rows["mpjpe_mode"]).all()
    for name in ("1", "2", "3", "S1", "S2"):
        table = pd.read_csv(tables / f"table_{name}.csv", dtype=str)
        assert len(table) > 4
    assert "Table S2" in "".join(capsys.readouterr())
