"""Tests of humr.licensed_paths."""

import pytest

from humr.licensed_paths import LICENSED, find, shown


def test_messages_name_the_path_in_data(tmp_path):
    assert shown(LICENSED / "h36m" / "x.h5") == "licensed/h36m/x.h5"
    assert shown(tmp_path / "h36m" / "x.h5") == "h36m/x.h5"


def test_the_first_file_that_is_there(tmp_path):
    (tmp_path / "b").touch()
    assert find(tmp_path, "a", "b") == tmp_path / "b"
    (tmp_path / "a").touch()
    assert find(tmp_path, "a", "b") == tmp_path / "a"


def test_a_missing_file_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"no file licensed/h36m/a or licensed/h36m/b\. It is licensed"
    ):
        find(LICENSED / "h36m", "a", "b")
