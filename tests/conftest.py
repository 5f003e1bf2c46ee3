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
