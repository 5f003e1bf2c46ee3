"""How fast photographs become crops: made-up ones of the official size, one process.

Works count images, so that "per second" of `bench` is images per second and process. A file is
read, decoded, varied or not, cropped and standardised, with the mask of persons.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from humr.benchmarks.timing import Task
from humr.config import Run
from humr.detector import load_image
from humr.licensed.datasets import Licensed, data_set
from humr.licensed.features import AS_ANNOTATED, LicensedImages
from humr.licensed.images import mask_path
from humr.licensed.people import Annotations

SET = "static-gym"  # of BEDLAM
IMAGES = 8
SIDES = (250.0, 450.0)  # px, of the boxes: people of BEDLAM
DETAIL = 40  # px between the colours that are drawn


def loader(size: Run, device: str) -> list[Task]:
    """Photographs to crops, as annotated and varied, of each kind of file; on the CPU."""
    del size, device
    works = []
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG")):
        folder = Path(tempfile.mkdtemp())
        images = photographs(folder, suffix)
        weakref.finalize(images, shutil.rmtree, folder, ignore_errors=True)  # after the works
        parts = {
            "decoded": _decoded(images),
            "annotated crop": _crops(images, varied=False),
            "varied crop": _crops(images, varied=True),
        }
        for name, run in parts.items():
            works.append(Task(name=f"{kind}, {name}", run=run, count=IMAGES))
    return works


def _decoded(images: LicensedImages) -> Callable[[], object]:
    def run() -> object:
        paths = sorted((images.root / data_set(SET).images).iterdir())
        return [load_image(path) for path in paths]

    return run


def _crops(images: LicensedImages, *, varied: bool) -> Callable[[], object]:
    """Crop every person; each time in another variant."""
    numbers = count()

    def run() -> object:
        number = next(numbers) if varied else AS_ANNOTATED
        return [images.crops(i, number) for i in range(len(images))]

    return run


def photographs(folder: Path, suffix: str) -> LicensedImages:
    """Write made-up photographs of 1280 x 720 px with masks, one person in each."""
    rng, described = np.random.default_rng(0), data_set(SET)
    assert described.image_size is not None
    width, height = described.image_size
    names = [f"{i:04d}.png" for i in range(IMAGES)]
    target = folder / described.images
    target.mkdir(parents=True)
    for name in names:
        _picture(width, height, rng).save((target / name).with_suffix(suffix), quality=90)
        path = mask_path(SET, name, root=folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        _figure(width, height).save(path)
    return LicensedImages([_people(names, rng)], Licensed(train=(SET,)), root=folder)


def _picture(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Smooth colours with a little noise: files of a usual size."""
    colours = rng.integers(0, 256, (height // DETAIL, width // DETAIL, 3), np.uint8)
    smooth = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.float32) + rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _figure(width: int, height: int) -> Image.Image:
    """Mask of a person in the middle: 0, of 255."""
    mask = np.full((height, width), 255, np.uint8)
    mask[height // 4 : -height // 4, width * 2 // 5 : width * 3 // 5] = 0
    return Image.fromarray(mask)


def _people(names: list[str], rng: np.random.Generator) -> Annotations:
    people = len(names)
    centre = torch.tensor([640.0, 360.0]).expand(people, 2)
    sides = torch.from_numpy(rng.uniform(*SIDES, (people, 1))).float()
    nothing = torch.zeros(people, 17, 3)
    return Annotations(
        name=SET,
        image=np.array(names),
        gender=np.full(people, "unknown"),
        row=torch.arange(people),
        box=torch.cat([centre, sides], -1),
        keypoints=nothing,
        true_keypoints=nothing[..., :2],
        pose=torch.zeros(people, 22, 3),
        betas=torch.zeros(people, 11),
        mask_valid=torch.ones(people, dtype=torch.bool),
        joints=torch.zeros(people, 24, 2),
        intrinsics=None,
        image_size=torch.tensor([1280.0, 720.0]).expand(people, 2),
    )
