r"""What is claimed, by HuMR and by us: every statement as one inequality that runs can fail.

They stand in `data/claims.csv`, by topic; a topic is tested on the rows of one study (`study_of`),
except "scarcity" and "systems", which compare two (`scarcity`, `systems`). `judge` tests a topic.
Of lifting studies the test set counts (`in_scope`): its ambiguous images in a topic that ends in
"_ambiguous", the transfer set in one that ends in "_transfer". In brackets: the paper's own
differences, on 3DPW / EMDB, or on H36M or 3DHP. The source names the place in the paper (letters:
supplement); "control" is what the paper did not ask, "audit" a difference between paper and
official code.

Limits were fixed before the results of these studies were looked at (but after a prototype).
Margins: 2 mm where the paper sees little influence (its changes are below 0.4 mm, of an error half
as large), 1 mm for "no benefit". And a gain whose interval lies within `Metric.least` counts as
none. An interval that straddles its limit is "unclear".
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from humr.experiments.statistics import DATASET, KEYS, Claim, differences, gains, verdicts
from humr.experiments.tables import metric
from humr.files import DATA
from humr.lifting.config import GROUPS
from humr.skeletons import H36M17

LEVELS = (50, 90)  # of the intervals whose coverage is measured
_BETWEEN = {  # derived columns that are a difference of two measured ones
    "over_detector": ("pa_limbs_mode", "pa_limbs_detector"),
    "over_mean": ("energy_score", "mpjpe_mean"),
    "pck_over_sample": ("pck_mode", "pck_sample"),
    "depth_over_x": ("spread_z", "spread_x"),
    "depth_over_y": ("spread_z", "spread_y"),
}
_STUDIES = {
    "accuracy": "components",
    "consistency": "components",
    "early": "few",
    "scarcity": "few",
    "systems": "propose",
    "propose_transfer": "propose",
    "lifting_ambiguous": "lifting",
    "lifting_transfer": "lifting",
}
HARD = "ambiguous"  # the group of hard images
_ENDS = ("ankle", "elbow", "wrist")
_PAIRS = {"scarcity": ("few", "many"), "systems": ("lifting", "propose")}  # of two studies
_GAINS = {"few": ("few_heatmaps", "few_none"), "many": ("many_heatmaps", "many_none")}


@cache
def by_topic() -> dict[str, tuple[Claim, ...]]:
    """All claims, in the order of the file."""
    table = pd.read_csv(DATA / "claims.csv", dtype=str, keep_default_na=False)
    groups = table.groupby("topic", sort=False)
    return {str(topic): tuple(map(_claim, part.to_dict("records"))) for topic, part in groups}


def _claim(line: dict[str, str]) -> Claim:
    margin = float(line["margin"] or 0)
    return Claim(
        text=line["claim"],
        source=line["source"],
        variant=line["variant"],
        reference=line["reference"] or None,
        metric=line["metric"],
        direction=line["direction"],
        margin=margin,
        smallest=0.0 if margin else metric(line["metric"]).least,
    )


def on(topic: str) -> tuple[Claim, ...]:
    """All claims on one topic."""
    if topic not in by_topic():
        raise ValueError(f"no claims on {topic!r}; there are: {', '.join(by_topic())}")
    return by_topic()[topic]


def study_of(topic: str) -> str:
    """Name the study whose rows test a topic.

    Two topics need a second one: scarcity "many" beside "few", systems "lifting" beside "propose".
    """
    on(topic)
    return _STUDIES.get(topic, topic)


def in_scope(topic: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that a topic is about: all, or of lifting the test set or another part of it."""
    if "group" not in rows:
        return rows
    if topic.endswith("_ambiguous"):
        return ambiguous(rows)
    chosen = GROUPS if topic.endswith("_transfer") else ("test",)
    return rows.loc[rows["group"].isin(chosen)]


def ambiguous(rows: pd.DataFrame, groups: Sequence[str] = ("test",)) -> pd.DataFrame:
    """Rows of ambiguous images, as a group of that name.

    Of Human3.6M they are one already, H36MA, whose images are more than those of the test set; of
    the open world they are the hard images of some groups.
    """
    found = rows["group"] == HARD
    if not np.any(found):
        found = rows["ambiguous"] & rows["group"].isin(groups)
    return rows.loc[found].assign(group=HARD)


def derived(rows: pd.DataFrame) -> pd.DataFrame:
    """Add what claims need beside the measured columns.

    `spread_gap`, `spread_ratio`: hidden minus visible joints (mm), and the logarithm of their
    ratio. `over_detector`: error of our mode minus that of the detector's own 3D landmarks (mm).
    `over_mean`: energy score minus the error of the mean pose (mm), a point forecast whose energy
    score is its error. `pck_over_sample`: correct joints of the mode minus those of a random
    hypothesis (%). `depth_over_x`, `_y`: standard deviation along depth minus that along
    another axis (mm). `ends_over_rest`: spread of ankles, elbows and wrists minus that of the
    other joints (mm). `off50_`, `off90_`: coverage minus the probability of the interval. Rows of
    meshes and of lifting have some of these each.
    """
    columns = {}
    if "spread_hidden" in rows:
        columns["spread_gap"] = rows["spread_hidden"] - rows["spread_visible"]
        columns["spread_ratio"] = np.log(rows["spread_hidden"] / rows["spread_visible"])
    for name, (one, other) in _BETWEEN.items():
        if one in rows and other in rows:
            columns[name] = rows[one] - rows[other]
    if "spread_left_wrist" in rows:
        ends = [f"spread_{side}_{joint}" for side in ("left", "right") for joint in _ENDS]
        rest = [f"spread_{name}" for name in H36M17.names[1:]]
        others = rows[[name for name in rest if name not in ends]]
        columns["ends_over_rest"] = rows[ends].mean(axis=1) - others.mean(axis=1)
    for level in LEVELS:
        for name in rows.columns[rows.columns.str.startswith(f"cover{level}_")]:
            columns[name.replace("cover", "off")] = rows[name] - level / 100
    return rows.assign(**columns)


