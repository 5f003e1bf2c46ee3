"""Tests of humr.licensed.inventory: official networks are told from all else, and lazily."""

import numpy as np
import official_layouts as layouts
import pytest
import torch
from torch.utils.serialization import config

from humr.licensed import checkpoints, vitpose
from humr.licensed.datasets import VITPOSE
from humr.licensed.inventory import FILES, checkpoint

OPTIONS = {file.paths[0]: file.check.keywords for file in FILES if "weights" in file.group}
PATHS = (checkpoints.BACKBONE, "ckpt/humr_best.ckpt", f"ckpt/{VITPOSE[0]}", "ckpt/model.pt")
BACKBONE, HUMR, VITPOSE_H, LIFTING_FLOW = (
    {"weights": "state_dict", "known": [], "bare": False} | OPTIONS[path] for path in PATHS
)
NETWORKS = {
    "backbone": (BACKBONE, layouts.hrnet_shapes()),
    "humr": (HUMR, layouts.humr_shapes()),
    "vitpose": (VITPOSE_H, layouts.vitpose_shapes()),
    "lifting": (LIFTING_FLOW, layouts.lifting_shapes()),
}


def write(path, network, *, beside=None, **changes):
    """A file with the tensors that are looked at, one stored number each; None removes one."""
    state = {key: torch.ones(1).expand(shape) for key, shape in network["shapes"].items()}
    state = {k: v for k, v in (state | changes).items() if v is not None}
    torch.save({network["weights"]: state, **(beside or {})}, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_looked_at_are_tensors_of_the_official_networks(name):
    network, shapes = NETWORKS[name]
    assert network["shapes"].items() <= shapes.items()
    assert len(network["shapes"]) >= 4


def test_keys_beside_the_weights_are_those_that_readers_take():
    assert {HUMR["weights"], *HUMR["known"]} == checkpoints.LIGHTNING
    assert {VITPOSE_H["weights"], *VITPOSE_H["known"]} == vitpose.KNOWN


@pytest.mark.parametrize("name", NETWORKS)
def test_good_files(tmp_path, name):
    network, _ = NETWORKS[name]
    beside = dict.fromkeys(set(network["known"]) - {network["weights"]}, 1)
    path = write(tmp_path / "x.pth", network, beside=beside)
    assert checkpoint(path, **network) == f"0.0 MB, {len(network['shapes'])} tensors"
    state = torch.load(path)[network["weights"]]
    torch.save(state, path)
    if network["bare"]:
        assert checkpoint(path, **network).endswith(" tensors")
    else:
        with pytest.raises(ValueError, match=f"expected '{network['weights']}'"):
            checkpoint(path, **network)


def test_files_of_old_versions_are_read_too(tmp_path):
    write(tmp_path / "new.pth", LIFTING_FLOW)
    old = torch.load(tmp_path / "new.pth")
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert checkpoint(tmp_path / "old.pth", **LIFTING_FLOW) == "0.0 MB, 4 tensors"
    whole = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=r"cannot be read as a file of torch.*partial download"):
        checkpoint(tmp_path / "old.pth", **LIFTING_FLOW)


def test_files_are_mapped_where_that_is_possible(tmp_path, monkeypatch):
    path, load, seen = write(tmp_path / "x.pt", LIFTING_FLOW), torch.load, []

    def noted(*args, **options):
        seen.append(config.load.mmap)
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", noted)
    checkpoint(path, **LIFTING_FLOW)
    torch.save(load(path), path, _use_new_zipfile_serialization=False)
    checkpoint(path, **LIFTING_FLOW)
    assert seen == [True, False]
    assert config.load.mmap is False


def test_wrong_files(tmp_path):
    path = tmp_path / "humr_best.ckpt"
    path.write_bytes(bytes(2**20))
    with pytest.raises(ValueError, match=r"humr_best.ckpt is no file of torch: .* got b'.x00"):
        checkpoint(path, **HUMR)
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"got b'<htm'. Usual cause: a page of a web site"):
        checkpoint(path, **HUMR)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"got b''. Usual cause"):
        checkpoint(path, **HUMR)
    write(path, HUMR)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as a file of torch"):
        checkpoint(path, **HUMR)


def test_other_networks(tmp_path):
    path = tmp_path / "humr_best.ckpt"
    write(path, HUMR, **{"model.head.fc1.weight": torch.ones(1024, 976)})
    with pytest.raises(ValueError, match=r"fc1.weight must have shape \(1024, 993\); got .*976"):
        checkpoint(path, **HUMR)
    write(path, HUMR, **{"model.joints_enc.0.weight": None})
    with pytest.raises(ValueError, match=r"lacks model.joints_enc.0.weight; it has model"):
        checkpoint(path, **HUMR)
    write(path, HUMR, beside={"teacher": 1})
    with pytest.raises(ValueError, match=r"got .*teacher.* a checkpoint of another project"):
        checkpoint(path, **HUMR)
    write(path, HUMR, beside={"callbacks": np.float64})
    with pytest.raises(ValueError, match="the file is refused"):
        checkpoint(path, **HUMR)
    write(path, HUMR | {"weights": "net"})
    with pytest.raises(ValueError, match="expected 'state_dict'"):
        checkpoint(path, **HUMR)


def test_holes(tmp_path):
    """Some programs fetch parts of a file at once: its end may be there before its middle."""
    path = tmp_path / "humr_best.ckpt"
    write(path, HUMR, **{"model.head.fc1.weight": torch.zeros(1024, 993)})
    with pytest.raises(ValueError, match=r"fc1.weight must hold numbers; its first are all 0"):
        checkpoint(path, **HUMR)
