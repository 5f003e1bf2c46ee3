"""Tests of humr.licensed.vitpose on small photographs: places, draws, distances, going on."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from formats import heatmap_samples, person, write_annotations, write_heatmap_samples, write_mask
from official_layouts import random_state, vitpose_shapes
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from humr.licensed import vitpose
from humr.licensed.datasets import image_path
from humr.licensed.images import crop, photograph
from humr.licensed.people import read_annotations, read_boxes, read_file, sample_path, write_file
from humr.licensed.vitpose import (
    FAR,
    FLOOR,
    Options,
    Photographs,
    Sizes,
    ViTPose,
    decode,
    distance_map,
    draw,
    keypoints_path,
    main,
    precompute,
    read_vitpose,
    row_generator,
    samples,
    to_photograph,
)

NAME = "emdb-p1-occl"  # masks for some
SIZES = Sizes(width=8, depth=1, heads=2, filters=4)
STATE = random_state(
    vitpose_shapes(width=8, depth=1, filters=4, tokens=192), torch.Generator().manual_seed(2)
)
IMAGES = ["P1/a/images/00003.jpg", "P1/a/images/00001.jpg", "P1/a/images/00003.jpg",
          "P1/a/images/00002.jpg", "P1/a/images/00001.jpg"]  # fmt: skip
CENTRES = np.array([[50.2, 40.2], [60, 45], [30, 70], [44, 37], [90, 50]])
SCALES = np.array([0.3, 0.42, 0.25, 0.5, 0.36])  # boxes of 50 to 100 px
HEIGHT, WIDTH = 90, 120  # of the corner of photographs where everything is; black elsewhere


@pytest.fixture(scope="module")
def network():
    model = ViTPose(SIZES)
    model.load_state_dict(STATE)
    return model


def in_corner(pixels):
    whole = np.zeros((1920, 1440, *pixels.shape[2:]), pixels.dtype)
    whole[: len(pixels), : pixels.shape[1]] = pixels
    return whole


def write_photo(root, image, pixels):
    path = root / "test_images/EMDB" / image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(in_corner(pixels)).save(path, quality=95)


def write_world(root):
    """Five people in three photographs; the first and third photographs have masks."""
    rng = np.random.default_rng(6)
    write_annotations(root, NAME, imgname=np.array(IMAGES), center=CENTRES, scale=SCALES,
                      valid_emdb_mask=np.array([1, 0, 1, 0, 0]))  # fmt: skip
    for image in sorted(set(IMAGES)):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        write_photo(root, image, coarse.repeat(10, 0).repeat(10, 1))
    write_mask(root, NAME, IMAGES[0], in_corner(person(HEIGHT, WIDTH)))
    write_mask(root, NAME, IMAGES[3], in_corner(person(HEIGHT, WIDTH)[::-1]))
    return read_boxes(NAME, root=root)


@pytest.fixture
def people(tmp_path):
    return write_world(tmp_path)


run = partial(precompute, weights="tiny.pth")


def stored(root, row):
    return read_file(sample_path(NAME, row, root=root))


def keypoints(root):
    with np.load(keypoints_path(NAME, root=root)) as file:
        return file["vitpose"]


# ------------------------------------------------------------------------------ draws


def test_cells_are_drawn_in_proportion(generator):
    maps = torch.zeros(2, 4, 3)
    maps[0, 0, 1], maps[0, 3, 2], maps[0, 2, 0] = 0.5, 0.3, 0.2
    maps[0, 1, 1] = FLOOR - 1e-4
    maps[1, 1, 1] = 0.06
    cells, values = draw(maps, 20_000, generator=generator)
    assert cells.shape == (20_000, 2, 2)
    places = {(1, 0): 0.5, (2, 3): 0.3, (0, 2): 0.2}  # column, row
    for place, share in places.items():
        here = (cells[:, 0] == torch.tensor(place)).all(-1)
        assert abs(here.float().mean() - share) < 0.015
        assert (values[here, 0] == share).all()
    assert (cells[:, 1] == 1).all()


def test_values_at_the_floor_are_kept():
    maps = torch.zeros(1, 3, 3)
    maps[0, 2, 0] = FLOOR
    cells, values = draw(maps, 5, generator=torch.Generator())
    assert (cells == torch.tensor([0, 2])).all()
    assert (values == FLOOR).all()


def test_where_all_is_below_the_floor_every_cell_is_as_probable(generator):
    maps = torch.linspace(-0.2, FLOOR - 1e-3, 12).view(1, 3, 4)
    cells, values = draw(maps, 12_000, generator=generator)
    index = (cells[:, 0, 1] * 4 + cells[:, 0, 0]).long()
    counts = torch.bincount(index, minlength=12)
    assert (counts - 1000).abs().max() < 130
    assert torch.equal(values[:, 0], maps.flatten()[index].clamp_min(0))
    assert values.max() < FLOOR


def test_draws_depend_on_seed_set_and_row():
    first = torch.rand(3, generator=row_generator("a", 5, 0))
    assert torch.equal(torch.rand(3, generator=row_generator("a", 5, 0)), first)
    for other in (("a", 6, 0), ("a", 5, 1), ("b", 5, 0)):
        assert not torch.equal(torch.rand(3, generator=row_generator(*other)), first)


# -------------------------------------------------------------------------- distances


def touched(length, at):
    """Pixels of `length` with a share in pixel `at` of 256, when pixels grow."""
    position = np.clip((at + 0.5) * length / 256 - 0.5, 0, length - 1)
    return [pixel for pixel in range(length) if abs(pixel - position) < 1]


def people_in_crop(mask, box):
    """Pixels (row, column) of the crop that show somebody, one by one."""
    side = int(box[2])
    top, left = int(box[1] - box[2] / 2), int(box[0] - box[2] / 2)
    near = [touched(side, at) for at in range(256)]
    return np.array([
        (i, j) for i in range(256) for j in range(256)
        if any(mask[top + r, left + c] for r in near[i] for c in near[j])
    ])  # fmt: skip


def test_distances_are_exact():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:50, 20:24] = True
    mask[61, 70] = True
    box = torch.tensor([50.0, 45.0, 64.0])
    got = distance_map(mask, box)
    person = people_in_crop(mask, box.tolist())
    for i, j in ((0, 0), (255, 255), (100, 3), (80, 17), (200, 140), (30, 199)):
        expected = np.sqrt(((person - [i, j]) ** 2).sum(1).min())
        assert got[i, j] == pytest.approx(expected, abs=1e-4)
    assert (got[tuple(person.T)] == 0).all()
    assert got[got > 0].min() == 1


def test_no_mask_is_far_away():
    box = torch.tensor([50.0, 45.0, 20.0])
    assert (distance_map(None, box) == FAR).all()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    assert (distance_map(mask, box) == FAR).all()
    mask[80:, 100:] = True  # somebody beyond the box
    assert (distance_map(mask, box) == FAR).all()


def test_samples_agree_with_heatmap_and_mask(rng):
    maps = torch.from_numpy(rng.uniform(-0.1, 0.4, (17, 64, 48)).astype(np.float32))
    mask, box = person(HEIGHT, WIDTH), torch.tensor([55.0, 45.0, 256.0])  # crop: as large
    distance = torch.from_numpy(distance_map(mask, box))
    got = samples(maps, box, distance, generator=torch.Generator().manual_seed(1))
    assert got.shape == (150, 17, 4)
    column, row = (got[..., 0] - (55 - 96)) / 192 * 47, (got[..., 1] - (45 - 128)) / 256 * 63
    np.testing.assert_allclose(column, column.round(), atol=1e-4)
    np.testing.assert_allclose(row, row.round(), atol=1e-4)
    joints = np.arange(17)[None].repeat(150, 0)
    index = joints, row.round().astype(int), column.round().astype(int)
    np.testing.assert_allclose(got[..., 2], maps.numpy()[index], atol=1e-6)
    assert got[..., 2].min() >= FLOOR
    x, y = (np.floor(got[..., k] + 1e-4).astype(int) for k in (0, 1))
    here = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    seen = here & mask[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)]
    np.testing.assert_array_equal(got[..., 3] == 0, seen)
    assert 0.02 < seen.mean() < 0.5
    inside = np.argwhere(mask)
    for n, joint in ((0, 3), (77, 9), (149, 16)):
        place = [min(y[n, joint], 45 + 127), min(x[n, joint], 55 + 127)]
        expected = np.sqrt(((inside - place) ** 2).sum(1).min())
        assert got[n, joint, 3] == pytest.approx(expected, abs=1e-4)


# -------------------------------------------------------------------------- the whole


class DotFinder(ViTPose):
    """Heatmaps that are high where the image is bright; pixels and cells aligned as in UDP."""

    def forward(self, images):
        bright = avg_pool2d(images.mean(1, keepdim=True), 25, 1, 12, count_include_pad=False)
        bright = interpolate(bright, size=(64, 48), mode="bilinear", align_corners=True)
        bright = bright - bright.amin((2, 3), keepdim=True)
        return (bright / bright.amax((2, 3), keepdim=True)).expand(-1, 17, -1, -1)


def test_a_bright_dot_is_found_where_it_is(tmp_path, people):
    """Through crop, heatmap and back: keypoints to 0.3 px, samples around the dot.

    Boxes are cut at whole pixels of the photograph, as in the official code.
    """
    dots = {IMAGES[0]: (41, 58), IMAGES[1]: (72, 40), IMAGES[3]: (50, 30)}
    for image, (x, y) in dots.items():
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[y - 2 : y + 2, x - 2 : x + 2] = 255
        write_photo(tmp_path, image.replace(".jpg", ".png"), pixels)
        image_path(NAME, image, root=tmp_path).unlink()
    names = np.array([image.replace(".jpg", ".png") for image in IMAGES])
    write_annotations(tmp_path, NAME, imgname=names, center=CENTRES, scale=SCALES,
                      valid_emdb_mask=np.zeros(5, int))  # fmt: skip
    run(read_boxes(NAME, root=tmp_path), DotFinder(SIZES), root=tmp_path)
    found, true = keypoints(tmp_path), np.array([dots[image] for image in IMAGES])
    cell = 200 * SCALES / 63
    assert cell.min() > 0.75
    assert np.abs(found[:, 0, [1, 0]] - true).max() < 0.3
    assert (found[..., 2] == 1).all()
    for row in range(5):
        points = stored(tmp_path, row)[..., :2]
        assert np.abs(points - true[row]).max() < 30 * cell[row]


def test_files_hold_what_the_network_says(tmp_path, people, network):
    path = run(people, network, root=tmp_path)
    assert path == keypoints_path(NAME, root=tmp_path)
    assert len(list(path.parent.iterdir())) == 6
    found = keypoints(tmp_path)
    for row, image in enumerate(IMAGES):
        pixels = photograph(NAME, image, root=tmp_path)
        box = people.box[row]
        maps = network(crop(pixels, box, size=256)[None, :, :, 32:-32])
        cells, peak = decode(maps)
        expected = to_photograph(cells, box[None])[0]
        np.testing.assert_allclose(found[row, :, 1], expected[:, 0], atol=1e-3)
        np.testing.assert_allclose(found[row, :, 0], expected[:, 1], atol=1e-3)
        np.testing.assert_allclose(found[row, :, 2], peak[0], atol=1e-5)
        values = stored(tmp_path, row)
        assert (values[..., 2] <= peak[0].clamp_min(0).numpy() + 1e-5).all()
        corner = (box[:2] - box[2] * torch.tensor([0.375, 0.5])).numpy()
        assert (values[..., :2] >= corner - 1e-3).all()
        assert (values[..., :2] <= corner + box[2].item() * np.array([0.75, 1]) + 1e-3).all()
        # of those whose photograph has a mask, row 2 has nobody in the box
        assert (values[..., 3] < FAR).any() == (row in (0, 3))
    assert not np.allclose(stored(tmp_path, 0)[..., 2], stored(tmp_path, 2)[..., 2])
    record = np.load(path)["settings"]
    assert json.loads(str(record))["weights"] == "tiny.pth"


def test_annotations_serve_as_well_as_boxes(tmp_path, people, network):
    run(people, network, root=tmp_path)
    before = keypoints(tmp_path)
    keypoints_path(NAME, root=tmp_path).unlink()
    run(read_annotations(NAME, root=tmp_path), network, root=tmp_path)
    np.testing.assert_array_equal(keypoints(tmp_path), before)


def same_files(one, other):
    for row in range(5):
        np.testing.assert_allclose(stored(one, row), stored(other, row), atol=1e-5)
    np.testing.assert_allclose(keypoints(one), keypoints(other), atol=1e-4)


@pytest.mark.slow
def test_neither_batches_nor_workers_change_the_files(tmp_path, network):
    for folder, options in (("a", Options(batch=5)), ("b", Options(batch=2, workers=1))):
        run(write_world(tmp_path / folder), network, root=tmp_path / folder, options=options)
    same_files(tmp_path / "a", tmp_path / "b")


def test_seed_and_mirror_image_change_them(tmp_path, network):
    for folder, options in (
        ("a", Options()),
        ("b", Options(seed=1)),
        ("c", Options(mirrored=True)),
    ):
        run(write_world(tmp_path / folder), network, root=tmp_path / folder, options=options)
    first, seeded, mirrored = (stored(tmp_path / folder, 1) for folder in "abc")
    assert not np.array_equal(first, seeded)
    np.testing.assert_array_equal(keypoints(tmp_path / "a"), keypoints(tmp_path / "b"))
    pixels = photograph(NAME, IMAGES[1], root=tmp_path / "a")
    image = crop(pixels, read_boxes(NAME, root=tmp_path / "a").box[1], size=256)[
        None, :, :, 32:-32
    ]
    peak = network.with_mirrored(image).amax((2, 3))
    np.testing.assert_allclose(keypoints(tmp_path / "c")[1, :, 2], peak[0], atol=1e-5)
    assert not np.array_equal(first, mirrored)


# --------------------------------------------------------------------------- going on


def stopping(monkeypatch, after):
    """Let the writing of samples stop the run after so many files."""
    original, written = write_file, []

    def write(path, values):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        original(path, values)

    monkeypatch.setattr(vitpose, "write_file", write)
    return written


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_was_stopped_goes_on(tmp_path, network, monkeypatch, killed):
    """Stopped by Ctrl-C, which saves the keypoints, or killed, which does not."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    run(write_world(whole), network, root=whole)
    people = write_world(half)
    with monkeypatch.context() as patch:
        stopping(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(people, network, root=half, options=Options(batch=2))
    folder = keypoints_path(NAME, root=half).parent
    assert len(list(folder.glob("*.npy.gz"))) == 3
    assert np.isnan(keypoints(half)).any((1, 2)).sum() == 3  # the batch of the third was lost
    if killed:
        keypoints_path(NAME, root=half).unlink()
        broken = next(iter(sorted(folder.glob("*.npy.gz"))))
        broken.write_bytes(broken.read_bytes()[:50])
        folder.joinpath("0000004.npy.gz.123.part").write_bytes(b"half")
    with monkeypatch.context() as patch:
        written = stopping(patch, 99)
        run(people, network, root=half)
    assert len(written) == 3 if killed else 2
    same_files(whole, half)


def test_what_is_done_is_not_looked_at_again(tmp_path, people, network, monkeypatch):
    run(people, network, root=tmp_path)
    before = keypoints_path(NAME, root=tmp_path).stat().st_mtime_ns
    monkeypatch.setattr(vitpose, "photograph", lambda *_, **__: pytest.fail("looked again"))
    run(people, network, root=tmp_path)
    assert keypoints_path(NAME, root=tmp_path).stat().st_mtime_ns == before


def test_files_of_others_are_never_replaced(tmp_path, people, network):
    path = write_heatmap_samples(tmp_path, NAME, 2)
    before = path.read_bytes()
    run(people, network, root=tmp_path)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(stored(tmp_path, 2), heatmap_samples(2).astype(np.float32))
    assert not np.isnan(keypoints(tmp_path)).any()


def test_other_options_do_not_go_on(tmp_path, people, network):
    run(people, network, root=tmp_path)
    with pytest.raises(ValueError, match=r"keypoints\.npz: to go on, expected"):
        run(people, network, root=tmp_path, options=Options(seed=1))
    with pytest.raises(ValueError, match=r"keypoints\.npz: to go on, expected"):
        precompute(people, network, weights="other.pth", root=tmp_path)


def test_keypoints_are_saved_now_and_then(tmp_path, people, network, monkeypatch):
    saved, original = [], vitpose.Keypoints.save
    monkeypatch.setattr(vitpose, "SAVED", 2)

    def save(self):
        saved.append(self.unsaved)
        original(self)

    monkeypatch.setattr(vitpose.Keypoints, "save", save)
    run(people, network, root=tmp_path, options=Options(batch=1))
    assert saved == [2, 2, 1]


# -------------------------------------------------------------------------- bad input


def test_masks_that_count_must_be_there(tmp_path, people, network):
    """Who wants no masks says so; a mask that does not count may be absent."""
    path = write_mask(tmp_path, NAME, IMAGES[0], person(HEIGHT, WIDTH))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"masks/00003\.png; it is licensed"):
        run(people, network, root=tmp_path)
    run(people, network, root=tmp_path, options=Options(masks=False))
    assert all((stored(tmp_path, row)[..., 3] == FAR).all() for row in range(5))


