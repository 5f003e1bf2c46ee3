"""Tests of licensed.training: a dry run of the profile "paper", tiny, from files to weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from licensed_world import SETS, write_world
from safetensors.torch import load_file

from humr import devices, storage
from humr.config import Model, Run, Supervision, Training, Weights
from humr.experiments import runs, systems
from humr.experiments.profiles import profile
from humr.licensed import checkpoints, features, inventory, training
from humr.licensed.datasets import TRAINING, Licensed, PaperRun
from humr.model import Humr
from humr.training import Validation

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
    monkeypatch.setattr(training, "ROOT", root)
    monkeypatch.setattr(storage, "DATA", tmp_path / "data")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("HUMR_WORKERS", "0")
    system = replace(systems.SYSTEMS[PaperRun], check=lambda run: None)
    monkeypatch.setitem(systems.SYSTEMS, PaperRun, system)
    features.check_origin.cache_clear()
    return tmp_path


def weights_of(checkpoint):
    return load_file(checkpoint.with_suffix(".safetensors"))


def test_dry_run(apart, monkeypatch):
    """Features, training, a stop in its middle, the rest, and the checkpoint."""
    straight = runs.train(RUN, name="dry", device="cpu")
    rows = [json.loads(x) for x in straight.with_name("log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20]
    terms = {"nll", "shape", "keypoints", "heatmap", "mask", "camera", "random_keypoints"}
    assert terms <= rows[0].keys()
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[0]["keypoints"] > 0
    expected = weights_of(straight.with_name("last"))

    monkeypatch.setattr(runs, "RUNS", apart / "again")
    whole, calls = Validation.__call__, []

    def stops(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, model)

    monkeypatch.setattr(Validation, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        runs.train(RUN, name="dry", device="cpu")
    resumed = weights_of(runs.train(RUN, name="dry", device="cpu").with_name("last"))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)

    model, about = runs.load(straight)
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
    checkpoint = runs.train(run, device="cpu")
    assert json.loads(checkpoint.with_name("done.json").read_text())["step"] == 2
    cache = systems.store(run).directory
    assert [p.name for p in cache.glob("*.safetensors")] == ["validation-00000.safetensors"]


def test_several_processes_do_not_wait_for_features(apart, monkeypatch):
    fabric = devices.make_fabric(RUN.training, device="cpu")
    monkeypatch.setattr(type(fabric), "world_size", 2)
    with pytest.raises(FileNotFoundError, match=r"2 shards .* python3 -m humr world paper"):
        training.fit(RUN, "x", fabric, apart / "run")


def test_validation_is_the_energy_score_of_the_bodys_joints(apart, body):
    systems.store(RUN).generate(workers=1)
    people = systems.store(RUN).load("validation")
    torch.manual_seed(0)
    model = Humr(RUN.model).eval()
    found = training.validation(people, body, hypotheses=4)(model)
    assert found.keys() == {"score", "mpjpe_mode", "nll"}
    again = training.validation(people, body, hypotheses=4)(model)
    assert found == again
    validation = training.validation(people, body, hypotheses=4)
    (batch,) = validation.batches
    drawn = model.sample(batch, 4, generator=torch.Generator().manual_seed(1))
    errors = []
    for i in range(2):
        true = body.joints(batch.rotations[i], batch.betas[i])[:22]
        mode = drawn.mode[i].joints(body)[:22]
        true, mode = (x - (x[1] + x[2]) / 2 for x in (true, mode))
        errors.append(sum((true[j] - mode[j]).norm().item() for j in range(22)) / 22)
    assert found["mpjpe_mode"] == pytest.approx(1e3 * sum(errors) / 2, rel=1e-4)


def test_absent_files_are_one_clear_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        runs.train(profile("paper").run)
    text = str(error.value)
    assert "needs 116 files or folders that are missing or wrong" in text
    assert "SMPLX_NEUTRAL.npz, " in text
    assert "and 113 more. `python3 -m humr data licensed` lists them all" in text
    assert len(text) < 500 + 3 * len(str(tmp_path))
    assert runs.main(["train", "paper"]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("humr data licensed") == 1


def test_only_files_of_the_chosen_sets_are_needed():
    def paths(**world):
        weights = Weights() if world.get("masks", True) else Weights(mask=0.0)
        run = PaperRun(world=Licensed(**world), weights=weights)
        return {file.paths[0] for file in training.needed(run)}

    few = paths(train=("static-gym", "3dpw-train-smplx"))
    scene = "20221013_3-10_500_batch01hand_static_highSchoolGym_6fps"
    common = {"body_models/smplx/SMPLX_NEUTRAL.npz", training.MEANS, checkpoints.BACKBONE}
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
    every = {f.paths[0] for f in inventory.FILES if {"training", "masks"} & set(f.parts)}
    assert paths(train=TRAINING) == every


def test_checkpoints_of_other_systems_are_refused():
    with pytest.raises(ValueError, match="of system 'paper'; got 'humr'"):
        training.build({"system": "humr"})


def test_sizes_of_the_paper_are_refused_on_the_open_world():
    with pytest.raises(ValueError, match=r"expects 720\. Usual cause: sizes of the paper"):
        runs.train(Run())
