"""What names kept rows: every file that is at work while a model is evaluated, and no more."""

import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from humr import files, storage
from humr.config import Run, to_dict
from humr.experiments import runs, systems
from humr.experiments.profiles import profile
from humr.experiments.systems import SYSTEMS
from humr.files import ROOT
from humr.licensed import lifting
from humr.licensed.datasets import LiftingPaperRun, PaperRun
from humr.lifting.config import LiftingRun, ProposeRun
from humr.lifting.flow import LiftingFlow
from humr.lifting.propose import Propose
from tests.lifting.test_data import lifting_records


def at_work(work):
    """Files of humr of which a function was called meanwhile."""
    seen = set()

    def note(frame, event, _):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    inside = str(ROOT / "humr") + "/"
    return {path.removeprefix(f"{ROOT}/") for path in seen if path.startswith(inside)}


def counted(kind):
    return {*files.closure(SYSTEMS[kind].code), *SYSTEMS[kind].glue}


def test_files_that_evaluate_meshes(records, model, monkeypatch):
    monkeypatch.setattr(storage.Store, "generate", lambda *_, **__: None)
    monkeypatch.setattr(storage.Store, "load", lambda *_: records)
    config = profile("smoke").run.world
    found = at_work(lambda: SYSTEMS[Run].evaluate(model, {}, config, "test", hypotheses=3, seed=0))
    assert {"humr/evaluation.py", "humr/world/records.py", "humr/flows.py"} <= found
    assert found <= counted(Run)


@pytest.mark.parametrize("kind", [LiftingRun, ProposeRun, LiftingPaperRun])
def test_files_that_evaluate_lifting(kind, licensed, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(lifting, "ROOT", licensed)
    monkeypatch.setattr(storage, "DATA", tmp_path)
    if kind is not LiftingPaperRun:
        data = replace(lifting_records(4, generator), template=torch.zeros(4, dtype=torch.uint8))
        monkeypatch.setattr(storage.Store, "generate", lambda *_, **__: None)
        monkeypatch.setattr(storage.Store, "load", lambda *_: data)
    propose = kind is ProposeRun
    run = profile("smoke").propose if propose else profile("smoke").lifting
    model = Propose(run.model) if propose else LiftingFlow(run.model)
    about = {"system": SYSTEMS[kind].name, "run": to_dict(run)}
    world = kind().world

    def evaluate():
        SYSTEMS[kind].evaluate(model.eval(), about, world, "test", hypotheses=3, seed=0)

    evaluate()  # splits of licensed files are written the first time
    named = files.closure(["humr/licensed/lifting.py"])  # by `evaluated_on`
    assert at_work(evaluate) <= counted(kind) | (set(named) if kind is LiftingPaperRun else set())


@pytest.mark.parametrize("kind", SYSTEMS)
def test_every_system_counts_its_glue(kind):
    assert "humr/experiments/systems.py" in counted(kind)
    assert all((ROOT / path).is_file() for path in counted(kind))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the code that names are made of."""
    for kind in SYSTEMS:
        for path in counted(kind):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(systems, "ROOT", tmp_path)
    yield tmp_path
    systems._digests.cache_clear()


@pytest.mark.parametrize(
    ("kind", "path"),
    [(Run, "humr/geometry.py"), (Run, "humr/losses.py"), (Run, "humr/world/generate.py"),
     (PaperRun, "humr/licensed/readers.py"), (PaperRun, "humr/licensed/training.py"),
     (LiftingRun, "humr/skeletons.py"), (LiftingRun, "humr/lifting/world.py"),
     (ProposeRun, "humr/devices.py"), (ProposeRun, "humr/experiments/systems.py")],
)  # fmt: skip
def test_a_line_deep_below_changes_the_name_of_rows(kind, path, copy):
    def name():
        systems._digests.cache_clear()
        return systems.code_names(SYSTEMS[kind])

    before = name()
    assert name() == before
    text = (copy / path).read_text()
    (copy / path).write_text(text + "\nLINE = 1\n")
    assert name() != before
    (copy / path).write_text(text)
    assert name() == before


def test_kept_rows_are_named_by_weights_data_code_and_question(copy, tmp_path, monkeypatch):
    """As `evaluated` does; nothing is evaluated here."""
    asked = []

    def kept(stem, parts, make):
        asked.append(tuple(parts))
        return pd.DataFrame()

    monkeypatch.setattr(runs, "kept", kept)
    for name, content in (("one", b"weights"), ("other", b"other weights")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        (tmp_path / f"{name}.json").write_text('{"system": "humr"}')
    world = profile("smoke").run.world

    def names(weights="one", config=world, split="test", **options):
        systems._digests.cache_clear()
        runs.evaluated(tmp_path / weights, config, split, **{"hypotheses": 3, **options})
        return asked.pop()

    first = names()
    assert names() == first
    others = [names("other"), names(config=replace(world, seed=1)), names(split="validation"),
              names(hypotheses=4), names(seed=1), names(default_focal=True)]  # fmt: skip
    (copy / "humr/geometry.py").write_text("LINE = 1\n")
    others.append(names())
    assert len({first, *others}) == 8
