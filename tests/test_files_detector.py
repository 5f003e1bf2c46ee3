"""Tests of humr.files: the two fetched files of the detector."""

import subprocess
import zipfile
from hashlib import sha256

import pytest

from humr import files

CONTENT = {"one": b"first network", "two": b"second network"}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel with two files, and the tables that describe it."""
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"inside/{name}.tflite", content)
    table = {
        name: files.DetectorFile(f"inside/{name}.tflite", len(data), sha256(data).hexdigest())
        for name, data in CONTENT.items()
    }
    monkeypatch.setattr(files, "DETECTOR_FILES", table)
    monkeypatch.setattr(files, "DETECTOR_WHEEL_SHA256", files.digest(path))
    return path


def states(folder):
    return list(files.detector_states(folder=folder).values())


def refuse(*_, **__):
    raise AssertionError("the network must not be used")


def test_fetch_brings_checked_files_and_nothing_else(wheel, tmp_path):
    folder = tmp_path / "detector"
    assert states(folder) == ["missing", "missing"]
    paths = files.fetch_detector(folder=folder, wheel=wheel)
    assert {path.read_bytes() for path in paths} == set(CONTENT.values())
    assert states(folder) == ["ok", "ok"]
    assert sorted(folder.iterdir()) == sorted(paths)


def test_fetch_again_needs_no_network(wheel, tmp_path, monkeypatch):
    files.fetch_detector(folder=tmp_path, wheel=wheel)
    monkeypatch.setattr(files, "_download_wheel", refuse)
    assert len(files.fetch_detector(folder=tmp_path)) == 2


def test_fetch_repairs_a_changed_file(wheel, tmp_path):
    path = files.fetch_detector(folder=tmp_path, wheel=wheel)[0]
    path.write_bytes(b"broken")
    assert states(tmp_path) == ["wrong hash", "ok"]
    files.fetch_detector(folder=tmp_path, wheel=wheel)
    assert states(tmp_path) == ["ok", "ok"]


def test_wrong_wheel_writes_nothing(wheel, tmp_path):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    folder = tmp_path / "detector"
    with pytest.raises(
        ValueError, match=r"wrong SHA-256: expected [0-9a-f]{64}, got [0-9a-f]{64}"
    ):
        files.fetch_detector(folder=folder, wheel=wheel)
    assert not folder.exists()


def test_wrong_member_leaves_no_part(wheel, tmp_path, monkeypatch):
    wrong = files.DetectorFile("inside/one.tflite", 1, "0" * 64)
    monkeypatch.setattr(files, "DETECTOR_FILES", {"one": wrong})
    folder = tmp_path / "detector"
    with pytest.raises(ValueError, match="wrong SHA-256"):
        files.fetch_detector(folder=folder, wheel=wheel)
    assert list(folder.iterdir()) == []


def test_find_says_how_to_get_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="python3 -m humr data fetch"):
        files.detector_file("pose_landmark", folder=tmp_path)


def test_find_refuses_a_changed_file(wheel, tmp_path):
    files.fetch_detector(folder=tmp_path, wheel=wheel)[0].write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"(?s)wrong SHA-256.*python3 -m humr data fetch"):
        files.detector_file("one", folder=tmp_path)


def test_find_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="unknown network 'hands'; known are pose_landmark"):
        files.detector_file("hands")


@pytest.mark.usefixtures("wheel")
def test_failed_download_says_why(tmp_path, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "no route to host")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="no route to host"):
        files.fetch_detector(folder=tmp_path / "detector")


def test_download_asks_for_the_wheel_alone(wheel, tmp_path, monkeypatch):
    asked = []

    def copy(command, **_):
        asked.extend(command)
        target = next(part for part in command if part.startswith("--dest=")).removeprefix(
            "--dest="
        )
        (tmp_path / target / "tiny.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", copy)
    files.fetch_detector(folder=tmp_path / "detector")
    assert {"--no-deps", "--only-binary=:all:", files.DETECTOR_WHEEL} <= set(asked)
    assert states(tmp_path / "detector") == ["ok", "ok"]
