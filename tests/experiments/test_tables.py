import html.parser
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from humr.experiments import statistics, tables
from humr.experiments.statistics import ONE_SEED, Claim
from humr.files import DATA

HUMR = ["1", "2", "3", "S1", "S2", "Fig. S1", "Fig. S2"]
PROPOSE = list("1234567")
LIFTING = ["1", "2", "3", "4", "5", "text", "times"]


@pytest.fixture
def rows(rng):
    parts = []
    for variant, level in {
        "prohmr": 110.0,
        "mmd": 100.0,
        "mask": 101.0,
        "shuffled": 130.0,
    }.items():
        for seed in range(3):
            error = level + rng.normal(size=40)
            run = {"variant": variant, "seed": seed, "image": range(40), "mpjpe_best": error}
            more = {"percent_inside": 80 + rng.normal(size=40), "seconds": 90.0, "steps": 400}
            parts.append(pd.DataFrame({**run, **more}))
    return pd.concat(parts, ignore_index=True)


# ------------------------------------------------------------------------- the papers' numbers


@pytest.mark.parametrize(
    ("source", "names"), [("humr", HUMR), ("propose", PROPOSE), ("lifting", LIFTING)]
)
def test_every_table_of_the_papers_is_there(source, names):
    keys = ["row", "metric", "dataset", "best_of"]
    for name in names:
        table = tables.paper(name, source)
        key = [*keys, "action"] if "action" in table else keys
        assert len(table)
        assert not table.duplicated(key).any()
        assert np.isfinite(table["value"]).all()
        assert (table["row"] != "").all()
        assert (table["dataset"] != "").all()
    written = pd.read_csv(DATA / "paper" / f"{source}.csv", dtype=str)["table"].unique()
    assert list(written) == names


def test_numbers_of_the_humr_paper():
    def value(name, row, metric, dataset):
        table = tables.paper(name).set_index(["row", "metric", "dataset"])["value"]
        return table[row, metric, dataset]

    assert value("1", "Ours", "mpjpe_mode", "3DPW") == 62.2
    assert value("1", "Ours", "pve_best", "EMDB") == 72.0
    assert value("2", "Ours w/ L_mask", "mask_distance", "EMDB") == 0.616
    assert value("2", "ProHMR†", "spread_hidden", "3DPW") == 74.0
    assert value("S2", "L2D-vis 5e-3", "pa_mpjpe_best", "EMDB") == 42.3
    assert list(tables.paper("Fig. S1").query("row == 'Ours'")["value"]) == [73.9, 54.4, 47.8]
    assert list(tables.paper("Fig. S1").query("row == 'Ours'")["best_of"]) == [1, 100, 1000]
    assert tables.paper("2")["best_of"].isna().all()


def test_tables_agree_with_each_other():
    """The same model appears in several tables of the paper, with the same numbers."""
    keys = ["variant", "metric", "dataset"]
    long = pd.concat([tables.paper(name) for name in ("1", "3", "S1", "S2")])
    same = long[long["variant"].isin(["prohmr", "mmd", "mask"])].groupby(keys)["value"]
    assert (same.nunique() == 1).all()
    assert (same.size() == 2).any()
    chain = tables.paper("3").set_index(keys)["value"]
    weights = tables.paper("S2").set_index(keys)["value"]
    for metric in ("mpjpe_best", "pa_mpjpe_best", "pve_best"):
        assert chain["realnvp", metric, "3DPW"] == weights["all_1e-3", metric, "3DPW"]


@pytest.mark.parametrize(("source", "first"), [("propose", "Martinez17"), ("lifting", "Martinez")])
def test_averages_are_averages_of_the_actions(source, first):
    """A misprint in one of 16 columns would show; two rows were averaged otherwise."""
    table = tables.paper("1", source)
    assert table["row"][0] == first
    table["best_of"] = table["best_of"].fillna(0)
    wide = table.pivot(index=["row", "metric", "best_of"], columns="action", values="value")
    assert wide.shape[1] == 16
    gap = (wide.drop(columns="average").mean(axis=1) - wide["average"]).abs()
    odd = {row for row, *_ in gap[gap > 0.065].index}
    expected = {"propose": {"Li&Lee20", "Wehrbein21*"}, "lifting": {"Li20", "Oikarinen"}}
    assert odd == expected[source]  # Wehrbein21* is a misprint, see its note


