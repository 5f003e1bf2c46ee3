"""Tests of humr.licensed.vitpose: exact Gaussians, a slow oracle in NumPy, borders, geometry."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from humr.licensed.vitpose import (
    COLUMNS,
    KERNEL,
    ROWS,
    crop_pixels,
    decode,
    smooth,
    to_photograph,
)

BOX = torch.tensor([[400.0, 300.0, 256.0], [20.5, 1000.25, 641.0]], dtype=torch.float64)


def gaussian(x, y, *, width=2.0, height=1.0, rows=ROWS, columns=COLUMNS):
    """A heatmap (rows, columns) in double precision."""
    column = torch.arange(columns, dtype=torch.float64) - x
    row = torch.arange(rows, dtype=torch.float64)[:, None] - y
    return height * (-(column**2 + row**2) / (2 * width**2)).exp()


# --------------------------------------------------------------------------- geometry


def test_outermost_cells_lie_on_the_border_of_the_window():
    cells = torch.tensor([[0.0, 0.0], [47.0, 63.0], [23.5, 31.5]], dtype=torch.float64)
    got = to_photograph(cells.expand(2, 3, 2), BOX)
    half = 0.75 * 641 / 2
    expected = [
        [[400 - 96, 300 - 128], [400 + 96, 300 + 128], [400, 300]],
        [[20.5 - half, 1000.25 - 320.5], [20.5 + half, 1000.25 + 320.5], [20.5, 1000.25]],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_pixels_of_the_image_follow_the_convention():
    """With a side of 255 px, pixel x of the 256 is x px right of the border, as UDP counts."""
    pixel = 17.0 * np.array([191 / 47, 255 / 63])
    # a window of 191 x 255 "steps": its sides are 0.75 b and b, so scale x by 191 / (0.75 * 255)
    cells = torch.full((1, 1, 2), 17.0, dtype=torch.float64)
    got = to_photograph(cells, torch.tensor([[0.0, 0.0, 255.0]], dtype=torch.float64))[0, 0]
    np.testing.assert_allclose(got[1] + 127.5, pixel[1], atol=1e-9)
    np.testing.assert_allclose((got[0] + 0.375 * 255) * 191 / (0.75 * 255), pixel[0], atol=1e-9)


def test_cells_in_the_square_crop():
    cells = torch.tensor([[0.0, 0.0], [47.0, 63.0], [23.5, 0.0]])
    np.testing.assert_allclose(crop_pixels(cells), [[32, 0], [224, 256], [128, 0]], atol=1e-4)
    box = torch.tensor([[128.0, 128.0, 256.0]])  # the crop is the photograph
    torch.testing.assert_close(crop_pixels(cells), to_photograph(cells[None], box)[0])


# --------------------------------------------------------------------------- decoding


def test_smoothing_is_a_gaussian_of_two_cells(generator):
    maps = torch.randn(2, 3, 20, 14, generator=generator, dtype=torch.float64)
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 2) ** 2)
    weights /= weights.sum()
    expected = correlate1d(correlate1d(maps.numpy(), weights, 2, mode="mirror"), weights, 3,
                           mode="mirror")  # fmt: skip
    np.testing.assert_allclose(smooth(maps), expected, atol=1e-12)


@pytest.mark.parametrize("width", [1.5, 2.0, 3.0])
def test_gaussians_are_recovered_between_cells(rng, width):
    """To 1e-4 cells; the kernel ends at 5 cells, so not exactly."""
    true = rng.uniform([12, 14], [35, 49], (40, 2))
    maps = torch.stack([gaussian(x, y, width=width, height=0.8) for x, y in true])
    got, peak = decode(maps.view(8, 5, ROWS, COLUMNS))
    assert got.shape == (8, 5, 2)
    error = np.abs(got.view(-1, 2).numpy() - true).max()
    assert error < 1e-4
    assert torch.equal(peak.flatten(), maps.flatten(1).amax(1))


def test_single_precision_is_enough(rng):
    true = rng.uniform([12, 14], [35, 49], (40, 2))
    maps = torch.stack([gaussian(x, y) for x, y in true]).float()
    np.testing.assert_allclose(decode(maps)[0], true, atol=1e-4)


def test_near_the_border():
    """Mirroring there pulls a peak to the border; it stays within a cell and a half."""
    true = [(0.3, 20.2), (47.4, 63.2), (24.0, 0.0), (46.6, 1.4), (-3.0, 30.0)]
    got, _ = decode(torch.stack([gaussian(x, y) for x, y in true]))
    inside = np.clip(true, 0, [47, 63])
    assert np.abs(got.numpy() - inside).max() < 1.5
    np.testing.assert_allclose(got[0, 1], 20.2, atol=0.02)  # along the border nothing changes


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0, -0.5])
def test_flat_heatmaps_give_the_first_cell(value):
    got, peak = decode(torch.full((1, ROWS, COLUMNS), value))
    assert got.tolist() == [[0, 0]]
    assert peak.tolist() == [pytest.approx(value)]


def test_no_step_where_there_is_no_hill():
    """A valley around the highest cell after smoothing, and a ridge that never ends."""
    ring = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    ring[10:31, 10:31] = 1
    ring[12:29, 12:29] = 0
    ring[20, 20] = 1.01
    ridge = gaussian(0, 0, width=3)[:, :1].flip(0).expand(ROWS, COLUMNS)
    got, _ = decode(torch.stack([ring, ridge]))
    assert got.isfinite().all()
    assert got[0].tolist() == [20, 20]
    assert got[1, 0] == 0


def test_negative_and_tiny_values_do_no_harm(generator):
    maps = 1e-3 * torch.randn(50, ROWS, COLUMNS, generator=generator) - 0.002
    got, peak = decode(maps)
    assert got.isfinite().all()
    flat = maps.flatten(1).argmax(1)
    assert torch.equal(got, torch.stack([flat % COLUMNS, flat // COLUMNS], 1).float())
    assert torch.equal(peak, maps.flatten(1).amax(1))


def oracle(heatmap):
    """The same, joint by joint, with explicit neighbours and numpy's solver."""
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 2) ** 2)
    weights /= weights.sum()
    smoothed = correlate1d(correlate1d(heatmap, weights, 0, mode="mirror"), weights, 1,
                           mode="mirror")  # fmt: skip
    p = np.pad(np.log(np.clip(smoothed, 0.001, 50)), 1, mode="edge")
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    i, j = y + 1, x + 1
    gradient = np.array([p[i, j + 1] - p[i, j - 1], p[i + 1, j] - p[i - 1, j]]) / 2
    dxx = p[i, j + 1] - 2 * p[i, j] + p[i, j - 1]
    dyy = p[i + 1, j] - 2 * p[i, j] + p[i - 1, j]
    dxy = (p[i + 1, j + 1] - p[i, j + 1] - p[i + 1, j] + 2 * p[i, j] - p[i, j - 1] - p[i - 1, j]
           + p[i - 1, j - 1]) / 2  # fmt: skip
    hessian = np.array([[dxx, dxy], [dxy, dyy]])
    if np.linalg.eigvalsh(hessian).max() >= 0:
        return np.array([x, y], float)
    step = -np.linalg.solve(hessian, gradient)
    return np.array([x, y]) + (step if np.linalg.norm(step) <= KERNEL // 2 else 0)


def test_batches_equal_the_slow_oracle(rng):
    """Sums of unequal hills, some at the border, with more and more noise."""
    maps = []
    for noise in np.geomspace(0.01, 3, 60):
        hills = torch.stack([gaussian(*rng.uniform(-2, [50, 66]), width=rng.uniform(1, 4),
                                      height=rng.uniform(0.1, 1)) for _ in range(3)])  # fmt: skip
        maps.append(hills.sum(0).numpy() + rng.normal(0, noise, (ROWS, COLUMNS)))
    got, _ = decode(torch.from_numpy(np.stack(maps)).view(3, 20, ROWS, COLUMNS))
    expected = np.stack([oracle(heatmap) for heatmap in maps])
    np.testing.assert_allclose(got.view(-1, 2), expected, atol=1e-9)
    stayed = (expected == expected.round()).all(1)
    assert 0 < stayed.sum() < 20
