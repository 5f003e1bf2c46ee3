"""Every number that a run depends on: frozen dataclasses, JSON, and a hash of them."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

T = TypeVar("T")
SUPERVISION_VARIANTS = ("heatmaps", "certain", "articulated", "all", "labelled", "sure", "guess")


def hashed_if_changed(default: T) -> T:
    """Return a field that came later: it counts in `config_hash` only where it is not `default`.

    Results that were computed before it existed keep their names.
    """
    return field(default=default, metadata={"hashed_if_changed": True})


def require(ok: bool, what: str) -> None:  # noqa: FBT001
    """Refuse a configuration that cannot be meant."""
    if not ok:
        raise ValueError(what)


def one_of(field_name: str, value: str, *known: str) -> None:
    """Refuse a word that is not among the known ones."""
    require(value in known, f"{field_name} must be one of {', '.join(known)}; got {value!r}")


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
    frontal: float = 0.60  # share drawn within 60 degrees of the camera; the rest at any angle
    odd: float = 0.03  # share of bodies turned in any direction
    heatmap_samples: int = 80  # stored samples of every heatmap (HuMR stores 150)
    mask_resolution: int = 112

    def __post_init__(self) -> None:
        require(min(self.sizes.values()) > 0, "every split needs at least one image")
        shares = (self.occluded, self.truncated, self.frontal, self.odd)
        require(all(0 <= s <= 1 for s in shares), f"shares must lie in 0..1; got {shares}")
        require(self.shard > 0, f"shard must be positive; got {self.shard}")

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
    box: bool = True  # condition: where the box lies in the photograph (CLIFF)
    pose: bool = True  # condition: the detector's 2D pose
    embedding: bool = False  # condition: DiffPose's embedding of heatmap samples
    embedding_samples: int = 32
    flow: str = "realnvp"  # or "glow": ProHMR's flow of constant volume
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
        require(self.blocks > 0 and self.hidden > 0, "blocks and hidden must be positive")
        require(0 <= self.dropout < 1, f"dropout must lie in 0..1; got {self.dropout}")
        one_of("flow", self.flow, "realnvp", "glow")

    @property
    def heatmap_samples(self) -> int:
        """Heatmap samples that the network wants to see per image."""
        return self.embedding_samples if self.embedding else 0


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
    random_keypoints: float = 0.0  # 2D keypoints of random samples (ProHMR; HuMR's ablations)

    def __post_init__(self) -> None:
        for term in fields(self):
            value = getattr(self, term.name)
            require(value >= 0, f"weight {term.name} must not be negative; got {value}")


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """What teaches the hypotheses (HuMR, section 4.2). Defaults follow the paper.

    `follow` says what the 2D projections of random hypotheses are compared with: "heatmaps" (the
    paper: heatmap where uncertain, label where certain), "certain" (labels of certain joints),
    "articulated" (labels wherever the paper compares at all), "all" (labels of all joints in the
    crop). The others keep the paper's rule on labelled images and differ without labels:
    "labelled" (nothing at all), "sure" (certain joints, as the detector sees them), "guess" (its
    best guess of all joints).
    """

    uncertain_below: float = 0.7
    invisible_below: float = 0.5
    floor: float = 0.0  # below this confidence the label again (official code: 0.15)
    confidence: str = "map"  # maximum of the map, or of its drawn "samples" (official code)
    follow: str = "heatmaps"
    heatmaps: str = "own"  # or "shuffled": another image's; "gaussian": of the same moments
    heatmap_samples: int = 25
    estimator: str = "unbiased"  # or "biased" (official code)
    first_is_point: bool = False  # the label replaces the first sample (official code)
    random_visible: bool = False  # 2D keypoints of random samples: visible joints only
    mask_target: str = "own"  # pull to samples of the same joint, or of "any" (official code)
    mask_beyond: bool = False  # also punish joints outside the crop (the paper does not say)
    mask_misses: float = 0.1  # share of true joints off the mask from which it is not trusted
    target_noise: float = 0.005  # on the 6D labels (official code)
    poses: int | None = None  # images that may show their 3D labels; None: as their split says
    points: int | None = None  # the same for 2D labels
    # heatmaps only of joints in the window that the detector saw (official code, licensed data)
    window: bool = hashed_if_changed(False)  # noqa: FBT003
    # pixels of the mask lie at whole numbers, half a pixel before their centres (official code)
    mask_whole: bool = hashed_if_changed(False)  # noqa: FBT003

    def __post_init__(self) -> None:
        low, high = self.invisible_below, self.uncertain_below
        require(0 <= low <= high <= 1, f"need 0 <= invisible <= uncertain <= 1; got {low}, {high}")
        require(self.heatmap_samples > 0, "heatmap_samples must be positive")
        one_of("confidence", self.confidence, "map", "samples")
        one_of("follow", self.follow, *SUPERVISION_VARIANTS)
        one_of("heatmaps", self.heatmaps, "own", "shuffled", "gaussian")
        one_of("estimator", self.estimator, "unbiased", "biased")
        one_of("mask_target", self.mask_target, "own", "any")
        require(
            self.estimator == "biased" or not self.first_is_point,
            "first_is_point belongs to the biased estimator (official code)",
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimisation. Defaults are the official code's."""

    steps: int = 400_000
    batch: int = 64
    labelled_share: float = 0.0  # share of a batch that is drawn among images with 3D labels
    hypotheses: int = 25  # random ones per image and step, beside the mode
    optimizer: str = "adamw"  # official code; the paper says "adam"
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
    beta1: float = hashed_if_changed(0.9)  # of Adam
    beta2: float = hashed_if_changed(0.999)
    halve_at: float | None = hashed_if_changed(None)  # share of the steps, then half the rate
    clip_value: float | None = hashed_if_changed(None)  # of single gradients, if an objective does
    fast: tuple[str, ...] = hashed_if_changed(())  # `devices.SWITCHES`: other rounding, no more

    def __post_init__(self) -> None:
        require(self.steps > 0 and self.batch > 0, "steps and batch must be positive")
        few = f"the losses need 2 or more hypotheses; got {self.hypotheses}"
        require(self.hypotheses >= 2, few)
        require(0 <= self.labelled_share <= 1, "labelled_share must lie in 0..1")
        betas = (self.beta1, self.beta2)
        require(all(0 <= b < 1 for b in betas), f"Adam's betas must lie in 0..1; got {betas}")
        one_of("optimizer", self.optimizer, "adamw", "adam")
        one_of("precision", self.precision, "32-true", "bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of HuMR: everything that decides its result."""

    world: World = field(default_factory=World)
    model: Model = field(default_factory=Model)
    weights: Weights = field(default_factory=Weights)
    supervision: Supervision = field(default_factory=Supervision)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        drawn = max(self.supervision.heatmap_samples, self.model.heatmap_samples)
        stored = self.world.heatmap_samples
        few = f"the world stores {stored} heatmap samples; {drawn} are asked for"
        require(drawn <= stored, few)


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a dataclass as nested dictionaries."""
    return asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass, or the subclass of it that has these fields, from nested dictionaries."""
    try:
        return _from_dict(cls, values)
    except ValueError:
        for kind in cls.__subclasses__():
            with suppress(ValueError):
                return _from_dict(kind, values)
        raise


def _from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    require(isinstance(values, Mapping), f"{cls.__name__} must be an object; got {values!r}")
    names = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"{cls.__name__} has no field {unknown}; it has {sorted(names)}")
    built = {name: _value(name, names[name].type, value) for name, value in values.items()}
    return cls(**built)


def _value(name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401
    """A field's value from what JSON made of it, if it is of the field's type."""
    if is_dataclass(kind):
        return from_dict(kind, value)  # pyright: ignore[reportArgumentType]
    value = tuple(value) if isinstance(value, list) else value
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    known = {get_origin(each) or each for each in kinds}
    if float in known:
        known.add(int)  # kept as it is: hashes tell 0 from 0.0
    fits = type(value) in known and (type(value) is not float or math.isfinite(value))
    require(fits, f"{name} must be {getattr(kind, '__name__', kind)}; got {value!r}")
    return value


def config_hash(config: Any) -> str:  # noqa: ANN401
    """Return twelve hexadecimal digits that change whenever a value changes."""
    text = json.dumps(_counted(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _counted(config: Any) -> Any:  # noqa: ANN401
    """Nested values without fields of `hashed_if_changed` that hold their default."""
    if not is_dataclass(config):
        return config
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    for f in fields(config):
        if f.metadata.get("hashed_if_changed") and values[f.name] == f.default:
            del values[f.name]
    return {name: _counted(value) for name, value in values.items()}
