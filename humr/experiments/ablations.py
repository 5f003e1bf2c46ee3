"""Every ablation of every system: a variant is one run, the profile's base with a few changes.

The base of HuMR's studies is supervised by heatmaps and has no mask loss, as in the paper's
ablations. Names are short and stay; labels are what tables print. On licensed data there are no
studies of scarce labels (all images have theirs, `OPEN_ONLY`) and no Gaussians (only samples are
stored); in the full model the mask loss weighs what it does in the paper, not a tenth (decision
16). The camera loss is on and the focal length is the photograph's diagonal, as in the official
code, but for the variants that are about them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from humr.config import Run, Weights, config_hash, to_dict
from humr.experiments.profiles import profile
from humr.licensed.datasets import LiftingPaperRun, PaperRun
from humr.lifting.config import LiftingRun, ProposeRun

R = TypeVar("R", bound=Run | LiftingRun | ProposeRun)
# Name, label, and what is changed: "weights.mask" of the run, "checkpoint" of the variant itself.
Row = tuple[str, str, dict[str, Any]]
Rows = list[Row] | Callable[[Any], list[Row]]  # of a study; some depend on the base

L2D_RANDOM = 1e-3  # what every row before "+ MMD" of the paper's Table 3 carries (methods, S2)
SAMPLE_COUNTS = (2, 5, 10, 25, 50, 70)
FEW = 1000  # 3D labels in the studies of scarce labels
OPEN_ONLY = ("few", "unlabelled")  # studies that need images without labels


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table."""

    name: str
    label: str
    run: Run | LiftingRun | ProposeRun
    checkpoint: str = "best"  # on validation images ("early stopping"), or "last"
    default_focal: bool = False  # evaluate without knowing the focal length

    def seeded(self, seed: int) -> "Variant":
        """Return the same variant with another seed of its training."""
        return replace(self, run=changed(self.run, training={"seed": seed}))

    @property
    def key(self) -> str:
        """Name everything that decides the result."""
        focal = "-focal" if self.default_focal else ""
        return f"{config_hash(self.run)}-{self.checkpoint}{focal}"


def changed(run: R, **parts: dict[str, Any]) -> R:
    """Change fields of a run's parts.

    Example:
        >>> changed(Run(), weights={"mask": 0.0}).weights.mask
        0.0
    """
    return replace(run, **{name: replace(getattr(run, name), **v) for name, v in parts.items()})


def differing(before: Run, after: Run) -> str:
    """Name the fields in which two runs differ, with both values.

    Example:
        >>> differing(Run(), changed(Run(), weights={"mask": 0.0}))
        'weights.mask: 0.1 → 0.0'
    """
    old, new = (pd.json_normalize(to_dict(run)).iloc[0].map(str) for run in (before, after))
    return ", ".join(f"{name}: {old[name]} → {new[name]}" for name in old.index[old != new])


# ------------------------------------------------------------------------ HuMR


def _components(base: Run) -> list[Row]:
    """Table 3 and S1: from the ProHMR baseline to HuMR, one component after the other."""
    bare = {
        "model.flow": "glow", "model.box": False, "model.window_info": False, "model.pose": False,
        "weights.heatmap": 0.0, "weights.random_keypoints": L2D_RANDOM,
    }  # fmt: skip
    box = bare | {"model.box": True, "model.window_info": base.model.window_info}
    pose = box | {"model.pose": True}
    full = Weights() if isinstance(base, PaperRun) else profile("laptop").run.weights
    return [
        ("prohmr", "ProHMR†", bare),
        ("box", "+ bbox info", box),
        ("pose", "+ 2D pose condition", pose),
        ("realnvp", "+ RealNVP", pose | {"model.flow": "realnvp"}),
        ("mmd", "+ L_MMD", {}),
        ("mask", f"+ L_mask (full), λ = {full.mask:g}", {"weights.mask": full.mask}),
    ]


