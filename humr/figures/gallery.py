"""Pictures of the open world for the paper's figures: which ones (by rule), and what models say.

A `Gallery` is small: which image and joint each figure shows and why, and where the hypotheses of
several models project that joint. Laptops read the committed one; the smoke profile makes its own
from models trained on the spot. Images are rendered again when they are shown, as an `Example`.
Maintainers make the committed gallery after training: ``python -m humr.figures.gallery laptop``.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from humr import evaluation, metrics
from humr.batches import OBJECT_OCCLUDED, OUTSIDE, SELF_OCCLUDED, VISIBLE, Batch, unpack_mask
from humr.bodies.body import Body, load_body
from humr.config import World, from_dict, to_dict
from humr.devices import pick_device
from humr.evaluation import PIXELS
from humr.experiments import runs
from humr.experiments.profiles import profile
from humr.files import DATA, digest, in_place_of
from humr.geometry import Crop, matrix_to_sixd
from humr.losses import inside_mask
from humr.model import Humr, Hypotheses, People
from humr.posterior import Posterior, observation_batch
from humr.skeletons import ARTICULATED, COCO17
from humr.storage import TensorRecord
from humr.world import generate
from humr.world.records import Records
from humr.world.scenes import Scenes

COMMITTED = DATA / "results" / "figure_samples.safetensors"
COMMAND = "python -m humr.figures.gallery laptop"
SPLIT = "test"
MODELS = {  # name: study
    "prohmr": "components",
    "realnvp": "components",
    "mmd": "components",
    "mask": "components",
    "mask_0.1": "mask",  # the paper's weight, at which one sees what the loss does
}
WRISTS = COCO17.indices(["left_wrist", "right_wrist"])
ENDS = COCO17.indices(["right_wrist", "left_wrist", "right_ankle", "left_ankle"])
LIMBS = ("elbow", "wrist", "knee", "ankle")
SEEN = 10  # visible joints that an image must have; failures apart
GREY = 245  # of what was not rendered

# ---- one image, shown again


@dataclass(frozen=True)
class Example:
    """One image of the open world as a photograph, with the truth and a model's posterior."""

    image: int  # number in its split
    posterior: Posterior
    joint: int  # COCO index of what the figure is about
    people: People  # the truth (no leading axes)
    truth: Float[Tensor, "17 2"]  # keypoints, pixels of the photograph
    visibility: Int[Tensor, " 17"]
    window: Crop  # what was rendered
    silhouette: Bool[Tensor, "size size"]  # of person and objects in the window
    projections: dict[str, Float[Tensor, "hypotheses 2"]] = field(default_factory=dict)
    """Where other models project the joint, pixels of the photograph."""

    @property
    def name(self) -> str:
        """Name of the joint, for titles."""
        return COCO17.names[self.joint].replace("_", " ")

    @property
    def target(self) -> Float[Tensor, "1 2"]:
        """Where the joint is, in pixels of the photograph."""
        return self.truth[[self.joint]]

    @property
    def hidden(self) -> bool:
        """Whether the joint cannot be seen."""
        return int(self.visibility[self.joint]) != VISIBLE

    def possible(self, points_image: Float[Tensor, "points 2"]) -> Bool[Tensor, " points"]:
        """Tell where a hidden joint may be: on the person, behind an object, off the picture."""
        size = self.posterior.batch.image_size[0]
        in_photo = ((points_image >= 0) & (points_image < size)).all(-1)
        on = inside_mask(self.window.to_crop(points_image)[None], self.silhouette[None])[0]
        return on | ~in_photo

    def score(self, points_image: Float[Tensor, "points 2"]) -> dict[str, float]:
        """Possible points (%), their spread and energy score (pixels of a box of 256)."""
        crop = self.posterior.batch.crop
        points = PIXELS / 2 * crop.to_crop(points_image[None])[0]
        truth = PIXELS / 2 * crop.to_crop(self.target[None])[0]
        return {
            "possible": 100 * float(self.possible(points_image).float().mean()),
            "spread": float(metrics.spread(points[:, None])),
            "energy": float(metrics.energy_score(points[:, None], truth)),
        }


def score(sets: Iterable[tuple[Example, Float[Tensor, "points 2"]]]) -> dict[str, float]:
    """Mean of `Example.score` over several examples, each with its own points."""
    scores = pd.DataFrame([example.score(points) for example, points in sets])
    return {str(name): float(value) for name, value in scores.mean().items()}


