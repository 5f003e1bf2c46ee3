import numpy as np
import pandas as pd
import pytest
from scipy import stats

from humr.experiments import statistics
from humr.experiments.statistics import Claim


def rows_of(values, metric="error"):
    """Rows from {variant: array of seeds by images}."""
    parts = []
    for variant, array in values.items():
        array = np.asarray(array, float)
        seed, image = np.indices(array.shape)
        data = {"variant": variant, "seed": seed.ravel(), "image": image.ravel()}
        parts.append(pd.DataFrame({**data, metric: array.ravel()}))
    return pd.concat(parts, ignore_index=True)


def simulate(rng, effects, *, seeds, images, repeats, a, b, e, c=0.0):
    """Rows of the model in the docstring; each repeat is one metric."""
    rows = []
    shared = rng.normal(0, 5, (1, images, repeats))
    for effect in effects.values():
        of_image = shared + rng.normal(0, a / np.sqrt(2), (1, images, repeats))
        of_seed = rng.normal(0, b / np.sqrt(2), (seeds, 1, repeats))
        noise = rng.normal(0, e / np.sqrt(2), (seeds, images, repeats))
        rows.append(effect + of_image + of_seed + noise)
    everyone = c * rng.normal(size=(1, seeds, 1, repeats))  # what a seed does to all variants
    values = np.stack(rows) + everyone
    index = pd.MultiIndex.from_product(
        [list(effects), range(seeds), range(images)], names=statistics.KEYS
    )
    names = [f"m{i}" for i in range(repeats)]
    return pd.DataFrame(values.reshape(-1, repeats), index, names).reset_index(), names


# ------------------------------------------------------------------------- by hand


def test_estimate_by_hand():
    one = np.array([[1.0, 2, 3, 6], [2.0, 2, 5, 3]])
    rows = rows_of({"a": one, "b": np.zeros((2, 4))})
    found = statistics.differences(rows, "b", ["error"]).iloc[0]
    assert found["estimate"] == pytest.approx(3.0)
    assert (found["seeds"], found["images"], found["note"]) == (2, 4, "")
    of_image = one.mean(0)
    assert found["from_images"] == pytest.approx(np.sqrt(of_image.var(ddof=1) / 4))
    rest = one - of_image - one.mean(1, keepdims=True) + 3
    noise = (rest**2).sum() / 3 / 8
    seed = one.mean(1).var(ddof=1) / 2
    assert found["from_training"] == pytest.approx(np.sqrt(max(seed - noise, 0)))


