"""Tests of humr.files: whole, or as before."""

import hashlib
import os
import subprocess
import sys
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


def dead_process():
    return subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip


def test_what_killed_processes_left_goes_at_the_next_start(tmp_path):
    dead, mine = dead_process(), files._MACHINE
    kept = [f"b.bin.{mine}.{os.getpid()}.part", f"b.bin.{mine}.1.part", "b.part", "c.1.x.part"]
    kept += [
        f"a.bin.elsewhere.{dead}.part",
        f"a.bin.{mine}.x.part",
        f"a.bin.{mine}.0{'9' * 9}.txt",
    ]
    gone = [f"a.bin.{mine}.{dead}.part", f"other[1].json.{mine}.{dead}.part"]
    gone += [f"a.{mine}.{'9' * 30}.part"]
    for name in kept + gone:
        (tmp_path / name).write_bytes(b"half")
    write_bytes(tmp_path / "a.bin", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.bin", *kept])


def test_a_killed_process_leaves_nothing_for_long(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from humr import files\n"
        "with files.in_place_of(Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.bin"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert [each.suffix for each in tmp_path.iterdir()] == [".part"]
    write_bytes(path, b"whole")
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1', "[1, 2]", "null", "3", '"a"', "\x00", "[" * 100_000, "é\ud800"]
)
def test_broken_json_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-16" if "é" in text else "utf-8", "surrogatepass"))
    with pytest.raises(files.BrokenFile, match=r"^[^\n]*a\.json cannot be read[^\n]*\. Make it!$"):
        files.read_json(path, "Make it!")
