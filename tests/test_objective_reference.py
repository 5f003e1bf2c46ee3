"""The fast paths against the plain form of the same equations (`plain.py`)."""

from dataclasses import fields, replace

import plain
import pytest
import torch

from humr import evaluation
from humr.benchmarks import people
from humr.bodies.body import load_body
from humr.config import Weights
from humr.geometry import matrix_to_sixd, rotvec_to_matrix, sixd_to_matrix
from humr.objective import HumrObjective
from humr.world.records import truth_of

RULE = replace(people.OFFICIAL, heatmap_samples=6)
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}
UNITS = {"pixels": 256, "mask": 256, "percent": 100}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def objective(fitted, body, dtype):
    weights = Weights(heatmap=0.05)
    body = load_body("small", dtype=dtype)
    return HumrObjective(fitted.to(dtype), body, weights, RULE, hypotheses=5).eval()


@pytest.fixture
def people(batch, dtype):
    def changed(value):
        return value.to(dtype) if value is not None and value.is_floating_point() else value

    there = replace(batch, **{f.name: changed(getattr(batch, f.name)) for f in fields(batch)})
    sixd = matrix_to_sixd(there.rotations)  # orthonormal in this precision
    return replace(there, rotations=sixd_to_matrix(sixd))


def close(found, expected, limit):
    return abs(found - expected) <= limit * max(1.0, abs(expected))


def drawn(objective, batch, dtype):
    """The noise that the objective draws from a generator of seed 3."""
    generator = torch.Generator().manual_seed(3)
    noise = objective.model.noise(len(batch), objective.hypotheses, generator)
    blur = torch.randn(len(batch), 132, generator=generator)
    zero = torch.zeros_like(noise[:, :1])
    return torch.cat([zero, noise], 1).to(dtype), blur


def test_training_terms_and_gradients(objective, people, dtype):
    noise, blur = drawn(objective, people, dtype)
    fast = objective(people, generator=torch.Generator().manual_seed(3))
    slow = plain.terms(objective.model, plain.Body("small", dtype), people, noise, blur, samples=6)
    for name, value in slow.items():
        assert close(fast[name].item(), value.item(), LIMIT[dtype]), name
    if dtype == torch.float64:  # in float32 a unit within rounding of 0 may go either way
        parameters = list(objective.parameters())
        ours = torch.autograd.grad(objective.total(fast), parameters)
        theirs = torch.autograd.grad(objective.total(slow), parameters)
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).abs().max() <= 1e-9 * max(1, other.abs().max())


def test_evaluation(fitted, records, people, dtype):
    model, body = fitted.eval().to(dtype), load_body("small", dtype=dtype)
    reference = plain.Body("small", dtype)
    generator = torch.Generator().manual_seed(5)
    noise = model.noise(len(people), 7, generator).to(dtype)
    noise[:, 0] = 0
    truth = truth_of(records, people, body)
    with torch.no_grad():
        observation = model.observe(people)
        pieces = [model.people(observation, part) for part in noise.split(3, 1)]
        seen = evaluation.forecast(pieces, truth, body)
        fast = evaluation.accuracy(seen, truth) | evaluation.consistency(seen, truth)
        slow = plain.evaluate(
            model, reference, people, noise, silhouette=truth.silhouette,
            visible=truth.visible, covered=truth.covered,
        )  # fmt: skip
    for name, value in slow.items():
        unit = UNITS.get(name.split("_")[0], 2000.0)  # mm; people are two metres tall
        assert torch.equal(fast[name].isnan(), value.isnan()), name
        assert (fast[name] - value).abs().nan_to_num().max() <= LIMIT[dtype] * unit, name


def test_skinning(body, generator):
    rotations = rotvec_to_matrix(0.5 * torch.randn(3, 22, 3, generator=generator))
    betas = torch.randn(3, 11, generator=generator)
    vertices, joints = plain.Body("small")(rotations, betas)
    assert (body.vertices(rotations, betas) - vertices).abs().max() < 1e-5
    assert (body.joints(rotations, betas) - joints).abs().max() < 1e-5
