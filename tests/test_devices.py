import torch

from humr.devices import unrounded


def product(a, b):
    return a @ b


def test_products_are_not_rounded_under_autocast(device, generator):
    a, b = (torch.randn(8, 8, generator=generator).to(device) for _ in range(2))
    with torch.autocast(device.type, torch.bfloat16):
        assert product(a, b).dtype == torch.bfloat16
        assert torch.equal(unrounded(product)(a, b=b), unrounded(product)(a=a, b=b))
        found = unrounded(product)(a, b)
    assert torch.equal(found, a @ b)
