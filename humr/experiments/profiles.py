"""How large everything is: from a test of the plumbing to the paper's own sizes.

Two profiles are of licensed data: "paper", and "paper-smoke", which tests the plumbing of that.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

from humr.config import Model, Run, Training, Weights, World
from humr.licensed.datasets import Licensed, LiftingPaperRun, PaperRun, ProposePaperRun
from humr.lifting.config import (
    LiftingModel,
    LiftingRule,
    LiftingRun,
    LiftingWorld,
    ProposeModel,
    ProposeRule,
    ProposeRun,
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How large everything is."""

    name: str
    run: Run
    study: Run  # what the ablations vary: all labels, no mask loss
    lifting: LiftingRun
    propose: ProposeRun
    hypotheses: int = 100  # per image in evaluation, of meshes
    lifted: int = 200  # the same, of lifting systems
    seeds: int = 3  # trainings of every variant
    photo_hypotheses: int = 100
    beside: str = ""  # of a licensed profile: the one whose open world is shown in its place

    @property
    def open(self) -> "Profile":
        """This profile, or of a licensed one that whose open world notebooks teach with."""
        return PROFILES[self.beside] if self.beside else self


def profile(name: str) -> Profile:
    """Return a profile by name.

    Of licensed people the variable `HUMR_VARIANTS` says how many crops per person are kept
    (`Licensed.variants`), for all runs: so every command and notebook means the same ones.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; expected one of {', '.join(PROFILES)}")
    found, text = PROFILES[name], os.environ.get("HUMR_VARIANTS", "")
    if not (text and isinstance(found.run, PaperRun)):
        return found
    if not text.isdecimal():
        raise ValueError(f"HUMR_VARIANTS must be a number of crops per person; got {text!r}")
    kept: Any = replace(found.run.world, variants=int(text))
    return replace(
        found, run=replace(found.run, world=kept), study=replace(found.study, world=kept)
    )


# ------------------------------------------------------------------------ HuMR, open world

_MODEL = Model(
    features=2016, feature_width=320, feature_dropout=0.2, pose_hidden=256, pose_width=192,
    window_info=True, blocks=6, hidden=384, clamp=1.0, zero_init=True, normalise=True,
    head_hidden=512, dropout=0.1,
)  # fmt: skip
_SMALL_MODEL = replace(
    _MODEL, feature_width=192, pose_hidden=128, pose_width=128, blocks=4, hidden=256,
    head_hidden=256,
)  # fmt: skip
# A tenth of the paper's mask weight: the detector's masks are less certain (decisions.md, 16).
# Five times its weight of the likelihood: scores and coverage gain (decisions.md, 27).
_WEIGHTS = Weights(mask=0.01, camera=0.0, nll=0.5)

_SMOKE = Run(
    world=World(labelled=24, points=8, unlabelled=8, validation=8, test=8, shard=8),
    model=replace(_MODEL, blocks=2, hidden=32, feature_width=32, pose_width=32),
    weights=_WEIGHTS,
    training=Training(steps=12, batch=8, hypotheses=4, rate=1e-3, clip=1.0, validate_every=6),
)
_LAPTOP = Run(
    model=_MODEL,
    weights=_WEIGHTS,
    training=Training(
        steps=6_000, hypotheses=8, rate=5e-4, decay=1e-3, warmup=300, cosine=True, clip=1.0,
        average=0.999, validate_every=500, patience=8,
    ),
)  # fmt: skip
_GPU = Run(
    world=World(labelled=160_000, points=20_000, unlabelled=20_000, validation=2_000, test=4_000),
    model=replace(_MODEL, blocks=8, hidden=1024, feature_width=720, pose_width=256),
    weights=_WEIGHTS,
    training=replace(
        _LAPTOP.training, steps=60_000, batch=256, hypotheses=25, rate=3e-4, warmup=1_000,
        average=0.9995, precision="bf16-mixed", validate_every=2_000,
    ),
)  # fmt: skip


def _study(run: Run, model: Model, **training: Any) -> Run:  # noqa: ANN401
    """Base of the ablations: heatmap supervision, no mask loss, every image labelled."""
    every = 10**9  # all images show their labels, as in the paper's experiments
    return replace(
        run,
        model=model,
        training=replace(run.training, **training),
        weights=Weights(mask=0.0, camera=0.0),
        supervision=replace(run.supervision, poses=every, points=every),
    )


# ------------------------------------------------------------------------ lifting, open world

_SMOKE_LIFTED = LiftingWorld(
    train=24, validation=8, test=8, transfer=8, shard=8, train_subjects=3, subjects=2
)
_GPU_LIFTED = LiftingWorld(
    train=100_000, validation=2_000, test=10_000, transfer=2_000, train_subjects=50
)
_SMOKE_STEPS = Training(steps=2, batch=8, rate=1e-3, decay=0.0, validate_every=2)
_LAPTOP_STEPS = Training(
    steps=1_500, batch=64, rate=1e-3, decay=0.0, warmup=100, cosine=True, average=0.99,
    validate_every=150,
)  # fmt: skip
_GPU_STEPS = Training(
    steps=75_000, batch=64, rate=1e-4, decay=0.0, halve_at=2 / 3, validate_every=5_000
)


def _adversarial(training: Training) -> Training:
    return replace(training, optimizer="adam", beta1=0.5, beta2=0.9, clip_value=15.0)


def _lifting(world: LiftingWorld, hidden: int, hypotheses: int, training: Training) -> LiftingRun:
    small = hidden < LiftingModel().hidden  # the critic would cost most of a small run
    return LiftingRun(
        world=world,
        model=LiftingModel(hidden=hidden, critic_bones=hidden if small else 1000, normalise=small),
        rule=LiftingRule(hypotheses=hypotheses),
        training=_adversarial(training),
    )


def _propose(world: LiftingWorld, hidden: int, hypotheses: int, training: Training) -> ProposeRun:
    return ProposeRun(
        world=world,
        model=ProposeModel(hidden=hidden, flow_hidden=hidden, critic_hidden=hidden // 2),
        rule=ProposeRule(hypotheses=hypotheses),
        training=replace(training, optimizer="adam", clip=15.0),
    )


# ------------------------------------------------------------------------ licensed data, small

_FEW_LICENSED = PaperRun(
    world=Licensed(validation=4, tested=8),
    model=Model(pose_hidden=32, pose_width=32, blocks=2, hidden=32, head_hidden=32),
    training=Training(steps=2, batch=2, hypotheses=4, validate_every=2),
)
# Tiny networks on the files that the papers' profile reads.
_FEW: dict[str, Any] = {"validation": 8, "test_stride": 1, "tested_images": 8}
_FEW_STEPS = replace(_SMOKE_STEPS, batch=4)
_FLOW, _PROPOSE = LiftingPaperRun(), ProposePaperRun()
_FEW_FLOW = replace(
    _FLOW,
    world=replace(_FLOW.world, **_FEW),
    model=replace(_FLOW.model, hidden=16, critic_bones=16),
    rule=replace(_FLOW.rule, hypotheses=8),
    training=_adversarial(_FEW_STEPS),
)
_FEW_PROPOSE = replace(
    _PROPOSE,
    world=replace(_PROPOSE.world, **_FEW),
    model=replace(_PROPOSE.model, hidden=16, flow_hidden=16, critic_hidden=8),
    rule=replace(_PROPOSE.rule, hypotheses=8),
    training=replace(_FEW_STEPS, optimizer="adam", clip=15.0),
)

# ------------------------------------------------------------------------ the profiles

_TINY: dict[str, Any] = {"hypotheses": 10, "lifted": 20, "photo_hypotheses": 25, "seeds": 1}
PROFILES: dict[str, Profile] = {
    each.name: each
    for each in (
        Profile(
            name="smoke",
            run=_SMOKE,
            study=_study(_SMOKE, _SMOKE.model, steps=2, validate_every=2),
            lifting=_lifting(_SMOKE_LIFTED, 16, 8, _SMOKE_STEPS),
            propose=_propose(_SMOKE_LIFTED, 16, 8, _SMOKE_STEPS),
            **_TINY,
        ),
        Profile(
            name="paper-smoke",
            run=_FEW_LICENSED,
            study=replace(_FEW_LICENSED, weights=Weights(mask=0.0)),
            lifting=_FEW_FLOW,
            propose=_FEW_PROPOSE,
            beside="smoke",
            **_TINY,
        ),
        Profile(
            name="laptop",
            run=_LAPTOP,
            study=_study(_LAPTOP, _SMALL_MODEL, steps=1_500, rate=1e-3, warmup=100, average=0.995),
            lifting=_lifting(LiftingWorld(), 128, 50, _LAPTOP_STEPS),
            propose=_propose(LiftingWorld(), 256, 32, _LAPTOP_STEPS),
        ),
        Profile(
            name="gpu",
            run=_GPU,
            study=_study(_GPU, _GPU.model, steps=20_000, patience=0),
            lifting=_lifting(_GPU_LIFTED, 1024, 200, _GPU_STEPS),
            propose=_propose(_GPU_LIFTED, 1024, 200, _GPU_STEPS),
            seeds=5,
        ),
        Profile(
            name="paper",
            run=PaperRun(),
            study=PaperRun(weights=Weights(mask=0.0)),
            lifting=_FLOW,
            propose=_PROPOSE,
            beside="laptop",
        ),
    )
}
