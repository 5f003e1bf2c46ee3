"""Lifting as in the papers, on Human3.6M: what such a run depends on beside `lifting_config`."""

from dataclasses import dataclass, field

from humr.config import later, one_of, require
from humr.lifting_config import GROUPS, LiftingRule, LiftingRun, ProposeRule, ProposeRun

SOURCES = ("fits", "heatmaps", "cpn", "gt")
WITH_GAUSSIANS = SOURCES[:2]
THEIRS = dict(zip(GROUPS, ("GS", "noGS", "Outdoor"), strict=True))  # as MPI-INF-3DHP calls them


@dataclass(frozen=True, kw_only=True)
class Human36m:
    """Human3.6M and, for transfer, MPI-INF-3DHP; where their files lie is no part of it.

    Trained on are S1, 5, 6, 7, 8, tested on S9, 11. The official code looks at the test set after
    every epoch and keeps the last weights. Here the best weights are chosen on whole actions of
    one training subject, which nobody is trained on: all takes and cameras, so that no moment is
    seen from another side. The last weights are kept beside them.
    """

    # Whence 2D poses come: with Gaussians from "fits" (Wehrbein et al.) or "heatmaps" (FMPose);
    # alone from the detector "cpn" or from the labels, "gt" (VideoPose3D).
    poses: str = "fits"
    stride: int = 1  # of training: every how manieth stored image; every fourth frame is stored
    test_stride: int = 16  # every 64th frame
    held_out_subject: int = 8
    held_out: tuple[str, ...] = ("Directions", "SittingDown", "Walking")  # 3 of 75
    validation: int = 2_000  # images of these that are validated on, evenly spread
    transfer: bool = True  # the test set of MPI-INF-3DHP
    # Its 2D poses: the labels, as both papers seem to do, or a detector's "heatmaps" (FMPose).
    transfer_poses: str = later("labels")
    tested_images: int = later(
        0
    )  # of every split that models are measured on, evenly spread; 0: all

    def __post_init__(self) -> None:
        one_of("poses", self.poses, *SOURCES)
        one_of("transfer_poses", self.transfer_poses, "labels", "heatmaps")
        require(
            self.transfer_poses == "labels" or self.poses in WITH_GAUSSIANS,
            f"heatmaps of the transfer set need Gaussians in training; poses is {self.poses!r}",
        )
        counts = (self.stride, self.test_stride, self.validation)
        require(min(counts) > 0, "stride, test_stride and validation must be positive")
        require(bool(self.held_out), "held_out must name at least one action")
        few = self.tested_images
        require(few >= 0, f"tested_images must not be negative; got {few}")

    @property
    def tested(self) -> tuple[str, ...]:
        """Splits that models are measured on; "ambiguous" is H36MA, of all stored test images.

        2D poses alone know no ambiguity.
        """
        hard = ("ambiguous",) if self.poses in WITH_GAUSSIANS else ()
        return ("test", *hard, *(GROUPS if self.transfer else ()))

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits."""
        return ("train", "validation", *self.tested)

    @property
    def label(self) -> str:
        """What tables call this world."""
        return "Human3.6M"

    @property
    def where(self) -> str:
        """The same, as a sentence begins."""
        return "On Human3.6M"

    @property
    def groups(self) -> dict[str, str]:
        """What tables call the groups of the transfer set, those of MPI-INF-3DHP."""
        return {ours: f"3DHP {theirs}" for ours, theirs in THEIRS.items() if self.transfer}

    @property
    def hard(self) -> str:
        """The split whose ambiguous images count as such."""
        return "ambiguous" if "ambiguous" in self.tested else "test"


# Neither paper mentions mirror images.
_FLOW_RULE, _PROPOSE_RULE = LiftingRule(mirror=False), ProposeRule(mirror=False)


@dataclass(frozen=True, kw_only=True)
class LiftingPaperRun(LiftingRun):
    """One training run of the lifting flow on Human3.6M."""

    world: Human36m = field(default_factory=Human36m)  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: LiftingRule = _FLOW_RULE

    def __post_init__(self) -> None:
        require(
            self.rule.gaussians == "fit" or self.world.poses == "heatmaps",
            f"moments need heatmaps; world.poses is {self.world.poses!r}",
        )


def _detected() -> Human36m:
    return Human36m(poses="cpn")


@dataclass(frozen=True, kw_only=True)
class ProposePaperRun(ProposeRun):
    """One training run of ProPose on Human3.6M; the paper does not say which detector it has."""

    world: Human36m = field(default_factory=_detected)  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: ProposeRule = _PROPOSE_RULE
