import numpy as np
import pytest
import torch
from PIL import Image

from humr import detector, files
from humr.geometry import Crop


def window(x, y, side, roll=0.0):
    return detector.window_at(x, y, side, roll)


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_load_png_is_exact(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(detector.load_image(tmp_path / "a.png"), picture)


def test_load_applies_exif_orientation(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(detector.load_image(tmp_path / "a.png"), np.rot90(picture, -1))


def test_load_grey_repeats_the_channel(tmp_path, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        detector.load_image(tmp_path / "a.png"), picture[..., :1].repeat(3, -1)
    )


def test_load_puts_transparency_on_white(tmp_path, picture):
    alpha = np.zeros((40, 60, 1), np.uint8)
    alpha[:, :30] = 255
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "a.png")
    image = detector.load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image[:, :30], picture[:, :30])
    assert (image[:, 30:] == 255).all()


def test_load_refuses_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"a\.jpg is not a readable image"):
        detector.load_image(tmp_path / "a.jpg")


def test_load_refuses_half_a_file(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"not a readable image: .*partial download.*get it aga"):
        detector.load_image(tmp_path / "a.png")


def test_load_names_photographs_of_the_data_folder_from_there(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(files, "DATA", tmp_path)
    path = tmp_path / "licensed" / "a.jpg"
    with pytest.raises(FileNotFoundError, match=r"no image file licensed/a\.jpg$"):
        detector.load_image(path)
    path.parent.mkdir()
    Image.fromarray(picture).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"^licensed/a\.jpg is not a readable image: .*truncated"):
        detector.load_image(path)
    Image.fromarray(picture[:9]).save(path)
    with pytest.raises(ValueError, match=r"^licensed/a\.jpg: image must be at least 32 px"):
        detector.load_image(path)


def test_load_refuses_nothing_and_directories(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image file"):
        detector.load_image(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="no image file"):
        detector.load_image(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((50, 50), np.uint8), r"\(height, width, 3\) in RGB; got \(50, 50\)"),
        (np.zeros((50, 50, 4), np.uint8), "in RGB"),
        ([[1, 2], [3, 4]], "got list"),
        (np.zeros((50, 50, 3)), r"uint8 with values 0\.\.255; got float64"),
        (np.zeros((50, 31, 3), np.uint8), "at least 32 px on each side; got 31 x 50"),
    ],
)
def test_check_image(image, message):
    with pytest.raises(ValueError, match=message):
        detector.check_image(image)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 10), "four finite numbers"),
        ((0, 0, 10, float("nan")), "four finite numbers"),
        ("abc", "four finite numbers"),
        ((20, 5, 10, 30), "x0 < x1"),
        ((5, 5, 10, 10), "8 px or more"),
        ((70, 5, 90, 30), "outside the image of 60 x 40 px"),
        ((-30, 5, 0, 30), "outside the image"),
    ],
)
def test_check_box(box, message, picture):
    with pytest.raises(ValueError, match=message):
        detector.check_box(box, picture)


def test_square_keeps_the_middle():
    crop = detector.square((10.0, 20.0, 50.0, 40.0), margin=1.25)
    assert crop.centre.tolist() == [30, 30]
    assert crop.side.item() == 50
    assert crop.roll.item() == 0


def test_cut_whole_pixels_is_slicing(picture):
    np.testing.assert_array_equal(
        detector.resample_window(picture, window(25.0, 20.0, 20.0), 20), picture[10:30, 15:35]
    )


def test_cut_is_black_outside(picture):
    cut = detector.resample_window(picture, window(0.0, 20.0, 20.0), 20)
    assert (cut[:, :10] == 0).all()
    np.testing.assert_array_equal(cut[:, 10:], picture[10:30, :10])
    assert (detector.resample_window(picture, window(500.0, 20.0, 20.0), 20) == 0).all()


@pytest.mark.parametrize("side", [30.0, 90.0, 200.0, 517.3])
@pytest.mark.parametrize("roll", [0.0, 0.7, -2.0])
def test_cut_of_a_ramp_is_the_coordinate_map(side, roll):
    """Pixel values that grow with the position say where each pixel of the window was read.

    A ramp and its negative, because the resampler rounds down.
    """
    y, x = np.mgrid[0:600, 0:600] + 0.5
    ramp = (np.stack([x, y, x * 0], -1) / 600 * 255).round().astype(np.uint8)
    crop = window(297.3, 305.8, side, roll)
    ticks = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).flatten(0, 1)
    expected = crop.to_image(grid).unflatten(0, (64, 64)).numpy()
    up, down = (
        detector.resample_window(image, crop, 64).astype(float) for image in (ramp, 255 - ramp)
    )
    got = (up + 255 - down)[..., :2] / 2 / 255 * 600
    inside = ((expected > 12) & (expected < 588)).all(-1)
    error = got[inside] - expected[inside]
    assert np.abs(error).max() < 2.5  # pixels; one grey level is 2.4
    assert np.abs(error.mean(0)).max() < 0.2  # half a pixel of the image or the window would show
    assert inside.sum() > 500


@pytest.mark.parametrize("side", [64.0, 96.0, 300.0, 700.0])
def test_cut_keeps_the_middle_of_a_spot(side):
    image = np.zeros((700, 700, 3), np.uint8)
    image[400:424, 300:324] = 255
    crop = window(340.0, 420.0, side, 0.4) if side > 64 else window(312.0, 412.0, side, 0.4)
    weights = detector.resample_window(image, crop, 64)[..., 0].astype(float)
    y, x = np.mgrid[0:64, 0:64] + 0.5
    centroid = torch.tensor([(weights * x).sum(), (weights * y).sum()]) / weights.sum() / 32 - 1
    middle = crop.to_image(centroid.float()[None])[0]
    np.testing.assert_allclose(middle, [312, 412], atol=side / 64 * 0.1)


def test_cut_averages_when_it_shrinks(rng):
    image = (rng.random((512, 512, 3)) > 0.5).astype(np.uint8) * 255
    cut = detector.resample_window(image, window(256.0, 256.0, 512.0), 32).astype(float)
    assert abs(cut.mean() - 127.5) < 3
    assert cut.std() < 20  # mean of 256 coin flips: 8; without averaging: 127


def test_window_is_a_crop():
    assert isinstance(window(1.0, 2.0, 3.0), Crop)
