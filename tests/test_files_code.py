"""Tests of humr.files: which code a kept result depends on."""

import shutil

import pytest

from humr import files

CODE = {
    "humr/deep.py": "LEAST = 1\n",
    "humr/room/__init__.py": "",
    "humr/room/middle.py": "def f():\n    from humr.deep import LEAST\n    return LEAST\n",
    "humr/top.py": "import json\n\nfrom humr.room import middle\n",
    "humr/other.py": "import humr.top\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of humr."""
    for name, code in CODE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("package")
def test_imports_are_followed_through_other_files_and_into_functions():
    assert files.imported(CODE["humr/top.py"]) == {"humr/room/middle.py"}
    assert files.imported("from humr.deep import LEAST\nimport humr.other as o") == {
        "humr/deep.py", "humr/other.py",
    }  # fmt: skip
    assert files.closure(["humr/top.py"]) == ["humr/deep.py", "humr/room/middle.py", "humr/top.py"]


def test_the_digest_changes_with_a_line_deep_in_the_imports(package):
    before = files.code_digest("humr/top.py")
    (package / "humr" / "other.py").write_text("import humr.top  # changed, and nobody's import\n")
    assert files.code_digest("humr/top.py") == before
    (package / "humr" / "deep.py").write_text("LEAST = 2\n")
    assert files.code_digest("humr/top.py") != before


def test_rows_of_humr_depend_on_its_geometry(tmp_path, monkeypatch):
    shutil.copytree(files.ROOT / "humr", tmp_path / "humr")
    before = files.code_digest("humr/evaluation.py")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert files.code_digest("humr/evaluation.py") == before
    path = tmp_path / "humr" / "geometry.py"
    code = path.read_text(encoding="utf-8")
    changed = code.replace("clamp_min(0.01)", "clamp_min(0.02)")  # nearest depth that is projected
    assert changed != code
    path.write_text(changed, encoding="utf-8")
    assert files.code_digest("humr/evaluation.py") != before
