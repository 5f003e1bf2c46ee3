"""Committed results: rows of finished runs in half precision, one file per product and seed.

A column with numbers that half precision cannot hold keeps its own: some hypotheses lie kilometres
off. A seed's file does not change when other seeds are added to it later. Beside the files of a
product lies a record of where they come from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from humr.files import write_text
from humr.paths import DATA

RESULTS = DATA / "results"
KEYS = ["variant", "seed", "key", "seconds", "steps"]  # which run, and what it cost
PRECISE = ["log_det", "nll"]  # columns that stay in single precision


def read(product: str, profile_name: str) -> pd.DataFrame | None:
    """Return the committed rows of a product, such as a study; None if there are none."""
    paths = sorted(RESULTS.glob(f"{profile_name}-{product}-*.parquet"))
    if not paths:
        return None
    table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    halves = table.select_dtypes("float16").columns
    return table.astype(dict.fromkeys(halves, "float32"))


def write(
    product: str, profile_name: str, table: pd.DataFrame, about: Mapping[str, Any]
) -> list[Path]:
    """Store rows (columns `KEYS`, then measurements), whole or not at all; returns the files."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed, rows in table.groupby("seed"):
        paths.append(RESULTS / f"{profile_name}-{product}-{seed}.parquet")
        halves = _that_fit(rows)
        _write(rows.astype(dict.fromkeys(halves, np.float16)), paths[-1], halves)
    record = RESULTS / f"{profile_name}-{product}.json"
    write_text(record, json.dumps(dict(about), indent=1) + "\n")
    return paths


def _that_fit(rows: pd.DataFrame) -> list[str]:
    """Measured columns whose numbers half precision can hold."""
    floats = rows.select_dtypes("float").columns.difference([*KEYS, *PRECISE])
    largest = rows[floats].abs().max()
    return [str(name) for name in floats if not largest[name] >= np.finfo(np.float16).max]


def _write(rows: pd.DataFrame, path: Path, halves: list[str]) -> None:
    """Write one file; a column's high and low bytes apart, which compress better so."""
    part = path.with_suffix(".part")
    packing: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 19,
        "use_dictionary": [name for name in rows if name not in halves],
        "column_encoding": dict.fromkeys(halves, "BYTE_STREAM_SPLIT"),
    }
    parquet.write_table(pa.Table.from_pandas(rows, preserve_index=False), part, **packing)
    part.replace(path)
