import json
import pickle
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from humr import devices, storage, training
from humr.config import Training
from humr.files import BrokenFile
from tests.stops import at_each_write


class Line(nn.Module):
    """Fits y = 2x + 1; `fit` sees nothing but terms and a total."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)

    def forward(self, batch, *, generator):
        return {"square": (self.model(batch) - (2 * batch + 1)).square().mean()}

    def total(self, terms):
        return terms["square"]


class Dropping(Line):
    """A network with dropout, which draws from the global generator of its device, and noise."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, batch, *, generator):
        assert generator.device.type == batch.device.type
        noise = torch.randn(batch.shape, generator=generator, device=generator.device)
        return super().forward(batch + 0.01 * noise, generator=generator)


class StopError(Exception):
    pass


def draw(generator):
    return torch.rand(32, 1, generator=generator)


def validate(model):
    with torch.no_grad():
        one = torch.ones(1, 1, device=next(model.parameters()).device)
        return {"score": (model(one) - 3).abs().item(), "square": 7.0}


CONFIG = Training(steps=60, batch=32, rate=0.1, decay=0.0, validate_every=20, clip=1.0)


def run(directory, config=CONFIG, line=None, check=validate, device="cpu"):
    line = line or Line()
    fabric = devices.make_fabric(config, device=device)
    return training.fit(
        line, draw, check, config, directory, fabric=fabric, about={"name": "line"}
    ), line


def stop_at(count):
    """Return a validation that stops the run when it is called for the `count`-th time."""
    calls = iter(range(1, count))

    def check(model):
        if next(calls, None) is None:
            raise StopError
        return validate(model)

    return check


