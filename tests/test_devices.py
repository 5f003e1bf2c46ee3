from dataclasses import dataclass

import pytest
import torch

from humr import devices
from humr.config import Training
from humr.devices import constant, full_precision, pick_device, to_device
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


@dataclass(frozen=True)
class Inner:
    value: torch.Tensor

    def to(self, device):
        return to_device(self, device)


@dataclass(frozen=True)
class Outer:
    value: torch.Tensor
    inner: Inner | None = None


def test_a_record_moves_as_a_whole():
    value = torch.zeros(2)
    there = to_device(Outer(value, Inner(value)), "meta")
    assert there.value.device.type == there.inner.value.device.type == "meta"
    assert to_device(Outer(value), "meta").inner is None


@pytest.mark.parametrize(("target", "ahead"), [("cuda", True), ("cpu", False)])
def test_only_copies_to_cuda_are_not_waited_for(target, ahead, monkeypatch):
    seen = []
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, _, *, non_blocking: seen.append(non_blocking) or self
    )
    to_device(Inner(torch.zeros(2)), target)
    assert seen == [ahead]


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
