"""Tests of figures.charts: what is drawn is what the table says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from humr.experiments import statistics
from humr.figures import charts
from humr.figures.charts import COLOURS


def rows_of(effects, rng, *, seeds=3, images=40):
    """Made-up rows with an energy score and a spread per variant."""
    image = rng.normal(100, 20, images)
    parts = [
        pd.DataFrame(
            {
                "variant": name,
                "seed": seed,
                "image": range(images),
                "energy_score": image + effect + rng.normal(0, 1, images),
                "spread_hidden": image - effect + rng.normal(0, 1, images),
                "percent_inside": image + effect + rng.normal(0, 1, images),
            }
        )
        for name, effect in effects.items()
        for seed in range(seeds)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def differences(rng):
    rows = rows_of({"base": 0, "good": -10, "bad": 10, "none": 0}, rng)
    return statistics.differences(
        rows, "base", ["energy_score", "spread_hidden", "percent_inside"]
    )


def marks(ax):
    """Marks from top to bottom: place, colour of the rim, whether it is filled."""
    found = [
        (y, x, line.get_color().upper(), to_hex(line.get_markerfacecolor()) != "#ffffff")
        for line in ax.lines
        if line.get_marker() == "o"
        for x, y in line.get_xydata()
        if not np.isnan(x)
    ]
    return [mark for _, *mark in sorted(found)]


def intervals(ax):
    """Intervals from top to bottom."""
    drawn = [line.get_xydata() for line in ax.lines if line.get_linewidth() == 1.6]
    found = [line for line in drawn if not np.isnan(line).any()]
    return [line[:, 0] for line in sorted(found, key=lambda line: line[0, 1])]


def test_a_forest_has_the_table_s_estimates_in_its_order(ax, differences):
    charts.forest(ax, differences, "energy_score", labels={"good": "with the loss"})
    table = differences.query("metric == 'energy_score'")
    np.testing.assert_array_equal([m[0] for m in marks(ax)], table["estimate"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["with the loss", "bad", "none"]
    assert ax.get_ylim() == (2.5, -0.5)
    np.testing.assert_allclose(intervals(ax), table[["low", "high"]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("energy_score", ["good", "wrong", "target"]),
        ("percent_inside", ["wrong", "good", "target"]),
        ("spread_hidden", ["predicted", "predicted", "target"]),
    ],
)
def test_colours_say_better_worse_or_undecided(ax, differences, metric, expected):
    sure = differences.assign(low=differences["low"].where(differences["variant"] != "none", -1))
    sure["high"] = sure["high"].where(sure["variant"] != "none", 1)
    charts.forest(ax, sure, metric)
    assert [m[1] for m in marks(ax)] == [COLOURS[role] for role in expected]


def test_a_single_seed_is_hollow(ax, rng):
    rows = rows_of({"base": 0, "other": 3}, rng, seeds=1)
    charts.forest(ax, statistics.differences(rows, "base", ["energy_score"]), "energy_score")
    assert [m[2] for m in marks(ax)] == [False]


def test_several_seeds_are_filled(ax, differences):
    charts.forest(ax, differences, "energy_score")
    assert [m[2] for m in marks(ax)] == [True] * 3


def test_means_have_one_colour_and_their_own_origin(ax, rng):
    means = statistics.means(rows_of({"a": 0, "b": 5}, rng), ["energy_score"])
    charts.forest(ax, means, "energy_score", origin=50.0)
    assert {m[1] for m in marks(ax)} == {COLOURS["predicted"]}
    assert list(ax.lines[-1].get_xdata()) == [50, 50]
    assert "better" not in ax.get_xlabel()


def test_an_undefined_estimate_leaves_its_row_empty(ax, differences):
    holes = differences.copy()
    holes.loc[holes["variant"] == "good", ["estimate", "low", "high"]] = np.nan
    charts.forest(ax, holes, "energy_score")
    assert len(marks(ax)) == 2
    assert len(ax.get_yticklabels()) == 3


def test_names_of_shared_rows_stand_once(differences):
    fig, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        charts.forest(ax, differences, "energy_score")
    assert [ax.yaxis.get_tick_params()["labelleft"] for ax in axes] == [True, False]
    plt.close(fig)


def test_dumbbells_join_the_metrics_of_a_variant(ax, rng):
    means = statistics.means(rows_of({"a": 0, "b": 5}, rng), ["energy_score", "spread_hidden"])
    charts.dumbbells(ax, means, {"energy_score": "one", "spread_hidden": "two"})
    places = np.array([m[0] for m in marks(ax)]).reshape(2, 2)
    np.testing.assert_array_equal(places, means["estimate"].to_numpy().reshape(2, 2).T)
    (bars,) = ax.collections
    np.testing.assert_array_equal([bar[:, 0] for bar in bars.get_segments()], np.sort(places))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["one", "two"]


def test_a_metric_that_is_not_there_is_named(ax, differences):
    with pytest.raises(ValueError, match=r"no metric 'pve_best'; it has energy_score"):
        charts.forest(ax, differences, "pve_best")


def test_two_references_in_one_table_are_refused(ax, differences):
    twice = pd.concat([differences, differences])
    with pytest.raises(ValueError, match="several references"):
        charts.forest(ax, twice, "energy_score")


def test_dumbbells_refuse_metrics_in_different_orders(ax):
    means = pd.DataFrame(
        {
            "variant": ["a", "b", "b", "a"],
            "metric": ["x", "x", "y", "y"],
            "estimate": [1.0, 2.0, 3.0, 4.0],
            "low": [0.0] * 4,
            "high": [5.0] * 4,
            "seeds": [3] * 4,
            "note": [""] * 4,
        }
    )
    with pytest.raises(ValueError, match="same order"):
        charts.dumbbells(ax, means, {"x": "X", "y": "Y"})


def test_several_test_sets_have_rows_of_their_own(ax, differences):
    both = [differences.assign(dataset=name) for name in ("3DPW", "EMDB")]
    table = pd.concat(both, ignore_index=True)
    charts.forest(ax, table, "energy_score", labels={"good": "with the loss"})
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[:2] == ["with the loss, 3DPW", "bad, 3DPW"]
    assert names[3] == "with the loss, EMDB"
    assert len(marks(ax)) == 6


def test_a_single_named_test_set_is_not_named_in_every_row(ax, differences):
    charts.forest(ax, differences.assign(dataset="3DPW"), "energy_score")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["good", "bad", "none"]


def test_crop_axes_point_down(ax):
    low, high = charts.crop_axes(ax).get_ylim()
    assert low > high


def test_forces_go_against_the_gradient(ax):
    gradient = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    (arrows,) = charts.forces(ax, torch.zeros(2, 2), gradient, length=0.1).collections
    np.testing.assert_allclose(arrows.U, [-0.1, 0], atol=1e-6)


def test_mask_is_opaque_on_the_person_only(ax):
    shade = charts.mask_image(ax, torch.tensor([[True, False], [False, False]])).get_array()
    assert shade[..., 3].tolist() == [[1, 0], [0, 0]]


def test_best_of_curve_draws_expected_minima(ax):
    charts.best_of_curve(ax, {"model": torch.tensor([[3.0, 1.0]])}, [1, 2])
    assert ax.lines[0].get_ydata().tolist() == [2, 1]


def test_coverage_curve_is_the_diagonal_for_uniform_regions(ax):
    charts.coverage_curve(ax, {"model": (torch.arange(100) + 0.5) / 100})
    levels, shares = ax.lines[1].get_data()
    np.testing.assert_allclose(shares[1:], levels[1:] + 0.005)


def test_rank_deviation_draws_the_difference_from_uniform(ax, rng):
    low = torch.full((50,), 0.01)  # the truth below every sample
    charts.rank_deviation(ax, {"biased": low}, rng=rng)
    points, deviation = ax.lines[0].get_data()
    np.testing.assert_allclose(deviation, 1 - points)
