"""Tests of humr.paper_runs: a dry run of the profile "paper", tiny, from files to weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from licensed_world import SETS, write_world
from safetensors.torch import load_file

from humr import experiments, feature_cache, inventory, paper_runs, shards, training
from humr.config import Model, Run, Supervision, Training, Weights
from humr.licensed import TRAINING
from humr.mesh import Humr
from humr.paper_config import Licensed, PaperRun
from humr.profiles import profile

RUN = PaperRun(
    world=Licensed(
        train=SETS[1:3], variants=2, heatmap_samples=12, validation=2, mask_side=56, shard=10
    ),
    model=Model(features=30, pose_hidden=8, pose_width=4, blocks=2, hidden=16, head_hidden=16),
    supervision=Supervision(heatmap_samples=6, window=True, confidence="samples", floor=0.15),
    weights=Weights(random_keypoints=1e-3),
    training=Training(steps=20, batch=4, hypotheses=3, validate_every=10),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("licensed")
    write_world(folder, SETS[1:3], 4)
    return folder


@pytest.fixture
def apart(root, tmp_path, monkeypatch):
    """Everything in folders of this test; sizes of the files are not those of official ones."""
    monkeypatch.setattr(paper_runs, "ROOT", root)
    monkeypatch.setattr(shards, "DATA", tmp_path / "data")
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("HUMR_WORKERS", "0")
    system = replace(experiments.SYSTEMS[PaperRun], check=lambda run: None)
    monkeypatch.setitem(experiments.SYSTEMS, PaperRun, system)
    feature_cache.check_origin.cache_clear()
    return tmp_path


def weights_of(checkpoint):
    return load_file(checkpoint.with_suffix(".safetensors"))


def test_dry_run(apart, monkeypatch):
    """Features, training, a stop in its middle, the rest, and the checkpoint."""
    straight = experiments.train(RUN, name="dry", device="cpu")
    rows = [json.loads(x) for x in straight.with_name("log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20]
    terms = {"nll", "shape", "keypoints", "heatmap", "mask", "camera", "random_keypoints"}
    assert terms <= rows[0].keys()
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[0]["keypoints"] > 0
    expected = weights_of(straight.with_name("last"))

    monkeypatch.setattr(experiments, "RUNS", apart / "again")
    whole, calls = paper_runs.Validation.__call__, []

    def stops(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, model)

    monkeypatch.setattr(paper_runs.Validation, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        experiments.train(RUN, name="dry", device="cpu")
    resumed = weights_of(experiments.train(RUN, name="dry", device="cpu").with_name("last"))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)

    model, about = experiments.load(straight)
    assert isinstance(model, Humr)
    assert (about["system"], about["name"], about["processes"]) == ("paper", "dry", 1)
    assert len(about["backbone"]) == 64
    assert about["run"]["world"]["variants"] == 2
    assert model.encoder.width == 30 + 4 + 3
    start = model.head.start  # smpl_mean_params.npz: 10 betas and a camera
    assert start[:11].tolist() == pytest.approx([*np.linspace(-1, 1, 10), 0.0])
    assert start[11:].tolist() == pytest.approx([0.9, 0, 0.1])


def test_without_variants_photographs_are_read_in_every_step(apart):
    run = replace(RUN, world=replace(RUN.world, variants=0))
    run = replace(run, training=replace(RUN.training, steps=2, batch=2, validate_every=1))
    checkpoint = experiments.train(run, device="cpu")
    assert json.loads(checkpoint.with_name("done.json").read_text())["step"] == 2
    cache = experiments.store(run).directory
    assert [p.name for p in cache.glob("*.safetensors")] == ["validation-00000.safetensors"]


def test_several_processes_do_not_wait_for_features(apart, monkeypatch):
    fabric = training.make_fabric(RUN.training, device="cpu")
    monkeypatch.setattr(type(fabric), "world_size", 2)
    with pytest.raises(FileNotFoundError, match=r"2 shards .* python3 -m humr world paper"):
        paper_runs.fit(RUN, "x", fabric, apart / "run")


def test_validation_is_the_energy_score_of_the_bodys_joints(apart, body):
    experiments.store(RUN).generate(workers=1)
    people = experiments.store(RUN).load("validation")
    torch.manual_seed(0)
    model = Humr(RUN.model).eval()
    found = paper_runs.Validation(people, body, hypotheses=4)(model)
    assert found.keys() == {"score", "mpjpe_mode", "nll"}
    again = paper_runs.Validation(people, body, hypotheses=4)(model)
    assert found == again
    validation = paper_runs.Validation(people, body, hypotheses=4)
    (batch,) = validation.parts
    drawn = model.sample(batch, 4, generator=torch.Generator().manual_seed(1))
    errors = []
    for i in range(2):
        true = body.joints(batch.rotations[i], batch.betas[i])[:22]
        mode = drawn.mode[i].joints(body)[:22]
        true, mode = (x - (x[1] + x[2]) / 2 for x in (true, mode))
        errors.append(sum((true[j] - mode[j]).norm().item() for j in range(22)) / 22)
    assert found["mpjpe_mode"] == pytest.approx(1e3 * sum(errors) / 2, rel=1e-4)


def test_absent_files_are_one_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper_runs, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        experiments.train(profile("paper").run)
    text = str(error.value)
    assert "needs 116 files or folders that are missing or wrong" in text
    assert "SMPLX_NEUTRAL.npz, " in text
    assert "and 113 more. `python3 -m humr data licensed` lists them all" in text
    assert len(text) < 500 + 3 * len(str(tmp_path))
    assert experiments.main(["train", "paper"]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("humr data licensed") == 1


def test_only_files_of_the_chosen_sets_are_needed():
    def paths(**world):
        weights = Weights() if world.get("masks", True) else Weights(mask=0.0)
        run = PaperRun(world=Licensed(**world), weights=weights)
        return {entry.paths[0] for entry in paper_runs.needed(run)}

    few = paths(train=("static-gym", "3dpw-train-smplx"))
    scene = "20221013_3-10_500_batch01hand_static_highSchoolGym_6fps"
    common = {"body_models/smplx/SMPLX_NEUTRAL.npz", paper_runs.MEANS, paper_runs.BACKBONE}
    assert few == common | {
        f"annotations/{scene}.npz", "heatmap_samples/static-gym", f"training_images/{scene}/png",
        f"env_masks/{scene}", "annotations/3dpw_train_smplx_w_cam.npz",
        "heatmap_samples/3dpw-train-smplx", "test_images/3DPW/imageFiles",
    }  # fmt: skip
    without = paths(train=("static-gym", "3dpw-train-smplx"), masks=False)
    assert few - without == {f"env_masks/{scene}"}
    agora = paths(train=("agora-bfh",))
    assert {"env_masks/images", "training_images/images", "annotations/agora-bfh.npz"} <= agora
    assert "annotations/agora-body.npz" not in agora
    every = {e.paths[0] for e in inventory.ENTRIES if {"training", "masks"} & set(e.parts)}
    assert paths(train=TRAINING) == every


def test_checkpoints_of_other_systems_are_refused():
    with pytest.raises(ValueError, match="of system 'paper'; got 'humr'"):
        paper_runs.build({"system": "humr"})


def test_sizes_of_the_paper_are_refused_on_the_open_world():
    with pytest.raises(ValueError, match=r"expects 720\. Usual cause: sizes of the paper"):
        experiments.train(Run())
