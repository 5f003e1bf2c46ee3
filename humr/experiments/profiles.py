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
    """How large everything is: from a test of the plumbing to the paper's own sizes."""

    name: str
    run: Run
    study: Run  # what the ablations vary: all labels, no mask loss
    lifting: LiftingRun
    propose: ProposeRun
    hypotheses: int  # per image in evaluation, of meshes
    lifted: int = 200  # the same, of lifting systems
    seeds: int = 3  # trainings of every variant
    photo_hypotheses: int = 100
    beside: str = ""  # of a licensed profile: the one whose open world is shown in its place

    @property
    def open(self) -> "Profile":
        """This profile, or of a licensed one that whose open world notebooks teach with."""
        return PROFILES[self.beside] if self.beside else self


_OPEN_MODEL = Model(
    features=2016,
    feature_width=320,
    feature_dropout=0.2,
    pose_hidden=256,
    pose_width=192,
    window_info=True,
    blocks=6,
    hidden=384,
    clamp=1.0,
    zero_init=True,
    normalise=True,
    head_hidden=512,
    dropout=0.1,
)
# A tenth of the paper's mask weight: the detector's masks are less certain (decisions.md, 16).
_OPEN_WEIGHTS = Weights(mask=0.01, camera=0.0)
# Five times the paper's weight of the likelihood: scores and coverage gain (decisions.md, 27).
_MAIN_WEIGHTS = replace(_OPEN_WEIGHTS, nll=0.5)
_EVERY = 10**9  # all images show their labels, as in the paper's experiments

_SMOKE = Run(
    world=World(labelled=24, points=8, unlabelled=8, validation=8, test=8, shard=8),
    model=replace(_OPEN_MODEL, blocks=2, hidden=32, feature_width=32, pose_width=32),
    weights=_MAIN_WEIGHTS,
    training=Training(steps=12, batch=8, hypotheses=4, rate=1e-3, clip=1.0, validate_every=6),
)
_LAPTOP = Run(
    model=_OPEN_MODEL,
    weights=_MAIN_WEIGHTS,
    training=Training(
        steps=6_000,
        hypotheses=8,
        rate=5e-4,
        decay=1e-3,
        warmup=300,
        cosine=True,
        clip=1.0,
        average=0.999,
        validate_every=500,
        patience=8,
    ),
)
_GPU = Run(
    world=World(labelled=160_000, points=20_000, unlabelled=20_000, validation=2_000, test=4_000),
    model=replace(_OPEN_MODEL, blocks=8, hidden=1024, feature_width=720, pose_width=256),
    weights=_MAIN_WEIGHTS,
    training=replace(
        _LAPTOP.training,
        steps=60_000,
        batch=256,
        hypotheses=25,
        rate=3e-4,
        warmup=1_000,
        average=0.9995,
        precision="bf16-mixed",
        validate_every=2_000,
    ),
)


def _study(run: Run, model: Model, training: Training) -> Run:
    """Base of the ablations: heatmap supervision, no mask loss, every image labelled."""
    return replace(
        run,
        model=model,
        training=training,
        weights=replace(_OPEN_WEIGHTS, mask=0.0),
        supervision=replace(run.supervision, poses=_EVERY, points=_EVERY),
    )


_SMALL_MODEL = replace(
    _OPEN_MODEL,
    feature_width=192,
    pose_hidden=128,
    pose_width=128,
    blocks=4,
    hidden=256,
    head_hidden=256,
)


def _lifting(world: LiftingWorld, hidden: int, hypotheses: int, training: Training) -> LiftingRun:
    small = hidden < LiftingModel().hidden  # the critic would cost most of a small run
    return LiftingRun(
        world=world,
        model=LiftingModel(hidden=hidden, critic_bones=hidden if small else 1000, normalise=small),
        rule=LiftingRule(hypotheses=hypotheses, best_of=min(5, hypotheses)),
        training=_adversarial(training),
    )


def _adversarial(training: Training) -> Training:
    return replace(training, optimizer="adam", beta1=0.5, beta2=0.9, clip_value=15.0)


