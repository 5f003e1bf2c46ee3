import pytest
import torch
from torch import nn

from humr.config import Training
from humr.training import Average, rate_factor


def test_rate_warms_up_and_falls():
    config = Training(steps=100, warmup=10, cosine=True)
    factors = [rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.03
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_average_without_decay_is_the_parameters():
    line = nn.Linear(2, 2)
    average = Average(line, 0.0)
    nn.init.ones_(line.weight)
    average.update(line, 5)
    assert torch.equal(average.values["weight"], line.weight)


def test_the_rate_is_halved_near_the_end():
    config = Training(steps=100, halve_at=0.9)
    assert [rate_factor(step, config) for step in (0, 89, 90, 99)] == [1, 1, 0.5, 0.5]


def test_the_average_follows_and_can_be_exchanged():
    line = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(line.weight)
    average = Average(line, 0.9)
    nn.init.ones_(line.weight)
    average.update(line, 10**6)
    assert average.values["weight"].item() == pytest.approx(0.1)
    average.swap(line)
    assert line.weight.item() == pytest.approx(0.1)
    assert average.values["weight"].item() == 1.0
