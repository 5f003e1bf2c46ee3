import pytest
import torch

from humr import notebooks, ranks
from humr.config import Training
from humr.devices import pick_device, unrounded


@pytest.mark.parametrize(
    ("chosen", "there", "expected"),
    [("", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", False, "cuda")],
)
def test_one_choice_for_training_evaluation_and_records(monkeypatch, chosen, there, expected):
    monkeypatch.setenv("HUMR_DEVICE", chosen)
    monkeypatch.setenv("HUMR_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device() == torch.device(expected)
    kept, plain = {}, ranks.Fabric(accelerator="cpu")
    monkeypatch.setattr(ranks, "Fabric", lambda **options: kept.update(options) or plain)
    ranks.make_fabric(Training())
    assert kept["accelerator"] == expected
    assert notebooks.start("06_metrics", "smoke", 0).device == torch.device(expected)


def test_other_devices_are_refused(monkeypatch):
    monkeypatch.setenv("HUMR_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match="HUMR_DEVICE must be cpu, cuda or auto; got 'cuda:1'"):
        pick_device()


def product(a, b):
    return a @ b


def test_products_are_not_rounded_under_autocast(device, generator):
    a, b = (torch.randn(8, 8, generator=generator).to(device) for _ in range(2))
    with torch.autocast(device.type, torch.bfloat16):
        assert product(a, b).dtype == torch.bfloat16
        assert torch.equal(unrounded(product)(a, b=b), unrounded(product)(a=a, b=b))
        found = unrounded(product)(a, b)
    assert torch.equal(found, a @ b)