def rows(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


class Hungry(Line):
    """Memory is enough for ten numbers."""

    def forward(self, batch, *, generator):
        if len(batch) > 10:
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
        return super().forward(batch, generator=generator)


def test_too_large_a_batch_is_an_error_that_names_the_setting(tmp_path):
    message = r"for 32 images of a step; choose a smaller Training.batch \(Tried to"
    with pytest.raises(MemoryError, match=message):
        run(tmp_path, line=Hungry())
    assert not list(tmp_path.glob("best*"))


def test_memory_errors_of_processors_are_known_and_no_others():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert training.is_memory_error(caught.value)
    assert training.is_memory_error(MemoryError())
    assert not training.is_memory_error(RuntimeError("shapes differ"))


def test_learns_and_leaves_the_best_weights(tmp_path):
    progress, _ = run(tmp_path, replace(CONFIG, steps=200))
    assert progress.best < 0.1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10
    model, about = storage.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    assert validate(model)["score"] == pytest.approx(progress.best, abs=1e-6)
    assert about["name"] == "line"
    assert about["step"] == progress.best_step
    assert not list(tmp_path.glob("*.part"))


def test_the_last_weights_are_kept_beside_the_best(tmp_path):
    config = replace(CONFIG, steps=50, average=0.5)  # not a multiple of the 20 between validations
    scores = iter([1.0, 2.0, 3.0])
    progress, line = run(tmp_path, config, check=lambda _: {"score": next(scores)})
    assert [row["step"] for row in rows(tmp_path)] == [20, 40, 50]
    best, about_best = storage.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    last, about_last = storage.load_model(tmp_path / "last", lambda _: nn.Linear(1, 1))
    assert (about_best["step"], about_best["metrics"]) == (20, {"score": 1.0})
    assert (about_last["step"], about_last["metrics"]) == (50, {"score": 3.0})
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(last.weight, state["average"]["weight"])
    assert torch.equal(line.model.weight, state["model"]["weight"])
    assert not torch.equal(last.weight, best.weight)
    assert not torch.equal(last.weight, line.model.weight)  # but its average
    assert progress.step == 50


def test_terms_and_metrics_of_one_name_do_not_meet(tmp_path):
    class Sometimes(Line):
        """A second term in the first ten of twenty steps only."""

        steps = 0

        def forward(self, batch, *, generator):
            terms = super().forward(batch, generator=generator)
            self.steps += 1
            return terms | ({"half": terms["square"] / 2} if self.steps <= 10 else {})

    run(tmp_path, replace(CONFIG, steps=40, rate=0.0), line=Sometimes())
    first, second = rows(tmp_path)
    assert first["val_square"] == 7.0
    assert first["total"] == pytest.approx(first["square"])
    assert first["half"] == pytest.approx(first["square"] / 2, rel=0.2)  # mean of ten, not of 20
    assert first["gradient_norm"] > 0
    assert "half" not in second


def test_means_are_of_all_steps_whenever_they_are_read(monkeypatch, tmp_path):
    run(tmp_path / "often")
    monkeypatch.setattr(training, "READ_EVERY", 7)
    run(tmp_path / "seven")
    often, seven = rows(tmp_path / "often"), rows(tmp_path / "seven")
    for row in (*often, *seven):
        del row["seconds"]
    assert often == seven


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_resuming_is_the_same_as_never_stopping(tmp_path, device, optimizer):
    config = replace(CONFIG, average=0.9, cosine=True, decay=0.1, steps=50, optimizer=optimizer)
    run(tmp_path / "straight", config, Dropping(), device=device.type)
    for _ in range(2):  # stopped twice, before its first and before its third validation
        with pytest.raises(StopError):
            run(tmp_path / "broken", config, Dropping(), stop_at(2), device.type)
    torch.manual_seed(99)
    run(tmp_path / "broken", config, Dropping(), device=device.type)
    for name in ("best", "last"):
        straight, resumed = (
            load_file(tmp_path / which / f"{name}.safetensors") for which in ("straight", "broken")
        )
        assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    straight, resumed = (
        torch.load(tmp_path / which / "state.pt", weights_only=True)
        for which in ("straight", "broken")
    )
    for part in ("model", "average"):
        assert all(torch.equal(straight[part][key], resumed[part][key]) for key in straight[part])
    assert torch.equal(straight["generator"], resumed["generator"])
    assert torch.equal(straight["dropout"], resumed["dropout"])
    for row in (*straight["progress"]["log"], *resumed["progress"]["log"]):
        del row["seconds"]
    assert straight["progress"]["log"] == resumed["progress"]["log"]


def test_a_damaged_state_is_named(tmp_path):
    run(tmp_path, replace(CONFIG, steps=20))
    state = tmp_path / "state.pt"
    whole = state.read_bytes()
    for damaged in (b"", b"weights", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        state.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"state\.pt is damaged.*\. Delete it to start this"):
            run(tmp_path)
    state.unlink()
    assert run(tmp_path)[0].step == 60


def made(directory):
    """What a run leaves, without times."""
    weights = {p.name: load_file(p) for p in directory.glob("*.safetensors")}
    state = torch.load(directory / "state.pt", weights_only=True)
    progress = state.pop("progress")
    logs = [*rows(directory), *progress["log"], progress]
    logs += [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    for row in logs:
        row.pop("seconds", None)
        row.pop("written", None)
    return sorted(path.name for path in directory.iterdir()), [weights, *state.values()], logs


def test_the_next_start_repairs_what_a_kill_at_any_write_leaves(tmp_path):
    config = replace(CONFIG, steps=60, average=0.9)
    run(tmp_path / "whole", config, line=Dropping())
    whole, directory, stops = made(tmp_path / "whole"), tmp_path / "stopped", -1

    def work():
        shutil.rmtree(directory, ignore_errors=True)
        run(directory, config, line=Dropping())

    for stops in at_each_write(work):  # noqa: B007
        run(directory, config, line=Dropping())
        names, tensors, logs = made(directory)
        assert (names, logs) == (whole[0], whole[2])
        torch.testing.assert_close(tensors, whole[1], rtol=0, atol=0)
    assert stops >= 2 * 3 * 2


class Code:
    """What a pickle may bring: a call."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_state_that_brings_code_is_refused_in_one_line(tmp_path):
    state, trace = tmp_path / "state.pt", tmp_path / "ran"
    for packed in (True, False):
        if packed:
            torch.save({"model": Code(trace)}, state)
        else:
            state.write_bytes(pickle.dumps(Code(trace)))
        message = r"^\S*state\.pt is damaged: it is cut, or holds more [^\n]* Delete it[^\n]*$"
        with pytest.raises(BrokenFile, match=message):
            run(tmp_path)
        assert not trace.exists()


def spoiled(part, name, change):
    def spoil(state):
        state[part][name] = change(state[part][name])

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled("model", "weight", lambda t: t * torch.nan),
        spoiled("average", "weight", lambda t: t * torch.inf),
        spoiled("average", "weight", lambda t: t[0]),
        spoiled("model", "bias", lambda t: t[:0]),
        spoiled("model", "bias", lambda _: 3),
        spoiled("progress", "step", lambda _: "abc"),
        spoiled("progress", "step", lambda _: -1),
        spoiled("progress", "step", lambda _: 10**9),
        lambda state: state.pop("average"),
        lambda state: state["progress"].update(another=1),
        lambda state: state.update(progress=None),
        lambda state: state.update(optimizer=[]),
        lambda state: state.update(model=[1]),
    ],
)
def test_a_state_is_not_believed(tmp_path, spoil):
    run(tmp_path, replace(CONFIG, steps=20))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    spoil(state)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(BrokenFile, match=r"state\.pt is of another [^\n]* Delete it to start"):
        run(tmp_path)


def test_a_state_of_another_network_is_named(tmp_path):
    run(tmp_path, replace(CONFIG, steps=20))
    with pytest.raises(
        ValueError, match=r"state\.pt is of another configuration.*\. Delete it to"
    ):
        run(tmp_path, line=Dropping())
    torch.save({"model": Line().model.state_dict()}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"another configuration: 'others'\. Delete"):
        run(tmp_path)


def test_the_bar_goes_on_from_the_step_of_the_state(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "tqdm", partial(tqdm, disable=False))  # as tests have none
    with pytest.raises(StopError):
        run(tmp_path, check=stop_at(2))
    score = rows(tmp_path)[0]["val_score"]
    capsys.readouterr()
    run(tmp_path)
    shown = capsys.readouterr().err
    first, last = shown.split("\r")[1], shown.split("\r")[-1]
    assert "20/60" in first
    assert f"score={score:.4g}" in first
    assert "60/60" in last
    assert "it/s" in last


def test_patience_stops_early(tmp_path):
    config = replace(CONFIG, steps=1000, patience=2)
    progress, _ = run(tmp_path, config, check=lambda _: {"score": 1.0})
    assert progress.step == 60  # best at 20, then two validations without progress


def test_a_bad_value_names_its_term_and_keeps_the_state(tmp_path):
    class Bad(Line):
        def forward(self, batch, *, generator):
            terms = super().forward(batch, generator=generator)
            return {"square": terms["square"] * float("nan")}

    with pytest.raises(FloatingPointError, match=r"step 0: \['square'\] not finite"):
        run(tmp_path, line=Bad())
    assert not (tmp_path / "best.safetensors").exists()


def test_a_bad_value_is_found_within_a_few_steps_and_the_first_is_named(tmp_path):
    class Later(Line):
        """Good until step 63; the weights are spoilt then, and so are all values after it."""

        steps = 0

        def forward(self, batch, *, generator):
            square = super().forward(batch, generator=generator)["square"]
            self.steps += 1
            return {"square": square * (float("inf") if self.steps == 64 else 1), "fine": square}

        def total(self, terms):
            return terms["square"] + 0.1 * terms["fine"]

    line = Later()
    with pytest.raises(FloatingPointError, match=r"step 63: \['square'\] not finite"):
        run(tmp_path, replace(CONFIG, steps=100, validate_every=60), line)
    assert line.steps < 64 + training.READ_EVERY
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 60
    assert state["model"]["weight"].isfinite().all()


def test_a_bad_value_of_a_term_without_weight_does_not_stop_the_run(tmp_path):
    class Extra(Line):
        def forward(self, batch, *, generator):
            terms = super().forward(batch, generator=generator)
            return terms | {"unused": terms["square"] * float("nan")}

    assert run(tmp_path, line=Extra())[0].step == 60


def test_a_bad_gradient_behind_a_good_value_stops_the_run(tmp_path):
    class Bad(Line):
        def forward(self, batch, *, generator):
            root = (self.model.weight * 0).sum().sqrt()  # 0, with an infinite slope
            return {"square": super().forward(batch, generator=generator)["square"] + root}

    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        run(tmp_path, line=Bad())


def test_a_bad_validation_is_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="validation is not finite"):
        run(tmp_path, check=lambda _: {"score": float("nan")})
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_the_fused_optimizer_is_the_plain_one(name, generator):
    lines = [nn.Linear(4, 3).double() for _ in range(2)]
    lines[1].load_state_dict(lines[0].state_dict())
    config = Training(optimizer=name, rate=0.01, decay=0.1)
    fused = training.make_optimizer(lines[0].parameters(), config)
    plain = training.OPTIMIZERS[name](
        lines[1].parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False
    )
    assert fused.param_groups[0]["fused"]
    for _ in range(10):
        batch = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        for line, optimizer in zip(lines, (fused, plain), strict=True):
            optimizer.zero_grad()
            line(batch).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(lines[0].weight, lines[1].weight, rtol=1e-12, atol=1e-12)


def test_decay_shrinks_weights_or_enters_the_gradient():
    weights = {}
    for name in ("adamw", "adam"):
        weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
        optimizer = training.make_optimizer(
            [weight], Training(optimizer=name, rate=0.01, decay=0.1)
        )
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
        weights[name] = weight.tolist()
    assert weights["adamw"] == pytest.approx([2 * (1 - 0.001), -(1 - 0.001)])
    # the gradient is decay * weight, and Adam's first step has the length of the rate
    assert weights["adam"] == pytest.approx([2 - 0.01, -1 + 0.01], abs=1e-6)


def test_an_optimizer_without_a_fused_kernel_is_plain():
    weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = training.make_optimizer([weight], Training())
    assert not optimizer.param_groups[0]["fused"]
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert weight.isfinite().all()


class Duel(nn.Module):
    """The model wants to meet the critic's guess; the critic wants to be one above the model."""

    def __init__(self, updates=3):
        super().__init__()
        self.model, self.critic, self.updates = nn.Linear(1, 1), nn.Linear(1, 1), updates
        self.batches = []

    def optimizer_groups(self):
        critic = training.OptimizerGroup(
            parameters=list(self.critic.parameters()), updates=self.updates
        )
        weight = [self.model.weight]
        model = training.OptimizerGroup(
            parameters=list(self.model.parameters()), rate=0.5, clipped=weight
        )
        return {"critic": critic, "model": model}

    def forward(self, batch, *, generator, group):
        self.batches.append((group, batch))
        gap = self.critic(batch) - self.model(batch)
        return {group: (gap - float(group == "critic")).square().mean()}

    def total(self, terms):
        return sum(terms.values())


def fit_duel(directory, config, check=validate):
    torch.manual_seed(0)
    duel = Duel()
    fabric = devices.make_fabric(config, device="cpu")
    training.fit(duel, draw, check, config, directory, fabric=fabric, about={})
    return duel


def test_groups_take_turns_with_batches_of_their_own(tmp_path):
    duel = fit_duel(tmp_path, replace(CONFIG, steps=20))
    names = [name for name, _ in duel.batches]
    assert names == ["critic", "critic", "critic", "model"] * 20
    first = [batch for _, batch in duel.batches[:4]]
    assert all(not torch.equal(a, b) for a, b in pairwise(first))
    assert {"critic", "model", "total", "gradient_norm"} <= rows(tmp_path)[0].keys()
    row = rows(tmp_path)[0]
    assert row["total"] == pytest.approx(row["critic"] + row["model"])


def test_a_turn_moves_its_own_group_only():
    duel = Duel(updates=1)
    engine = training._Engine(duel, CONFIG, devices.make_fabric(CONFIG, device="cpu"))
    for name, moving, still in (
        ("critic", duel.critic, duel.model),
        ("model", duel.model, duel.critic),
    ):
        kept = still.weight.detach().clone(), moving.weight.detach().clone()
        engine.update(draw, name)
        assert torch.equal(still.weight, kept[0])
        assert still.weight.grad is None or name == "model"
        assert not torch.equal(moving.weight, kept[1])


def test_single_gradients_are_clipped_where_the_group_says(tmp_path):
    duel = Duel(updates=1)
    config = replace(CONFIG, clip=None, clip_value=1e-3)
    engine = training._Engine(duel, config, devices.make_fabric(config, device="cpu"))
    engine.update(draw, "critic")  # has nothing to clip
    engine.update(draw, "model")
    assert duel.model.weight.grad.abs().item() == pytest.approx(1e-3)
    assert duel.model.bias.grad.abs().item() > 1e-3


def test_several_groups_resume_as_if_never_stopped(tmp_path):
    config = replace(CONFIG, steps=40, average=0.9)
    straight = fit_duel(tmp_path / "straight", config)
    with pytest.raises(StopError):
        fit_duel(tmp_path / "broken", config, stop_at(2))
    broken = fit_duel(tmp_path / "broken", config)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, broken.state_dict()[name]), name


def test_switches_are_on_while_training_and_named(tmp_path, monkeypatch):
    from humr import devices

    seen = []

    class Watching(Line):
        def forward(self, batch, *, generator):
            seen.append(devices._ONEDNN.fp32_precision)
            return super().forward(batch, generator=generator)

    monkeypatch.setattr(devices, "other_products_pay", lambda: True)
    before = devices._ONEDNN.fp32_precision
    run(tmp_path, replace(CONFIG, steps=2, fast=("products",)), line=Watching())
    assert set(seen) == {"bf16"} != {before}
    assert devices._ONEDNN.fp32_precision == before
    assert json.loads((tmp_path / "last.json").read_text())["fast"] == ["products"]
    with pytest.raises(ValueError, match="no switch warp"):
        run(tmp_path / "other", replace(CONFIG, fast=("warp",)))


def test_a_switch_that_fails_is_not_named(tmp_path, monkeypatch):
    on = ["compiled"]

    class Failing(Line):
        def forward(self, batch, *, generator):
            on.clear()
            return super().forward(batch, generator=generator)

    monkeypatch.setattr(training, "faster", lambda *_: nullcontext(on))
    run(tmp_path, replace(CONFIG, steps=2), line=Failing())
    assert json.loads((tmp_path / "best.json").read_text())["fast"] == []
