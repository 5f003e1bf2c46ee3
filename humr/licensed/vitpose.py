r"""ViTPose: network, decoding, keypoints and heatmap samples of a data set.

Xu et al. (2022), *ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation*, with
its simple decoder: a plain vision transformer and two transposed convolutions, an image to 17
heatmaps. Names of parameters are those of the official weights; sizes are those of ViTPose-H,
which HuMR uses. Heatmaps are plain outputs, no probabilities: trained against Gaussians of height
1, a little above 1 or below 0 here and there.

**Alignment.** The network sees the middle of a square crop: 256 x 256 px of the box (centre $c$,
side $b$), less 32 px left and right. Its 48 x 64 cells are counted (column, row), whole numbers at
their middles. Huang et al. (2020), *The Devil is in the Details*: lengths are counted between the
middles of the outermost pixels, not in numbers of pixels. So cell $u$ lies at pixel
$u\,(W - 1)/(w - 1)$ of the image, and the outermost cells lie on the border of the window:
$p = c + s\,(u/(w - 1) - 1/2)$ with the window's size $s$, $(\tfrac34 b, b)$. The crop itself is
cut by areas of pixels, as in the official code; between the two conventions lie at most half a
pixel of the crop, at its border.

**Decoding.** Zhang et al. (2020), *Distribution-Aware Coordinate Representation for Human Pose
Estimation*: smooth the heatmap $h$ with the Gaussian of its training, then one Newton step from
the highest cell $m$ on $P = \log h$, $\mu = m - \mathcal{D}''(m)^{-1} \mathcal{D}'(m)$, with
differences of neighbours for derivatives. It is exact where $h$ is a Gaussian.

``python3 -m humr data samples <data sets...>`` writes what the authors publish (`people`), for
data sets or weights of which they publish nothing, and keypoints. Per joint 150 cells are drawn in
proportion to the heatmap, with replacement; cells below 0.05 are never drawn. Where all are below,
the joint may be anywhere: cells are drawn evenly, as the official sampler does it, and keep their
own low confidence. Places are middles of cells. The distance to the mask counts pixels of the
256 x 256 crop of the person's box, from the pixel of the sample to the nearest one that any person
touches, middle to middle: 0 on the mask, at least 1 off it, `FAR` without a mask or without a
person in the crop. Draws depend on seed, data set and row alone: a run that was stopped goes on to
the same files. Files that are there and whole are never replaced.
"""

import argparse
import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from humr.devices import pick_device
from humr.files import find, say, shown, write_bytes
from humr.heatmaps import sample_cells
from humr.licensed.datasets import LICENSED, VITPOSE
from humr.licensed.images import crop, evaluation_crop, has_mask, photograph, read_mask
from humr.licensed.people import (
    SHAPE,
    Boxes,
    read_boxes,
    read_file,
    sample_path,
    size_of,
    write_file,
)
from humr.licensed.readers import check, load, read_npz
from humr.skeletons import COCO17
from humr.storage import TensorRecord

PATCH, PADDING = 16, 2  # px: patches do not overlap, and the outermost reach over the border
EPSILON = 1e-6  # of layer norms
WIDER = 4  # hidden units of a block's perceptron, in widths
KNOWN = {"state_dict", "meta", "optimizer"}  # top level of a checkpoint of mmpose

CROP = 256  # px of the square crop
MARGIN = 32  # px that are cut off left and right
COLUMNS, ROWS = 48, 64
KERNEL = 11  # cells
LOWEST, HIGHEST = 1e-3, 50.0  # of smoothed heatmaps, before the logarithm
FARTHEST = KERNEL // 2  # cells of a Newton step

SAMPLES = SHAPE[0]
FLOOR = 0.05  # values below are not drawn
FAR = 1000.0  # px; distance where there is no mask
SAVED = 2000  # people after which the keypoints are saved

# --------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network; those of ViTPose-H are the defaults."""

    width: int = 1280
    depth: int = 32
    heads: int = 16
    filters: int = 256  # of the decoder
    height: int = 256  # px of the image
    breadth: int = 192

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, both positive; got {self.width}, {self.heads}"
            )
        if min(self.height, self.breadth) < PATCH or self.height % PATCH or self.breadth % PATCH:
            raise ValueError(
                f"height and breadth must be multiples of {PATCH} px; got {self.height} and "
                f"{self.breadth}"
            )


