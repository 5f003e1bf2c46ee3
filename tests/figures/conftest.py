import pytest
import torch


@pytest.fixture
def around(example):
    """Twenty points in a circle about the middle of the box, a tenth of its side away."""
    angle = torch.linspace(0, 6, 20)
    x, y, side = example.posterior.batch.box[0]
    return torch.stack([x + 0.1 * side * angle.cos(), y + 0.1 * side * angle.sin()], -1)
