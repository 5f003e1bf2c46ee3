"""Configurations of the two lifting systems: the flow of ICCV 2021, and ProPose."""

from dataclasses import dataclass, field
from typing import ClassVar

from humr.config import Training, one_of, require

GROUPS = ("studio", "rooms", "outdoor")  # of the transfer set; as GS, noGS, Outdoor of 3DHP


@dataclass(frozen=True, kw_only=True)
class LiftingWorld:
    """The open world's stand-in for Human3.6M and, for transfer, MPI-INF-3DHP.

    Fifteen pose templates are the "actions"; the others appear in the transfer set only. Subjects
    are body shapes; no split shares one with another.
    """

    tested: ClassVar[tuple[str, ...]] = ("test", *GROUPS)  # splits that models are measured on
    hard: ClassVar[str] = "test"  # the split whose ambiguous images count as such
    label: ClassVar[str] = "open world"  # what tables call this world
    where: ClassVar[str] = "In the open world"  # the same, as a sentence begins
    groups: ClassVar[dict[str, str]] = dict(zip(GROUPS, GROUPS, strict=True))  # in tables

    seed: int = 0
    train: int = 12_000  # images
    validation: int = 600
    test: int = 1_000
    transfer: int = 250  # in each of the three groups
    train_subjects: int = 20
    subjects: int = 5  # in each of the other splits
    shard: int = 200
    window: int = 288
    backgrounds: int = 40
    occluded: float = 0.30
    truncated: float = 0.0  # as in Human3.6M; of the transfer set: outdoors only

    def __post_init__(self) -> None:
        counts = (*self.sizes.values(), self.train_subjects, self.subjects, self.shard)
        require(min(counts) > 0, "images, subjects and shard must be positive")

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        own = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return own | dict.fromkeys(GROUPS, self.transfer)


@dataclass(frozen=True, kw_only=True)
class LiftingModel:
    """Sizes of the lifting flow. Defaults are those of Wehrbein et al. (2021), section 4.1."""

    blocks: int = 8
    hidden: int = 1024  # official code: 1028
    condition: bool = True  # on the Gaussians fitted to the heatmaps
    condition_hidden: int = 256
    condition_width: int = 56
    coupling: str = "affine_paper_clamp"  # "affine": the clamp of FrEIA 0.2
    clamp: float = 2.0
    init_std: float = 0.05  # of all parameters of the flow (official code)
    normalise: bool = False  # standardise poses; official code: no, poses are small numbers there
    critic: int = 100  # width of its path of joints
    critic_bones: int = 1000  # width of its path of bones

    def __post_init__(self) -> None:
        require(self.blocks > 0 and self.hidden > 0, "blocks and hidden must be positive")
        one_of("coupling", self.coupling, "affine", "affine_paper_clamp")


@dataclass(frozen=True, kw_only=True)
class LiftingWeights:
    """Weight of every term (section 3.5; 0 switches a term off). L1 terms are means."""

    points: float = 1.0  # L_2D
    mmd: float = 10.0
    deterministic: float = 4.0
    heatmap: float = 750.0  # L_HM
    best: float = 4.0  # L_MB
    adversarial: float = 1.0  # L_gen
    nll: float = 0.0  # exact likelihood: a control that the paper lacks


@dataclass(frozen=True, kw_only=True)
class LiftingRule:
    """How the terms are meant."""

    hypotheses: int = 200
    best_of: int = 5  # k of L_MB
    estimator: str = "unbiased"  # of the MMD; "biased": official code
    doubled: bool = True  # axes wider than 2.1 px count twice (official code)
    gaussians: str = "fit"  # or "moments": no optimiser
    penalty: float = 10.0  # of the critic's gradient
    critic_updates: int = 5
    mirror: bool = True  # every pose also as its mirror image

    def __post_init__(self) -> None:
        require(
            1 <= self.best_of <= self.hypotheses,
            f"best_of must lie in 1..hypotheses; got {self.best_of} of {self.hypotheses}",
        )
        one_of("estimator", self.estimator, "unbiased", "biased")
        one_of("gaussians", self.gaussians, "fit", "moments")


