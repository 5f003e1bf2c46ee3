"""A house for the profile "paper-smoke": the repository beside tiny licensed files, in a folder.

Notebooks and commands run there as they do at home, in processes of their own. As the bodies have
far fewer vertices than the official ones and the files are far smaller, a `sitecustomize` tells
every Python that starts in the house.
"""

import json
import os
import shutil
import subprocess
import sys

import licensed_world
import lifting_formats
import numpy as np
import smpl_world
import torch

from humr.config import to_dict
from humr.experiments.profiles import profile
from humr.files import DATA, ROOT
from humr.launch import execution
from humr.licensed.datasets import SETS, TEST
from humr.licensed.people import sample_path, write_file
from humr.model import Humr
from humr.storage import save_model

COUNT = 2  # people in every data set of HuMR
SITE = f"""
import functools
import sys

if sys.argv[0] != "-c":
    from humr.bodies import body
    from humr.licensed import evaluation, inventory, training
    sizes = {{"vertices": {smpl_world.V}, "smplx_vertices": {smpl_world.X}}}
    body._SMPLX_VERTICES, body._SMPLX_FACE = {smpl_world.X}, {smpl_world.FACE}
    small = functools.partial(evaluation.load_evaluator, **sizes, face={smpl_world.FACE})
    training.load_evaluator = evaluation.load_evaluator = small
    inventory.inspect = lambda *args, **options: []
"""


def build(folder):
    """Write the house; returns its folder."""
    shutil.copytree(ROOT / "humr", folder / "humr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "data").mkdir()
    for path in DATA.iterdir():
        if path.name not in ("licensed", "world", "lifting", "features"):
            (folder / "data" / path.name).symlink_to(path)
    root = folder / "data" / "licensed"
    people = licensed_world.write_world(root, sorted(SETS), COUNT, width=48)
    for name, row in ((name, row) for name in TEST for row in range(COUNT)):
        values = licensed_world.samples(people[name], row)
        write_file(sample_path(name, row, root=root), values)
    for name in TEST:
        hide_some(root / "annotations" / SETS[name].annotations)
    torch.manual_seed(0)
    like = profile("paper-smoke").run
    save_model(root / "ckpt/humr", Humr(like.model), {"system": "paper", "run": to_dict(like)})
    smpl_world.write(root)
    lifting_formats.write_lifting_world(root)
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


def hide_some(path):
    """Make the detector unsure of every third joint, and all masks good."""
    arrays = dict(np.load(path))
    arrays["vitpose"][:, ::3, 2] = 0.3
    if "valid_emdb_mask" in arrays:
        arrays["valid_emdb_mask"][:] = 1
    np.savez(path, **arrays)


def run(folder, *arguments):
    """Run a module of humr in the house; returns the finished process."""
    settings = {"HUMR_WORKERS": "0", "HUMR_THREADS": "1", "TQDM_DISABLE": "1"}
    settings |= {"HUMR_PROFILE": "paper-smoke", "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def execute(folder, number):
    """Run a notebook in the house, which must succeed; returns its cells."""
    output = folder / "out" / f"{number}.ipynb"
    command = ("run", number, "--profile", "paper-smoke", "--output", output)
    done = run(folder, "humr.launch.execution", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text(encoding="utf-8"))["cells"]


def text_of(cells):
    """All text that cells put out; none of it may be a warning."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not any(output.get("name") == "stderr" for output in outputs)
    return execution.readable(outputs)


def agrees(cells, number):
    """Whether checked cells say what the committed notebook says; a line may be missing."""
    committed = json.loads(execution.find(number).read_text(encoding="utf-8"))["cells"]
    pairs = zip(_checked(cells), _checked(committed), strict=True)
    return all(set(here) <= set(there) for here, there in pairs)


def _checked(cells):
    """Lines of the cells whose output is the same in every profile."""
    chosen = [c for c in cells if "nbval-check-output" in c["metadata"].get("tags", [])]
    return [execution.readable(cell["outputs"]).splitlines() for cell in chosen]
