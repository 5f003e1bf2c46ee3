import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from humr import training
from humr.config import Training


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


def draw(generator):
    return torch.rand(32, 1, generator=generator)


def validate(model):
    with torch.no_grad():
        return {"score": (model(torch.ones(1, 1)) - 3).abs().item()}


CONFIG = Training(steps=60, batch=32, rate=0.1, decay=0.0, validate_every=20, clip=1.0)


def run(directory, config=CONFIG, line=None, check=validate):
    line = line or Line()
    fabric = training.make_fabric(config, device="cpu")
    return training.fit(
        line, draw, check, config, directory, fabric=fabric, about={"name": "line"}
    ), line


def test_learns_and_leaves_the_best_weights(tmp_path):
    progress, _ = run(tmp_path, replace(CONFIG, steps=200))
    assert progress.best < 0.1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10
    model, about = training.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    assert validate(model)["score"] == pytest.approx(progress.best, abs=1e-6)
    assert about["name"] == "line"
    assert about["step"] == progress.best_step
    assert not list(tmp_path.glob("*.part"))


def test_resuming_gives_the_same_weights_as_never_stopping(tmp_path):
    class StopError(Exception):
        pass

    def stop_at_40(model):
        if stop_at_40.calls == 1:
            raise StopError
        stop_at_40.calls += 1
        return validate(model)

    stop_at_40.calls = 0
    config = replace(CONFIG, average=0.9, cosine=True)
    _, straight = run(tmp_path / "straight", config)
    with pytest.raises(StopError):
        run(tmp_path / "broken", config, check=stop_at_40)
    _, resumed = run(tmp_path / "broken", config)
    assert torch.equal(straight.model.weight, resumed.model.weight)


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


def test_rate_warms_up_and_falls():
    config = Training(steps=100, warmup=10, cosine=True)
    factors = [training.rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.03
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_average_without_decay_is_the_parameters():
    line = nn.Linear(2, 2)
    average = training.Average(line, 0.0)
    nn.init.ones_(line.weight)
    average.update(line, 5)
    assert torch.equal(average.values["weight"], line.weight)


def test_wrong_or_missing_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint best\.safetensors"):
        training.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    training.save_model(tmp_path / "best", nn.Linear(1, 1), {})
    with pytest.raises(ValueError, match="does not fit its description"):
        training.load_model(tmp_path / "best", lambda _: nn.Linear(2, 1))
    assert "git" in json.loads((tmp_path / "best.json").read_text())
