"""Tests of humr.storage: checkpoints."""

import json

import pytest
from torch import nn

from humr import storage


def test_wrong_or_missing_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint best\.safetensors"):
        storage.load_model(tmp_path / "best", lambda _: nn.Linear(1, 1))
    storage.save_model(tmp_path / "best", nn.Linear(1, 1), {})
    with pytest.raises(ValueError, match="does not fit its description"):
        storage.load_model(tmp_path / "best", lambda _: nn.Linear(2, 1))
    assert "git" in json.loads((tmp_path / "best.json").read_text())