class Attention(nn.Module):
    r"""Self-attention, $\mathrm{softmax}(q k^\top / \sqrt{d})\,v$ in each of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (batch, tokens, width)."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPSILON) for _ in range(2))
        self.attn = Attention(width, heads)
        first, second = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=first, gelu=nn.GELU(), fc2=second))

    def forward(self, x: Tensor) -> Tensor:
        """Change tokens (batch, tokens, width)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module):
    """The transformer: an image to features of its patches."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        proj = nn.Conv2d(3, sizes.width, PATCH, PATCH, PADDING)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        tokens = (sizes.height // PATCH) * (sizes.breadth // PATCH)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens + 1, sizes.width))
        self.blocks = nn.Sequential(*(Block(sizes.width, sizes.heads) for _ in range(sizes.depth)))
        self.last_norm = nn.LayerNorm(sizes.width, eps=EPSILON)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Features at a sixteenth of the resolution.

        The first position belongs to a class token of the pretraining, which is not there any
        more; it is added to all.
        """
        patches = self.patch_embed(images)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        tokens = self.last_norm(self.blocks(tokens))
        return tokens.transpose(1, 2).unflatten(2, patches.shape[2:])


class Head(nn.Module):
    """The simple decoder: twice the resolution, twice, then one heatmap per joint."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (sizes.width, sizes.filters):
            layers += [
                nn.ConvTranspose2d(inputs, sizes.filters, 4, 2, 1, bias=False),
                nn.BatchNorm2d(sizes.filters),
                nn.ReLU(),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(sizes.filters, len(COCO17), 1)

    def forward(self, features: Tensor) -> Tensor:
        """Heatmaps at a quarter of the image's resolution."""
        return self.final_layer(self.deconv_layers(features))