def render_example(
    config: World,
    split: str,
    image: int,
    model: Humr,
    *,
    joint: int,
    hypotheses: int,
    generator: torch.Generator,
) -> Example:
    """Render an image of a split again, detect, and draw hypotheses."""
    shard, index = divmod(image, config.shard)
    scene = generate.scenes(config, split, shard)[index : index + 1]
    seen = generate.views(config, split, shard, index, index + 1)
    (found,) = generate.detect(scene, seen.images)
    place, keypoints = generate.in_photograph([found], scene, config.window)
    box = found.box * scene.window.side[0] / config.window + scene.window_corner[0].repeat(2)
    crop = Crop(place[0, :2], place[0, 2], place[0, 3])
    detection = replace(found, crop=crop, keypoints_image=keypoints[0], box=box)
    width, height = (int(v) for v in scene.image_size[0].tolist())
    batch = observation_batch(detection, width, height, float(scene.focal[0]), generator,
                              box=scene.box[0])  # fmt: skip
    drawn = model.sample(batch, hypotheses, generator=generator)
    return Example(
        image=image,
        posterior=Posterior(paste(seen.images[0], scene), detection, batch, drawn),
        joint=joint,
        people=People(matrix_to_sixd(scene.rotations), scene.betas, scene.translation)[0],
        truth=seen.keypoints_image[0],
        visibility=seen.visibility[0],
        window=Crop.upright(scene.window.centre[0], scene.window.side[0]),
        silhouette=(seen.person | seen.occluder)[0],
    )


def paste(window: np.ndarray, scene: Scenes) -> np.ndarray:
    """Put the rendered window into the photograph that it was cut from; the rest is grey."""
    scale = window.shape[0] / float(scene.window.side[0])
    left, top = scene.window_corner[0].tolist()
    width, height = (int(v) for v in scene.image_size[0].tolist())
    matrix = (scale, 0, -left * scale, 0, scale, -top * scale)
    photograph = Image.fromarray(window).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR,
        fillcolor=(GREY,) * 3,
    )  # fmt: skip
    return np.asarray(photograph)


# ---- choosing by rule


@dataclass(frozen=True)
class Facts(TensorRecord):
    """What the rules choose by, of every image and COCO joint."""

    spread: Float[Tensor, "images 17"]  # of the hypotheses, metres
    impossible: Float[Tensor, "images 17"]  # share of hypotheses that would be seen, if hidden
    heatmap: Float[Tensor, "images 17"]  # spread of the heatmap's samples, share of the box
    depth: Float[Tensor, " images"]  # depth spread / spread in the image plane, wrists and ankles
    energy: Float[Tensor, " images"]  # energy score, metres
    visibility: Int[Tensor, "images 17"]


@torch.no_grad()
def facts(
    model: Humr, body: Body, records: Records, *, hypotheses: int, seed: int = 0, batch: int = 50
) -> Facts:
    """Draw hypotheses of every image and reduce them to what the rules need."""
    generator = torch.Generator().manual_seed(seed)
    pieces = (records[slice(i, i + batch)] for i in range(0, len(records), batch))
    return Facts.join([_facts(model, body, piece, hypotheses, generator) for piece in pieces])


def _facts(
    model: Humr, body: Body, records: Records, hypotheses: int, generator: torch.Generator
) -> Facts:
    batch, drawn, points = _draw(model, body, records, hypotheses, generator)
    projected = batch.to_crop(points)
    silhouette = unpack_mask(records.person) | unpack_mask(records.occluder)
    pixels = batch.crop.to_image(projected.flatten(1, 2)).unflatten(1, projected.shape[1:3])
    in_photo = ((pixels >= 0) & (pixels < batch.image_size[:, None, None])).all(-1)
    on = inside_mask(projected, silhouette.to(projected.device))
    ends = points[..., list(ENDS), :]
    deviation = (ends - ends.mean(1, keepdim=True)).square().mean((1, 2)).sqrt()
    return Facts(
        spread=metrics.spread(points),
        impossible=(in_photo & ~on).float().mean(1),
        heatmap=metrics.spread(batch.samples) / 2,
        depth=deviation[:, 2] / deviation[:, :2].square().mean(-1).sqrt(),
        energy=evaluation.energy_of(drawn, batch, body.to(points.device))[0],
        visibility=records.visibility.long(),
    ).to("cpu")


