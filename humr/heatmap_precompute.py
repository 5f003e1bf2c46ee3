"""ViTPose on the people of HuMR's data sets: their keypoints, and samples of their heatmaps.

``python3 -m humr data samples <data sets...>`` writes what the authors publish
(`heatmap_files`), for data sets or weights of which they publish nothing. Per joint 150 cells are
drawn in proportion to the heatmap, with replacement; cells below 0.05 are never drawn. Where all
are below, the joint may be anywhere: cells are drawn evenly, as the official sampler does it, and
keep their own low confidence. Places are middles of cells.

The distance to the mask counts pixels of the 256 x 256 crop of the person's box, from the pixel
of the sample to the nearest one that any person touches, middle to middle: 0 on the mask, at
least 1 off it. Without a mask, or without a person in the crop, it is `FAR`.

Draws depend on seed, data set and row alone: a run that was stopped goes on to the same files.
Files that are there and whole are never replaced.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from humr.annotations import Annotations, Boxes, read_boxes, size_of
from humr.crops import crop, photograph
from humr.devices import pick_device
from humr.environment import say
from humr.heatmap_files import SHAPE, read_file, sample_path, write_file
from humr.heatmaps import sample_cells
from humr.keypoint_decoding import CROP, decode, middle, to_crop, to_photograph
from humr.keypoint_files import Keypoints, keypoints_path
from humr.licensed import LICENSED, VITPOSE, find, shown
from humr.person_masks import evaluation_crop, has_mask, read_mask
from humr.vitpose import ViTPose, read_vitpose

SAMPLES = SHAPE[0]
FLOOR = 0.05  # values below are not drawn
FAR = 1000.0  # px; distance where there is no mask
SAVED = 2000  # people after which the keypoints are saved


@dataclass(frozen=True)
class Look:
    """Some people, ready for the network."""

    row: Int[Tensor, " people"]
    images: Float[Tensor, "people 3 256 192"]
    distance: Float[Tensor, "people 256 256"]  # to the mask

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: slice) -> "Look":
        return Look(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def join(cls, looks: Sequence["Look"]) -> "Look":
        """Put people together."""
        return cls(*(torch.cat([getattr(x, f.name) for x in looks]) for f in fields(cls)))


class Photographs(Dataset[Look]):
    """Photographs one by one, each with all people in it that are to be looked at.

    Args:
        people: of one data set.
        rows: which of them.
        root: the licensed folder.
        masks: whether to read masks; people whose mask is valid must then have one.
    """

    def __init__(
        self, people: Boxes | Annotations, rows: Int[Tensor, " rows"], root: Path, *, masks: bool
    ) -> None:
        self.people, self.root, self.masks = people, root, masks
        groups: dict[str, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(str(people.image[row]), []).append(row)
        self.groups = list(groups.items())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Look:
        image, rows = self.groups[index]
        given = size_of(self.people, rows[0])
        pixels = photograph(self.people.name, image, size=given, root=self.root)
        mask = self._mask(image, needed=bool(self.people.mask_valid[rows].any()))
        boxes = self.people.box[rows]
        squares = torch.stack([crop(pixels, box, size=CROP) for box in boxes])
        distances = torch.stack([torch.from_numpy(distance_map(mask, box)) for box in boxes])
        return Look(torch.tensor(rows), middle(squares), distances)

    def _mask(self, image: str, *, needed: bool) -> np.ndarray | None:
        name = self.people.name
        if not self.masks or not (needed or has_mask(name, image, root=self.root)):
            return None
        return read_mask(name, image, root=self.root)


def distance_map(
    mask: Bool[np.ndarray, "height width"] | None, box: Float[Tensor, "3"]
) -> Float[np.ndarray, "256 256"]:
    """Distance of every pixel in the crop of a box to the nearest person there, in its pixels."""
    person = None if mask is None else evaluation_crop(mask, box, size=CROP)
    if person is None or not person.any():
        return np.full((CROP, CROP), FAR, np.float32)
    return np.asarray(distance_transform_edt(~person), np.float32)


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
    """Draw the samples of one person as they are stored: x, y, confidence, distance to the mask.

    Args:
        heatmaps: of the network.
        box: the person's, in pixels of the photograph.
        distance: to the mask, for every pixel of the box's crop.
        generator: for the draws.
    """
    cells, confidence = draw(heatmaps, SAMPLES, generator=generator)
    points = to_photograph(cells.flatten(0, 1), box).view_as(cells)
    column, row = to_crop(cells).long().clamp(0, CROP - 1).unbind(-1)
    return torch.cat([points, confidence[..., None], distance[row, column][..., None]], -1).numpy()


def row_generator(name: str, row: int, seed: int) -> torch.Generator:
    """Return the generator of one person's draws."""
    state = np.random.SeedSequence([seed, *name.encode(), row, 1]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


# ----------------------------------------------------------------------------- the run


@dataclass(frozen=True)
class Options:
    """How a run looks at people.

    Args:
        batch: people at a time.
        workers: processes that read photographs beside this one; with 0 it reads itself.
        seed: of the draws.
        masks: whether distances to masks are computed.
        mirrored: whether heatmaps are averaged with those of the mirror image.
    """

    batch: int = 32
    workers: int = 0
    seed: int = 0
    masks: bool = True
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 0 or self.seed < 0:
            raise ValueError(
                "batch must be 1 or more, workers and seed 0 or more; got "
                f"{self.batch}, {self.workers} and {self.seed}"
            )


def precompute(
    people: Boxes | Annotations,
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
    kept = _whole_files(people.name, len(people), root)
    rows = torch.from_numpy(np.flatnonzero(~kept | keypoints.missing()))
    photographs = Photographs(people, rows, root, masks=options.masks)
    done = len(people) - len(rows)
    bar = tqdm(total=len(people), initial=done, desc=people.name, unit="person", mininterval=2)
    try:
        for look in _batches(photographs, options):
            heatmaps, cells, peak = _detect(network, look, mirrored=options.mirrored)
            boxes = people.box[look.row]
            for i, row in enumerate(look.row.tolist()):
                if not kept[row]:
                    generator = row_generator(people.name, row, options.seed)
                    values = samples(heatmaps[i], boxes[i], look.distance[i], generator=generator)
                    write_file(sample_path(people.name, row, root=root), values)
            keypoints.put(look.row, to_photograph(cells, boxes), peak)
            if keypoints.unsaved >= SAVED:
                keypoints.save()
            bar.update(len(look))
    finally:
        bar.close()
        keypoints.save()
    return path


def _whole_files(name: str, people: int, root: Path) -> Bool[np.ndarray, " people"]:
    """Say whose file of samples is there and can be read."""
    rows = tqdm(range(people), desc=f"{name}, files", unit="file", mininterval=2)
    return np.array([_whole(sample_path(name, row, root=root)) for row in rows], bool)


def _whole(path: Path) -> bool:
    try:
        read_file(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _batches(photographs: Photographs, options: Options) -> Iterator[Look]:
    """People in groups of the same size, but for the last."""
    if not len(photographs):
        return
    context = "spawn" if options.workers else None
    looks = DataLoader(
        photographs, batch_size=None, num_workers=options.workers, multiprocessing_context=context
    )
    single = (look[i : i + 1] for look in looks for i in range(len(look)))
    while group := list(islice(single, options.batch)):
        yield Look.join(group)


@torch.inference_mode()
def _detect(network: ViTPose, look: Look, *, mirrored: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmaps, keypoints (cells) and their confidences, all in main memory."""
    images = look.images.to(network.keypoint_head.final_layer.weight.device)
    heatmaps = network.with_mirrored(images) if mirrored else network(images)
    cells, peak = decode(heatmaps)
    return heatmaps.cpu(), cells.cpu(), peak.cpu()


def main(arguments: Sequence[str] | None = None, *, root: Path = LICENSED) -> int:
    """Command line of `data samples`."""
    parser = argparse.ArgumentParser(prog="humr data samples", description=__doc__)
    parser.add_argument("sets", nargs="+", metavar="SET", help="data sets, by HuMR's names")
    parser.add_argument("--weights", type=Path, help=f"default: {VITPOSE[0]} in licensed/ckpt")
    parser.add_argument("--batch", type=int, default=32, help="people at a time")
    parser.add_argument("--workers", type=int, default=2, help="processes that read photographs")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mirrored", action="store_true", help="look at mirror images as well")
    parser.add_argument("--without-masks", action="store_true", help="no distances to masks")
    options = parser.parse_args(arguments)
    try:
        _run(options, root)
    except (ValueError, OSError) as error:
        say(f"humr: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    return 0


def _run(options: argparse.Namespace, root: Path) -> None:
    how = Options(options.batch, options.workers, options.seed, not options.without_masks,
                  options.mirrored)  # fmt: skip
    everybody = [read_boxes(name, root=root) for name in options.sets]
    weights = options.weights or find(root / "ckpt", *VITPOSE)
    device = pick_device() if options.device == "auto" else options.device
    network = read_vitpose(weights).to(device)
    for people in everybody:
        path = precompute(people, network, weights=weights.name, options=how, root=root)
        say(f"{people.name}: {len(people)} people, {shown(path.parent)}")


if __name__ == "__main__":
    raise SystemExit(main())
