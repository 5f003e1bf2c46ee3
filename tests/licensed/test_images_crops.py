"""Tests of licensed.images: resampling by brute force, the official integer rules, variation."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from humr.licensed.datasets import SETS
from humr.licensed.images import (
    DEVIATION,
    MEAN,
    box_coordinates,
    crop,
    crop_bounds,
    photograph,
    quantised,
    resample_window,
    varied,
)


@pytest.fixture
def photo(rng):
    return rng.integers(0, 256, (48, 60, 3), dtype=np.uint8)


def box(x, y, side):
    return torch.tensor([x, y, side])


def test_photographs_are_upright(tmp_path):
    upright = np.zeros((1280, 720, 3), np.uint8)
    upright[:640, :360] = (200, 50, 0)  # upper left
    folder = tmp_path / SETS["closeup-gym"].images / "seq_000000"
    folder.mkdir(parents=True)
    Image.fromarray(np.rot90(upright)).save(folder / "a.png")  # as stored: 1280 wide
    got = photograph("closeup-gym", "seq_000000/a.png", root=tmp_path)
    np.testing.assert_array_equal(got, upright)
    Image.fromarray(upright).save(folder / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png: this photograph of closeup-gym must have \(720, 1280\) px"
    ):
        photograph("closeup-gym", "seq_000000/a.png", root=tmp_path)


def written(root, name, image, width, height):
    path = root / SETS[name].images / image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def test_photographs_of_emdb_have_one_size(tmp_path):
    image = "P1/x/images/00000.jpg"
    written(tmp_path, "emdb-p1", image, 1440, 1920)
    assert photograph("emdb-p1", image, root=tmp_path).shape == (1920, 1440, 3)
    written(tmp_path, "emdb-p1", image, 1920, 1440)
    with pytest.raises(ValueError, match=r"00000\.jpg: .*\(1440, 1920\) px .*got \(1920, 1440\)"):
        photograph("emdb-p1", image, root=tmp_path)


@pytest.mark.parametrize("name", ["3dpw-train-smplx", "3dpw-test-cam"])
def test_photographs_of_3dpw_have_the_annotated_size(tmp_path, name):
    image, wide = "imageFiles/x/image_00000.jpg", torch.tensor([1920.0, 1080.0])
    written(tmp_path, name, image, 1920, 1080)
    assert photograph(name, image, size=wide, root=tmp_path).shape == (1080, 1920, 3)
    assert photograph(name, image, root=tmp_path).shape == (1080, 1920, 3)  # nobody knows better
    with pytest.raises(ValueError, match=r"_00000\.jpg: .*\(1080, 1920\) px .*\(1920, 1080\)\."):
        photograph(name, image, size=wide.flip(0), root=tmp_path)


def test_windows_are_truncated_towards_zero():
    assert crop_bounds(box(50.0, 30.0, 21.0)) == (39, 19, 60, 40)
    assert crop_bounds(box(5.0, 3.0, 21.0)) == (-5, -7, 15, 13)
    with pytest.raises(ValueError, match=r"a pixel wide or more; got a side of 0\.5 px"):
        crop_bounds(box(5.5, 3.5, 0.5))


@pytest.mark.parametrize("side", [20, 30, 37])
def test_shrinking_averages_areas(photo, side):
    size = 7
    got = resample_window(photo, box(30.0, 22.0, float(side)), size=size)
    x0, y0, x1, y1 = crop_bounds(box(30.0, 22.0, float(side)))
    part = photo[y0:y1, x0:x1].astype(float)
    fine = part.repeat(size, 0).repeat(size, 1)  # every result pixel is now a whole block
    expected = fine.reshape(size, y1 - y0, size, x1 - x0, 3).mean((1, 3))
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_growing_is_bilinear(photo):
    got = resample_window(photo, box(30.0, 22.0, 12.0), size=29)
    part = torch.from_numpy(photo[16:28, 24:36].astype(np.float32)).permute(2, 0, 1)[None]
    expected = interpolate(part, size=(29, 29), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(got, expected.permute(1, 2, 0), atol=1e-3)


def test_a_window_of_the_same_size_is_copied(photo):
    np.testing.assert_array_equal(
        resample_window(photo, box(30.0, 22.0, 16.0), size=16), photo[14:30, 22:38]
    )
    np.testing.assert_array_equal(
        resample_window(photo[..., 1], box(30.0, 22.0, 16.0), size=16), photo[14:30, 22:38, 1]
    )


def test_beyond_the_photograph(photo):
    got = resample_window(photo, box(2.0, 44.0, 16.0), size=16, outside=9.0)
    np.testing.assert_array_equal(got[:12, 6:], photo[36:48, 0:10])
    assert (got[12:] == 9).all()
    assert (got[:, :6] == 9).all()
    assert (resample_window(photo, box(-90.0, 500.0, 16.0), size=4) == 0).all()


def test_crops_are_standardised(photo):
    photo[...] = (255, 0, 51)
    pixels = crop(photo, box(30.0, 22.0, 20.0), size=8)
    assert pixels.dtype == torch.float32
    expected = [(value - m) / d for value, m, d in zip((1, 0, 0.2), MEAN, DEVIATION, strict=True)]
    np.testing.assert_allclose(pixels[:, 3, 5], expected, rtol=1e-6)


def test_points_in_the_crop():
    points = torch.tensor([[[10.0, 50.0], [30.0, 50.0], [20.0, 40.0]]])
    got = box_coordinates(points, torch.tensor([[20.0, 50.0, 20.0]]))
    assert got.tolist() == [[[-1, 0], [1, 0], [0, -1]]]


def test_quantised_points_follow_the_official_arithmetic(rng):
    centre, scale, size = np.array([311.3, 207.9]), 1.37, 224
    points = rng.uniform(-50, 600, (40, 2))
    side = 200 * scale
    pixels = (points * size / side + size * (0.5 - centre / side)).astype(int) + 1
    expected = 2 * pixels / size - 1
    assert (pixels < 0).any()
    where = torch.tensor([*centre, side])
    got = quantised(box_coordinates(torch.from_numpy(points), where))
    np.testing.assert_allclose(got, expected, atol=1e-6)


SIZE = torch.tensor([1280.0, 720.0])


def test_varied_boxes_have_the_stated_sizes(rng):
    original = box(640.4, 360.7, 301.0)
    drawn = torch.stack([varied(original, SIZE, rng=rng) for _ in range(2000)])
    assert original.tolist() == box(640.4, 360.7, 301.0).tolist()
    halved = drawn[:, 2] < 0.74 * 301
    assert 0.17 < halved.float().mean() < 0.23
    whole = drawn[~halved]
    assert (whole[:, :2] == original[:2]).all()
    ratio = whole[:, 2] / 301
    assert ratio.min() == 0.75
    assert ratio.max() == 1.25
    at_limit = ((ratio == 0.75) | (ratio == 1.25)).float().mean()
    assert abs(at_limit - 0.317) < 0.04  # beyond one standard deviation
    half = drawn[halved]
    assert ((half[:, 0] - 640.4).abs() <= 1.5).all()
    assert ((half[:, 2] / 150 >= 0.75) & (half[:, 2] / 150 <= 1.25)).all()
    offset = half[:, 1] - 360.7
    assert -77 < offset.min() < -70
    assert 70 < offset.max() < 77
    assert abs(offset.mean()) < 8


def test_a_box_that_leaves_the_photograph_is_not_varied(rng):
    original = box(640.0, -140.0, 300.0)  # its lower 10 px are inside
    drawn = torch.stack([varied(original, SIZE, rng=rng) for _ in range(300)])
    changed = drawn[(drawn != original).any(-1)]
    assert len(changed) > 50
    assert (changed[:, 1] + changed[:, 2] / 2 >= 9.5).all()
    assert ((drawn == original).all(-1).float().mean()) > 0.4


def test_variation_is_reproducible():
    first, second = (
        [varied(box(640.0, 360.0, 300.0), SIZE, rng=np.random.default_rng(3)).tolist()
         for _ in range(2)] for _ in range(2)
    )  # fmt: skip
    assert first == second