def test_two_variants_give_the_paired_t_test_when_images_do_not_differ(rng):
    a, b = rng.normal(size=(2, 5, 1)) * np.ones((2, 5, 40))
    found = statistics.differences(rows_of({"a": a, "b": b}), "b", ["error"]).iloc[0]
    expected = stats.ttest_rel(a[:, 0], b[:, 0]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_seed_variance_is_the_residual_of_randomised_blocks(rng):
    of_seed = rng.normal(size=(4, 3)) + np.array([10.0, 0, -10])  # and an effect of the seed
    values = {f"v{i}": of_seed[i][:, None] * np.ones((3, 9)) for i in range(4)}
    found = statistics.differences(rows_of(values), "v0", ["error"]).set_index("variant")
    rest = of_seed - of_seed.mean(0) - of_seed.mean(1, keepdims=True) + of_seed.mean()
    square = (rest**2).sum() / 6
    np.testing.assert_allclose(found["from_training"], np.sqrt(2 * square / 3))
    half = stats.t.ppf(0.975, 6) * np.sqrt(2 * square / 3)
    np.testing.assert_allclose((found["high"] - found["low"]) / 2, half)
    np.testing.assert_allclose(
        found["estimate"], [of_seed[i].mean() - of_seed[0].mean() for i in (1, 2, 3)]
    )


def test_means_are_means_and_pool_within_variants(rng):
    of_seed = rng.normal(size=(3, 4))
    values = {f"v{i}": of_seed[i][:, None] * np.ones((4, 7)) for i in range(3)}
    found = statistics.means(rows_of(values), ["error"])
    np.testing.assert_allclose(found["estimate"], of_seed.mean(1))
    pooled = of_seed.var(1, ddof=1).mean()
    half = stats.t.ppf(0.975, 9) * np.sqrt(pooled / 4)
    np.testing.assert_allclose(found["high"] - found["estimate"], half)


def test_noise_is_not_counted_twice(rng):
    """Without a seed effect the error is that of the mean over images and seeds."""
    rows, names = simulate(
        rng, dict.fromkeys("abcdef", 0.0), seeds=4, images=50, repeats=40, a=0, b=0, e=8
    )
    found = statistics.differences(rows, "a", names)
    error = np.sqrt(found["from_images"] ** 2 + found["from_training"] ** 2)
    assert error.mean() == pytest.approx(8 / np.sqrt(200), rel=0.15)


# ------------------------------------------------------------------------- coverage


def test_an_unsteady_variant_stands_alone(rng):
    of_seed = rng.normal(size=(5, 3))
    values = {f"v{i}": of_seed[i][:, None] + rng.normal(size=(3, 20)) for i in range(5)}
    steady = rows_of(values)
    values["wild"] = np.array([[0.0], [100.0], [-50.0]]) + rng.normal(size=(3, 20))
    rows = rows_of(values)
    for compare in (statistics.means, lambda r, m: statistics.differences(r, "v0", m)):
        with_it, without = compare(rows, ["error"]), compare(steady, ["error"])
        pd.testing.assert_frame_equal(with_it[with_it["variant"] != "wild"], without)
    wild = statistics.differences(rows, "v0", ["error"]).set_index("variant").loc["wild"]
    seeds = (values["wild"] - values["v0"]).mean(1)
    half = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
    assert (wild["high"] - wild["low"]) / 2 == pytest.approx(half, rel=0.01)
    against = statistics.differences(rows, "wild", ["error"]).set_index("variant")
    assert against.loc["v0", "low"] == pytest.approx(-wild["high"])


def test_equal_variances_are_hardly_ever_called_unsteady(rng):
    found = [statistics._unsteady(rng.normal(size=(8, 3))).any() for _ in range(1000)]
    assert np.mean(found) < 0.02


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize(
    ("a", "b", "e"),
    [(8, 0.2, 4), (2, 2, 4), (1, 3, 1), (0, 0, 8), (0, 0.7, 8)],
    ids=["images", "both", "training", "noise", "noise and training"],
)
def test_intervals_of_differences_cover_95_percent(rng, a, b, e, others):
    effects = {"reference": 0.0} | dict([("better", -2.0), ("same", 0.0), ("worse", 3.0)][:others])
    rows, names = simulate(rng, effects, seeds=3, images=60, repeats=600, a=a, b=b, e=e, c=1)
    found = statistics.differences(rows, "reference", names)
    truth = found["variant"].map(effects)
    inside = (found["low"] <= truth) & (truth <= found["high"])
    assert 0.92 <= inside.mean() <= 0.98


def test_intervals_of_means_cover_95_percent(rng):
    effects = {"a": 10.0, "b": 12.0, "c": 9.0}
    rows, names = simulate(rng, effects, seeds=3, images=60, repeats=400, a=3, b=2, e=4)
    found = statistics.means(rows, names)
    truth = found["variant"].map(effects)
    inside = (found["low"] <= truth) & (truth <= found["high"])
    assert 0.92 <= inside.mean() <= 0.98


def test_an_interval_over_images_alone_would_not_cover(rng):
    """Why one seed supports no verdict."""
    rows, names = simulate(rng, {"r": 0, "v": 0}, seeds=1, images=60, repeats=200, a=2, b=2, e=4)
    found = statistics.differences(rows, "r", names)
    assert ((found["low"] <= 0) & (found["high"] >= 0)).mean() < 0.75


# ------------------------------------------------------------------------- missing values


def test_one_seed_has_no_interval_over_training(rng):
    rows = rows_of({"a": rng.normal(5, 1, (1, 30)), "b": rng.normal(0, 1, (3, 30))})
    found = statistics.differences(rows, "b", ["error"]).iloc[0]
    difference = rows[rows["variant"] == "a"]["error"].to_numpy()
    difference = difference - rows.query("variant == 'b' and seed == 0")["error"].to_numpy()
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["note"] == statistics.ONE_SEED
    assert np.isnan(found["from_training"])
    claims = [
        Claim("", "", "a", "b", "error", "higher"),
        Claim("", "", "a", None, "error", "higher"),
    ]
    assert list(statistics.verdicts(rows, claims)["verdict"]) == ["unclear", "unclear"]


def test_images_without_a_value_are_left_out_of_the_pair_only(rng):
    a, b, c = rng.normal(size=(3, 3, 10))
    a[1, 4] = np.nan
    found = statistics.differences(rows_of({"a": a, "b": b, "c": c}), "b", ["error"])
    assert list(found["images"]) == [9, 10]
    keep = np.arange(10) != 4
    assert found["estimate"][0] == pytest.approx((a - b)[:, keep].mean())
    assert found["estimate"][1] == pytest.approx((c - b).mean())


def test_a_metric_that_a_variant_lacks_is_no_number(rng):
    values = {"a": np.full((3, 5), np.nan), "b": rng.normal(size=(3, 5)), "c": np.ones((3, 5))}
    found = statistics.differences(rows_of(values), "b", ["error"]).set_index("variant")
    assert np.isnan(found.loc["a", ["estimate", "low", "high"]].to_numpy(float)).all()
    assert found.loc["a", "note"] == statistics.TOO_FEW
    assert np.isfinite(found.loc["c", "low"])
    claim = Claim("", "", "a", "b", "error", "lower")
    assert statistics.verdicts(rows_of(values), [claim])["verdict"][0] == "unclear"
    empty = statistics.means(rows_of({"a": values["a"]}), ["error"])
    assert np.isnan(empty["estimate"][0])


def test_only_common_seeds_are_paired(rng):
    a, b = rng.normal(size=(2, 3, 20))
    rows = rows_of({"a": a, "b": b})
    rows = rows[(rows["variant"] == "b") | (rows["seed"] > 0)]
    found = statistics.differences(rows, "b", ["error"]).iloc[0]
    assert found["seeds"] == 2
    assert found["estimate"] == pytest.approx((a - b)[1:].mean())
    apart = rows[(rows["variant"] == "b") != (rows["seed"] > 0)]
    assert statistics.differences(apart, "b", ["error"])["note"][0] == statistics.TOO_FEW


def test_order_of_rows_and_names_does_not_matter(rng):
    values = {"z": rng.normal(size=(3, 8)), "a": rng.normal(size=(3, 8)), "m": np.zeros((3, 8))}
    rows = rows_of(values)
    found = statistics.differences(rows, "m", ["error"])
    assert list(found["variant"]) == ["z", "a"]
    other = statistics.differences(rows.sample(frac=1, random_state=0), "m", ["error"])
    pd.testing.assert_frame_equal(
        found.sort_values("variant", ignore_index=True),
        other.sort_values("variant", ignore_index=True),
    )


def test_gains_compare_differences(rng):
    values = {name: rng.normal(size=(3, 12)) for name in ("few", "few0", "many", "many0")}
    rows = rows_of(values)
    pairs = {"few": ("few", "few0"), "many": ("many", "many0")}
    found = statistics.differences(statistics.gains(rows, pairs, ["error"]), "many", ["error"])
    double = values["few"] - values["few0"] - values["many"] + values["many0"]
    assert found["estimate"][0] == pytest.approx(double.mean())
    assert (found["seeds"][0], found["images"][0]) == (3, 12)


# ------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("direction", "margin", "smallest", "low", "high", "expected"),
    [
        ("lower", 0, 0, -2, -1, "reproduced"),
        ("lower", 0, 0, 1, 2, "not reproduced"),
        ("lower", 0, 0, -1, 2, "unclear"),
        ("lower", 0, 3, -1, 2, "not reproduced"),
        ("lower", 0, 3, -2, -1, "not reproduced"),
        ("lower", 0, 3, -4, -1, "reproduced"),
        ("higher", 0, 0, 1, 2, "reproduced"),
        ("higher", 0, 0, -2, -1, "not reproduced"),
        ("higher", 0, 0, -1, 2, "unclear"),
        ("lower", 1.5, 0, 0.2, 1, "reproduced"),  # harm within the margin
        ("lower", 1.5, 0, 1, 2, "unclear"),
        ("lower", 1.5, 0, 2, 3, "not reproduced"),
        ("higher", 1.5, 0, -1, 4, "reproduced"),
        ("higher", 1.5, 0, -4, -2, "not reproduced"),
        ("same", 1.5, 0, -1, 1, "reproduced"),
        ("same", 1.5, 0, -2, 1, "unclear"),
        ("same", 1.5, 0, 2, 3, "not reproduced"),
        ("same", 1.5, 0, -3, -2, "not reproduced"),
        ("lower", 0, 0, np.nan, np.nan, "unclear"),
    ],
)
def test_verdict_of_an_interval(direction, margin, smallest, low, high, expected):
    claim = Claim("", "", "a", "b", "error", direction, float(margin), float(smallest))
    assert claim.verdict(float(low), float(high)) == expected