def test_unknown_tables():
    with pytest.raises(
        ValueError, match="humr has no table 'S9'; there are: 1, 2, 3, S1, S2, Fig"
    ):
        tables.paper("S9")
    with pytest.raises(ValueError, match="named 'smpl'; there are: humr, lifting, propose"):
        tables.paper("1", "smpl")


# ------------------------------------------------------------------------- side by side


def test_side_by_side(rows):
    ours = statistics.means(rows, ["mpjpe_best", "percent_inside"])
    table = tables.side_by_side(ours, tables.paper("3"), names={"shuffled": "shuffled heatmaps"})
    assert list(table.columns) == [
        ("ours, open world", "mpjpe_best"),
        ("ours, open world", "percent_inside"),
        ("paper, 3DPW", "mpjpe_best"),
    ]
    first = ["ProHMR†", "+ L_MMD", "+ L_mask (full)", "shuffled heatmaps"]
    assert list(table.index) == [*first, "+ bbox info", "+ 2D pose condition", "+ RealNVP"]
    assert " ".join(table["paper, 3DPW", "mpjpe_best"]) == "55.0 46.5 46.2 – 52.3 49.5 48.1"
    assert re.fullmatch(r"109\.\d ±0\.\d|110\.\d ±0\.\d", table.iloc[0, 0])
    assert table.iloc[4, 0] == "–"


def test_side_by_side_of_differences_and_of_one_seed(rows):
    one = statistics.differences(rows[rows["seed"] == 0], "prohmr", ["mpjpe_best"])
    table = tables.side_by_side(one, title="minus ProHMR")
    assert list(table.columns) == [("minus ProHMR", "mpjpe_best")]
    assert re.fullmatch(r"-\d+\.\d ±\d\.\d\*", table.loc["mmd"].iloc[0])
    assert re.fullmatch(r"\+\d+\.\d ±\d\.\d\*", table.loc["shuffled"].iloc[0])
    assert set(one["note"]) == {ONE_SEED}


def test_the_papers_definitions_meet_the_papers_numbers(rows):
    ours = statistics.means(
        rows.rename(columns={"percent_inside": "paper_percent_inside"}), ["paper_percent_inside"]
    )
    table = tables.side_by_side(ours, tables.paper("2"))
    assert list(table["paper, EMDB", "percent_inside"][:3]) == ["86.0", "88.8", "91.4"]
    assert list(table.columns.get_level_values(1)) == ["paper_percent_inside", "percent_inside"]


def test_metrics_without_a_number_are_a_dash(rows):
    ours = statistics.means(rows.assign(percent_inside=np.nan), ["percent_inside"])
    assert set(tables.side_by_side(ours).iloc[:, 0]) == {"–"}


# ------------------------------------------------------------------------- show


class Cells(html.parser.HTMLParser):
    """Tags and texts of a table."""

    def __init__(self, text):
        super().__init__()
        self.open, self.bold, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data)
            if "b" in self.open:
                self.bold.append(data)


def test_show_marks_what_was_not_reproduced(rows):
    claims = [
        Claim("MMD < ProHMR & <b>more</b>", "Table 3", "mmd", "prohmr", "mpjpe_best", "lower"),
        Claim("mask helps", "Table 3", "mask", "mmd", "mpjpe_best", "lower"),
    ]
    found = statistics.verdicts(rows, claims)
    assert list(found["verdict"]) == ["reproduced", "not reproduced"]
    shown = tables.show(found)
    cells = Cells(shown._repr_html_())
    assert cells.bold == ["not reproduced"]
    assert "MMD < ProHMR & <b>more</b>" in cells.texts
    assert any(re.fullmatch(r"-(9|10)\.\d\d \[-\d+\.\d\d, -\d+\.\d\d\]", t) for t in cells.texts)
    assert repr(shown).count("**") == 2
    assert "**not reproduced**" in repr(shown)


