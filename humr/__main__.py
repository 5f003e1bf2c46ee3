"""The front door: ``python3 -m humr <command>`` needs nothing but Python 3.11 or newer.

The first command makes .venv and fetches the detector's files; every later one starts at once.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from humr import files
from humr.files import ROOT, RUNS, say
from humr.launch import environment, execution

if sys.version_info < (3, 11):  # noqa: UP036  (who comes with an older Python must be told)
    sys.exit(
        f"humr needs Python 3.11 or newer; this is Python {sys.version.split()[0]}. "
        "If a newer one is installed, say for example: python3.12 -m humr ..."
    )


FORWARDED = {  # command: the module that knows it, what it is for
    "world": ("humr.experiments.runs world", "make the open world's data for a profile"),
    "train": ("humr.experiments.runs train", "train on it: one run of a profile"),
    "study": (
        "humr.experiments.measurements",
        "train and evaluate the ablations that are missing; goes on where it stopped",
    ),
    "bench": ("humr.benchmarks.tasks", "time every part of the chain"),
    "convert": ("humr.licensed.checkpoints", "turn an official checkpoint into one of ours"),
    "tables": ("humr.experiments.paper_tables", "HuMR's tables on licensed test sets"),
    "refine": (
        "humr.experiments.refinement",
        "fit the constants of refinement on validation, or measure it on test",
    ),
    "clip": ("humr.experiments.clip", "measure the shipped model on the real clip"),
    "notebooks": (
        "humr.launch.execution refresh",
        "execute and rewrite the committed notebooks, or those with the given numbers",
    ),
    "lab": ("jupyterlab", "open JupyterLab"),
}
CLIP = ["clip"]  # data fetch clip: the real clip, which nothing else needs


def call(python: str, *arguments: str | Path, **variables: str) -> int:
    """Run a module of an interpreter from the repository's root; return its exit status.

    Ctrl-C reaches the child as well, which then ends in good order; we wait for it.
    """
    environ = environment.variables(python, **variables)
    command = [python, "-m", *map(str, arguments)]
    process = subprocess.Popen(command, env=environ, cwd=ROOT)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            say("\nstopping; the same command will go on from here")


def reproduce(python: str, options: argparse.Namespace) -> int:
    """Run all notebooks, or those of --only, with Snakemake."""
    folder = Path("runs") / options.profile / "notebooks"
    targets = [folder / execution.find(number).name for number in options.only]
    cores = options.cores or os.cpu_count() or 1
    say(f"Reproducing with profile {options.profile} on {cores} cores; results in {folder.parent}")
    with environment.locked(RUNS / ".lock", "another reproduction is running; waiting for it"):
        arguments = ["--cores", str(cores), "--nolock", "--config", f"profile={options.profile}"]
        status = call(python, "snakemake", *targets, *arguments, TQDM_MININTERVAL="10")
    if status:
        say("\nNot everything was made, see above. The same command goes on from here.")
    else:
        say(f"\nDone. Executed notebooks: {folder}; other results beside them in {folder.parent}")
    return status


def test(python: str, options: argparse.Namespace) -> int:
    """Run lint, format check, types, and all tests; with arguments only pytest, with them."""
    stages = {
        "lint": ["ruff", "check", "."],
        "format": ["ruff", "format", "--check", "."],
        "types": ["pyright"],
        "tests": ["pytest", "-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"],
    }
    if options.rest:
        stages = {"tests": ["pytest", *options.rest]}
    report = []
    for name, command in stages.items():
        start = time.monotonic()
        say(f"== {name}: {' '.join(command)}")
        status = call(python, *command, OMP_NUM_THREADS="1", HUMR_THREADS="1")
        report.append((name, status, time.monotonic() - start))
    for name, status, seconds in report:
        say(f"{name:<8}{'passed' if status == 0 else 'FAILED':<8}{seconds:6.0f} s")
    return int(any(status for _, status, _ in report))


def photo(python: str, options: argparse.Namespace) -> int:
    """Run notebook 00 on a photograph."""
    arguments = [options.image.resolve(), "--out", options.out.resolve()]
    arguments += ["--hypotheses", options.hypotheses]
    arguments += ["--box", *options.box] if options.box else []
    return call(python, "humr.launch.execution", "photo", *arguments)


def data(python: str, options: argparse.Namespace) -> int:
    """Say which data files are here, fetch those that can be fetched, or make what is made."""
    if options.action == "fetch":
        wants_clip = options.rest == CLIP
        return call(python, "humr.experiments.clip", "fetch") if wants_clip else fetch(python)
    if options.action == "licensed":
        return call(python, "humr.licensed.inventory")
    if options.action == "samples":
        return call(python, "humr.licensed.vitpose", *options.rest)
    for name, state in files.detector_states().items():
        size = files.DETECTOR_FILES[name].bytes / 1e6
        say(f"{state:<11} {name:<15} {size:5.1f} MB  Apache-2.0")
    return int(absent())


def absent() -> bool:
    """Tell whether a file of the detector is missing or wrong."""
    return set(files.detector_states().values()) != {"ok"}


def fetch(python: str) -> int:
    """Fetch the detector's files where they are missing; one clear message if that fails."""
    if not absent():
        say("The detector's files are here.")
        return 0
    say("Fetching the detector's two files (once, about 36 MB)")
    code = (
        "from humr import files\n"
        "try: files.fetch_detector()\n"
        "except (RuntimeError, ValueError) as error: raise SystemExit(f'humr: {error}')"
    )
    return subprocess.call([python, "-c", code], env=environment.variables(python), cwd=ROOT)


