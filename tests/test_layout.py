"""The shape of the house: who may import whom, sizes, and habits that no linter knows."""

import ast
import json
import re
import subprocess
import sys

import pytest

from humr import execution
from humr.paths import NOTEBOOKS, ROOT

PACKAGE = sorted((ROOT / "humr").glob("*.py"))
NAMES = {path.stem for path in PACKAGE}

# From the ground up: a module may import from its own layer and from the layers below.
LAYERS = (
    {
        "__init__",
        "paths",
        "devices",
        "files",
        "provenance",
        "config",
        "lifting_config",
        "lifting_paper_config",
        "paper_config",
        "profiles",
        "rotations",
        "skeletons",
        "cameras",
        "heatmaps",
        "gaussians",
        "rasters",
        "licensed",
        "unpickle",
        "npz_files",
        "skinning",
    },
    {"assets", "environment", "execution", "flows", "glow", "losses", "metrics", "calibration"}
    | {"hrnet", "hdf5", "strict_weights", "vitpose", "keypoint_decoding"}
    | {"variant", "mesh_variants", "lifting_variants", "variants"}
    | {"sets", "comparisons", "tables", "memory", "stopwatch", "claims", "results"}
    | {"paper_tables", "paper_rows"}
    | {"acceleration", "capacity", "schedules"},
    {"body_files", "bodies", "surface", "rendering", "viewer", "poses", "appearance"}
    | {"photos", "persons", "detectors"}
    | {"annotations", "heatmap_files", "person_masks", "crops", "photometric"}
    | {"keypoint_files"}
    | {"smpl_frames", "pw3d", "emdb", "h36m"}
    | {"file_checks", "folder_checks", "weight_checks", "licensed_entries", "inventory"},
    {"scenes", "datasets", "encoders", "embedding", "world", "training", "checkpoints", "ledger"}
    | {"ranks", "shards", "lifting_data", "lifting_world"}
    | {"licensed_people", "licensed_images", "feature_cache", "licensed_tests"}
    | {"licensed_lifting", "h36m_lifting", "mpi3dhp", "smpl_files", "smpl", "heatmap_precompute"}
    | {"lifting_paper_data", "lifting_images"},
    {"mesh", "objective", "measures", "lifting", "official", "official_measures"}
    | {"official_scores"}
    | {"lifting_losses", "lifting_objective", "lifting_metrics", "lifting_measures", "selection"}
    | {"propose", "propose_losses", "propose_objective"},
    {"posterior", "evaluation", "experiments", "studies", "figures", "diagrams", "notebooks"}
    | {"cases", "gallery", "panels", "curves", "charts", "lifting_evaluation", "lifting_curves"}
    | {"lifting_panels", "official_evaluation", "paper_evaluation"}
    | {"mesh_runs", "paper_runs", "lifting_runs", "shared_images", "propose_latents", "sticks"}
    | {"streams", "workloads", "bench_parts", "bench_switches", "bench_scaling"}
    | {"loader_bench", "bench", "tested"},
    {"__main__"},
)
# Stricter than the layers: nothing else of humr.
ONLY = {
    "__init__": set(),
    "losses": {"devices", "rotations", "cameras", "heatmaps"},
    "metrics": {"losses", "devices", "rotations", "cameras", "heatmaps"},
    "devices": set(),
    "flows": set(),
    "rotations": set(),
    "training": {"config", "files", "provenance", "checkpoints", "ledger", "ranks"}
    | {"capacity", "acceleration", "schedules"},
    "ranks": {"config", "devices"},
    "__main__": {"assets", "environment", "execution", "paths"},
    "assets": {"paths"},
    "environment": {"paths"},
    "execution": {"environment", "paths"},
    "provenance": {"paths"},
}
# Packages that one module keeps to itself; True: only inside functions, not at import.
OWNERS = {
    "FrEIA": ("flows", False),
    "smplx": ("bodies", True),
    "ai_edge_litert": ("detectors", True),
    "lightning_fabric": ("ranks", False),
    "papermill": ("execution", True),
    "h5py": ("hdf5", False),
    "cdflib": ("h36m", True),
}
BEFORE_INSTALLATION = {"__main__", "assets", "environment", "execution", "paths", "__init__"}
HABITS = {
    r"\.cuda\(": "use .to(device)",
    r"device=[\"']cuda": "take the device from a tensor or from the run",
    r"sys\.path": "install the package",
    r"os\.chdir|chdir\(": "pass paths",
    r"get_ipython|^\s*[%!]\w": "no magics: notebooks run anywhere",
    r"except\s*:": "name the exception",
    r"import \*": "name what is imported",
    r"[\"']/(home|root|Users|tmp|usr|opt|work|mnt)/": "no absolute paths; use humr.paths",
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


def imported(path):
    return execution.imported(path.read_text(encoding="utf-8"))


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_imports_follow_the_layers(path):
    place = [index for index, layer in enumerate(LAYERS) if path.stem in layer]
    assert len(place) == 1, f"give {path.stem} its place in LAYERS"
    below = set().union(*LAYERS[: place[0] + 1])
    assert imported(path) <= below
    assert imported(path) <= ONLY.get(path.stem, NAMES)


def test_there_are_no_import_cycles():
    todo = {path.stem: imported(path) for path in PACKAGE}
    while todo:
        free = {name for name, needs in todo.items() if not needs & set(todo)}
        assert free, f"a cycle among {sorted(todo)}"
        todo = {name: needs for name, needs in todo.items() if name not in free}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_packages_stay_with_their_owners(path):
    everywhere = foreign(ast.walk(tree(path)))
    for package, (owner, lazy) in OWNERS.items():
        assert path.stem == owner or package not in everywhere, f"only {owner} imports {package}"
        if lazy:
            assert package not in foreign(at_import(tree(path))), f"import {package} in a function"


@pytest.mark.parametrize("name", sorted(BEFORE_INSTALLATION))
def test_the_front_door_needs_the_standard_library_only(name):
    names = foreign(at_import(tree(ROOT / "humr" / f"{name}.py")))
    assert names <= sys.stdlib_module_names | {"humr"}


def test_the_package_imports_nothing_by_itself():
    assert not foreign(ast.walk(tree(ROOT / "humr" / "__init__.py")))
    code = "import sys, humr; print(sorted(m for m in sys.modules if m.startswith('humr')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "['humr']"


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_modules_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def lines_of(path):
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8").splitlines()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [line for cell in cells for line in "".join(cell["source"]).splitlines()]


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
