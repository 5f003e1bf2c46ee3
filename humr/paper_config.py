"""Training as in the paper, on licensed data: what such a run depends on beside `config.Run`."""

from dataclasses import dataclass, field

from humr.config import Run, later, one_of, require
from humr.licensed import TEST, TRAINING, data_set

STORED = 150  # heatmap samples per person in the official files
MASK_SIDES = (224, 112, 56)


@dataclass(frozen=True, kw_only=True)
class Licensed:
    """Licensed people that a run is trained and tested on; where their files lie is no part of it.

    Defaults are HuMR's: all training sets, every step sees new crops.
    """

    train: tuple[str, ...] = TRAINING
    test: tuple[str, ...] = TEST
    seed: int = 0  # of the crops
    # Crops per person whose features are computed once and kept; 0: images are read in every step.
    variants: int = 0
    heatmap_samples: int = STORED  # kept of the stored ones
    masks: bool = True  # read masks of persons; without them there is no mask loss
    mask_side: int = 224  # px; smaller ones take less room and are coarser
    precision: str = "float32"  # of the backbone, or "bfloat16"
    held_out: float = 0.01  # share at the end of every training set that is not trained on
    validation: int = 600  # people of these that are validated on, evenly spread
    tested: int = later(0)  # people of every test set, evenly spread; 0: all
    shard: int = 500  # people per file

    def __post_init__(self) -> None:
        require(bool(self.train), "train must name at least one data set")
        for split in ("train", "test"):
            wrong = [n for n in getattr(self, split) if data_set(n).split != split]
            require(not wrong, f"no sets of the split {split!r}: {', '.join(wrong)}")
        require(self.variants >= 0, f"variants must not be negative; got {self.variants}")
        samples = self.heatmap_samples
        require(1 <= samples <= STORED, f"heatmap_samples must lie in 1..{STORED}; got {samples}")
        require(
            self.mask_side in MASK_SIDES,
            f"mask_side must be one of {', '.join(map(str, MASK_SIDES))}; got {self.mask_side}",
        )
        one_of("precision", self.precision, "float32", "bfloat16")
        require(0 < self.held_out < 1, f"held_out must lie between 0 and 1; got {self.held_out}")
        require(self.validation > 0 and self.shard > 0, "validation and shard must be positive")
        require(self.tested >= 0, f"tested must not be negative; got {self.tested}")


@dataclass(frozen=True, kw_only=True)
class PaperRun(Run):
    """One training run of HuMR on licensed people."""

    world: Licensed = field(default_factory=Licensed)  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        rule, model = self.supervision, self.model
        require(
            self.world.masks or self.weights.mask == 0,
            "a mask loss needs masks; set world.masks, or weights.mask to 0",
        )
        require(
            rule.poses is None and rule.points is None,
            "all licensed images have their labels; supervision.poses and points must be None",
        )
        require(rule.heatmaps != "gaussian", "there are no moments of the heatmaps, only samples")
        require(
            not model.window_info and not model.normalise,
            "window_info and normalise belong to the open world's detector; set them to False",
        )
        require(model.features % 15 == 0, f"features must be 15 widths; got {model.features}")