def independent(rows: pd.DataFrame, *keep: str) -> pd.DataFrame:
    """Leave out variants that share training runs with another one, except those to keep.

    A network that is evaluated in two ways does not vary as two trainings do, which is what
    intervals assume (`statistics.differences`). If two to keep share runs, only they are left.
    """
    runs: dict[str, set[str]] = {}
    about = ["variant", "key"] if "key" in rows else ["variant", "variant"]
    for variant, key in rows.loc[:, about].drop_duplicates().itertuples(index=False, name=None):
        name = key.partition("-")[0] if "key" in rows else key
        runs.setdefault(variant, set()).add(name)
    kept = [name for name in runs if name in keep]
    if not any(runs[a] & runs[b] for a in kept for b in kept if a != b):
        for name in runs:
            if name not in kept and not any(runs[name] & runs[other] for other in kept):
                kept.append(name)
    return rows if len(kept) == len(runs) else rows.loc[rows["variant"].isin(kept)]


def effects(rows: pd.DataFrame, reference: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Differences of all variants to one; those that share its training runs by themselves."""
    parts = []
    for name in rows["variant"].unique():
        if name != reference:
            table = differences(independent(rows, reference, name), reference, metrics)
            parts.append(table[table["variant"] == name])
    return pd.concat(parts, ignore_index=True)


def scarcity(few: pd.DataFrame, many: pd.DataFrame) -> pd.DataFrame:
    """Rows of what heatmaps gain, as variants "few" and "many" (labels)."""
    both = [
        rows.assign(variant=f"{name}_" + rows["variant"])
        for name, rows in (("few", few), ("many", many))
    ]
    metrics = list(dict.fromkeys(claim.metric for claim in on("scarcity")))
    return gains(pd.concat(both, ignore_index=True), _GAINS, metrics)


def systems(flow: pd.DataFrame, propose: pd.DataFrame) -> pd.DataFrame:
    """Rows of both lifting systems at their best, as variants "flow" and "propose".

    Licensed files may list other images for either: unless the test sets agree in whom and what
    every image shows, no image counts as shared, and there are no differences.
    """
    both = {"flow": flow, "propose": propose}
    parts = [rows[rows["variant"] == "full"].assign(variant=name) for name, rows in both.items()]
    if _shown(parts[0]) != _shown(parts[1]):
        parts[1] = parts[1].assign(image=parts[1]["image"] + parts[0]["image"].max() + 1)
    return pd.concat(parts, ignore_index=True)


def _shown(rows: pd.DataFrame) -> set[tuple[object, ...]]:
    """What every test image shows, as far as rows say it."""
    about = ["image", *rows.columns.intersection(["action", "subject"])]
    test = rows.loc[rows["group"] == "test", about]
    return set(test.drop_duplicates().itertuples(index=False, name=None))


def judge(topic: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Test all claims on a topic by the rows of its study; columns as of `verdicts`.

    Claims on variants without rows, or on what is unknown of all their images, are left out. Of
    photographs nobody knows which joints are hidden, so that the paper's measure and ours with the
    true visibility are one there, and so are two claims that differ in nothing else.
    """
    found = _distinct(on(topic)) if DATASET in rows else on(topic)
    rows = rows if topic == "scarcity" else derived(in_scope(topic, rows))
    parts = []
    for claim in (each for each in found if _testable(each, rows)):
        part = rows.loc[:, [*KEYS, *rows.columns.intersection(["key", DATASET]), claim.metric]]
        compared = [name for name in (claim.variant, claim.reference) if name]
        parts.append(verdicts(independent(part, *compared), [claim]))
    return pd.concat(parts, ignore_index=True) if parts else verdicts(rows, [])


def _distinct(found: Sequence[Claim]) -> list[Claim]:
    """Leave out claims on true visibility that are made with the paper's measure as well."""
    made = {(each.variant, each.reference, each.metric) for each in found}
    return [c for c in found if (c.variant, c.reference, f"paper_{c.metric}") not in made]


def _testable(claim: Claim, rows: pd.DataFrame) -> bool:
    """Say whether there are rows to test a claim with."""
    known = {*rows["variant"], None}
    there = claim.metric in rows and bool(rows[claim.metric].notna().any())
    return there and {claim.variant, claim.reference} <= known


def judge_all(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Test every topic whose studies are among `rows`; the first column is the topic.

    Two studies of different worlds are not compared.
    """
    parts = []
    for topic in by_topic():
        studies = _PAIRS.get(topic, (study_of(topic),))
        if not set(studies) <= rows.keys() or len({DATASET in rows[s] for s in studies}) > 1:
            continue
        if topic == "scarcity":
            needed = scarcity(rows["few"], rows["many"])
        elif topic == "systems":
            needed = systems(rows["lifting"], rows["propose"])
        else:
            needed = rows[study_of(topic)]
        table = judge(topic, needed)
        table.insert(0, "topic", topic)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def tally(table: pd.DataFrame) -> dict[str, int]:
    """Count the verdicts, also those that nobody got."""
    verdict = list(table["verdict"])
    return {name: verdict.count(name) for name in ("reproduced", "not reproduced", "unclear")}
