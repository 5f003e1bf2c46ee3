"""HuMR's ablations: every variant is one `Run`, made from the profile's study base.

The base is supervised by heatmaps and has no mask loss, as in the paper's ablations. Names are
short and stay; labels are what tables print. On licensed data there are no studies of scarce
labels (all images have theirs, `OPEN_ONLY`) and no Gaussians (only samples are stored); in the
full model the mask loss weighs what it does in the paper, not a tenth (decision 16). The camera
loss is on and the focal length is the photograph's diagonal, as in the official code, but for the
variants that are about them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from humr.config import Run, Weights, config_hash, to_dict
from humr.experiments.profiles import Profile, profile
from humr.licensed.datasets import LiftingPaperRun, PaperRun
from humr.lifting.config import LiftingRun, ProposeRun

# A variant: one row of a table, made by changing a few fields of a run.


R = TypeVar("R", bound=Run | LiftingRun | ProposeRun)


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
        return f"{config_hash(self.run)}-{self.checkpoint}" + "-focal" * self.default_focal


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


# Ablations of the lifting systems: every variant is one run, made from the profile's base.


def _terms(base: LiftingRun) -> list[Variant]:
    """Table 4: leave out the condition and single terms; k of the best-of-M term."""
    rows = [
        Variant(name="full", label="full (k = 5)", run=base),
        Variant(name="no_condition", label="w/o condition",
                run=changed(base, model={"condition": False})),
        Variant(name="no_heatmap", label="w/o L_HM", run=changed(base, weights={"heatmap": 0.0})),
        Variant(name="no_critic", label="w/o L_gen",
                run=changed(base, weights={"adversarial": 0.0})),
        Variant(name="no_best", label="w/o L_MB", run=changed(base, weights={"best": 0.0})),
    ]  # fmt: skip
    for k in (1, 10, 50):
        if k <= base.rule.hypotheses:
            run = changed(base, rule={"best_of": k})
            rows.append(Variant(name=f"best_{k}", label=f"L_MB k={k}", run=run))
    return rows


def _readings(base: LiftingRun) -> list[Variant]:
    """Paper against official code, one difference at a time; and what the paper does not try.

    On licensed data moments need heatmaps, and mirror images are what is tried, not the default.
    """
    alone = dict.fromkeys(
        ("points", "mmd", "deterministic", "heatmap", "best", "adversarial"), 0.0
    )
    rows = [
        Variant(name="full", label="our default", run=base),
        Variant(name="biased", label="biased MMD (W2)",
                run=changed(base, rule={"estimator": "biased"})),
        Variant(name="clamp", label="clamp of FrEIA 0.2 (W9)",
                run=changed(base, model={"coupling": "affine"})),
        Variant(name="single", label="wide axes not doubled (W3)",
                run=changed(base, rule={"doubled": False})),
        _mirrors(base),
        Variant(name="likelihood", label="exact likelihood alone",
                run=changed(base, weights={**alone, "nll": 1.0})),
        Variant(name="both", label="+ exact likelihood",
                run=changed(base, weights={"nll": 0.1})),
    ]  # fmt: skip
    if not isinstance(base, LiftingPaperRun) or base.world.poses == "heatmaps":
        run = changed(base, rule={"gaussians": "moments"})
        rows.insert(4, Variant(name="moments", label="moments, not fits", run=run))
    if base.model.normalise:
        run = changed(base, model={"normalise": False})
        rows.insert(5, Variant(name="raw", label="poses not standardised", run=run))
    return rows


def _mirrors(base: LiftingRun) -> Variant:
    """Train without mirror images, or with them if the base goes without."""
    run = changed(base, rule={"mirror": not base.rule.mirror})
    if base.rule.mirror:
        return Variant(name="plain", label="no mirror images", run=run)
    return Variant(name="mirrored", label="with mirror images", run=run)


def _parts(base: ProposeRun) -> list[Variant]:
    """Tables 4 to 7 of ProPose: its Gaussians, its training, its terms."""
    return [
        Variant(name="full", label="full", run=base),
        Variant(name="instance", label="N(0, I), not PILGD (Table 4)",
                run=changed(base, model={"instance": "normal"})),
        Variant(name="adaptive", label="base N(0, I), not PAGD (Table 5)",
                run=changed(base, model={"adaptive": "normal"})),
        Variant(name="end_to_end", label="end to end (Table 6)",
                run=changed(base, rule={"scheme": "end_to_end"})),
        Variant(name="no_mode", label="w/o L_m2m", run=changed(base, weights={"mode": 0.0})),
        Variant(name="no_bidirectional", label="w/o L_Bi",
                run=changed(base, weights={"bidirectional": 0.0})),
        Variant(name="no_nll", label="w/o L_NLL (end to end)",
                run=changed(base, weights={"nll": 0.0}, rule={"scheme": "end_to_end"})),
        Variant(name="no_critic", label="w/o discriminator",
                run=changed(base, weights={"discriminator": 0.0, "pulling": 0.0})),
    ]  # fmt: skip


def _sizes(base: ProposeRun) -> list[Variant]:
    """Search of the sizes that the paper does not give; judged on validation images."""
    rows = [Variant(name="default", label="default", run=base)]
    for std in (0.05, 0.2, 0.3):
        rows.append(
            Variant(name=f"std_{std}", label=f"s = {std}", run=changed(base, model={"std": std}))
        )
    for width in (32, 64, 96):
        run = changed(base, model={"width": width})
        rows.append(Variant(name=f"width_{width}", label=f"d = {width}", run=run))
    return rows


FLOW_STUDIES: dict[str, Callable[[LiftingRun], list[Variant]]] = {
    "lifting": _terms,
    "lifting_switches": _readings,
}
PROPOSE_STUDIES: dict[str, Callable[[ProposeRun], list[Variant]]] = {
    "propose": _parts,
    "propose_sizes": _sizes,
}

L2D_RANDOM = 1e-3  # what every row before "+ MMD" of the paper's Table 3 carries (methods, S2)
SAMPLE_COUNTS = (2, 5, 10, 25, 50, 70)
FEW = 1000  # 3D labels in the studies of scarce labels
OPEN_ONLY = ("few", "unlabelled")  # studies that need images without labels


def _components(base: Run) -> list[Variant]:
    """Table 3 and S1: from the ProHMR baseline to HuMR, one component after the other."""
    bare = changed(
        base,
        model={"flow": "glow", "box": False, "window_info": False, "pose": False},
        weights={"heatmap": 0.0, "random_keypoints": L2D_RANDOM},
    )
    box = changed(bare, model={"box": True, "window_info": base.model.window_info})
    pose = changed(box, model={"pose": True})
    realnvp = changed(pose, model={"flow": "realnvp"})
    weights = Weights() if isinstance(base, PaperRun) else profile("laptop").run.weights
    mask = changed(base, weights={"mask": weights.mask})
    return [
        Variant(name="prohmr", label="ProHMR†", run=bare),
        Variant(name="box", label="+ bbox info", run=box),
        Variant(name="pose", label="+ 2D pose condition", run=pose),
        Variant(name="realnvp", label="+ RealNVP", run=realnvp),
        Variant(name="mmd", label="+ L_MMD", run=base),
        Variant(name="mask", label=f"+ L_mask (full), λ = {weights.mask:g}", run=mask),
    ]


def _supervision(base: Run) -> list[Variant]:
    """Table S2: what supervises the random hypotheses."""
    none = changed(base, weights={"heatmap": 0.0})
    rows = [Variant(name="none", label="no supervision", run=none)]
    for visible, joints in ((False, "all"), (True, "vis")):
        for weight, text in ((1e-3, "1e-3"), (5e-3, "5e-3"), (1e-2, "1e-2")):
            run = changed(
                none,
                weights={"random_keypoints": weight},
                supervision={"random_visible": visible},
            )
            label = f"L2D-{joints} λ={text}"
            rows.append(Variant(name=f"{joints}_{text}", label=label, run=run))
    embedding = changed(none, model={"embedding": True})
    return [
        *rows,
        Variant(name="diffpose", label="DiffPose condition", run=embedding),
        Variant(name="mmd", label="L_MMD (ours)", run=base),
    ]


def _samples(base: Run) -> list[Variant]:
    """Figure S2: number of heatmap samples, and of hypotheses (the official code ties them)."""
    small = changed(base, training={"batch": max(1, base.training.batch // 4)})
    rows = []
    for biased, kind in ((False, "unbiased"), (True, "official")):
        for count in SAMPLE_COUNTS:
            run = changed(
                small,
                supervision={
                    "heatmap_samples": count,
                    "estimator": "biased" if biased else "unbiased",
                    "first_is_point": biased,
                },
                training={"hypotheses": count},
            )
            rows.append(Variant(name=f"{kind}_{count}", label=f"{kind}, n = {count}", run=run))
    return rows


def _mask(base: Run) -> list[Variant]:
    """Weights of the mask loss, and its readings."""
    rows = [Variant(name="mask_0", label="no mask loss", run=base)]
    for text in ("0.003", "0.01", "0.03", "0.1"):
        run = changed(base, weights={"mask": float(text)})
        rows.append(Variant(name=f"mask_{text}", label=f"λ = {text}", run=run))
    full = changed(base, weights={"mask": 0.01})
    readings = {
        "any": ("nearest sample of any joint (official code)", {"mask_target": "any"}),
        "beyond": ("outside the crop too", {"mask_beyond": True}),
        "raw": ("every labelled image, whatever its mask misses", {"mask_misses": 1.0}),
    }
    for name, (label, change) in readings.items():
        run = changed(full, supervision=change)
        rows.append(Variant(name=f"mask_{name}", label=f"λ = 0.01, {label}", run=run))
    return rows


def _switches(base: Run) -> list[Variant]:
    """Paper against official code, one difference at a time, then all."""
    biased = {"estimator": "biased"}
    first = biased | {"first_is_point": True}
    official = changed(
        base,
        weights={"camera": 1.0, "mask": 0.1},
        supervision=first | {"floor": 0.15, "mask_target": "any", "confidence": "samples"},
    )
    licensed = isinstance(base, PaperRun)
    if licensed:  # these labels and masks are the official ones
        official = changed(official, supervision={"window": True, "mask_whole": True})
    floor = {"floor": 0.15, "window": licensed}
    unknown = not licensed  # where the network is told the focal length
    camera = {"camera": 0.0 if base.weights.camera else 1.0}  # on licensed data it is on
    adam = {"optimizer": "adam", "decay": 1e-4}  # a penalty of the weights' squares
    paper = changed(
        base,
        weights={"camera": 0.0, "mask": 0.1},
        supervision={"target_noise": 0.0},
        training=adam,
    )
    return [
        Variant(name="mmd", label="our default", run=base),
        Variant(name="biased", label="biased MMD (H1)", run=changed(base, supervision=biased)),
        Variant(name="first", label="+ label as first sample (H1)",
                run=changed(base, supervision=first)),
        Variant(name="floor", label="confidence floor 0.15 (H1c)",
                run=changed(base, supervision=floor)),
        Variant(name="camera", label=f"{'no ' * (camera['camera'] == 0)}camera loss (H1d)",
                run=changed(base, weights=camera)),
        Variant(name="focal", label=f"focal length {'un' * unknown}known at test (H1e)", run=base,
                default_focal=unknown),
        Variant(name="mask", label="the paper's mask loss, λ = 0.1",
                run=changed(base, weights={"mask": 0.1})),
        Variant(name="adam", label="Adam, not AdamW (H3)",
                run=changed(base, training=adam)),
        Variant(name="noiseless", label="no noise on labels (H4)",
                run=changed(base, supervision={"target_noise": 0.0})),
        Variant(name="l2d", label="+ L2D 1e-3 on random samples (H5)",
                run=changed(base, weights={"random_keypoints": L2D_RANDOM})),
        Variant(name="confidence", label="confidence from samples (H8)",
                run=changed(base, supervision={"confidence": "samples"})),
        Variant(name="likelihood", label="likelihood weighs 1, not 0.1 (ours)",
                run=changed(base, weights={"nll": 1.0})),
        Variant(name="last", label="last checkpoint, not the best", run=base, checkpoint="last"),
        Variant(name="paper", label="all as printed in the paper", run=paper),
        Variant(name="official", label="all as in the official code", run=official),
    ]  # fmt: skip


_CONTROLS = {
    "certain": ("labels of certain joints only", {"follow": "certain"}),
    "articulated": ("labels instead of heatmaps", {"follow": "articulated"}),
    "all": ("labels of all joints", {"follow": "all"}),
    "heatmaps": ("heatmaps (the paper)", {}),
    "shuffled": ("another image's heatmaps", {"heatmaps": "shuffled"}),
    "gaussian": ("Gaussians of the same moments", {"heatmaps": "gaussian"}),
}


def _controlled(base: Run, names: list[str]) -> list[Variant]:
    none = changed(base, weights={"heatmap": 0.0})
    rows = [Variant(name="none", label="no supervision of hypotheses", run=none)]
    for name in names:
        if name == "gaussian" and isinstance(base, PaperRun):
            continue
        label, change = _CONTROLS[name]
        rows.append(Variant(name=name, label=label, run=changed(base, supervision=change)))
    return rows


def _many(base: Run) -> list[Variant]:
    """Controls with all 3D labels, and the baseline with as much time as the MMD needs."""
    rows = _controlled(base, list(_CONTROLS))
    steps = base.training.steps * 3 // 2
    longer = changed(base, weights={"heatmap": 0.0}, training={"steps": steps})
    return [*rows, Variant(name="longer", label="no supervision, as much time", run=longer)]


def _few(base: Run) -> list[Variant]:
    """Controls with 1000 3D labels; all images have 2D labels."""
    scarce = changed(base, supervision={"poses": FEW}, training={"labelled_share": 0.5})
    rows = _controlled(scarce, list(_CONTROLS))
    last = [
        Variant(name="none_last", label="no supervision, last checkpoint", run=rows[0].run,
                checkpoint="last"),
        Variant(name="heatmaps_last", label="heatmaps, last checkpoint", run=scarce,
                checkpoint="last"),
    ]  # fmt: skip
    return [*rows, *last]


def _unlabelled(base: Run) -> list[Variant]:
    """The clean test: 1000 labelled images, and all others without any label.

    "supervised" has the same batches and learns nothing from images without labels; "sure" learns
    from them where the detector is certain, "keypoints" takes its best guess of every joint.
    "alone" and "doubled" have labelled images only, twice as many in a batch.
    """
    scarce = changed(
        base, supervision={"poses": FEW, "points": FEW}, training={"labelled_share": 0.5}
    )
    supervised = changed(scarce, supervision={"follow": "labelled"})
    doubled = changed(scarce, training={"labelled_share": 1.0})
    alone = changed(doubled, weights={"heatmap": 0.0})
    points = changed(scarce, supervision={"follow": "guess"})
    sure = changed(scarce, supervision={"follow": "sure"})
    return [
        Variant(name="alone", label="labelled images alone, twice as many, no MMD", run=alone),
        Variant(name="doubled", label="labelled images alone, twice as many", run=doubled),
        Variant(name="supervised", label="labelled images alone", run=supervised),
        Variant(name="sure", label="certain joints of the detector only", run=sure),
        *_controlled(scarce, ["heatmaps", "shuffled", "gaussian"])[1:],
        Variant(name="keypoints", label="the detector's keypoints as labels", run=points),
    ]


MESH_STUDIES: dict[str, Callable[[Run], list[Variant]]] = {
    "components": _components,
    "supervision": _supervision,
    "samples": _samples,
    "mask": _mask,
    "switches": _switches,
    "many": _many,
    "few": _few,
    "unlabelled": _unlabelled,
}


# Every ablation of every system, by name.


__all__ = ["FEW", "L2D_RANDOM", "SAMPLE_COUNTS", "STUDIES", "Variant", "changed", "home",
           "variant", "variants"]  # fmt: skip


def _of(part: str, build: Callable[..., list[Variant]], sizes: Profile) -> list[Variant]:
    base = getattr(sizes, part)
    found = build(base)
    if isinstance(base, PaperRun):  # the official code never knows the focal length
        return [replace(each, default_focal=each.name != "focal") for each in found]
    return found


STUDIES: dict[str, Callable[[Profile], list[Variant]]] = {
    name: partial(_of, part, build)
    for part, studies in (
        ("study", MESH_STUDIES),
        ("lifting", FLOW_STUDIES),
        ("propose", PROPOSE_STUDIES),
    )
    for name, build in studies.items()
}


def home(study: str, profile_name: str) -> str:
    """Name the profile that a study is run in: on licensed data, for some, the open one beside."""
    sizes = profile(profile_name)
    return sizes.open.name if study in OPEN_ONLY else sizes.name


def variants(study: str, profile_name: str) -> list[Variant]:
    """List the variants of a study, seed 0."""
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}; expected one of {', '.join(STUDIES)}")
    return STUDIES[study](profile(profile_name))


def variant(study: str, name: str, profile_name: str) -> Variant:
    """Return one variant of a study, seed 0."""
    found = {v.name: v for v in variants(study, profile_name)}
    if name not in found:
        raise ValueError(f"study {study!r} has no variant {name!r}; it has {', '.join(found)}")
    return found[name]