def _draw(
    model: Humr, body: Body, records: Records, hypotheses: int, generator: torch.Generator
) -> tuple[Batch, Hypotheses, Float[Tensor, "images hypotheses 17 3"]]:
    """Draw hypotheses of every image on the model's device; also their keypoints."""
    device = model.flow.mean.device
    batch = records.batch(samples=32, generator=generator).to(device)
    drawn = model.sample(batch, hypotheses, generator=generator)
    return batch, drawn, drawn.samples.keypoints(body.to(device), "coco17")


@dataclass(frozen=True)
class Rule:
    """Which image and joint a figure shows: the quantile of a score among those allowed."""

    figure: str
    text: str
    unit: str
    score: Float[Tensor, "images 17"]
    allowed: Bool[Tensor, "images 17"]
    quantile: float = 1.0  # 1: the largest


def rules(found: Facts) -> list[Rule]:
    """Return the rules of all figures.

    They say what makes a picture worth looking at; none compares models with each other. The
    largest values are failures more often than not, so figures show quantiles, S3 apart.
    """
    spread, seen = found.spread, found.visibility == VISIBLE
    clear = seen.sum(-1, keepdim=True) >= SEEN
    behind_body, behind_object, outside = (
        (found.visibility == v) & clear for v in (SELF_OCCLUDED, OBJECT_OCCLUDED, OUTSIDE)
    )
    covered = behind_body | behind_object  # may be anywhere, yet not everywhere
    limbs, wrists = _only(ARTICULATED), _only(WRISTS)
    other_seen = seen[:, list(WRISTS)].sum(-1, keepdim=True) == 1
    energy, depth = (v[:, None].expand(-1, 17) for v in (found.energy, found.depth))
    whole = wrists & seen.all(-1, keepdim=True)
    kinds = {kind: _only(COCO17.indices([f"left_{kind}", f"right_{kind}"])) for kind in LIMBS}
    return [
        Rule("1", "spread of a hidden wrist", "m", spread, wrists & covered, 0.9),
        Rule("2", "spread of a visible wrist", "m", spread, wrists & seen & clear, 0.5),
        Rule("2", "spread of a wrist behind the body, the other visible", "m",
             spread, wrists & behind_body & other_seen, 0.9),
        *(Rule("4, 6", "spread of a wrist behind the body", "m", spread, wrists & behind_body, q)
          for q in (0.9, 0.7, 0.5)),
        Rule("5", "spread of a limb outside the picture", "m", spread, limbs & outside, 0.9),
        Rule("5", "spread of a limb behind an object", "m", spread, limbs & behind_object, 0.9),
        Rule("S3", "share of a hidden limb's hypotheses that would be seen", "",
             found.impossible, limbs & covered),
        Rule("S3", "spread of a visible limb", "m", spread, limbs & seen & clear),
        Rule("S3", "energy score", "m", energy, wrists.expand_as(seen)),
        *(Rule("S4", "depth spread / image spread, nothing hidden", "", depth, whole, q)
          for q in (0.5, 0.9)),
        *(Rule("S5", f"width of the heatmap of a hidden {kind}", "boxes",
               found.heatmap, covered & joints, 0.9) for kind, joints in kinds.items()),
        *(Rule("S6", f"spread of a hidden {kind}", "m", spread, covered & joints, 0.9)
          for kind, joints in kinds.items()),
    ]  # fmt: skip


def _only(joints: Sequence[int]) -> Bool[Tensor, "1 17"]:
    chosen = torch.zeros(1, 17, dtype=torch.bool)
    chosen[:, list(joints)] = True
    return chosen


def choose(chosen_by: Sequence[Rule]) -> pd.DataFrame:
    """Apply rules in order; one row each. No image is shown twice if there are enough images.

    In worlds too small for a rule the nearest thing is taken.
    """
    rows: list[dict[str, Any]] = []
    for rule in chosen_by:
        free = torch.ones_like(rule.allowed)
        free[[row["image"] for row in rows]] = False
        candidates = next(c for c in (rule.allowed & free, rule.allowed, free | True) if c.any())
        target = torch.quantile(rule.score[candidates], rule.quantile)
        distance = (rule.score - target).abs().masked_fill(~candidates, torch.inf)
        image, joint = divmod(int(distance.argmin()), 17)
        value = round(float(rule.score[image, joint]), 3)
        rows.append({"figure": rule.figure, "image": image, "joint": COCO17.names[joint],
                     "value": value, "unit": rule.unit, "quantile": rule.quantile,
                     "of": rule.text})  # fmt: skip
    return pd.DataFrame(rows)


