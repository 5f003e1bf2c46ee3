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


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _settings():
    """Whatever a test does to matplotlib's settings, a style of notebooks for example, ends."""
    with mpl.rc_context():
        yield


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
    from humr.bodies.body import load_body

    return load_body("small")


@pytest.fixture(scope="session")
def licensed(tmp_path_factory):
    """A tiny folder of licensed files for lifting, to read from."""
    from lifting_formats import write_lifting_world

    folder = tmp_path_factory.mktemp("licensed")
    write_lifting_world(folder)
    return folder


@pytest.fixture
def records(generator):
    """Sixteen made-up records with plausible geometry: people of T-pose-like noise in a box."""
    from humr.benchmarks import people

    return people.records(16, generator)


@pytest.fixture
def batch(records, generator):
    """All records, with six samples of every heatmap."""
    return records.batch(samples=6, generator=generator)


@pytest.fixture(scope="session")
def untrained():
    """A function that makes small networks, always with the same weights."""
    from humr.config import Model
    from humr.model import Humr

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
    from humr.world.records import Pool

    model = untrained(blocks=2, hidden=24)
    pool = Pool.of({"labelled": records})
    model.fit_statistics(pool.records.features, pool.labelled())
    return model


@pytest.fixture(scope="module")
def upright(untrained):
    """A network whose people stand upright, more or less."""
    model = untrained()
    model.flow.standardize(torch.eye(3)[:2].flatten().repeat(22) + 0.1 * torch.randn(50, 132))
    return model


@pytest.fixture(scope="module")
def example(upright):
    """The left wrist of one test image."""
    from humr.experiments.profiles import profile
    from humr.figures import gallery
    from humr.skeletons import COCO17

    world, wrist = profile("smoke").run.world, COCO17.index("left_wrist")
    generator = torch.Generator().manual_seed(0)
    return gallery.render_example(
        world, "test", 3, upright, joint=wrist, hypotheses=6, generator=generator
    )
