"""Run notebooks, from outside: execute, strip, refresh the committed version, hash the code.

Only the standard library is imported at the top, because the Snakefile reads hashes from here.
"""

import argparse
import ast
import copy
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from humr import files
from humr.files import FIGURES, NOTEBOOKS, RUNS, shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

MAX_BYTES = 500_000  # of one committed notebook
ABSOLUTE = re.compile(
    r"(?<![\w.:/<])/(?:home|root|Users|tmp|usr|opt|work|mnt|data)/\w|\b[A-Z]:\\\\"
)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class NotebookError(RuntimeError):
    """A notebook failed, or is not fit to be committed."""


def find(number: str) -> Path:
    """The notebook whose name starts with this number (`3` and `03` are the same)."""
    found = sorted(NOTEBOOKS.glob(f"{number.zfill(2)}_*.ipynb"))
    if not found:
        known = ", ".join(path.stem[:2] for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")))
        raise NotebookError(f"no notebook with number {number}; there are: {known or 'none'}")
    return found[0]


# ---- the code of a notebook


def code_cells(path: Path, tag: str = "") -> list[str]:
    """Source of the code cells, or of those with a tag."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    chosen = [cell for cell in cells if not tag or tag in cell["metadata"].get("tags", [])]
    return ["".join(cell["source"]) for cell in chosen if cell["cell_type"] == "code"]


def code_hash(path: Path) -> str:
    """Hash of the code cells: unchanged by outputs, texts and metadata."""
    return hashlib.sha256(json.dumps(code_cells(path)).encode()).hexdigest()[:16]


def modules(path: Path) -> list[str]:
    """Files of humr that a notebook depends on, but for those that only run notebooks."""
    direct = set().union(*map(files.imported, code_cells(path)))
    return [name for name in files.closure(direct) if not name.startswith("humr/launch/")]


def parameter_names(path: Path) -> list[str]:
    """Names that the cell tagged `parameters` assigns, in order."""
    lines = ast.parse("\n".join(code_cells(path, "parameters"))).body
    targets = [line.target for line in lines if isinstance(line, ast.AnnAssign)]
    targets += [line.targets[0] for line in lines if isinstance(line, ast.Assign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


# ---- running


def execute(source: Path, output: Path, parameters: dict[str, Any], *, bar: bool = True) -> None:
    """Run a notebook into `output`, which appears only if all went well.

    A failed run is kept as OUTPUT.failed.ipynb, with the traceback in it.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    for name in ("papermill", "traitlets"):  # remarks that a reader can do nothing about
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    known = parameter_names(source)
    if unknown := sorted(set(parameters) - set(known)):
        raise NotebookError(
            f"{source.stem} has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, failed = output.with_suffix(".partial.ipynb"), output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            source,
            partial,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=NOTEBOOKS,
            progress_bar=cast("bool", bar and {"desc": source.stem}),  # takes a dict as well
            stderr_file=sys.stderr if bar else None,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],  # ipykernel warns that it uses TCP
        )
    except papermill.PapermillExecutionError as error:
        partial.replace(failed)
        raise NotebookError(f"{error.ename}: {error.evalue}\n(see {shown(failed)})") from None
    except DeadKernelError:
        partial.replace(failed)
        raise NotebookError(
            f"the kernel died, perhaps for want of memory ({source.stem})"
        ) from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(output)


def photo(image: Path, out: Path, box: list[float], hypotheses: int) -> list[str]:
    """Run notebook 00 on a photograph; `out` receives the results only if all went well."""
    if not image.is_file():
        raise NotebookError(f"no such image: {image}")
    (RUNS / "photo").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUNS / "photo") as scratch:
        folder, executed = Path(scratch) / "out", RUNS / "photo" / f"{image.stem}.ipynb"
        folder.mkdir()
        parameters = {"image": str(image), "out": str(folder), "box": box}
        with mock.patch.dict(os.environ, HUMR_FIGURES=str(Path(scratch) / "figures")):
            execute(find("00"), executed, parameters | {"hypotheses": hypotheses})
        shutil.move(executed, folder / "notebook.ipynb")
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
        for name in names:
            shutil.move(folder / name, out / name)
    return names


# ---- the committed version