# Table S2: what supervises the random hypotheses.
SUPERVISION: list[Row] = [
    ("none", "no supervision", {"weights.heatmap": 0.0}),
    *(
        (f"{joints}_{weight}", f"L2D-{joints} λ={weight}",
         {"weights.heatmap": 0.0, "weights.random_keypoints": float(weight),
          "supervision.random_visible": joints == "vis"})
        for joints in ("all", "vis") for weight in ("1e-3", "5e-3", "1e-2")
    ),
    ("diffpose", "DiffPose condition", {"weights.heatmap": 0.0, "model.embedding": True}),
    ("mmd", "L_MMD (ours)", {}),
]  # fmt: skip


def _samples(base: Run) -> list[Row]:
    """Figure S2: number of heatmap samples, and of hypotheses (the official code ties them)."""
    kinds = {
        "unbiased": {"supervision.estimator": "unbiased", "supervision.first_is_point": False},
        "official": {"supervision.estimator": "biased", "supervision.first_is_point": True},
    }
    small = {"training.batch": max(1, base.training.batch // 4)}
    return [
        (f"{kind}_{n}", f"{kind}, n = {n}",
         small | change | {"supervision.heatmap_samples": n, "training.hypotheses": n})
        for kind, change in kinds.items() for n in SAMPLE_COUNTS
    ]  # fmt: skip


# Weights of the mask loss, and its readings.
MASK: list[Row] = [
    ("mask_0", "no mask loss", {}),
    *(
        (f"mask_{weight}", f"λ = {weight}", {"weights.mask": float(weight)})
        for weight in ("0.003", "0.01", "0.03", "0.1")
    ),
    ("mask_any", "λ = 0.01, nearest sample of any joint (official code)",
     {"weights.mask": 0.01, "supervision.mask_target": "any"}),
    ("mask_beyond", "λ = 0.01, outside the crop too",
     {"weights.mask": 0.01, "supervision.mask_beyond": True}),
    ("mask_raw", "λ = 0.01, every labelled image, whatever its mask misses",
     {"weights.mask": 0.01, "supervision.mask_misses": 1.0}),
]  # fmt: skip


def _switches(base: Run) -> list[Row]:
    """Paper against official code, one difference at a time, then all."""
    biased = {"supervision.estimator": "biased"}
    first = biased | {"supervision.first_is_point": True}
    adam = {"training.optimizer": "adam", "training.decay": 1e-4}  # a penalty of weights' squares
    noiseless = {"supervision.target_noise": 0.0}
    samples = {"supervision.confidence": "samples"}
    official = first | samples | {
        "weights.camera": 1.0, "weights.mask": 0.1,
        "supervision.floor": 0.15, "supervision.mask_target": "any",
    }  # fmt: skip
    floor = {"supervision.floor": 0.15}
    camera, focal = ("camera loss", 1.0), ("focal length unknown", True)
    if base.weights.camera:
        camera = ("no camera loss", 0.0)
    if isinstance(base, PaperRun):  # its labels and masks are the official ones
        official |= {"supervision.window": True, "supervision.mask_whole": True}
        floor |= {"supervision.window": True}
        focal = ("focal length known", False)
    return [
        ("mmd", "our default", {}),
        ("biased", "biased MMD (H1)", biased),
        ("first", "+ label as first sample (H1)", first),
        ("floor", "confidence floor 0.15 (H1c)", floor),
        ("camera", f"{camera[0]} (H1d)", {"weights.camera": camera[1]}),
        ("focal", f"{focal[0]} at test (H1e)", {"default_focal": focal[1]}),
        ("mask", "the paper's mask loss, λ = 0.1", {"weights.mask": 0.1}),
        ("adam", "Adam, not AdamW (H3)", adam),
        ("noiseless", "no noise on labels (H4)", noiseless),
        ("l2d", "+ L2D 1e-3 on random samples (H5)", {"weights.random_keypoints": L2D_RANDOM}),
        ("confidence", "confidence from samples (H8)", samples),
        ("likelihood", "likelihood weighs 1, not 0.1 (ours)", {"weights.nll": 1.0}),
        ("last", "last checkpoint, not the best", {"checkpoint": "last"}),
        ("paper", "all as printed in the paper",
         adam | noiseless | {"weights.camera": 0.0, "weights.mask": 0.1}),
        ("official", "all as in the official code", official),
    ]  # fmt: skip


# What else could supervise the hypotheses, and what the heatmaps' shapes are worth.
CONTROLS: dict[str, Row] = {
    row[0]: row
    for row in (
        ("none", "no supervision of hypotheses", {"weights.heatmap": 0.0}),
        ("certain", "labels of certain joints only", {"supervision.follow": "certain"}),
        ("articulated", "labels instead of heatmaps", {"supervision.follow": "articulated"}),
        ("all", "labels of all joints", {"supervision.follow": "all"}),
        ("heatmaps", "heatmaps (the paper)", {}),
        ("shuffled", "another image's heatmaps", {"supervision.heatmaps": "shuffled"}),
        ("gaussian", "Gaussians of the same moments", {"supervision.heatmaps": "gaussian"}),
    )
}


def _many(base: Run) -> list[Row]:
    """Controls with all 3D labels, and the baseline with as much time as the MMD needs."""
    known = set(CONTROLS) - ({"gaussian"} if isinstance(base, PaperRun) else set())
    controls = [row for name, row in CONTROLS.items() if name in known]
    longer = {"weights.heatmap": 0.0, "training.steps": base.training.steps * 3 // 2}
    return [*controls, ("longer", "no supervision, as much time", longer)]


def _scarce(change: dict[str, Any], rows: Iterable[Row]) -> list[Row]:
    """Few labels in every row, and half of each batch among the images that have them."""
    scarce = {"supervision.poses": FEW, "training.labelled_share": 0.5} | change
    return [(name, label, scarce | change) for name, label, change in rows]


# Controls with 1000 3D labels; all images have 2D labels.
FEW_LABELS = _scarce({}, [
    *CONTROLS.values(),
    ("none_last", "no supervision, last checkpoint",
     {"weights.heatmap": 0.0, "checkpoint": "last"}),
    ("heatmaps_last", "heatmaps, last checkpoint", {"checkpoint": "last"}),
])  # fmt: skip
# The clean test: 1000 labelled images, and all others without any label. "supervised" has the same
# batches and learns nothing from images without labels; "sure" learns from them where the detector
# is certain, "keypoints" takes its best guess of every joint. "alone" and "doubled" have labelled
# images only, twice as many in a batch.
UNLABELLED = _scarce({"supervision.points": FEW}, [
    ("alone", "labelled images alone, twice as many, no MMD",
     {"training.labelled_share": 1.0, "weights.heatmap": 0.0}),
    ("doubled", "labelled images alone, twice as many", {"training.labelled_share": 1.0}),
    ("supervised", "labelled images alone", {"supervision.follow": "labelled"}),
    ("sure", "certain joints of the detector only", {"supervision.follow": "sure"}),
    *(CONTROLS[name] for name in ("heatmaps", "shuffled", "gaussian")),
    ("keypoints", "the detector's keypoints as labels", {"supervision.follow": "guess"}),
])  # fmt: skip


# ------------------------------------------------------------------------ lifting


def _lifting(base: LiftingRun) -> list[Row]:
    """Table 4: leave out the condition and single terms; k of the best-of-M term."""
    sizes = [k for k in (1, 10, 50) if k <= base.rule.hypotheses]
    return [
        ("full", "full (k = 5)", {}),
        ("no_condition", "w/o condition", {"model.condition": False}),
        ("no_heatmap", "w/o L_HM", {"weights.heatmap": 0.0}),
        ("no_critic", "w/o L_gen", {"weights.adversarial": 0.0}),
        ("no_best", "w/o L_MB", {"weights.best": 0.0}),
        *((f"best_{k}", f"L_MB k={k}", {"rule.best_of": k}) for k in sizes),
    ]


def _lifting_switches(base: LiftingRun) -> list[Row]:
    """Paper against official code, one difference at a time; and what the paper does not try.

    On licensed data moments need heatmaps, and mirror images are what is tried, not the default.
    """
    terms = ("points", "mmd", "deterministic", "heatmap", "best", "adversarial")
    rows: list[Row | None] = [
        ("full", "our default", {}),
        ("biased", "biased MMD (W2)", {"rule.estimator": "biased"}),
        ("clamp", "clamp of FrEIA 0.2 (W9)", {"model.coupling": "affine"}),
        ("single", "wide axes not doubled (W3)", {"rule.doubled": False}),
        ("moments", "moments, not fits", {"rule.gaussians": "moments"})
        if not isinstance(base, LiftingPaperRun) or base.world.poses == "heatmaps" else None,
        ("raw", "poses not standardised", {"model.normalise": False})
        if base.model.normalise else None,
        ("plain", "no mirror images", {"rule.mirror": False})
        if base.rule.mirror else ("mirrored", "with mirror images", {"rule.mirror": True}),
        ("likelihood", "exact likelihood alone",
         {f"weights.{term}": 0.0 for term in terms} | {"weights.nll": 1.0}),
        ("both", "+ exact likelihood", {"weights.nll": 0.1}),
    ]  # fmt: skip
    return [row for row in rows if row]


# Tables 4 to 7 of ProPose: its Gaussians, its training, its terms.
PROPOSE: list[Row] = [
    ("full", "full", {}),
    ("instance", "N(0, I), not PILGD (Table 4)", {"model.instance": "normal"}),
    ("adaptive", "base N(0, I), not PAGD (Table 5)", {"model.adaptive": "normal"}),
    ("end_to_end", "end to end (Table 6)", {"rule.scheme": "end_to_end"}),
    ("no_mode", "w/o L_m2m", {"weights.mode": 0.0}),
    ("no_bidirectional", "w/o L_Bi", {"weights.bidirectional": 0.0}),
    ("no_nll", "w/o L_NLL (end to end)", {"weights.nll": 0.0, "rule.scheme": "end_to_end"}),
    ("no_critic", "w/o discriminator", {"weights.discriminator": 0.0, "weights.pulling": 0.0}),
]
# Search of the sizes that the paper does not give; judged on validation images.
PROPOSE_SIZES: list[Row] = [
    ("default", "default", {}),
    *((f"std_{std}", f"s = {std}", {"model.std": std}) for std in (0.05, 0.2, 0.3)),
    *((f"width_{width}", f"d = {width}", {"model.width": width}) for width in (32, 64, 96)),
]


# ------------------------------------------------------------------------ all of them

MESH_STUDIES: dict[str, Rows] = {
    "components": _components,
    "supervision": SUPERVISION,
    "samples": _samples,
    "mask": MASK,
    "switches": _switches,
    "many": _many,
    "few": FEW_LABELS,
    "unlabelled": UNLABELLED,
}
FLOW_STUDIES: dict[str, Rows] = {"lifting": _lifting, "lifting_switches": _lifting_switches}
PROPOSE_STUDIES: dict[str, Rows] = {"propose": PROPOSE, "propose_sizes": PROPOSE_SIZES}
STUDIES: dict[str, tuple[str, Rows]] = {  # which part of a profile is varied, and how
    **{name: ("study", rows) for name, rows in MESH_STUDIES.items()},
    **{name: ("lifting", rows) for name, rows in FLOW_STUDIES.items()},
    **{name: ("propose", rows) for name, rows in PROPOSE_STUDIES.items()},
}


def home(study: str, profile_name: str) -> str:
    """Name the profile that a study is run in: on licensed data, for some, the open one beside."""
    sizes = profile(profile_name)
    return sizes.open.name if study in OPEN_ONLY else sizes.name


def variants(study: str, profile_name: str) -> list[Variant]:
    """List the variants of a study, seed 0."""
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}; expected one of {', '.join(STUDIES)}")
    part, rows = STUDIES[study]
    base = getattr(profile(profile_name), part)
    found = []
    for name, label, change in rows(base) if callable(rows) else rows:
        parts: dict[str, dict[str, Any]] = {}
        for place, value in change.items():
            part, _, field = place.rpartition(".")
            parts.setdefault(part, {})[field] = value
        own: dict[str, Any] = parts.pop("", {})
        if isinstance(base, PaperRun):  # the official code never knows the focal length
            own = {"default_focal": True} | own
        found.append(Variant(name=name, label=label, run=changed(base, **parts), **own))
    return found


def variant(study: str, name: str, profile_name: str) -> Variant:
    """Return one variant of a study, seed 0."""
    found = {v.name: v for v in variants(study, profile_name)}
    if name not in found:
        raise ValueError(f"study {study!r} has no variant {name!r}; it has {', '.join(found)}")
    return found[name]
