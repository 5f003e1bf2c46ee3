import numpy as np
import pytest

from humr.bodies.body import load_body
from humr.world import scenes


@pytest.fixture(scope="module")
def wardrobe():
    body = load_body("small")
    return scenes.Wardrobe.of(body.part.numpy(), body.template.numpy())


def test_every_region_of_the_body_is_dressed(wardrobe, rng):
    for names in (
        ("head",),
        ("spine2",),
        ("pelvis", "left_hip"),
        ("right_foot",),
        ("left_wrist",),
    ):
        assert wardrobe.on(*names).sum() > 5, names
    colours = wardrobe.dress(rng)
    assert colours.shape == (len(wardrobe.joint), 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert np.ptp(colours[wardrobe.on("right_foot")], axis=0).max() == 0  # one pair of shoes


def test_hands_are_bare_and_belong_to_the_wrists(wardrobe, rng):
    left = wardrobe.on("left_wrist")
    assert (wardrobe.position[left][:, 0] > 0).all()
    colours = wardrobe.dress(rng)
    assert (colours[left] == colours[wardrobe.on("right_wrist")][0]).all()


def test_backgrounds_differ_and_are_repeatable():
    first = scenes.background_bank(3, 64, rng=np.random.default_rng(2))
    again = scenes.background_bank(3, 64, rng=np.random.default_rng(2))
    assert np.array_equal(first, again)
    assert np.abs(first[0].astype(int) - first[1]).mean() > 5
    window = scenes.draw_background(first, 48, rng=np.random.default_rng(0))
    assert window.shape == (48, 48, 3)


def test_occluders_lie_over_the_box(rng):
    low, high = np.array([40.0, 20.0]), np.array([100.0, 140.0])
    shares = []
    for _ in range(40):
        mask, colour = scenes.draw_occluders(160, low, high, rng=rng)
        shares.append(mask[20:140, 40:100].mean())
        assert (colour[~mask] == 0).all()
    assert np.mean(np.array(shares) > 0) > 0.9
    assert 0.05 < np.mean(shares) < 0.6


def test_photograph_keeps_the_picture(rng):
    image = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[:, None, None], (1, 64, 3))
    picture = scenes.photograph(image, rng=rng)
    assert picture.dtype == np.uint8
    assert np.corrcoef(picture.ravel(), image.ravel())[0, 1] > 0.97
