"""pyproject.toml, constraints.txt, environment.yml and the notebooks tell one story."""

import re
import tomllib

import yaml

from humr.files import NOTEBOOKS, ROOT
from humr.launch import environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = (ROOT / "constraints.txt").read_text().split()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned():
    return {normal(line.split("==")[0]): line.split("==")[1] for line in PINS}


def test_each_constraint_is_one_exact_version():
    """No local tags, ranges, paths or addresses."""
    assert [line for line in PINS if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_every_dependency_is_pinned_once():
    names = [normal(line.split("==")[0]) for line in PINS]
    assert len(names) == len(set(names))
    assert {normal(name) for name in environment.requirements()} <= set(names)


def test_the_tools_that_install_are_not_pinned():
    assert not {"pip", "setuptools", "wheel", "humr"} & set(pinned())


def test_what_breaks_torch_is_absent():
    assert not {"torchvision", "timm", "lightning", "pytorch-lightning"} & set(pinned())


def test_exact_requirements_agree_with_the_constraints():
    exact = [line for line in PROJECT["project"]["dependencies"] if "==" in line]
    assert exact
    for line in exact:
        name, version = line.split("==")
        assert pinned()[normal(name)] == version


def test_conda_takes_the_same_packages_as_pip():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e ."]
    python = next(entry for entry in content["dependencies"] if "python=" in str(entry))
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert python == f"python={oldest}"


def test_all_places_name_the_same_oldest_python():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == oldest
    major, minor = oldest.split(".")
    assert f"sys.version_info < ({major}, {minor})" in (ROOT / "humr/__main__.py").read_text()


def test_no_package_index_and_no_installation_in_text_files():
    names = ["pyproject.toml", "constraints.txt", "environment.yml", "Snakefile", ".ci/run"]
    texts = [(ROOT / name).read_text() for name in names]
    texts += [path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")]
    for text in texts:
        assert not re.search(r"index-url|find-links|pypi\.|pip install", text)
