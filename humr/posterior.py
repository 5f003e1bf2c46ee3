"""From one photograph to a posterior of 3D bodies: the whole chain in one call."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from humr import metrics
from humr.batches import BOX_SCALE, Batch
from humr.bodies.body import Body, save_ply
from humr.config import Supervision
from humr.detector import Detection, Detector
from humr.geometry import Crop, box_info, default_focal, project
from humr.heatmaps import GRID
from humr.model import Humr, Hypotheses, People
from humr.refine import Constants, refine
from humr.skeletons import ARTICULATED, COCO17

SAMPLES = 32  # of every heatmap, for models that read samples
REFINED_SAMPLES = 80  # as many as a render's records hold, on which refinement was fitted
_DIGITS = {"m": 4, "mm": 1, "image": 1, "detected": 1, "confidence": 3}
RgbImage = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Posterior:
    """Hypotheses of the body in one photograph, and what they rest on."""

    image: RgbImage
    detection: Detection
    batch: Batch  # of one
    hypotheses: Hypotheses  # of one image
    remark: str = ""  # why not everything was refined, or how little the picture says

    @property
    def mode(self) -> People:
        """The body of noise 0, without the batch axis."""
        return self.hypotheses.mode[0]

    @property
    def samples(self) -> People:
        """The random hypotheses (hypotheses, ...)."""
        return self.hypotheses.samples[0]

    @property
    def focal(self) -> Float[Tensor, ""]:
        """Focal length in pixels."""
        return self.batch.focal[0]

    @property
    def centre(self) -> Float[Tensor, "2"]:
        """Principal point in pixels."""
        return self.batch.centre[0]

    def keypoints(self, body: Body) -> Float[Tensor, "hypotheses 17 3"]:
        """COCO keypoints of the samples in camera space (metres)."""
        return self.samples.keypoints(body, "coco17")

    def pixels(self, points: Float[Tensor, "hypotheses points 3"]) -> Tensor:
        """Project points to pixels of the photograph."""
        count = len(points)
        return project(points, self.focal.expand(count), self.centre.expand(count, 2))

    def projected(self, body: Body, joint: int) -> Float[Tensor, "hypotheses 2"]:
        """Where the samples put one COCO joint, in pixels of the photograph."""
        return self.pixels(self.keypoints(body)[:, [joint]])[:, 0]

    def spread(self, points: Float[Tensor, "hypotheses points 3"]) -> Float[Tensor, " points"]:
        """Mean distance (metres) of each point to its mean, with all bodies at one place."""
        return metrics.spread(self.about_body(points))

    def about_body(self, points: Float[Tensor, "hypotheses points 3"]) -> Tensor:
        """Points of each hypothesis from where its own body stands: without the camera's part."""
        return points - self.samples.translation[:, None]

    def most_uncertain(self, body: Body) -> int:
        """COCO index of the elbow, wrist, knee or ankle with the largest spread."""
        spread = self.spread(self.keypoints(body))
        return max(ARTICULATED, key=lambda joint: float(spread[joint]))

    def apart(self, body: Body, joint: int) -> tuple[int, int]:
        """Two hypotheses that disagree on a joint, neither of them extreme.

        Those at the 10 % and 90 % points along the direction in which the joint varies most.
        """
        points = self.about_body(self.keypoints(body))[:, joint]
        centred = points - points.mean(0)
        along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
        order, last = along.argsort(), len(along) - 1
        return int(order[round(0.1 * last)]), int(order[round(0.9 * last)])

    def joint_table(self, body: Body) -> pd.DataFrame:
        """One row per COCO joint: mean position, spread, confidence, what the detector saw.

        `spread_mm` and `radius90_mm` are of the pose: hypotheses stand at one place. `depth_mm` is
        the mean deviation of the distance to the camera, which is mostly the place's.
        """
        points = self.keypoints(body)
        about = self.about_body(points)
        mean, distance = points.mean(0), (about - about.mean(0)).norm(dim=-1)
        pixels = self.pixels(points).mean(0)
        confidence = self.batch.keypoints[0, :, 2]
        limits = Supervision()
        table = {
            "joint": COCO17.names,
            **{f"{axis}_m": mean[:, i] for i, axis in enumerate("xyz")},
            "spread_mm": 1e3 * distance.mean(0),
            "radius90_mm": 1e3 * torch.quantile(distance, 0.9, dim=0),
            "depth_mm": 1e3 * (points - mean)[..., 2].abs().mean(0),
            "confidence": confidence,
            "visible": confidence >= limits.invisible_below,
            "x_image": pixels[:, 0],
            "y_image": pixels[:, 1],
            "x_detected": self.detection.keypoints_image[:, 0],
            "y_detected": self.detection.keypoints_image[:, 1],
        }
        columns = {
            name: column.double().numpy().round(_DIGITS[name.rpartition("_")[2]])
            if isinstance(column, Tensor) and column.is_floating_point()
            else np.asarray(column)
            for name, column in table.items()
        }
        return pd.DataFrame(columns)

    def write(self, out: Path, body: Body) -> None:
        """Write joints.csv, hypotheses.npz (rotations, shapes, translations, camera), mode.ply."""
        out.mkdir(parents=True, exist_ok=True)
        self.joint_table(body).to_csv(out / "joints.csv", index=False)
        np.savez_compressed(
            out / "hypotheses.npz",
            mode_rotations=self.mode.rotations.numpy(),
            mode_betas=self.mode.betas.numpy(),
            mode_translation=self.mode.translation.numpy(),
            rotations=self.samples.rotations.numpy(),
            betas=self.samples.betas.numpy(),
            translation=self.samples.translation.numpy(),
            focal=self.focal.numpy(),
            centre=self.centre.numpy(),
            joints=self.samples.joints(body).numpy(),
        )
        save_ply(out / "mode.ply", self.mode.vertices(body), body.faces)