def test_show_marks_the_best_of_each_column(rows):
    ours = statistics.means(rows, ["mpjpe_best", "percent_inside"])
    highest = (ours["variant"] == "prohmr") & (ours["metric"] == "percent_inside")
    ours.loc[highest, ["estimate", "low", "high"]] += 10
    shown = tables.show(tables.side_by_side(ours, tables.paper("3")), best=True)
    assert list(shown.bold.sum()) == [1, 1, 1]
    assert shown.bold.loc["+ L_MMD", ("ours, open world", "mpjpe_best")]
    assert shown.bold.loc["ProHMR†", ("ours, open world", "percent_inside")]
    assert shown.bold.loc["+ L_mask (full)", ("paper, 3DPW", "mpjpe_best")]
    assert not tables.show(shown.text).bold.to_numpy().any()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("mpjpe_mode", [1]), ("paper_percent_inside", [0]), ("spread_hidden", []), ("nll", [1]),
     ("pck_best", [0]), ("auc_mode", [0]), ("cps_best", [0])],
)  # fmt: skip
def test_directions(metric, expected):
    shown = tables.show(pd.DataFrame({metric: [2.0, -1.0, np.nan]}), best=True)
    assert list(np.flatnonzero(shown.bold[metric])) == expected
    assert list(shown.text[metric]) == ["2.00", "-1.00", "–"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("mpjpe_best", "MPJPE, best of N (mm)"),
        ("paper_percent_inside", "PercIn (%)"),
        ("cover50_z_visible", "truth in the 50 % interval, z, visible"),
        ("nll", "negative log-likelihood (nats/dim)"),
        ("pve_worst", "PVE, worst (mm)"),
        ("something_else", "something else (mm)"),
    ],
)
def test_metrics_have_names_and_units(metric, words):
    assert tables.quantity(metric) == words


@pytest.mark.parametrize(
    ("column", "digits", "least"),
    [("mpjpe_best", 1, 0.5), ("paper_mask_distance", 3, 0.02), ("pixels_samples", 2, 0.1),
     ("cover90_x", 2, 0.005), ("nll", 2, 0.01), ("spread_ratio", 1, 0.02), ("unheard_of", 1, 0.5)],
)  # fmt: skip
def test_digits_and_least_differences(column, digits, least):
    assert (tables.metric(column).digits, tables.metric(column).least) == (digits, least)


def test_shown_tables_are_the_same_bytes_every_time(rows):
    table = tables.side_by_side(statistics.means(rows, ["mpjpe_best"]), tables.paper("S1"))
    pages = [tables.show(table, best=True)._repr_html_() for _ in range(3)]
    assert all(a == b for a, b in pairwise(pages))
    assert "style" not in pages[0].replace('style="text-align: right;"', "")
    assert "id=" not in pages[0]


def test_long_texts_are_not_cut():
    text = "a sentence of more than fifty letters, which pandas would cut somewhere here" * 3
    shown = tables.show(pd.DataFrame({"claim": [text]}))
    assert text in shown._repr_html_()
    assert text in repr(shown)


# ------------------------------------------------------------------------- effort


def test_compute_counts_each_run_once(rows):
    total = tables.compute(rows)
    assert (total.runs, total.steps, total.seconds) == (12, 4800, 1080.0)
    assert str(total) == "12 runs, 4800 steps, 18 min of training"
    key = rows["variant"].replace({"shuffled": "mmd"}) + rows["variant"].map(
        {"shuffled": "-last"}
    ).fillna("-best")
    assert tables.compute(rows.assign(key=key)).runs == 9  # two checkpoints of one run
    assert str(tables.TrainingCost(3, 10, 59.6)) == "3 runs, 10 steps, 60 s of training"
    assert str(tables.TrainingCost(3, 10, 7500.0)) == "3 runs, 10 steps, 2 h 5 min of training"
    assert str(tables.TrainingCost(3, 10, 3580.0)) == "3 runs, 10 steps, 1 h 0 min of training"


def test_each_test_set_has_columns_of_its_own(rows):
    far = rows.assign(
        dataset="EMDB", image=rows["image"] + 1000, mpjpe_best=rows["mpjpe_best"] + 50
    )
    both = pd.concat([rows.assign(dataset="3DPW"), far], ignore_index=True)
    ours = statistics.means(both, ["mpjpe_best"])
    table = tables.side_by_side(ours, tables.paper("3"))
    heads = list(table.columns.get_level_values(0))
    assert heads == ["ours, 3DPW", "ours, EMDB", "paper, 3DPW"]
    numbers = [float(table.iloc[0, i].split(" ")[0]) for i in (0, 1)]
    assert numbers[1] - numbers[0] == pytest.approx(50, abs=0.11)
    other = tables.side_by_side(ours, title="ours, by confidence")
    assert list(other.columns.get_level_values(0)) == [
        "ours, by confidence, 3DPW", "ours, by confidence, EMDB"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="is there twice"):
        tables.side_by_side(ours.drop(columns="dataset"))
