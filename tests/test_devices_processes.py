"""Tests of humr.devices: one process is as ever, two are one with twice the batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import two_processes
from two_processes import CONFIG, Line, draw, validate

from humr import devices, training
from humr.files import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left."""
    made = tmp_path_factory.mktemp("two")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PYTEST"))}
    environ = keep | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, two_processes.__file__, str(made)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def loaded(path):
    return torch.load(path, weights_only=True)


def equal(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_both_processes_end_with_the_same_weights(folder):
    first, second = (loaded(folder / f"plain-{rank}.pt") for rank in (0, 1))
    assert equal(first, second)


def test_two_processes_are_one_with_both_batches(folder, tmp_path):
    """The gradient is the mean over processes: that of the batches put together."""
    generators = [torch.Generator().manual_seed(devices.seed_of(CONFIG.seed, r)) for r in (0, 1)]

    def both(generator):
        return torch.cat([draw(each) for each in generators])

    line = Line()
    fabric = devices.make_fabric(CONFIG, device="cpu")
    training.fit(line, both, validate, CONFIG, tmp_path, fabric=fabric, about={})
    found = loaded(folder / "plain-0.pt")
    for name, value in line.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    alone = Line()
    training.fit(alone, draw, validate, CONFIG, tmp_path / "alone", fabric=fabric, about={})
    assert any(
        (found[name] - value).abs().max() > 1e-3 for name, value in alone.state_dict().items()
    )


def test_two_processes_resume_as_if_never_stopped(folder):
    """Dropout and draws of each process go on where they were."""
    for rank in (0, 1):
        straight, resumed = loaded(folder / f"resumed-{rank}.pt")
        assert equal(straight, resumed)
    logs = [
        [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        for name in ("straight", "broken")
    ]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [4, 8, 12]


def test_states_of_both_processes_are_kept_and_differ(folder):
    state = loaded(folder / "straight" / "state.pt")
    (second,) = state["ranks"]
    assert not torch.equal(state["generator"], second["generator"])
    assert not torch.equal(state["dropout"], second["dropout"])


def test_a_state_of_other_processes_is_refused(folder, tmp_path):
    fabric = devices.make_fabric(CONFIG, device="cpu")
    (tmp_path / "state.pt").write_bytes((folder / "straight" / "state.pt").read_bytes())
    with pytest.raises(ValueError, match="2 processes wrote it, 1 read it"):
        training.fit(Line(0.5), draw, validate, CONFIG, tmp_path, fabric=fabric, about={})


def test_only_the_first_process_writes(folder):
    for name in ("plain", "straight", "broken"):
        files = sorted(path.name for path in (folder / name).iterdir())
        assert files == [
            "best.json", "best.safetensors", "last.json", "last.safetensors", "log.jsonl",
            "state.pt",
        ]  # fmt: skip


def test_seeds_differ_but_for_the_first_process():
    assert devices.seed_of(7, 0) == 7
    seeds = [devices.seed_of(seed, rank) for seed in range(3) for rank in range(5)]
    assert len(set(seeds)) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_one_process_touches_no_random_numbers_but_its_own(monkeypatch):
    fabric = devices.make_fabric(CONFIG, device="cpu")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    generator = devices.batch_generator(5, fabric)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    monkeypatch.setattr(type(fabric), "global_rank", 1)
    own = devices.batch_generator(5, fabric)
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(own.get_state(), generator.get_state())


def test_states_come_back(generator):
    fabric = devices.make_fabric(CONFIG, device="cpu")
    kept = devices.random_states(fabric, generator)
    assert "ranks" not in kept
    first = torch.rand(3, generator=generator), torch.rand(3)
    devices.restore_states(kept, fabric, generator)
    assert torch.equal(torch.rand(3, generator=generator), first[0])
    assert torch.equal(torch.rand(3), first[1])


def test_noise_is_drawn_where_it_is_read(generator, monkeypatch):
    """On the CPU from the one generator; on CUDA from the device's own, which is kept anyway."""
    fabric = devices.make_fabric(CONFIG, device="cpu")
    assert devices.noise_generator(fabric, generator) is generator
    made = [torch.Generator(), torch.Generator()]
    monkeypatch.setattr(torch.cuda, "default_generators", tuple(made))
    monkeypatch.setattr(type(fabric), "device", torch.device("cuda", 1))
    assert devices.noise_generator(fabric, generator) is made[1]
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda d: made[d.index].get_state())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, d: made[d.index].set_state(state)
    )
    kept = devices.random_states(fabric, generator)
    first = torch.rand(3, generator=made[1])
    devices.restore_states(kept, fabric, generator)
    assert torch.equal(torch.rand(3, generator=made[1]), first)


def test_turns_are_for_one_process(monkeypatch):
    class Two(Line):
        def optimizer_groups(self):
            return {"model": training.OptimizerGroup(parameters=list(self.model.parameters()))}

    fabric = devices.make_fabric(CONFIG, device="cpu")
    monkeypatch.setattr(type(fabric), "world_size", 2)
    with pytest.raises(ValueError, match="trained in one process; got several"):
        training._Engine(Two(), CONFIG, fabric)


def test_processes_wait_long_for_the_first(monkeypatch):
    """Making a world takes hours; torch's own patience is half an hour."""
    kept, plain = {}, devices.make_fabric(CONFIG, device="cpu")
    monkeypatch.setattr(devices, "Fabric", lambda **options: kept.update(options) or plain)
    devices.make_fabric(CONFIG, device="cpu", devices=2)
    assert kept["strategy"]._timeout >= timedelta(days=1)


@pytest.mark.parametrize("many", [{"devices": 0}, {"nodes": -1}])
def test_numbers_of_processes_are_positive(many):
    with pytest.raises(ValueError, match="devices and nodes must be positive"):
        devices.make_fabric(CONFIG, device="cpu", **many)


def test_a_draw_that_works_ahead_is_told_where_to_start(tmp_path):
    class Ahead:
        started: list[int] = []  # noqa: RUF012

        def start(self, step):
            self.started.append(step)

        def __call__(self, generator):
            return draw(generator)

    fabric = devices.make_fabric(CONFIG, device="cpu")
    for steps in (4, 8):
        config = replace(CONFIG, steps=steps)
        training.fit(Line(), Ahead(), validate, config, tmp_path, fabric=fabric, about={})
    assert Ahead.started == [0, 4]
