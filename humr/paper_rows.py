"""Rows of licensed test sets as notebooks read them: with the columns of the open world's.

`official_evaluation` measures what the official code does, and names it so; `paper_tables` is
about that. Notebooks compare variants (`comparisons`), for which

- `dataset` names the test set: 3DPW or EMDB. EMDB's occluded people are among all of EMDB, where
  their PercIn and MinDist stand, which all others lack. Those that are not among the people of
  EMDB that were tested have a row of their own, and no other value;
- `image` is a number that no other person of any set has (`row`: that in the annotations);
- visible are joints that the detector is confident of, under both names that a column has
  (`spread_hidden`, `paper_spread_hidden`): nobody knows which joints of a photograph are hidden;
- what is unknown is NaN: likelihoods of labels, which are poses of another body; errors weighted
  by area; the detector's own landmarks; template and truncation of rendered people.
"""

import numpy as np
import pandas as pd

from humr.licensed import TEST
from humr.paper_tables import DATASETS, ON_MASK

FIRST = 100_000  # number of the first person of the second test set, and so on
BY_VISIBILITY = ("pixels_mode", "pixels_samples", "spread_visible", "spread_hidden",
                 "percent_inside", "mask_distance", "hidden")  # fmt: skip
UNKNOWN = ("nll", "wpve_mode", "wpve_best", "pa_limbs_mode", "pa_limbs_detector", "template",
           "truncated")  # fmt: skip
OCCLUDED, WHOLE = "emdb-p1-occl", "emdb-p1"
_ABOUT = ("variant", "seed", "key", "seconds", "steps", "data_set", "image", "photograph",
          "hypotheses")  # fmt: skip


def as_study(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of `official_evaluation.evaluate` as `studies.rows` gives them.

    Args:
        rows: of any variants and seeds; columns that say which are kept.
    """
    rows = _merged(rows)
    twins = {f"paper_{name}": rows[name] for name in BY_VISIBILITY}
    found = numbered(rows).assign(**twins, **dict.fromkeys(UNKNOWN, np.nan))
    on_mask = [*ON_MASK, *(f"paper_{name}" for name in ON_MASK)]
    others = found.columns.difference([*_ABOUT, *on_mask, "dataset", "row"])
    if WHOLE in set(found["data_set"]):
        found[others] = found[others].mask(found["data_set"] == OCCLUDED)
    return found


def _merged(rows: pd.DataFrame) -> pd.DataFrame:
    """Move PercIn and MinDist of EMDB's occluded people to where they are among all of EMDB.

    Photographs of EMDB show one annotated person each.
    """
    keys = ["variant", "seed", "photograph"]
    occluded = rows["data_set"] == OCCLUDED
    whole = (rows["data_set"] == WHOLE) & ~rows.duplicated(["data_set", *keys], keep=False)
    theirs = rows.loc[occluded].drop_duplicates(keys).set_index(keys)[list(ON_MASK)]
    places = pd.MultiIndex.from_arrays([rows[name] for name in keys], names=keys)
    known = whole & places.isin(theirs.index)
    merged = rows.copy()
    merged.loc[known, list(ON_MASK)] = theirs.reindex(places[known]).to_numpy()
    gone = occluded & places.isin(places[known])
    return merged.loc[~gone].reset_index(drop=True)


def numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Name the test set, and give people numbers that no others have; `row` keeps the old ones."""
    names = list(rows["data_set"])
    return rows.assign(
        dataset=[DATASETS[name] for name in names],
        row=rows["image"],
        image=rows["image"] + [FIRST * TEST.index(name) for name in names],
    )
