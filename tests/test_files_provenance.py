"""Tests of humr.files: a record names the commit, and whether the code differs from it."""

import subprocess

import pytest

from humr import files

NAMES = ("humr/code.py", "notebooks/00.ipynb", "figures/a.png", "data/results/rows.json")


def git(folder, *arguments):
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(files, "git_hash", files.git_hash.__wrapped__)  # asks every time
    git(tmp_path, "init", "-q")
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as committed")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    return tmp_path


def test_a_clean_commit_is_named(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert files.git_hash() == commit[:12]
    assert files.provenance()["git"] == commit[:12]


@pytest.mark.parametrize(("name", "mark"), list(zip(NAMES, ("+", "", "", "+"), strict=True)))
def test_a_changed_file_is_marked_unless_it_is_what_notebooks_write(repository, name, mark):
    (repository / name).write_text("changed")
    assert files.git_hash() == git(repository, "rev-parse", "HEAD")[:12] + mark


def test_files_that_git_does_not_know_do_not_count(repository):
    (repository / "humr" / "other.py").write_text("new")
    assert not files.git_hash().endswith("+")


def test_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path / "nowhere")
    assert files.git_hash.__wrapped__() == "unknown"
