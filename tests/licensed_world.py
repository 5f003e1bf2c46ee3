"""A tiny folder of licensed files, whole: annotations, photographs, masks, samples, networks.

Photographs have the official sizes and a gradient, so that a place can be told by its colour: red
is x, green is y (of the upright photograph, in units of 8 px), blue is the person's number.
"""

import gzip
import shutil

import numpy as np
import torch
from formats import annotation_arrays, write_annotations, write_mask
from PIL import Image

SETS = ("agora-bfh", "static-gym", "closeup-gym", "3dpw-train-smplx")
COCO = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]
SIZES = {"3dpw": (1080, 1920), "closeup": (720, 1280), "emdb": (1440, 1920)}


def size_of(name):
    """Width and height, upright."""
    return SIZES.get(name.split("-")[0], (1280, 720))


def picture(name, number):
    """The upright photograph of a person."""
    width, height = size_of(name)
    y, x = np.mgrid[:height, :width] // 8
    return np.stack([x, y, np.full_like(x, 20 * number)], -1).astype(np.uint8)


def figure(name):
    """The upright mask of a photograph: a lopsided block where the annotated people are."""
    shape = np.zeros(size_of(name)[::-1], bool)
    shape[120:420, 340:470] = True
    shape[420:560, 340:365] = True
    return shape


def samples(arrays, row):
    """Heatmap samples (150, 17, 4) about the true keypoints; the confidence falls with them."""
    rng = np.random.default_rng(row)
    points = arrays["gt_coco_25j"][row][COCO] + rng.normal(0, 8, (150, 17, 2))
    confidence = rng.uniform(0.05, 1, 17) * np.linspace(0.2, 1, 150)[:, None]
    off = (np.arange(150)[:, None] + np.arange(17) + row) % 3 * 0.6
    return np.concatenate([points, confidence[..., None], off[..., None]], -1)


def write_set(root, name, count=5):
    """Write everything of one data set; returns the arrays of its annotations."""
    from humr.licensed.datasets import data_set

    described, changes = data_set(name), {}
    if described.source == "3DPW" and described.split == "train":
        changes["orig_shape"] = np.tile(size_of(name)[::-1], (count, 1))
    arrays = annotation_arrays(name, count) | changes
    pose = arrays["pose_cam"]
    pose[:] *= 0.2
    pose[:, 0] += np.pi  # people stand upright before the camera
    write_annotations(root, name, count=count, pose_cam=pose, **changes)
    for row, image in enumerate(arrays["imgname"].tolist()):
        path = (root / described.images / image).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = picture(name, row)
        Image.fromarray(np.rot90(photo) if described.rotated else photo).save(
            path, quality=97, subsampling=0
        )
        if described.source != "3DPW":
            write_mask(root, name, image, figure(name))
        if described.split == "train":
            path = root / "heatmap_samples" / name / f"{row:07d}.npy.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(path, "wb", compresslevel=1) as file:
                np.save(file, samples(arrays, row).astype(np.float32))
    return arrays


def write_networks(root, width=2):
    """Write a small backbone, the open body in SMPL-X's place, and mean parameters."""
    from humr.bodies.body import body_path
    from humr.licensed.checkpoints import HRNet

    torch.manual_seed(0)
    for folder in ("ckpt", "body_models/smplx", "utils"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    path = root / "ckpt/bedlam_cliff_3dpw_ft_backbone.pth"
    torch.save(HRNet(width).state_dict(), path)
    shutil.copy(body_path("small"), root / "body_models/smplx/SMPLX_NEUTRAL.npz")
    mean = {"pose": np.zeros(144), "shape": np.linspace(-1, 1, 10), "cam": np.array([0.9, 0, 0.1])}
    np.savez(root / "utils/smpl_mean_params.npz", **mean)


def write_world(root, sets=SETS, count=5, width=2):
    """Write all; returns the arrays of the annotations by data set."""
    write_networks(root, width)
    return {name: write_set(root, name, count) for name in sets}
