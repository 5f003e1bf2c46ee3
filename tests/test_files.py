"""Tests of humr.files: whole, or as before."""

import hashlib
from pathlib import Path

import pytest

from humr import files
from humr.files import DATA, ROOT, digest, shown, write_bytes, write_text


def test_contents_arrive_as_they_are(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "é\n\u2192")
    assert path.read_bytes() == "é\n\u2192".encode()
    write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert digest(path) == hashlib.sha256(b"\x00\xff").hexdigest()
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"before")

    def half(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"after and longer")
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


def test_paths_are_shown_from_data_or_the_project(tmp_path):
    assert shown(DATA / "licensed" / "a" / "b.npz") == "licensed/a/b.npz"
    assert shown(ROOT / "humr" / "x.pth") == "humr/x.pth"
    assert shown(tmp_path / "b.npz") == str(tmp_path / "b.npz")


def test_relative_paths_are_shown_by_what_they_mean(monkeypatch, tmp_path):
    inside = Path("data", "licensed", "b.npz")
    monkeypatch.chdir(ROOT)
    assert shown(inside) == "licensed/b.npz"
    assert shown(Path("data/../data/x.ckpt")) == "x.ckpt"
    monkeypatch.chdir(tmp_path)
    assert shown(inside) == str(inside)  # of another folder


def test_a_folder_of_data_may_be_a_link(monkeypatch, tmp_path):
    (tmp_path / "disk" / "ckpt").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "licensed").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    assert shown(tmp_path / "data/licensed/ckpt/x.ckpt") == "licensed/ckpt/x.ckpt"
