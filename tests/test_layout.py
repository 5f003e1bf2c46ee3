"""The shape of the house: who may import whom, sizes, and habits that no linter knows."""

import ast
import json
import re
import subprocess
import sys

import pytest

from humr import files
from humr.files import NOTEBOOKS, ROOT

PACKAGE = sorted((ROOT / "humr").rglob("*.py"))
LOWER = {"files", "config", "skeletons", "geometry", "heatmaps", "devices", "storage", "flows"}
LOWER |= {"losses", "metrics"}
CORE = LOWER | {"detector", "batches", "model", "objective", "training", "evaluation"}
CORE |= {"refine", "posterior"}
BELOW = CORE | {"bodies", "world", "lifting", "licensed", "experiments"}
# A file of the core, or a sub-package, may import these alone (and a sub-package itself).
MAY_IMPORT = {
    "bodies": LOWER,
    "world": CORE | {"bodies"},
    "lifting": CORE | {"bodies", "world"},
    "licensed": CORE | {"bodies", "lifting"},
    "experiments": CORE | {"bodies", "world", "lifting", "licensed"},
    "figures": BELOW,
    "benchmarks": BELOW,
    "launch": {"files", "devices"},
    **dict.fromkeys(LOWER, LOWER),
    **dict.fromkeys(CORE - LOWER, CORE | {"bodies"}),
    "losses": {"devices", "geometry", "heatmaps"},
    "metrics": {"losses", "devices", "geometry", "heatmaps"},
    "training": {"config", "files", "storage", "devices"},
    "files": set(),
    "flows": set(),
    "__init__": set(),
    "__main__": {"files", "launch"},
}
# Stricter than that: these files do not import what begins so.
NEVER = {
    "lifting/config.py": "humr/world/",
    "lifting/data.py": "humr/world/",
    "lifting/flow.py": "humr/world/",
    "lifting/propose.py": "humr/world/",
    "licensed/": "humr/lifting/world.py",
    "launch/environment.py": "humr/devices.py",
    "launch/execution.py": "humr/devices.py",
}
# Packages that one module keeps to itself; True: only inside functions, not at import.
OWNERS = {
    "FrEIA": ("flows", False),
    "smplx": ("bodies/body", True),
    "ai_edge_litert": ("detector", True),
    "lightning_fabric": ("devices", False),
    "papermill": ("launch/execution", True),
    "h5py": ("licensed/readers", False),
    "cdflib": ("licensed/human36m", True),
}
BEFORE_INSTALLATION = ("__main__", "files", "launch/environment", "launch/execution")
# Lines at most: numbers that may only fall.
FILE, FUNCTION, CORE_LINES, PACKAGE_LINES, FILES_IN_A_FOLDER = 604, 60, 6520, 23700, 20
HABITS = {
    r"\.cuda\(": "use .to(device)",
    r"device=[\"']cuda": "take the device from a tensor or from the run",
    r"sys\.path": "install the package",
    r"os\.chdir|chdir\(": "pass paths",
    r"get_ipython|^\s*[%!]\w": "no magics: notebooks run anywhere",
    r"except\s*:": "name the exception",
    r"import \*": "name what is imported",
    r"[\"']/(home|root|Users|tmp|usr|opt|work|mnt)/": "no absolute paths; use humr.files",
    r"https?://[\w.]*(pypi|pythonhosted|download\.pytorch)": "no package index in the repository",
}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def foreign(nodes):
    """Top-level names of the packages that import statements among these nodes name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def at_import(node):
    """The nodes that run when a module is imported: outside functions and TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from at_import(child)


def name(path):
    """A file as `humr/` shows it, without the ending: "losses", "lifting/flow"."""
    return path.relative_to(ROOT / "humr").with_suffix("").as_posix()


def room(path):
    """A file of the core, or its sub-package."""
    return name(path).split("/")[0]


def imported(path):
    return {ROOT / other for other in files.imported(path.read_text(encoding="utf-8"))}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_imports_follow_the_rooms(path):
    here = room(path)
    own = {here} if "/" in name(path) else set()
    assert {room(other) for other in imported(path)} <= MAY_IMPORT[here] | own
    for begins, forbidden in NEVER.items():
        if f"{name(path)}.py".startswith(begins):
            found = [str(p.relative_to(ROOT)) for p in imported(path)]
            assert not [p for p in found if p.startswith(forbidden)]


