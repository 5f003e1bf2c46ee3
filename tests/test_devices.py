"""Tests of humr.devices: the choice of a device, noise, precision."""

import pytest
import torch

from humr import devices
from humr.config import Training
from humr.devices import constant, full_precision, normal, pick_device
from humr.launch import notebooks


@pytest.mark.parametrize(
    ("chosen", "there", "expected"),
    [("", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_one_choice_for_training_evaluation_and_records(monkeypatch, chosen, there, expected):
    monkeypatch.setenv("HUMR_DEVICE", chosen)
    monkeypatch.setenv("HUMR_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device() == torch.device(expected)
    kept, plain = {}, devices.Fabric(accelerator="cpu")
    monkeypatch.setattr(devices, "Fabric", lambda **options: kept.update(options) or plain)
    devices.make_fabric(Training())
    assert kept["accelerator"] == expected
    assert notebooks.start("06_metrics", "smoke", 0).device == torch.device(expected)


def test_other_devices_are_refused(monkeypatch):
    monkeypatch.setenv("HUMR_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match="HUMR_DEVICE must be cpu, cuda or auto; got 'cuda:1'"):
        pick_device()
    monkeypatch.setenv("HUMR_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch finds no CUDA device.*HUMR_DEVICE=cpu"):
        pick_device()


def test_constants_are_made_once_and_serve_in_training(device):
    with torch.inference_mode():
        index = constant((2, 0), device)
    assert constant((2, 0), device) is index
    assert index.tolist() == [2, 0]
    points = torch.zeros(3, device=device, requires_grad=True)
    points[index].sum().backward()
    assert points.grad.tolist() == [1, 0, 1]


def product(a, b):
    return a @ b


def test_products_are_not_rounded_under_autocast(device, generator):
    a, b = (torch.randn(8, 8, generator=generator).to(device) for _ in range(2))
    with torch.autocast(device.type, torch.bfloat16):
        assert product(a, b).dtype == torch.bfloat16
        assert torch.equal(full_precision(product)(a, b=b), full_precision(product)(a=a, b=b))
        found = full_precision(product)(a, b)
    assert torch.equal(found, a @ b)
    half = a.bfloat16()
    assert torch.equal(full_precision(product)(half, b), half.float() @ b)


def test_noise_is_drawn_where_the_generator_is():
    like = torch.zeros(1, dtype=torch.float64, device="meta")
    noise = normal((2, 3), like, torch.Generator().manual_seed(3))
    assert (noise.shape, noise.dtype, noise.device.type) == ((2, 3), torch.float64, "meta")
    noise = normal((2, 3), torch.zeros(1), torch.Generator().manual_seed(3))
    assert torch.equal(noise, torch.randn(2, 3, generator=torch.Generator().manual_seed(3)))
    assert normal((2, 3), torch.zeros(1), None).shape == (2, 3)