def posterior_of(
    image: RgbImage,
    model: Humr,
    detector: Detector,
    *,
    hypotheses: int,
    generator: torch.Generator,
    box: Any = None,  # noqa: ANN401 - four numbers or nothing; checked by the detector
    focal: float | None = None,
    refinement: tuple[Constants, Body] | None = None,
) -> Posterior:
    """Detect a person and draw the mode and random hypotheses of the 3D body.

    `box` is x0, y0, x1, y1 in pixels around the person, without it the largest person is taken;
    `focal` is in pixels, without it the image diagonal (CLIFF). With `refinement` the hypotheses
    are conditioned on the heatmaps of this photograph (`humr.refine`).
    """
    if hypotheses < 2:
        raise ValueError(f"hypotheses must be at least 2; got {hypotheses}")
    if focal is not None and not focal > 0:
        raise ValueError(f"focal must be a positive number of pixels; got {focal}")
    detection = detector.detect(image, box)
    size = image.shape[1], image.shape[0]
    if refinement is None:
        batch = observation_batch(detection, *size, focal, generator)
        drawn = model.sample(batch, hypotheses, generator=generator)
        return Posterior(image, detection, batch, drawn)
    constants, body = refinement
    batch = observation_batch(detection, *size, focal, generator, samples=REFINED_SAMPLES)
    found = refine(model, body, batch, constants, hypotheses, generator=generator)
    return Posterior(image, detection, batch, found.hypotheses, found.remark(0))


def observation_batch(
    detection: Detection,
    width: int,
    height: int,
    focal: float | None,
    generator: torch.Generator,
    *,
    box: Float[Tensor, "3"] | None = None,
    samples: int = SAMPLES,
) -> Batch:
    """Turn one detection into a batch of one, without labels.

    The square `box` (centre x, y, side) is the detection's, a little wider, unless it is given.
    """
    image_size = torch.tensor([[width, height]], dtype=torch.float32)
    low, high = detection.box[None, :2].float(), detection.box[None, 2:].float()
    centre, side = (low + high) / 2, BOX_SCALE * (high - low).amax(-1)
    if box is not None:
        centre, side = box[None, :2], box[None, 2]
    length = default_focal(image_size) if focal is None else torch.tensor([float(focal)])
    crop = Crop.upright(centre, side)
    found = detection.crop
    window = Crop(found.centre[None].float(), found.side[None].float(), found.roll[None].float())
    keypoints = crop.to_crop(detection.keypoints_image[None].float())
    cells = detection.sample_cells(samples, generator=generator)
    points = found.to_image(GRID.cells_to_crop(cells, generator=generator).flatten(0, 1)).float()
    maps = detection.probabilities.flatten(-2)
    density = maps.gather(-1, cells.mT).mT / maps.amax(-1)
    return Batch(
        features=torch.cat([detection.features, detection.features_mid])[None].float(),
        keypoints=torch.cat([keypoints, detection.confidence[None, :, None].float()], -1),
        box_info=box_info(centre, side, length, image_size),
        window_info=window.relative_to(crop),
        box=torch.cat([centre, side[:, None]], -1),
        focal=length,
        image_size=image_size,
        samples=crop.to_crop(points[None]).unflatten(1, (samples, 17)),
        density=density[None].float(),
        mask=detection.mask_in(Crop.upright(centre[0], side[0]), resolution=112)[None],
        rotations=torch.eye(3).expand(1, 22, 3, 3),
        betas=torch.zeros(1, 11),
        translation=torch.zeros(1, 3),
        has_pose=torch.zeros(1, dtype=torch.bool),
        has_points=torch.zeros(1, dtype=torch.bool),
    )
