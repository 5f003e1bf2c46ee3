"""Every number that a run depends on: frozen dataclasses, JSON, a hash, and the four profiles."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def _require(ok: bool, what: str) -> None:  # noqa: FBT001
    if not ok:
        raise ValueError(what)


@dataclass(frozen=True, kw_only=True)
class World:
    """The open world: how many images of each split, and how hard they are."""

    seed: int = 0
    labelled: int = 12_000  # images with 3D labels
    points: int = 3_000  # images with 2D labels only
    unlabelled: int = 3_000  # images without labels (the box is still the renderer's)
    validation: int = 600
    test: int = 1_000
    shard: int = 200  # images per shard
    window: int = 288  # rendered pixels per side; covers 1.25 boxes
    backgrounds: int = 40  # painted once, then cut, flipped and recoloured
    occluded: float = 0.45  # share of images with an object in front of the person
    truncated: float = 0.20  # share of images that cut the person off
    frontal: float = 0.60  # share drawn within 60 degrees of the camera; the rest anyhow
    odd: float = 0.03  # share of bodies turned in any direction
    heatmap_samples: int = 64  # stored samples of every heatmap (HuMR stores 150)
    mask_resolution: int = 112

    def __post_init__(self) -> None:
        _require(min(self.sizes.values()) > 0, "every split needs at least one image")
        shares = (self.occluded, self.truncated, self.frontal, self.odd)
        _require(all(0 <= s <= 1 for s in shares), f"shares must lie in 0..1; got {shares}")
        _require(self.shard > 0, f"shard must be positive; got {self.shard}")

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        names = ("labelled", "points", "unlabelled", "validation", "test")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of HuMR. Defaults are the paper's (section 4.1 and the official configuration)."""

    features: int = 720  # of the image backbone
    feature_width: int | None = None  # None: the feature enters as it is
    feature_dropout: float = 0.0
    pose_hidden: int = 512
    pose_width: int = 256
    window_info: bool = False  # tell the network where the detector's window lies in the box
    blocks: int = 8
    hidden: int = 1024
    clamp: float = 2.0
    zero_init: bool = False
    normalise: bool = False  # standardise features and rotations, start shape and camera usual
    flow_dropout: float = 0.0
    head_hidden: int = 1024
    head_iterations: int = 3
    dropout: float = 0.5

    def __post_init__(self) -> None:
        _require(self.blocks > 0 and self.hidden > 0, "blocks and hidden must be positive")
        _require(0 <= self.dropout < 1, f"dropout must lie in 0..1; got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weight of every term of the objective (HuMR, supplement; 0 switches a term off)."""

    nll: float = 0.1
    shape: float = 5e-4
    keypoints: float = 1e-2  # 2D joints of the mode
    orthonormal_mode: float = 0.1
    orthonormal_samples: float = 0.1
    heatmap: float = 5e-2  # MMD
    mask: float = 0.1
    camera: float = 1.0  # in the official code only

    def __post_init__(self) -> None:
        for term in fields(self):
            value = getattr(self, term.name)
            _require(value >= 0, f"weight {term.name} must not be negative; got {value}")


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """When a heatmap, the ground truth or nothing supervises a joint (HuMR, section 3.3)."""

    uncertain_below: float = 0.7
    invisible_below: float = 0.5
    mask_misses: float = 0.1  # share of true joints off the mask from which it is not trusted
    target_noise: float = 0.005  # on the 6D labels
    heatmap_samples: int = 25

    def __post_init__(self) -> None:
        low, high = self.invisible_below, self.uncertain_below
        _require(
            0 <= low <= high <= 1, f"need 0 <= invisible <= uncertain <= 1; got {low}, {high}"
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimisation. Defaults are the official code's."""

    steps: int = 400_000
    batch: int = 64
    hypotheses: int = 25  # random ones per image and step, beside the mode
    rate: float = 1e-4
    decay: float = 1e-4
    warmup: int = 0
    cosine: bool = False
    clip: float | None = None  # norm of the gradient
    average: float = 0.0  # decay of the exponential moving average of the weights; 0 = off
    precision: str = "32-true"  # or bf16-mixed
    validate_every: int = 5_000
    patience: int = 0  # validations without progress before stopping; 0 = never stop
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.steps > 0 and self.batch > 0, "steps and batch must be positive")
        known = ("32-true", "bf16-mixed")
        _require(self.precision in known, f"precision must be one of {known}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of HuMR: everything that decides its result."""

    world: World = field(default_factory=World)
    model: Model = field(default_factory=Model)
    weights: Weights = field(default_factory=Weights)
    supervision: Supervision = field(default_factory=Supervision)
    training: Training = field(default_factory=Training)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How large everything is: from a test of the plumbing to the paper's own sizes."""

    name: str
    run: Run
    hypotheses: int  # per image in evaluation
    photo_hypotheses: int = 100


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

PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        name="smoke",
        hypotheses=10,
        photo_hypotheses=25,
        run=Run(
            world=World(labelled=24, points=8, unlabelled=8, validation=8, test=8, shard=8),
            model=replace(_OPEN_MODEL, blocks=2, hidden=32, feature_width=32, pose_width=32),
            weights=_OPEN_WEIGHTS,
            training=Training(
                steps=12, batch=8, hypotheses=4, rate=1e-3, clip=1.0, validate_every=6
            ),
        ),
    ),
    "laptop": Profile(
        name="laptop",
        hypotheses=100,
        run=Run(
            model=_OPEN_MODEL,
            weights=_OPEN_WEIGHTS,
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
        ),
    ),
    "gpu": Profile(
        name="gpu",
        hypotheses=100,
        run=Run(
            world=World(
                labelled=160_000, points=20_000, unlabelled=20_000, validation=2_000, test=4_000
            ),
            model=replace(_OPEN_MODEL, blocks=8, hidden=1024, feature_width=720, pose_width=256),
            weights=_OPEN_WEIGHTS,
            training=Training(
                steps=60_000,
                batch=256,
                rate=3e-4,
                decay=1e-3,
                warmup=1_000,
                cosine=True,
                clip=1.0,
                average=0.9995,
                precision="bf16-mixed",
                validate_every=2_000,
                patience=8,
            ),
        ),
    ),
    "paper": Profile(name="paper", hypotheses=100, run=Run()),
}


def profile(name: str) -> Profile:
    """Return a profile by name."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a dataclass as nested dictionaries."""
    return asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a config dataclass from nested dictionaries; unknown names are refused."""
    names = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"{cls.__name__} has no field {unknown}; it has {sorted(names)}")
    built = {
        name: from_dict(names[name].type, value)  # pyright: ignore[reportArgumentType]
        if is_dataclass(names[name].type) and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    return cls(**built)


def config_hash(config: Any) -> str:  # noqa: ANN401
    """Return twelve hexadecimal digits that change whenever a value changes."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
