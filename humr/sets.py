"""Rows of several test sets: each is compared by itself, as 3DPW and EMDB in HuMR's tables.

They have a column `dataset`. Rows of the open world, which is a single one, have none.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import pandas as pd

P = ParamSpec("P")
DATASET = "dataset"


def by_dataset(
    compare: Callable[Concatenate[pd.DataFrame, P], pd.DataFrame],
) -> Callable[Concatenate[pd.DataFrame, P], pd.DataFrame]:
    """Let a function of rows compare every test set by itself; its results then name the set."""

    @wraps(compare)
    def each(rows: pd.DataFrame, *args: P.args, **options: P.kwargs) -> pd.DataFrame:
        if DATASET not in rows or rows.empty:
            return compare(rows, *args, **options)
        parts = [
            compare(part.drop(columns=DATASET), *args, **options).assign(**{DATASET: name})
            for name, part in rows.groupby(DATASET, sort=False)
        ]
        return pd.concat(parts, ignore_index=True)

    return each


def only(rows: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the rows of one test set; all, where rows are of a single one that has no name."""
    if DATASET not in rows:
        return rows
    if dataset not in set(rows[DATASET]):
        known = ", ".join(rows[DATASET].unique())
        raise ValueError(f"rows have no test set {dataset!r}; they are of {known}")
    return rows.loc[rows[DATASET] == dataset]


def where(rows: pd.DataFrame) -> str:
    """Say what rows are of, for a sentence: "on 3DPW", or "in the open world".

    Example:
        >>> where(pd.DataFrame({"dataset": ["3DPW", "EMDB"]}))
        'on 3DPW, EMDB'
    """
    if DATASET not in rows:
        return "in the open world"
    return f"on {', '.join(rows[DATASET].unique())}"