def test_bad_masks_are_named(tmp_path, people, network):
    path = write_mask(tmp_path, NAME, IMAGES[0], person(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"00003\.png must .*\(1440, 1920\) px .* \(120, 90\)"):
        run(people, network, root=tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"masks/00003\.png is no readable image"):
        run(people, network, root=tmp_path)


def test_bad_photographs_are_named(tmp_path, people, network):
    path = image_path(NAME, IMAGES[1], root=tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00001\.jpg is not a readable image"):
        run(people, network, root=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00001\.jpg; it is licensed"):
        run(people, network, root=tmp_path)
    assert len(list(keypoints_path(NAME, root=tmp_path).parent.glob("*.npy.gz"))) == 0


def test_photographs_of_another_size_are_refused(tmp_path, network):
    arrays = write_annotations(tmp_path, "static-gym", object_occlusion=np.ones(5))
    scene = "training_images/20221013_3-10_500_batch01hand_static_highSchoolGym_6fps/png"
    path = tmp_path / scene / str(arrays["imgname"][0])
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((360, 640, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"0000\.png: this photograph of static-gym must have"):
        run(read_boxes("static-gym", root=tmp_path), network, root=tmp_path)
    arrays = write_annotations(tmp_path, "3dpw-test-cam")  # orig_shape: 1920, 1080
    path = tmp_path / "test_images/3DPW" / str(arrays["imgname"][0])
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((1080, 1920, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"00000\.jpg: .*\(1080, 1920\) px .*\(1920, 1080\)\."):
        run(read_boxes("3dpw-test-cam", root=tmp_path), network, root=tmp_path)


def test_photographs_are_read_once_with_all_their_people(tmp_path, people):
    photographs = Photographs(people, torch.tensor([0, 1, 2, 4]), tmp_path, masks=True)
    assert len(photographs) == 2
    parts = [photographs[0], photographs[1]]
    assert [part.row.tolist() for part in parts] == [[0, 2], [1, 4]]
    assert parts[0].images.shape == (2, 3, 256, 192)


@pytest.mark.parametrize("changes", [{"batch": 0}, {"workers": -1}, {"seed": -1}])
def test_impossible_options(changes):
    with pytest.raises(ValueError, match="batch must be 1 or more, workers and seed 0 or more"):
        Options(**changes)


# ----------------------------------------------------------------------- command line


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(vitpose, "read_vitpose", partial(read_vitpose, sizes=SIZES))


def test_the_command_line(tmp_path, people, tiny, capsys):
    (tmp_path / "ckpt").mkdir()
    torch.save({"state_dict": STATE}, tmp_path / "ckpt/vitpose-h-coco.pth")
    words = [NAME, "--batch", "3", "--workers", "0", "--device", "cpu"]
    assert main(words, root=tmp_path) == 0
    assert f"{NAME}: 5 people" in capsys.readouterr().out
    assert not np.isnan(keypoints(tmp_path)).any()
    assert main([*words, "--without-masks"], root=tmp_path) == 1
    assert "humr: " in capsys.readouterr().out


def test_the_command_line_says_what_is_wrong(tmp_path, people, tiny, capsys, monkeypatch):
    assert main([NAME], root=tmp_path) == 1
    assert "vitpose-h-multi-coco.pth or " in capsys.readouterr().out
    assert main([NAME, "--weights", str(tmp_path / "no.pth")], root=tmp_path) == 1
    assert f"no checkpoint {tmp_path / 'no.pth'}" in capsys.readouterr().out
    assert main(["mars"], root=tmp_path) == 1
    assert "no data set 'mars'" in capsys.readouterr().out
    torch.save(STATE, tmp_path / "no.pth")
    stopping(monkeypatch, 0)
    words = [NAME, "--weights", str(tmp_path / "no.pth"), "--workers", "0", "--device", "cpu"]
    assert main(words, root=tmp_path) == 130
    assert "the same command goes on" in capsys.readouterr().out
