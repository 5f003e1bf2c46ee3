"""Ablations of the lifting systems: every variant is one run, made from the profile's base."""

from collections.abc import Callable

from humr.lifting_config import LiftingRun, ProposeRun
from humr.lifting_paper_config import LiftingPaperRun
from humr.variant import Variant, changed


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
