"""Tests of humr.files: whole, or as before."""

import hashlib
from pathlib import Path

import pytest

from humr.files import digest, write_bytes, write_text


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