# ---- what is kept


@dataclass(frozen=True)
class Gallery:
    """The chosen images and joints, and where models project these joints."""

    world: World
    examples: pd.DataFrame  # figure, image, joint, value, unit, quantile, of
    projections: dict[str, Float[Tensor, "examples hypotheses 2"]]  # by model; in the box, [-1, 1]
    shipped: str  # hash of the checkpoint that the rules looked at

    def write(self, path: Path) -> None:
        """Write one small file."""
        about = {"world": to_dict(self.world), "recipe": generate.DATA_VERSION,
                 "shipped": self.shipped, "models": list(self.projections),
                 "cases": self.examples.to_dict("records")}  # fmt: skip
        tensors = {name: points.half().contiguous() for name, points in self.projections.items()}
        with in_place_of(path) as part:
            save_file(tensors, part, {"about": json.dumps(about)})

    @classmethod
    def read(cls, path: Path) -> "Gallery":
        """Read what `write` wrote; a file for other images than today's is refused."""
        if not path.exists():
            raise FileNotFoundError(f"{path.name} is missing; make it: {COMMAND}")
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            projections = {name: file.get_tensor(name).float() for name in about["models"]}
        if about["recipe"] != generate.DATA_VERSION:
            raise ValueError(
                f"{path.name} is of world recipe {about['recipe']}, this is "
                f"{generate.DATA_VERSION}; make it again: {COMMAND}"
            )
        config = from_dict(World, about["world"])
        return cls(config, pd.DataFrame(about["cases"]), projections, about["shipped"])

    @property
    def current(self) -> bool:
        """Whether the choices were made with today's shipped checkpoint."""
        return self.shipped == _hash_of_shipped()

    def rows(self, figure: str) -> list[int]:
        """Numbers of the examples of one figure."""
        return [i for i, f in enumerate(self.examples.figure) if figure in f.split(", ")]

    def render(self, figure: str, model: Humr, **options: Any) -> list[Example]:  # noqa: ANN401
        """Show the images of one figure again; options as in `render_example`."""
        shown = []
        for row in self.rows(figure):
            image, name = int(self.examples.image[row]), str(self.examples.joint[row])
            joint = COCO17.index(name)
            one = render_example(self.world, SPLIT, image, model, joint=joint, **options)
            crop = one.posterior.batch.crop
            points = {m: crop.to_image(p[row][None])[0] for m, p in self.projections.items()}
            shown.append(replace(one, projections=points))
        return shown


@torch.no_grad()
def project_examples(
    model: Humr, body: Body, records: Records, examples: pd.DataFrame, *, hypotheses: int,
    seed: int = 0,
) -> Float[Tensor, "examples hypotheses 2"]:  # fmt: skip
    """Project the chosen joint of every example, hypothesis by hypothesis, into its box."""
    generator = torch.Generator().manual_seed(seed)
    chosen = records[torch.tensor(examples.image.to_numpy())]
    batch, _, points = _draw(model, body, chosen, hypotheses, generator)
    joints = torch.tensor([COCO17.index(name) for name in examples.joint])
    return batch.to_crop(points).cpu()[torch.arange(len(examples)), :, joints]


def make(name: str, *, seed: int = 0) -> Gallery:
    """Choose by the shipped model's hypotheses, and project those of all `MODELS` of a profile.

    Models that are not there are trained.
    """
    models = {v: runs.model(study, v, name, seed=seed) for v, study in MODELS.items()}
    config = profile(name)
    records = generate.store(config.run.world).make_and_load(SPLIT)
    body, device = load_body("small"), pick_device()
    shipped = runs.shipped()[0].to(device)
    options = {"hypotheses": config.hypotheses, "seed": seed}
    examples = choose(rules(facts(shipped, body, records, **options)))
    projections = {
        key: project_examples(model.to(device), body, records, examples, **options)
        for key, model in models.items()
    }
    return Gallery(config.run.world, examples, projections, _hash_of_shipped())


def _hash_of_shipped() -> str:
    return digest(runs.SHIPPED.with_suffix(".safetensors"))


def of(name: str, *, seed: int = 0) -> Gallery:
    """Return the committed gallery; in the smoke profile, make one on the spot."""
    return make(name, seed=seed) if name == "smoke" else Gallery.read(COMMITTED)


if __name__ == "__main__":
    make(sys.argv[1]).write(COMMITTED)
