"""Committed results: rows of finished runs in half precision, one file per product and seed.

Where numbers are too large for that (some hypotheses lie kilometres off), a column stays in single
precision with as many digits. A seed's file does not change when other seeds are added to it
later. Beside the files of a product lies a record of where they come from.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from humr.files import DATA, in_place_of, write_text

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


def record(product: str, profile_name: str) -> dict[str, Any]:
    """Return what is said of a product's rows: where they come from."""
    return json.loads((RESULTS / f"{profile_name}-{product}.json").read_text())


def write(
    product: str, profile_name: str, table: pd.DataFrame, about: Mapping[str, Any]
) -> list[Path]:
    """Store rows (columns `KEYS`, then measurements), whole or not at all; returns the files."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed, rows in table.groupby("seed"):
        paths.append(RESULTS / f"{profile_name}-{product}-{seed}.parquet")
        floats = rows.select_dtypes("float").columns.difference([*KEYS, *PRECISE])
        short = {str(name): _shortened(rows[name].to_numpy()) for name in floats}
        _write(rows.assign(**short), paths[-1], list(short))
    record = RESULTS / f"{profile_name}-{product}.json"
    write_text(record, json.dumps(dict(about), indent=1) + "\n")
    return paths


def _shortened(values: np.ndarray) -> np.ndarray:
    """Keep 11 significant bits: as half precision where the numbers fit, else as single."""
    if not np.nanmax(np.abs(values), initial=0) >= np.finfo(np.float16).max:
        return values.astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def _write(rows: pd.DataFrame, path: Path, short: list[str]) -> None:
    """Write one file; a column's high and low bytes apart, which compress better so."""
    packing: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 19,
        "use_dictionary": [name for name in rows if name not in short],
        "column_encoding": dict.fromkeys(short, "BYTE_STREAM_SPLIT"),
    }
    with in_place_of(path) as part:
        parquet.write_table(pa.Table.from_pandas(rows, preserve_index=False), part, **packing)
