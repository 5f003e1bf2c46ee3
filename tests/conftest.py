"""Shared by all tests: one intra-op thread, no windows, seeded generators, small networks.

Modules of humr are imported inside functions: the check of array shapes is installed later.
"""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device that tensor tests run on")


def pytest_configure(config):
    torch.set_num_threads(1)
    mpl.use("agg")


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
def ax():
    """Axes of a figure that is closed afterwards."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture(scope="module")
def body():
    """The small open body."""
    from humr.bodies import load_body

    return load_body("small")


@pytest.fixture
def records(generator):
    """Sixteen made-up records with plausible geometry: people of T-pose-like noise in a box."""
    return fake_records(16, generator)


@pytest.fixture
def batch(records, generator):
    """All records, with six samples of every heatmap."""
    return records.batch(samples=6, generator=generator)


@pytest.fixture(scope="session")
def untrained():
    """A function that makes small networks, always with the same weights."""
    from humr.config import Model
    from humr.mesh import Humr

    small = Model(features=2016, feature_width=16, pose_hidden=16, pose_width=8, window_info=True,
                  blocks=1, hidden=16, head_hidden=16, normalise=True)  # fmt: skip

    def make(**changes):
        torch.manual_seed(0)
        return Humr(replace(small, **changes)).eval()

    return make


@pytest.fixture(scope="module")
def model(untrained):
    """A network without statistics of any data."""
    return untrained()


@pytest.fixture
def fitted(untrained, records):
    """A network with the statistics of the records, for one test."""
    from humr.datasets import Pool

    model = untrained(blocks=2, hidden=24)
    model.fit_statistics(Pool.of({"labelled": records}))
    return model


@pytest.fixture(scope="module")
def upright(untrained):
    """A network whose people stand upright, more or less."""
    model = untrained()
    model.flow.standardize(torch.eye(3)[:2].flatten().repeat(22) + 0.1 * torch.randn(50, 132))
    return model


@pytest.fixture(scope="module")
def case(upright):
    """A look at the left wrist of one test image."""
    from humr import cases
    from humr.profiles import profile
    from humr.skeletons import COCO17

    world, wrist = profile("smoke").run.world, COCO17.index("left_wrist")
    generator = torch.Generator().manual_seed(0)
    return cases.look(world, "test", 3, upright, joint=wrist, hypotheses=6, generator=generator)


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