def test_verdicts_follow_the_rows(rng):
    base = rng.normal(100, 10, (1, 200)) + rng.normal(size=(3, 200))
    rows = rows_of({"base": base, "good": base - 5 + 0.1 * rng.normal(size=(3, 200))})
    claims = [
        Claim("good is good", "Table 3", "good", "base", "error", "lower"),
        Claim("good is bad", "here", "good", "base", "error", "higher"),
        Claim("good is harmless", "here", "good", "base", "error", "higher", margin=6.0),
        Claim("errors are errors", "here", "good", None, "error", "higher"),
    ]
    found = statistics.verdicts(rows, claims)
    assert " ".join(found) == "claim source test estimate low high seeds verdict"
    expected = ["reproduced", "not reproduced", "reproduced", "reproduced"]
    assert list(found["verdict"]) == expected
    assert found["estimate"][0] == pytest.approx(-5, abs=0.1)
    assert found["test"].tolist() == [
        "error: good - base < 0",
        "error: good - base > 0",
        "error: good - base > -6",
        "error: good > 0",
    ]
    assert statistics.verdicts(rows, []).empty
    assert "within ±2" in Claim("", "", "a", "b", "error", "same", margin=2.0).test


# ------------------------------------------------------------------------- bad inputs


def test_bad_rows_and_claims(rng):
    rows = rows_of({"a": rng.normal(size=(2, 5)), "b": rng.normal(size=(2, 5))})
    with pytest.raises(ValueError, match=r"no column \['pve'\]; there are: variant"):
        statistics.means(rows, ["pve"])
    with pytest.raises(ValueError, match="no variant 'c' in rows; there are: a, b"):
        statistics.differences(rows, "c", ["error"])
    with pytest.raises(ValueError, match="no variant 'c'"):
        statistics.verdicts(rows, [Claim("", "", "c", "b", "error", "lower")])
    with pytest.raises(ValueError, match="no variant 'c'"):
        statistics.gains(rows, {"x": ("a", "c")}, ["error"])
    with pytest.raises(ValueError, match="'image': 0} is there twice"):
        statistics.means(pd.concat([rows, rows]), ["error"])
    with pytest.raises(ValueError, match="error is infinite for variant 'a', seed 0"):
        statistics.means(rows.replace({"error": {rows["error"][0]: np.inf}}), ["error"])
    with pytest.raises(ValueError, match="lower, higher or same; got 'less'"):
        Claim("", "", "a", "b", "error", "less")
    with pytest.raises(ValueError, match="must not be negative"):
        Claim("", "", "a", "b", "error", "lower", margin=-1.0)
    with pytest.raises(ValueError, match="needs a margin"):
        Claim("", "", "a", "b", "error", "same")
