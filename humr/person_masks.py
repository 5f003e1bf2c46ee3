"""Masks of all persons in photographs of BEDLAM, AGORA and EMDB.

Each source marks persons in its own way; here a mask is True where there is a person, upright
like its photograph. BEDLAM's and AGORA's masks are rendered, EMDB's were found by Mask R-CNN.
"""

from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import binary_dilation
from torch import Tensor

from humr.crops import EVALUATION_SIZE, SIZE, cut
from humr.licensed import LICENSED, data_set, existing, shown

AGORA_BACKGROUND = 76  # grey value of the red around the persons
DILATIONS = 3  # by 3 x 3 px, in the crop of training


def mask_path(name: str, image: str, *, root: Path = LICENSED) -> Path:
    """Return where the mask of a photograph lies (`Annotations.image`), there or not."""
    described, photo = data_set(name), PurePosixPath(image)
    match described.source:
        case "BEDLAM":
            scene = PurePosixPath(described.images).parent.name
            folder = root / "env_masks" / scene
            if not folder.is_dir():  # the official preparation calls scenes of 30 Hz so, too
                folder = folder.with_name(scene.replace("_30fps", "_6fps"))
            return folder / photo.parent.name / f"{photo.stem}_env.png"
        case "AGORA":
            return root / "env_masks" / "images" / f"{photo.stem}_all_person.png"
        case "EMDB":
            parts = ["masks" if part == "images" else part for part in photo.parent.parts]
            masks = root / described.images / "masks"
            return masks.joinpath(*parts, f"{photo.stem}.png")
    raise ValueError(f"{name} has no masks; BEDLAM, AGORA and EMDB have")


def has_mask(name: str, image: str, *, root: Path = LICENSED) -> bool:
    """Say whether a photograph has a mask."""
    return data_set(name).source != "3DPW" and mask_path(name, image, root=root).is_file()


def read_mask(name: str, image: str, *, root: Path = LICENSED) -> Bool[np.ndarray, "height width"]:
    """Read the mask of a whole photograph, of the photograph's size."""
    described = data_set(name)
    path = existing(mask_path(name, image, root=root))
    try:
        with Image.open(path) as file:
            grey = np.asarray(file.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{shown(path)} is no readable image: {error}. Usual cause: a partial download"
        ) from error
    match described.source:
        case "BEDLAM":
            person = grey < 127.5
        case "AGORA":
            person = grey != AGORA_BACKGROUND
        case _:
            person = grey > 0
    person = np.rot90(person, -1) if described.rotated else person
    if person.shape[::-1] != described.image_size:
        raise ValueError(
            f"{shown(path)} must have the {described.image_size} px (width, height) of its "
            f"photograph, upright; got {person.shape[::-1]}. Usual cause: masks of another "
            "resolution, or that somebody turned"
        )
    return person


def training_crop(
    mask: Bool[np.ndarray, "height width"], box: Float[Tensor, "3"], *, size: int = SIZE
) -> Bool[np.ndarray, "{size} {size}"]:
    """Return where a joint can be in the crop of a box, for the mask loss.

    Pixels of which persons cover more than half, three times dilated by 3 x 3 px. Everything
    beyond the photograph counts as possible: the official code pads with 0, which means person.
    """
    covered = cut(mask, box, size=size, outside=1.0) > 0.5
    return binary_dilation(covered, np.ones((3, 3), bool), iterations=DILATIONS)


def evaluation_crop(
    mask: Bool[np.ndarray, "height width"], box: Float[Tensor, "3"], *, size: int = EVALUATION_SIZE
) -> Bool[np.ndarray, "{size} {size}"]:
    """Return the person in the crop of a box, for PercIn and MinDist.

    Pixels that the person touches; nothing beyond the photograph (official code).
    """
    return cut(mask, box, size=size) > 0
