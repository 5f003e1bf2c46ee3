"""The front door: set-up that survives interruption, runs that are whole or absent."""

import json
import runpy
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from humr import __main__
from humr.files import NOTEBOOKS, ROOT
from humr.launch import environment, execution, notebooks

PARAMETERS = "profile: str = 'laptop'  # which\nseed: int = 0  # seed\nn: int = 1  # knob"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A house of its own with one notebook, 03_sums."""
    for module, names in {
        execution: ("NOTEBOOKS", "RUNS", "FIGURES"),
        notebooks: ("NOTEBOOKS", "RUNS"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, tmp_path / name.lower())
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks/03_sums.ipynb", ["print('sum', n + 1)"])
    return tmp_path


def write(path, sources):
    cells = [new_markdown_cell("# 03 · Sums?"), new_code_cell(PARAMETERS)]
    cells[1].metadata["tags"] = ["parameters"]
    cells += [new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(new_notebook(cells=cells), path)


def texts(path):
    cells = json.loads(path.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


# The environment


@pytest.fixture
def venv(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv/humr-stamp")
    return tmp_path / ".venv"


def test_old_python_is_told_what_is_needed(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        runpy.run_path(str(ROOT / "humr/__main__.py"), run_name="__main__")


def test_a_complete_environment_is_taken_as_it_is(venv, monkeypatch):
    monkeypatch.setattr(environment, "missing", lambda: ["torch"])
    environment.venv_python().parent.mkdir(parents=True)
    environment.venv_python().touch()
    environment.STAMP.write_text(environment.fingerprint())
    monkeypatch.setattr(environment, "make", lambda: pytest.fail("made again"))
    assert environment.ensure() == str(environment.venv_python())


def test_an_interpreter_with_everything_is_used(venv, monkeypatch):
    monkeypatch.setattr(environment, "missing", list)
    assert environment.ensure() == sys.executable
    assert not venv.exists()


def test_changed_constraints_make_the_environment_stale(venv, tmp_path, monkeypatch):
    environment.venv_python().parent.mkdir(parents=True)
    environment.venv_python().touch()
    environment.STAMP.write_text(environment.fingerprint())
    assert environment.stamped()
    other = tmp_path / "constraints.txt"
    other.write_text("torch==1.0\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", other)
    assert not environment.stamped()


def test_a_half_made_environment_is_removed(venv):
    venv.mkdir()
    environment.STAMP.write_text("installing")
    environment.clear_broken()
    assert not venv.exists()


def test_an_environment_without_python_is_removed(venv):
    venv.mkdir()
    (venv / "pyvenv.cfg").touch()
    environment.clear_broken()
    assert not venv.exists()


def test_a_folder_that_is_no_environment_is_left_alone(venv):
    venv.mkdir()
    (venv / "letter.txt").write_text("dear")
    with pytest.raises(environment.SetupError, match="not a virtual environment"):
        environment.clear_broken()
    assert (venv / "letter.txt").read_text() == "dear"


def test_pip_puts_itself_into_an_environment_without_it(venv, monkeypatch):
    """A Python without ensurepip and virtualenv, but with pip."""
    known, ran = {"pip"}, []
    monkeypatch.setattr(
        environment.importlib.util, "find_spec", lambda name: name if name in known else None
    )
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command[2:]))
    monkeypatch.setattr(environment, "works", lambda: True)
    environment.create()
    assert ran[0] == ["venv", "--without-pip", venv]
    assert ran[1] == ["pip", "--python", environment.venv_python(), "install", "-q", "pip"]


def test_missing_ensurepip_gives_the_apt_line(venv, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(environment.SetupError, match=r"sudo apt install python3\.\d+-venv"):
        environment.create()


def test_a_failed_installation_is_one_message(venv, monkeypatch):
    ran = []

    def fail(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(environment.SetupError, match=r"could not install torch: .*same command"):
        environment.install("torch", ["torch", "--index-url", "x"])
    assert ran[0][-5:] == ["-c", str(environment.CONSTRAINTS), "torch", "--index-url", "x"]


def test_the_lock_makes_a_second_process_wait(tmp_path, monkeypatch):
    code = (
        "import sys; from pathlib import Path; from humr.launch import environment\n"
        "with environment.locked(Path(sys.argv[1]), ''): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()  # the other process has the lock
        said: list[str] = []

        def say(text):
            said.append(text)
            other.stdin.close()  # only now it ends and gives the lock back

        monkeypatch.setattr(environment, "say", say)
        with environment.locked(tmp_path / "lock", "somebody is at it"):
            assert said == ["somebody is at it"]
            assert other.wait(60) == 0


@pytest.mark.parametrize(
    ("asked", "ceiling", "result"),
    [
        ("laptop", "smoke", "smoke"),
        ("smoke", "paper", "smoke"),
        ("gpu", "", "gpu"),
        ("paper", "gpu", "gpu"),
    ],
)
def test_the_variable_lowers_the_profile_and_never_raises_it(monkeypatch, asked, ceiling, result):
    monkeypatch.setenv("HUMR_PROFILE", ceiling)
    assert environment.lowered(asked) == result


@pytest.mark.parametrize(("asked", "ceiling"), [("huge", ""), ("laptop", "tiny")])
def test_unknown_profiles_are_refused(monkeypatch, asked, ceiling):
    monkeypatch.setenv("HUMR_PROFILE", ceiling)
    with pytest.raises(ValueError, match="profile must be one of smoke, paper-smoke, laptop"):
        environment.lowered(asked)


# The command line


@pytest.fixture
def calls(monkeypatch):
    """Record what would be run, with everything installed."""
    made = []
    monkeypatch.setattr(__main__, "call", lambda python, *words, **_: made.append(words) or 0)
    monkeypatch.setattr(__main__, "absent", lambda: False)
    monkeypatch.setattr(environment, "ensure", lambda: "python")
    return made


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["humr", *words])
    return __main__.main()


def test_commands_call_the_right_modules(monkeypatch, calls, tmp_path):
    assert run(monkeypatch, "train", "smoke", "--device", "cpu") == 0
    assert run(monkeypatch, "notebooks", "03") == 0
    picture = tmp_path / "me.jpg"
    assert run(monkeypatch, "photo", str(picture), "--out", "me", "--box", "1", "2", "3", "4") == 0
    assert calls[0] == ("humr.experiments.runs", "train", "smoke", "--device", "cpu")
    assert calls[1] == ("humr.launch.execution", "refresh", "03")
    assert calls[2][:3] == ("humr.launch.execution", "photo", picture)
    assert calls[2][-5:] == ("--box", 1.0, 2.0, 3.0, 4.0)


def test_the_detector_is_fetched_by_the_interpreter_that_has_pip(monkeypatch):
    """Nothing is downloaded: the files are here, but this process believes that they are not."""
    if __main__.absent():
        pytest.skip("the detector's files are not here")
    monkeypatch.setattr(__main__, "absent", lambda: True)
    assert __main__.fetch(sys.executable) == 0


def test_test_runs_all_stages_and_reports_the_failed_one(monkeypatch, calls, capsys):
    monkeypatch.setattr(
        __main__, "call", lambda python, *words, **_: calls.append(words) or words[0] == "pyright"
    )
    assert run(monkeypatch, "test") == 1
    assert [words[0] for words in calls] == ["ruff", "ruff", "pyright", "pytest"]
    report = capsys.readouterr().out
    assert "types   FAILED" in report
    assert "tests   passed" in report


def test_test_hands_arguments_to_pytest(monkeypatch, calls):
    assert run(monkeypatch, "test", "-k", "flows", "tests/test_flows.py") == 0
    assert calls == [("pytest", "-k", "flows", "tests/test_flows.py")]


def test_data_samples_hands_arguments_on_in_their_order(monkeypatch, calls):
    words = ("static-gym", "--batch", "8", "agora-body", "--without-masks")
    assert run(monkeypatch, "data", "samples", *words) == 0
    assert calls == [("humr.licensed.vitpose", *words)]
    with pytest.raises(SystemExit):
        run(monkeypatch, "data", "status", "static-gym")


def test_the_real_clip_is_fetched_when_it_is_named(monkeypatch, calls):
    assert run(monkeypatch, "data", "fetch", "clip") == 0
    assert calls == [("humr.experiments.clip", "fetch")]
    with pytest.raises(SystemExit):
        run(monkeypatch, "data", "fetch", "film")
    assert run(monkeypatch, "data", "fetch") == 0
    assert len(calls) == 1


def test_refinement_has_a_command(monkeypatch, calls):
    assert run(monkeypatch, "refine", "fit") == 0
    assert calls == [("humr.experiments.refinement", "fit")]


def test_an_unknown_notebook_is_one_clear_line(monkeypatch, calls, capsys):
    assert run(monkeypatch, "reproduce", "--only", "98") == 1
    assert "no notebook with number 98; there are:" in capsys.readouterr().out
    assert calls == []


@pytest.mark.parametrize(
    "words", [[], ["fly"], ["reproduce", "--profile", "huge"], ["photo", "a.jpg"]]
)
def test_wrong_command_lines_are_refused(monkeypatch, calls, words):
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert calls == []


def test_a_failed_set_up_is_a_message(monkeypatch, calls, capsys):
    def fail():
        raise environment.SetupError("no network")

    monkeypatch.setattr(environment, "ensure", fail)
    assert run(monkeypatch, "reproduce") == 1
    assert "humr: no network" in capsys.readouterr().out


def test_plain_help_works_before_anything_is_installed():
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, '.'); "]
    command[-1] += "sys.argv[1:] = ['--help']; import runpy; runpy.run_module('humr')"
    command[-1] = command[-1].replace("run_module('humr')", "run_module('humr', None, '__main__')")
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "reproduce" in result.stdout


# Running notebooks


def test_a_run_appears_whole_and_with_its_parameters(house):
    output = house / "runs/03.ipynb"
    execution.execute(house / "notebooks/03_sums.ipynb", output, {"n": 4}, bar=False)
    assert texts(output)[-1]["text"] == ["sum 5\n"]
    assert [path.name for path in output.parent.iterdir()] == ["03.ipynb"]


def test_a_failed_run_leaves_the_old_result_and_a_copy_with_the_traceback(house):
    write(house / "notebooks/03_sums.ipynb", ["raise ValueError('no person found')"])
    output = house / "runs/03.ipynb"
    output.parent.mkdir()
    output.write_text("old")
    with pytest.raises(execution.NotebookError, match=r"(?s)no person found.*03\.failed\.ipynb"):
        execution.execute(house / "notebooks/03_sums.ipynb", output, {}, bar=False)
    assert output.read_text() == "old"
    assert sorted(path.name for path in output.parent.iterdir()) == ["03.failed.ipynb", "03.ipynb"]


def test_an_unknown_parameter_is_refused_with_those_there_are(house, tmp_path):
    with pytest.raises(execution.NotebookError, match=r"03_sums has no parameter m; it has .*n"):
        execution.execute(house / "notebooks/03_sums.ipynb", tmp_path / "a.ipynb", {"m": 4})
    assert not (tmp_path / "a.ipynb").exists()


def test_refresh_writes_back_and_is_repeatable(house):
    source = house / "notebooks/03_sums.ipynb"
    write(source, ["print('sum', n + 1)", "1 + 1"])
    execution.refresh(source)
    first = source.read_bytes()
    assert [cell.get("execution_count") for cell in json.loads(first)["cells"]] == [None, 1, 2, 3]
    assert execution.faults(nbformat.reads(first.decode(), as_version=4)) == []
    execution.refresh(source)
    assert source.read_bytes() == first


def test_refresh_refuses_what_is_not_fit_and_changes_nothing(house):
    source = house / "notebooks/03_sums.ipynb"
    write(source, ["import sys; print('oh', file=sys.stderr); print('/home/me/x')"])
    before = source.read_bytes()
    with pytest.raises(execution.NotebookError, match="stderr; an absolute path"):
        execution.refresh(source)
    assert source.read_bytes() == before


def test_photo_leaves_nothing_behind_when_it_fails(house):
    source = house / "notebooks/00_your_photo.ipynb"
    write(source, ["raise ValueError('unreadable image')"])
    notebook = json.loads(source.read_text())
    notebook["cells"][1]["source"] = "image = ''\nout = ''\nbox = []\nhypotheses = 10"
    source.write_text(json.dumps(notebook))
    (house / "me.jpg").touch()
    with pytest.raises(execution.NotebookError, match="unreadable image"):
        execution.photo(house / "me.jpg", house / "me", [], 10)
    with pytest.raises(execution.NotebookError, match="no such image"):
        execution.photo(house / "you.jpg", house / "me", [], 10)
    assert not (house / "me").exists()


def test_faults_are_named():
    wrong = execution.faults(new_notebook(cells=[new_code_cell(execution_count=2)]))
    assert any("execution counts" in text for text in wrong)
    assert any("tagged parameters" in text for text in wrong)


def test_the_code_hash_sees_code_only(house):
    path = house / "notebooks/03_sums.ipynb"
    before = execution.code_hash(path)
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = ["# other words"]
    content["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "9"}]
    path.write_text(json.dumps(content))
    assert execution.code_hash(path) == before
    content["cells"][2]["source"] = ["print(2)"]
    path.write_text(json.dumps(content))
    assert execution.code_hash(path) != before


def test_dependencies_are_found_through_other_modules(house):
    path = house / "notebooks/03_sums.ipynb"
    write(path, ["from humr import metrics\nfrom humr.launch import notebooks"])
    found = execution.modules(path)
    assert {"humr/metrics.py", "humr/geometry.py", "humr/losses.py"} <= set(found)
    assert "humr/launch/notebooks.py" not in found


def test_figures_of_a_notebook_replace_its_older_ones(house):
    figures, made = house / "figures", house / "made"
    figures.mkdir()
    made.mkdir()

    def put(folder, name, notebook, time, git="a"):
        (folder / f"{name}.png").write_text("same")
        record = {"notebook": notebook, "time": time, "git": git}
        (folder / f"{name}.json").write_text(json.dumps(record))

    put(figures, "gone", "03_sums", 1)
    put(figures, "other", "04_else", 1)
    put(figures, "kept", "03_sums", 1)
    put(figures, "cleaner", "03_sums", 1, git="a+")
    put(made, "cleaner", "03_sums", 2, git="b")
    put(made, "kept", "03_sums", 2, git="b")
    put(made, "new", "03_sums", 2)
    execution.replace_figures("03_sums", made)
    assert sorted(path.stem for path in figures.glob("*.png")) == [
        "cleaner", "kept", "new", "other"
    ]  # fmt: skip
    assert json.loads((figures / "kept.json").read_text())["time"] == 1  # nothing else changed
    assert json.loads((figures / "cleaner.json").read_text())["git"] == "b"


# What the cells call


def test_start_makes_a_repeatable_run(house, monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setenv("HUMR_PROFILE", "smoke")
    one, two = (notebooks.start("03_sums", "laptop", 7) for _ in range(2))
    assert "profile smoke (HUMR_PROFILE) instead of laptop" in capsys.readouterr().out
    assert torch.equal(
        torch.randn(3, generator=one.generator), torch.randn(3, generator=two.generator)
    )
    assert one.rng.random() == two.rng.random()
    with pytest.raises(ValueError, match="file name"):
        notebooks.start("04_products", "laptop", 0)


def context(profile):
    return notebooks.Context(
        name="03_sums",
        profile=profile,
        seed=0,
        device=torch.device("cpu"),
        generator=torch.Generator(),
        rng=notebooks.np.random.default_rng(0),
        started=0.0,
    )


def test_pick_takes_the_next_lower_profile():
    assert context("gpu").pick(smoke=1, laptop=2) == 2
    assert context("smoke").pick(smoke=1, laptop=2) == 1
    with pytest.raises(ValueError, match="no value for profile 'smoke'"):
        context("smoke").pick(laptop=2)
    with pytest.raises(ValueError, match="got tiny"):
        context("smoke").pick(tiny=2)


def test_savefig_records_the_origin_and_repeats_byte_for_byte(house, monkeypatch):
    monkeypatch.delenv("HUMR_FIGURES", raising=False)
    pictures = []
    for _ in range(2):
        fig, ax = notebooks.plt.subplots(figsize=(2, 1))
        ax.plot([0, 1])
        context("smoke").savefig(fig, "line")
        notebooks.plt.close(fig)
        pictures.append((house / "runs/smoke/figures/line.png").read_bytes())
    assert pictures[0] == pictures[1]
    origin = json.loads((house / "runs/smoke/figures/line.json").read_text())
    assert origin["code"] == execution.code_hash(house / "notebooks/03_sums.ipynb")
    assert {"notebook", "git", "profile", "seed", "device", "time"} <= set(origin)


# The graph


@pytest.mark.skipif(not list(NOTEBOOKS.glob("*.ipynb")), reason="no notebooks yet")
def test_the_graph_has_every_notebook_and_starts_with_the_photo(tmp_path):
    for name in ("Snakefile", "humr", "profiles", "notebooks"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    command = ["snakemake", "--dry-run", "--cores", "2", "--config", "profile=smoke"]
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment.variables(sys.executable) | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    plan = result.stdout + result.stderr
    names = [path.stem for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]
    assert all(f"runs/smoke/notebooks/{name}.ipynb" in plan for name in names)