def _propose(world: LiftingWorld, hidden: int, hypotheses: int, training: Training) -> ProposeRun:
    return ProposeRun(
        world=world,
        model=ProposeModel(hidden=hidden, flow_hidden=hidden, critic_hidden=hidden // 2),
        rule=ProposeRule(hypotheses=hypotheses, best_of=min(5, hypotheses)),
        training=replace(training, optimizer="adam", clip=15.0),
    )


_SMOKE_LIFTING = (
    LiftingWorld(
        train=24, validation=8, test=8, transfer=8, shard=8, train_subjects=3, subjects=2
    ),
    16,
    8,
    Training(steps=2, batch=8, rate=1e-3, decay=0.0, validate_every=2),
)
_LAPTOP_TRAINING = Training(
    steps=1_500, batch=64, rate=1e-3, decay=0.0, warmup=100, cosine=True, average=0.99,
    validate_every=150,
)  # fmt: skip
_GPU_LIFTING = (
    LiftingWorld(train=100_000, validation=2_000, test=10_000, transfer=2_000, train_subjects=50),
    1024,
    200,
    Training(steps=75_000, batch=64, rate=1e-4, decay=0.0, halve_at=2 / 3, validate_every=5_000),
)
_SMALL_LIFTING = Training(steps=2, batch=4, rate=1e-3, decay=0.0, validate_every=2)
_FEW_LICENSED = PaperRun(
    world=Licensed(validation=4, tested=8),
    model=Model(pose_hidden=32, pose_width=32, blocks=2, hidden=32, head_hidden=32),
    training=Training(steps=2, batch=2, hypotheses=4, validate_every=2),
)


def _lifting_paper_smoke() -> tuple[LiftingPaperRun, ProposePaperRun]:
    """Tiny networks on the files that the papers' profile reads."""
    flow, propose = LiftingPaperRun(), ProposePaperRun()
    few: dict[str, Any] = {"validation": 8, "test_stride": 1, "tested_images": 8}
    flow = replace(
        flow,
        world=replace(flow.world, **few),
        model=replace(flow.model, hidden=16, critic_bones=16),
        rule=replace(flow.rule, hypotheses=8),
        training=_adversarial(_SMALL_LIFTING),
    )
    propose = replace(
        propose,
        world=replace(propose.world, **few),
        model=replace(propose.model, hidden=16, flow_hidden=16, critic_hidden=8),
        rule=replace(propose.rule, hypotheses=8),
        training=replace(_SMALL_LIFTING, optimizer="adam", clip=15.0),
    )
    return flow, propose


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        name="smoke",
        run=_SMOKE,
        lifting=_lifting(*_SMOKE_LIFTING),
        propose=_propose(*_SMOKE_LIFTING),
        study=_study(_SMOKE, _SMOKE.model, replace(_SMOKE.training, steps=2, validate_every=2)),
        hypotheses=10,
        lifted=20,
        photo_hypotheses=25,
        seeds=1,
    ),
    "paper-smoke": Profile(
        name="paper-smoke",
        run=_FEW_LICENSED,
        study=replace(_FEW_LICENSED, weights=Weights(mask=0.0)),
        lifting=_lifting_paper_smoke()[0],
        propose=_lifting_paper_smoke()[1],
        hypotheses=10,
        lifted=20,
        photo_hypotheses=25,
        seeds=1,
        beside="smoke",
    ),
    "laptop": Profile(
        name="laptop",
        run=_LAPTOP,
        lifting=_lifting(LiftingWorld(), 128, 50, _LAPTOP_TRAINING),
        propose=_propose(LiftingWorld(), 256, 32, _LAPTOP_TRAINING),
        study=_study(
            _LAPTOP,
            _SMALL_MODEL,
            replace(_LAPTOP.training, steps=1_500, rate=1e-3, warmup=100, average=0.995),
        ),
        hypotheses=100,
    ),
    "gpu": Profile(
        name="gpu",
        run=_GPU,
        lifting=_lifting(*_GPU_LIFTING),
        propose=_propose(*_GPU_LIFTING),
        study=_study(_GPU, _GPU.model, replace(_GPU.training, steps=20_000, patience=0)),
        hypotheses=100,
        seeds=5,
    ),
    "paper": Profile(
        name="paper",
        run=PaperRun(),
        study=PaperRun(weights=Weights(mask=0.0)),
        lifting=LiftingPaperRun(),
        propose=ProposePaperRun(),
        hypotheses=100,
        beside="laptop",
    ),
}


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
    kept = replace(found.run.world, variants=int(text))
    return replace(found, run=_with(found.run, kept), study=_with(found.study, kept))


def _with(run: Run, world: Any) -> Run:  # noqa: ANN401
    return replace(run, world=world)