def refresh(source: Path) -> list[str]:
    """Execute a notebook in its default profile and write it back with its figures.

    Nothing in the repository changes unless the run succeeded and its result has no faults.
    Returns the names of the figures.
    """
    import nbformat

    (RUNS / "refresh").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUNS / "refresh") as folder:
        result, figures = RUNS / "refresh" / source.name, Path(folder)
        settings = {"HUMR_FIGURES": str(figures), "TQDM_DISABLE": "1", "HUMR_PROFILE": ""}
        with mock.patch.dict(os.environ, settings):  # kernels inherit them
            execute(source, result, {})
        notebook = strip(nbformat.read(result, as_version=4))
        if wrong := faults(notebook):
            raise NotebookError(f"{source.name} is not fit to be committed: {'; '.join(wrong)}")
        replace_figures(source.stem, figures)
        names = sorted(path.stem for path in figures.glob("*.png"))
        nbformat.write(notebook, result)
        result.replace(source)
    return names


def strip(notebook: "NotebookNode") -> "NotebookNode":
    """Return a copy without what changes from run to run; outputs, counts, ids, tags stay."""
    import nbformat

    notebook = copy.deepcopy(notebook)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    return notebook


def faults(notebook: "NotebookNode") -> list[str]:
    """What forbids to commit an executed notebook; empty if nothing does."""
    import nbformat

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    counts = [cell.execution_count for cell in cells]
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", []) if "param" in tag]
    found = {
        "execution counts are not 1, 2, 3, ...; run all cells from the top": (
            counts != list(range(1, len(cells) + 1))
        ),
        "a cell failed": any(output.output_type == "error" for output in outputs),
        "a cell wrote to stderr": any(output.get("name") == "stderr" for output in outputs),
        "an absolute path is in the outputs": bool(ABSOLUTE.search(readable(outputs))),
        "there must be exactly one cell tagged parameters, and none injected": (
            tags != ["parameters"]
        ),
        f"it is larger than {MAX_BYTES // 1000} kB": (
            len(nbformat.writes(notebook).encode()) > MAX_BYTES
        ),
    }
    return [text for text, wrong in found.items() if wrong]


def readable(outputs: list[dict[str, Any]]) -> str:
    """All text in outputs, without the pictures."""
    texts = [output.get("text", "") for output in outputs]
    for output in outputs:
        data = output.get("data", {})
        texts += [data[kind] for kind in ("text/plain", "text/html") if kind in data]
    return "\n".join("".join(text) for text in texts)


def replace_figures(name: str, made: Path) -> None:
    """Put the figures that a notebook made in place of those it had made before.

    A figure that differs in commit and time only stays as it is, unless its commit got clean.
    """
    FIGURES.mkdir(exist_ok=True)
    for record in FIGURES.glob("*.json"):
        stale = not (made / record.name).exists()
        if stale and json.loads(record.read_text()).get("notebook") == name:
            record.unlink()
            record.with_suffix(".png").unlink(missing_ok=True)
    for new in sorted(made.glob("*.png")):
        if not _same(FIGURES / new.name, new):
            for path in (new, new.with_suffix(".json")):
                shutil.copy(path, FIGURES / path.name)


def _same(old: Path, new: Path) -> bool:
    records = [path.with_suffix(".json") for path in (old, new)]
    if not (old.exists() and records[0].exists() and old.read_bytes() == new.read_bytes()):
        return False
    one, two = (json.loads(path.read_text()) for path in records)
    if one.get("git", "").endswith("+") and not two.get("git", "").endswith("+"):
        return False
    return {**one, "git": "", "time": ""} == {**two, "git": "", "time": ""}


# ---- the command line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line of ``python -m humr.launch.execution``."""
    parser = argparse.ArgumentParser(prog="humr.launch.execution", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one notebook into runs/")
    run.add_argument("number")
    run.add_argument("--profile", choices=files.PROFILES, default="laptop")
    run.add_argument("--output", type=Path, required=True)
    again = commands.add_parser("refresh", help="make the committed version of notebooks")
    again.add_argument("numbers", nargs="*")
    yours = commands.add_parser("photo", help="notebook 00 with another image")
    yours.add_argument("image", type=Path)
    yours.add_argument("--out", type=Path, required=True)
    yours.add_argument("--box", type=float, nargs=4, default=[])
    yours.add_argument("--hypotheses", type=int, default=100)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do one command; a failure is one clear message and exit status 1."""
    options = parse(arguments)
    try:
        if options.command == "run":
            execute(find(options.number), options.output, {"profile": options.profile})
        elif options.command == "photo":
            names = photo(options.image, options.out, options.box, options.hypotheses)
            files.say(f"Wrote to {options.out}: {', '.join(names)}")
        else:
            everything = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
            for path in [find(number) for number in options.numbers] or everything:
                files.say(f"{path.name}: {', '.join(refresh(path)) or 'no figures'}")
    except NotebookError as error:
        files.say(f"humr: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
