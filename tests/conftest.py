"""Fixtures shared by all tests: seeded generators, one intra-op thread, and the device option."""

import numpy as np
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device that tensor tests run on")


def pytest_configure(config):
    torch.set_num_threads(1)


@pytest.fixture
def device(request) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def records(generator):
    """Sixteen made-up records with plausible geometry: people of T-pose-like noise in a box."""
    return fake_records(16, generator)


def fake_records(count: int, generator: torch.Generator, *, features: int = 2016):
    from humr.datasets import Records, pack_mask

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    rotvec = 0.3 * normal(count, 22, 3)
    rotvec[:, 0] = torch.tensor([torch.pi, 0, 0]) + 0.1 * normal(count, 3)
    disc = (torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 112)] * 2, indexing="ij"))
            .norm(dim=0) < 0.7).expand(count, 112, 112)  # fmt: skip
    box = torch.cat([uniform(280, 360, count, 1), uniform(220, 260, count, 1),
                     uniform(200, 300, count, 1)], -1)  # fmt: skip
    cells = torch.randint(0, 64 * 64, (count, 64, 17), generator=generator).to(torch.int16)
    keypoints = box[:, None, :2] + 0.3 * box[:, None, 2:] * normal(count, 17, 2).clamp(-1.5, 1.5)
    return Records(
        rotvec=rotvec,
        betas=normal(count, 11),
        translation=torch.cat([0.1 * normal(count, 2), uniform(4, 6, count, 1)], -1),
        focal=uniform(600, 900, count),
        image_size=torch.tensor([640.0, 480.0]).expand(count, 2),
        box=box,
        truncated=torch.zeros(count, dtype=torch.bool),
        template=torch.zeros(count, dtype=torch.uint8),
        window=torch.cat([box, 0.1 * normal(count, 1)], -1),
        keypoints=keypoints,
        confidence=uniform(0.2, 1, count, 17),
        peak=uniform(0.2, 0.9, count, 17),
        flag=torch.ones(count),
        world_landmarks=0.4 * normal(count, 33, 3),
        cells=cells,
        density=uniform(0, 1, count, 64, 17).half(),
        moments=torch.cat(
            [uniform(10, 50, count, 17, 2), torch.tensor([9.0, 3.0, 4.0]).expand(count, 17, 3)], -1
        ),
        features=normal(count, features).half(),
        mask=pack_mask(disc),
        true_keypoints=keypoints.clone(),
        visibility=torch.randint(0, 4, (count, 17), generator=generator).to(torch.uint8),
        person=pack_mask(disc),
        occluder=pack_mask(torch.zeros_like(disc)),
    )