@pytest.mark.parametrize("of", [name, room], ids=["files", "rooms"])
def test_there_are_no_import_cycles(of):
    todo = {}
    for path in PACKAGE:
        todo.setdefault(of(path), set()).update(map(of, imported(path)))
    todo = {here: needs - {here} for here, needs in todo.items()}
    while todo:
        free = {here for here, needs in todo.items() if not needs & set(todo)}
        assert free, f"a cycle among {sorted(todo)}"
        todo = {here: needs for here, needs in todo.items() if here not in free}


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_packages_stay_with_their_owners(path):
    everywhere = foreign(ast.walk(tree(path)))
    for package, (owner, lazy) in OWNERS.items():
        assert name(path) == owner or package not in everywhere, f"only {owner} imports {package}"
        if lazy:
            assert package not in foreign(at_import(tree(path))), f"import {package} in a function"


@pytest.mark.parametrize("early", BEFORE_INSTALLATION)
def test_the_front_door_needs_the_standard_library_only(early):
    names = foreign(at_import(tree(ROOT / "humr" / f"{early}.py")))
    assert names <= sys.stdlib_module_names | {"humr"}


def test_the_package_imports_nothing_by_itself():
    assert not foreign(ast.walk(tree(ROOT / "humr" / "__init__.py")))
    code = "import sys, humr; print(sorted(m for m in sys.modules if m.startswith('humr')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "['humr']"


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_modules_and_functions_are_small(path):
    assert lines(path) <= FILE
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in long.items() if lines > FUNCTION} == {}


def test_the_house_only_shrinks():
    assert sum(lines(path) for path in PACKAGE if "/" not in name(path)) <= CORE_LINES
    assert sum(map(lines, PACKAGE)) <= PACKAGE_LINES


# Public names that no code reads by name, and that are meant: called by another process or
# library, oracles of tests, and what the notebooks on calibration will show.
KEPT = {"fetch_detector", "find_class", "latent_log_prob"}
KEPT |= {"latent_pit", "density_rank", "expected_calibration_error"}


def used(source):
    """Names that a piece of code reads, as itself or of a module or object."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return names | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def test_no_public_function_serves_tests_alone():
    sources = [*PACKAGE, *(ROOT / "scripts").glob("*.py")]
    notebooks = sorted(NOTEBOOKS.glob("*.ipynb"))
    texts = [path.read_text(encoding="utf-8") for path in sources]
    texts += ["\n".join(lines_of(path, code=True)) for path in notebooks]
    everywhere = set().union(*map(used, texts))
    for path in PACKAGE:
        defined = {f.name for f in functions(path)} | {
            node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)
        }
        public = {n for n in defined if not n.startswith(("_", "visit_"))}
        assert public <= everywhere | KEPT, f"{name(path)}: {sorted(public - everywhere - KEPT)}"


def test_folders_are_small_and_open_with_one_docstring():
    folders = {path.parent for path in PACKAGE}
    for folder in folders:
        assert len(list(folder.glob("*.py"))) <= FILES_IN_A_FOLDER
        body = tree(folder / "__init__.py").body
        assert len(body) == 1, folder
        assert ast.get_docstring(tree(folder / "__init__.py")), folder


def test_the_readme_shows_every_room():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in {path.parent for path in PACKAGE} - {ROOT / "humr"}:
        assert f"  {folder.name}/ " in text


def lines_of(path, *, code=False):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8").splitlines()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    chosen = [cell for cell in cells if not code or cell["cell_type"] == "code"]
    return [line for cell in chosen for line in "".join(cell["source"]).splitlines()]


SOURCES = [*PACKAGE, *sorted((ROOT / "scripts").glob("*.py")), *sorted(NOTEBOOKS.glob("*.ipynb"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_habits(path):
    for pattern, advice in HABITS.items():
        found = [line for line in lines_of(path) if re.search(pattern, line)]
        assert not found, f"{advice}: {found[0].strip()}"


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("model.cuda()", r"\.cuda\("),
        ("torch.zeros(3, device='cuda')", r"device=[\"']cuda"),
        ("%pip install x", r"get_ipython|^\s*[%!]\w"),
        ('open("/tmp/x")', r"[\"']/(home|root|Users|tmp|usr|opt|work|mnt)/"),
        ("    except:", r"except\s*:"),
    ],
)
def test_the_habit_patterns_find_what_they_should(line, pattern):
    assert pattern in HABITS
    assert re.search(pattern, line)