class ViTPose(nn.Module):
    """The network; random weights until official ones are read."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or Sizes()
        self.backbone = Backbone(self.sizes)
        self.keypoint_head = Head(self.sizes)
        self.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> "ViTPose":  # noqa: FBT001, FBT002
        """Stay in evaluation mode: the statistics of the batch norms are part of the weights."""
        del mode
        return super().train(mode=False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 17 rows columns"]:
        """Heatmaps of RGB images that were standardised with ImageNet's statistics."""
        expected = self.sizes.height, self.sizes.breadth
        if tuple(images.shape[-2:]) != expected:
            raise ValueError(
                f"images must have {expected} px (height, width); got {tuple(images.shape[-2:])}. "
                "Usual cause: the square crop, whose left and right 32 px are not cut off yet"
            )
        return self.keypoint_head(self.backbone(images))

    def with_mirrored(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 17 rows columns"]:
        """Mean of an image's heatmaps and those of its mirror image, turned back (flip test)."""
        mirrored = self(images.flip(-1)).flip(-1)[:, list(COCO17.mirrored)]
        return (self(images) + mirrored) / 2


def read_vitpose(path: Path, sizes: Sizes | None = None) -> ViTPose:
    """Read official weights: a checkpoint of mmpose, or the state dict alone.

    `vitpose-h-multi-coco.pth` or another with the simple decoder and COCO's 17 joints; `sizes`
    are those of ViTPose-H.
    """
    state = load(path, "state_dict", KNOWN, bare=True)["state_dict"]
    with torch.device("meta"):
        model = ViTPose(sizes)
    check(shown(path), state, model.state_dict())
    model.load_state_dict(state, strict=True, assign=True)  # the file's tensors, not copies
    return model.requires_grad_(requires_grad=False).float()


# ---------------------------------------------------------------- places and decoding


def to_photograph(
    cells: Float[Tensor, "*batch points 2"], box: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map cells (column, row) to pixels of the photograph, given boxes (x, y, side)."""
    unit = cells / cells.new_tensor([COLUMNS - 1, ROWS - 1]) - 0.5
    window = box[..., None, 2:] * box.new_tensor([(CROP - 2 * MARGIN) / CROP, 1.0])
    return box[..., None, :2] + unit * window


def crop_pixels(cells: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Map cells to pixels of the square crop, [0, 256]; the first pixel's middle is 0.5."""
    scale = cells.new_tensor([(CROP - 2 * MARGIN) / (COLUMNS - 1), CROP / (ROWS - 1)])
    return cells * scale + cells.new_tensor([MARGIN, 0])


def smooth(
    heatmaps: Float[Tensor, "*batch rows columns"],
) -> Float[Tensor, "*batch rows columns"]:
    r"""Smooth with a Gaussian, $\sigma = 0.3\,((k - 1)/2 - 1) + 0.8$ for $k$ cells: 2 for 11.

    Beyond the border the heatmap is mirrored around its outermost cells.
    """
    radius = KERNEL // 2
    cells = torch.arange(-radius, radius + 1).to(heatmaps)
    sigma = 0.3 * (radius - 1) + 0.8
    weights = (-0.5 * (cells / sigma).square()).exp()
    weights = weights / weights.sum()
    maps = heatmaps.flatten(0, -3)[:, None]  # (maps, 1, rows, columns)
    maps = functional.pad(maps, (radius,) * 4, mode="reflect")
    maps = functional.conv2d(maps, weights[None, None, :, None])
    maps = functional.conv2d(maps, weights[None, None, None, :])
    return maps.view(heatmaps.shape)


def decode(
    heatmaps: Float[Tensor, "*batch rows columns"],
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Return keypoints (cells: column, row) and the heights of the highest cells.

    The Newton step is left out where the smoothed heatmap is no hill around its highest cell
    (flat, a saddle), or where the step is longer than the kernel's radius.
    """
    peak, index = heatmaps.flatten(-2).max(-1)
    logs = smooth(heatmaps).clamp(LOWEST, HIGHEST).log()
    (x, y), (xx, xy, yy) = _derivatives(logs, index)
    determinant = xx * yy - xy.square()
    step = -torch.stack([yy * x - xy * y, xx * y - xy * x], -1) / determinant[..., None]
    hill = (xx < 0) & (xx * yy > xy.square())
    good = hill & step.isfinite().all(-1) & (step.norm(dim=-1) <= FARTHEST)
    columns = heatmaps.shape[-1]
    top = torch.stack([index % columns, index.div(columns, rounding_mode="floor")], -1).to(step)
    return torch.where(good[..., None], top + step, top), peak


def _derivatives(
    logs: Tensor, index: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """First derivatives (x, y) and second ones (xx, xy, yy) at cells given by flat index.

    Beyond the border the outermost cells are repeated.
    """
    columns = logs.shape[-1]
    wide = functional.pad(logs.flatten(0, -3)[:, None], (1,) * 4, mode="replicate")
    wide = wide.view(*logs.shape[:-2], -1)
    width = columns + 2
    at = index + 2 * index.div(columns, rounding_mode="floor") + width + 1

    def value(x: int, y: int) -> Tensor:
        return wide.gather(-1, (at + x + y * width)[..., None])[..., 0]

    middle, right, left, below, above = (
        value(x, y) for x, y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    )
    mixed = value(1, 1) - right - below + 2 * middle - left - above + value(-1, -1)
    first = ((right - left) / 2, (below - above) / 2)
    return first, (right - 2 * middle + left, mixed / 2, below - 2 * middle + above)


# ------------------------------------------------------------------------- keypoints


def keypoints_path(name: str, *, root: Path = LICENSED) -> Path:
    """Return where the keypoints of a data set lie, beside the samples of heatmaps."""
    return root / "heatmap_samples" / name / "keypoints.npz"


class Keypoints:
    """Keypoints of all people of a data set in one file, written while a long run goes on.

    The file's array `vitpose` (people, 17, 3) is the one of HuMR's annotation files: y, x,
    confidence in pixels of the photograph, row by row; NaN where nobody has looked yet. `settings`
    says how it was made, so that no run goes on with others: a file that is there must be of as
    many people and equal settings.
    """

    def __init__(self, path: Path, people: int, settings: Mapping[str, object]) -> None:
        self.path, self.settings = path, json.dumps(settings)
        self.values = np.full((people, len(COCO17), 3), np.nan, np.float32)
        self.unsaved = 0  # people
        if not path.is_file():
            return
        stored = read_npz(self.path, ("vitpose", "settings"))
        shape, before = stored["vitpose"].shape, str(stored["settings"])
        if shape != self.values.shape or before != self.settings:
            raise ValueError(
                f"{shown(self.path)}: to go on, expected {self.values.shape} and {self.settings}; "
                f"got {shape} and {before}. Usual cause: other weights or options than before, "
                "or another annotation file; use the same, or move the folder away"
            )
        self.values = stored["vitpose"].astype(np.float32)

    def missing(self) -> Bool[np.ndarray, " people"]:
        """Say who has no keypoints."""
        return np.asarray(np.isnan(self.values).any((1, 2)))

    def put(
        self,
        row: Int[Tensor, " some"],
        points: Float[Tensor, "some 17 2"],
        confidence: Float[Tensor, "some 17"],
    ) -> None:
        """Take keypoints of some people: x, y in pixels of the photograph."""
        stored = torch.cat([points.flip(-1), confidence[..., None]], -1)
        self.values[row.numpy()] = stored.numpy()
        self.unsaved += len(row)

    def save(self) -> None:
        """Write the file, whole or not at all, if there is something new."""
        if not self.unsaved:
            return
        content = io.BytesIO()
        np.savez(content, vitpose=self.values, settings=np.array(self.settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, content.getvalue())
        self.unsaved = 0


# ------------------------------------------------------------------- photographs in


@dataclass(frozen=True)
class DetectorInput(TensorRecord):
    """Some people, ready for the network."""

    row: Int[Tensor, " people"]
    images: Float[Tensor, "people 3 256 192"]
    distance: Float[Tensor, "people 256 256"]  # to the mask


class Photographs(Dataset[DetectorInput]):
    """Photographs one by one, each with those of the people in it that `rows` names.

    With `masks`, people whose mask is valid must have one.
    """

    def __init__(
        self, people: Boxes, rows: Int[Tensor, " rows"], root: Path, *, masks: bool
    ) -> None:
        self.people, self.root, self.masks = people, root, masks
        groups: dict[str, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(str(people.image[row]), []).append(row)
        self.groups = list(groups.items())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> DetectorInput:
        image, rows = self.groups[index]
        name, root, boxes = self.people.name, self.root, self.people.box[rows]
        pixels = photograph(name, image, size=size_of(self.people, rows[0]), root=root)
        mask, needed = None, bool(self.people.mask_valid[rows].any())
        if self.masks and (needed or has_mask(name, image, root=root)):
            mask = read_mask(name, image, root=root)
        squares = torch.stack([crop(pixels, box, size=CROP) for box in boxes])
        distances = torch.stack([torch.from_numpy(distance_map(mask, box)) for box in boxes])
        return DetectorInput(torch.tensor(rows), squares[..., MARGIN:-MARGIN], distances)


def distance_map(
    mask: Bool[np.ndarray, "height width"] | None, box: Float[Tensor, "3"]
) -> Float[np.ndarray, "256 256"]:
    """Distance of every pixel in the crop of a box to the nearest person there, in its pixels."""
    person = None if mask is None else evaluation_crop(mask, box, size=CROP)
    if person is None or not person.any():
        return np.full((CROP, CROP), FAR, np.float32)
    return np.asarray(distance_transform_edt(~person), np.float32)


# ----------------------------------------------------------------------- samples out


def draw(
    heatmaps: Float[Tensor, "joints rows columns"], count: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "{count} joints 2"], Float[Tensor, "{count} joints"]]:
    """Draw cells (column, row) of each heatmap; returns them with the heatmap's values there.

    Values below 0 become 0. Where none reaches `FLOOR`, all cells are as probable.
    """
    weights = torch.where(heatmaps >= FLOOR, heatmaps, 0)
    weights[weights.amax((1, 2)) == 0] = 1
    index = sample_cells(weights, count, generator=generator)
    values = heatmaps.flatten(1).gather(1, index).clamp_min(0)
    columns = heatmaps.shape[-1]
    cells = torch.stack([index % columns, index.div(columns, rounding_mode="floor")], -1)
    return cells.to(heatmaps).transpose(0, 1), values.T


def samples(
    heatmaps: Float[Tensor, "17 64 48"],
    box: Float[Tensor, "3"],
    distance: Float[Tensor, "256 256"],
    *,
    generator: torch.Generator,
) -> Float[np.ndarray, "150 17 4"]:
    """Draw a person's samples as they are stored: x, y, confidence, distance to the mask."""
    cells, confidence = draw(heatmaps, SAMPLES, generator=generator)
    points = to_photograph(cells.flatten(0, 1), box).view_as(cells)
    column, row = crop_pixels(cells).long().clamp(0, CROP - 1).unbind(-1)
    return torch.cat([points, confidence[..., None], distance[row, column][..., None]], -1).numpy()


def row_generator(name: str, row: int, seed: int) -> torch.Generator:
    """Return the generator of one person's draws."""
    state = np.random.SeedSequence([seed, *name.encode(), row, 1]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass(frozen=True)
class Options:
    """How a run looks at people."""

    batch: int = 32  # people at a time
    workers: int = 0  # processes that read photographs beside this one; 0: it reads itself
    seed: int = 0  # of the draws
    masks: bool = True  # compute distances to masks
    mirrored: bool = False  # average heatmaps with those of the mirror image

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 0 or self.seed < 0:
            raise ValueError(
                "batch must be 1 or more, workers and seed 0 or more; got "
                f"{self.batch}, {self.workers} and {self.seed}"
            )


def precompute(
    people: Boxes,
    network: ViTPose,
    *,
    weights: str,
    options: Options | None = None,
    root: Path = LICENSED,
) -> Path:
    """Look at everybody of a data set who is not done yet; return the file of keypoints.

    Args:
        people: all rows of the annotation file, in its order.
        network: on the device that shall compute.
        weights: name of the network's weights, for the record.
        options: how to look.
        root: the licensed folder.
    """
    options = options or Options()
    settings = {"weights": weights, "seed": options.seed, "masks": options.masks,
                "mirrored": options.mirrored}  # fmt: skip
    path = keypoints_path(people.name, root=root)
    keypoints = Keypoints(path, len(people), settings)
    files = [sample_path(people.name, row, root=root) for row in range(len(people))]
    bar = tqdm(files, desc=f"{people.name}, files", unit="file", mininterval=2)
    kept = np.array([_whole(file) for file in bar], bool)
    rows = torch.from_numpy(np.flatnonzero(~kept | keypoints.missing()))
    photographs = Photographs(people, rows, root, masks=options.masks)
    done = len(people) - len(rows)
    bar = tqdm(total=len(people), initial=done, desc=people.name, unit="person", mininterval=2)
    try:
        for part in _batches(photographs, options):
            heatmaps, cells, peak = _detect(network, part.images, mirrored=options.mirrored)
            boxes = people.box[part.row]
            for i, row in enumerate(part.row.tolist()):
                if not kept[row]:
                    generator = row_generator(people.name, row, options.seed)
                    values = samples(heatmaps[i], boxes[i], part.distance[i], generator=generator)
                    write_file(files[row], values)
            keypoints.put(part.row, to_photograph(cells, boxes), peak)
            if keypoints.unsaved >= SAVED:
                keypoints.save()
            bar.update(len(part))
    finally:
        bar.close()
        keypoints.save()
    return path


def _whole(path: Path) -> bool:
    try:
        read_file(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _batches(photographs: Photographs, options: Options) -> Iterator[DetectorInput]:
    """People in groups of the same size, but for the last."""
    if not len(photographs):
        return
    context = "spawn" if options.workers else None
    loader = DataLoader(
        photographs, batch_size=None, num_workers=options.workers, multiprocessing_context=context
    )
    single = (part[slice(i, i + 1)] for part in loader for i in range(len(part)))
    while group := list(islice(single, options.batch)):
        yield DetectorInput.join(group)


@torch.inference_mode()
def _detect(network: ViTPose, images: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmaps, keypoints (cells) and their confidences, all in main memory."""
    images = images.to(network.keypoint_head.final_layer.weight.device)
    heatmaps = network.with_mirrored(images) if mirrored else network(images)
    cells, peak = decode(heatmaps)
    return heatmaps.cpu(), cells.cpu(), peak.cpu()


def main(arguments: Sequence[str] | None = None, *, root: Path = LICENSED) -> int:
    """Command line of `data samples`."""
    parser = argparse.ArgumentParser(
        prog="humr data samples",
        description="ViTPose's keypoints and samples of its heatmaps, for whole data sets",
    )
    parser.add_argument("sets", nargs="+", metavar="SET", help="data sets, by HuMR's names")
    parser.add_argument("--weights", type=Path, help=f"default: {VITPOSE[0]} in licensed/ckpt")
    parser.add_argument("--batch", type=int, default=32, help="people at a time")
    parser.add_argument("--workers", type=int, default=2, help="processes that read photographs")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mirrored", action="store_true", help="look at mirror images as well")
    parser.add_argument("--without-masks", action="store_true", help="no distances to masks")
    given = parser.parse_args(arguments)
    try:
        options = Options(
            given.batch, given.workers, given.seed, not given.without_masks, given.mirrored
        )
        everybody = [read_boxes(name, root=root) for name in given.sets]
        weights = given.weights or find(root / "ckpt", *VITPOSE)
        device = pick_device() if given.device == "auto" else given.device
        network = read_vitpose(weights).to(device)
        for people in everybody:
            path = precompute(people, network, weights=weights.name, options=options, root=root)
            say(f"{people.name}: {len(people)} people, {shown(path.parent)}")
    except (ValueError, OSError) as error:
        say(f"humr: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
