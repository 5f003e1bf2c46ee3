"""Charts: what is drawn is what the table says."""

import numpy as np
import pandas as pd
import pytest
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
    found = [line for line in ax.lines if line.get_marker() == "o"]
    return [
        (line.get_xdata()[0], line.get_color(), to_hex(line.get_markerfacecolor()) != "#ffffff")
        for line in found
    ]


def test_a_forest_has_the_table_s_estimates_in_its_order(ax, differences):
    charts.forest(ax, differences, "energy_score", labels={"good": "with the loss"})
    table = differences.query("metric == 'energy_score'")
    np.testing.assert_array_equal([m[0] for m in marks(ax)], table["estimate"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["with the loss", "bad", "none"]
    assert ax.get_ylim() == (2.5, -0.5)
    intervals = [line for line in ax.lines if line.get_marker() == "None"][:3]
    np.testing.assert_array_equal([line.get_xdata() for line in intervals], table[["low", "high"]])


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
    assert np.isnan(marks(ax)[0][0])
    assert len(ax.get_yticklabels()) == 3


def test_dumbbells_join_the_metrics_of_a_variant(ax, rng):
    means = statistics.means(rows_of({"a": 0, "b": 5}, rng), ["energy_score", "spread_hidden"])
    charts.dumbbells(ax, means, {"energy_score": "one", "spread_hidden": "two"})
    places = np.array([m[0] for m in marks(ax)]).reshape(2, 2)
    np.testing.assert_array_equal(places, means["estimate"].to_numpy().reshape(2, 2))
    bars = [line.get_xdata() for line in ax.lines[:2]]
    np.testing.assert_array_equal(bars, np.sort(places.T))
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
