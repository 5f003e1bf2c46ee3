"""Tests of humr.licensed.images: what each change does, odds, determinism."""

import numpy as np
import pytest

from humr.licensed import images
from humr.licensed.images import COLOURS, WEATHER, changed

EVERY = [*WEATHER, *COLOURS]


@pytest.fixture
def photo(rng):
    """A smooth picture with an edge and a little noise: red to the right, green down."""
    y, x = np.mgrid[:60, :80] / (60, 80)[0]
    picture = np.stack([40 + 120 * x, 30 + 180 * y, 90 + 50 * (x > 0.6)], -1)
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


def apply(name, photo, seed=0):
    return getattr(images, name)(photo, np.random.default_rng(seed)).astype(int)


@pytest.mark.parametrize("change", EVERY, ids=lambda f: f.__name__)
def test_every_change_changes_a_copy_reproducibly(photo, change):
    before = photo.copy()
    first, second = (change(photo, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(photo, before)
    assert first.shape == photo.shape
    assert first.dtype == np.uint8
    assert (first != photo).any()


def test_groups_have_the_same_odds(photo):
    rng = np.random.default_rng(0)
    same = np.mean([changed(photo, rng=rng) is photo for _ in range(300)])
    assert abs(same - 0.49) < 0.08
    assert changed(photo, rng=rng, probability=0.0) is photo


def test_all_changes_are_drawn_with_their_weights(photo, monkeypatch):
    drawn = []
    for name in ("WEATHER", "COLOURS"):
        group = {
            (lambda image, rng, f=f: (drawn.append(f.__name__), image)[1]): weight
            for f, weight in getattr(images, name).items()
        }
        monkeypatch.setattr(images, name, group)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        changed(photo, rng=rng, probability=1.0)
    assert set(drawn) == {f.__name__ for f in EVERY}
    assert abs(drawn.count("snow") / 2000 - 0.5 / 1.1) < 0.04
    assert abs(drawn.count("gamma") / 2000 - 0.1 / 1.3) < 0.02


def test_blurs_keep_constant_pictures_and_lower_contrast(photo):
    flat = np.full_like(photo, 77)
    for name in ("blur", "motion_blur", "downscale"):
        assert (apply(name, flat) == 77).all()
    for name in ("blur", "motion_blur"):
        assert (
            abs(np.diff(apply(name, photo), axis=1)).mean()
            < abs(np.diff(photo.astype(int), axis=1)).mean()
        )


def test_motion_blur_draws_a_line():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    for seed in range(20):
        y, x, _ = np.nonzero(apply("motion_blur", point, seed))
        extent = max(np.ptp(x), np.ptp(y))
        assert extent <= 14
        assert len(set(zip(x, y, strict=True))) == extent + 1


def test_colours(photo):
    assert np.ptp(apply("grey", photo), axis=-1).max() == 0
    assert (apply("posterize", photo) == photo // 16 * 16).all()
    ends = np.zeros((4, 4, 3), np.uint8)
    ends[2:] = 255
    assert (apply("gamma", ends) == ends).all()
    ratio = apply("noise", np.full((50, 50, 3), 100, np.uint8)) / 100
    assert 0.5 <= ratio.min() < 0.52
    assert 1.48 < ratio.max() <= 1.5
    equal = apply("equalise", photo)
    assert [np.ptp(equal[..., i]) for i in range(3)] == [255] * 3
    shift = apply("brightness_contrast", photo)
    slope = np.polyfit(photo.ravel(), shift.ravel(), 1)[0]
    assert 0.8 <= slope <= 1.2


def test_hue_turns_and_greys_stay_grey():
    grey = np.full((4, 4, 3), 120, np.uint8)
    red = np.tile(np.uint8([200, 40, 40]), (4, 4, 1))
    for seed in range(10):
        turned = apply("hue_saturation", red, seed)[0, 0]
        assert turned[0] == turned.max()  # 40 degrees do not leave the reds
        assert abs(apply("hue_saturation", grey, seed).max() - 120) <= 20


def test_snow_lightens_dark_parts_only():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[:, 0], picture[:, 1], picture[:, 2] = (60, 30, 90), (250, 240, 230), (40, 40, 40)
    got = apply("snow", picture)
    assert (got[:, 1] == picture[:, 1]).all()
    assert (got[:, 2] == 60).all()
    assert (got[:, 0] == [90, 45, 135]).all()  # 1.5 times: same hue and saturation below one half


def test_rain_darkens_and_draws(photo):
    got = apply("rain", np.full((60, 80, 3), 100, np.uint8))
    assert got.min() == 70
    assert 80 < got.max() <= 140