def forward(python: str, options: argparse.Namespace) -> int:
    """Hand the rest of the command line to the module that knows it."""
    module, _ = FORWARDED[options.command]
    return call(python, *module.split(), *options.rest)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="humr", description="Probabilistic 3D human pose and mesh.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    add = commands.add_parser("reproduce", help="run the notebooks: the main job")
    add.add_argument("--profile", choices=files.PROFILES, default="laptop")
    add.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of notebooks")
    add.add_argument("--cores", type=int, help="default: all")
    add.set_defaults(run=reproduce)

    add = commands.add_parser("test", help="lint, types, tests, notebooks in the smoke profile")
    add.set_defaults(run=test)

    add = commands.add_parser("photo", help="the posterior for a photograph of yours")
    add.add_argument("image", type=Path)
    add.add_argument("--out", type=Path, required=True, help="folder for the results")
    corners = ("X0", "Y0", "X1", "Y1")
    add.add_argument("--box", type=float, nargs=4, metavar=corners, help="the person, in pixels")
    add.add_argument("--hypotheses", type=int, default=100)
    add.set_defaults(run=photo)

    add = commands.add_parser("data", help="the detector's files and other data")
    actions = ["status", "fetch", "licensed", "samples"]
    add.add_argument("action", choices=actions, help="samples takes data sets: data/README.md")
    add.set_defaults(run=data)

    for name, (_, purpose) in FORWARDED.items():
        commands.add_parser(name, help=purpose, add_help=False).set_defaults(run=forward)
    return top


def main() -> int:
    """Read the command line, make sure of the environment, do the command."""
    options, rest = parser().parse_known_args()
    options.rest = rest
    action = vars(options).get("action")
    takes_rest = options.run in (test, forward) or action == "samples"
    if rest and not takes_rest and not (action == "fetch" and rest == CLIP):
        parser().error(f"unrecognised arguments: {' '.join(rest)}")
    try:
        python = environment.ensure()
        if options.command not in ("data", "lab") and absent() and fetch(python):
            say("Going on without the detector's files; `python3 -m humr data fetch` tries again.")
        return options.run(python, options)
    except (environment.SetupError, execution.NotebookError) as error:
        say(f"humr: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped; the same command will go on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