# Official code: 155 epochs of 482 steps, the rate halved after epoch 150.
_LIFTING_TRAINING = Training(
    steps=155 * 482, batch=64, optimizer="adam", rate=1e-4, decay=0.0, beta1=0.5, beta2=0.9,
    halve_at=150 / 155, clip_value=15.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LiftingRun:
    """One training run of the lifting flow."""

    world: LiftingWorld = field(default_factory=LiftingWorld)
    model: LiftingModel = field(default_factory=LiftingModel)
    weights: LiftingWeights = field(default_factory=LiftingWeights)
    rule: LiftingRule = field(default_factory=LiftingRule)
    training: Training = _LIFTING_TRAINING


@dataclass(frozen=True, kw_only=True)
class ProposeModel:
    """Sizes of ProPose; the paper gives none, these are ours."""

    width: int = 48  # d, of both latent Gaussians
    hidden: int = 1024
    layers: int = 2  # residual blocks of every network
    critic_hidden: int = 512
    blocks: int = 8
    flow_hidden: int = 1024
    limit: float = 3.0  # alpha of the soft clamp on latent means
    std: float = 0.1  # s of the instance Gaussian
    coupling: str = "affine_paper_clamp"
    clamp: float = 2.0
    instance: str = "learned"  # "normal": N(0, I) instead (Table 4)
    adaptive: str = "learned"  # "normal": base N(0, I) instead (Table 5)

    def __post_init__(self) -> None:
        sizes = (self.width, self.hidden, self.layers, self.blocks, self.flow_hidden)
        require(min(sizes) > 0, "all sizes must be positive")
        require(self.std > 0 and self.limit > 0, "std and limit must be positive")
        one_of("coupling", self.coupling, "affine", "affine_paper_clamp")
        one_of("instance", self.instance, "learned", "normal")
        one_of("adaptive", self.adaptive, "learned", "normal")


@dataclass(frozen=True, kw_only=True)
class ProposeWeights:
    """Weight of every term (section 3; the paper adds them up; 0 switches a term off)."""

    reconstruct3d: float = 1.0
    reconstruct2d: float = 1.0
    nll: float = 1.0
    mode: float = 1.0  # L_m2m
    bidirectional: float = 1.0  # L_Bi
    discriminator: float = 1.0  # L_D and L_G
    pulling: float = 0.1  # L_PT
    divergence: float = 0.1  # of the variational control (Table 4): an error of scale 1 cm


@dataclass(frozen=True, kw_only=True)
class ProposeRule:
    """How the terms are meant, and how the parts take turns."""

    hypotheses: int = 200
    best_of: int = 5  # k of L_BoM
    share: float = 0.5  # b: of batches that skip L_Bi
    margin: float = 1.0  # m, of the discriminator's energy; poses in decimetres
    scheme: str = "alternate"  # or "end_to_end" (Table 6)
    mirror: bool = True

    def __post_init__(self) -> None:
        require(
            1 <= self.best_of <= self.hypotheses,
            f"best_of must lie in 1..hypotheses; got {self.best_of} of {self.hypotheses}",
        )
        require(0 <= self.share <= 1, f"share must lie in 0..1; got {self.share}")
        one_of("scheme", self.scheme, "alternate", "end_to_end")


_PROPOSE_TRAINING = Training(
    steps=100 * 1_300, batch=64, optimizer="adam", rate=1e-4, decay=0.0, clip=15.0, halve_at=2 / 3
)


@dataclass(frozen=True, kw_only=True)
class ProposeRun:
    """One training run of ProPose."""

    world: LiftingWorld = field(default_factory=LiftingWorld)
    model: ProposeModel = field(default_factory=ProposeModel)
    weights: ProposeWeights = field(default_factory=ProposeWeights)
    rule: ProposeRule = field(default_factory=ProposeRule)
    training: Training = _PROPOSE_TRAINING
