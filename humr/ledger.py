"""Values of training steps: read from the device rarely, refused when one is not finite."""

import math
from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

READ_EVERY = 20  # steps between two looks at the values on the device; bounds how late NaN shows
SUMS = ("total", "gradient_norm")  # of a step, over all players
CAUSES = (
    "the last good state is kept. Usual causes: NaN in the data, a learning rate that is "
    "too high, bf16 without a gradient clip"
)


class Ledger:
    """Values of the steps: they stay on the device and are read `READ_EVERY` steps at a time."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.rows: list[dict[str, float]] = []

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Note a step: scalars of any names, with "total" and "gradient_norm" among them."""
        self.pending.append((step, {name: value.detach() for name, value in values.items()}))
        if len(self.pending) >= READ_EVERY:
            self.read()

    def read(self) -> None:
        """Fetch what is pending, in one copy; the first step that is not finite is an error."""
        scalars = [value.float() for _, values in self.pending for value in values.values()]
        numbers = iter(torch.stack(scalars).tolist() if scalars else ())
        for step, values in self.pending:
            self.rows.append({name: next(numbers) for name in values})
            _refuse_nonfinite(step, self.rows[-1])
        self.pending.clear()

    def means(self) -> dict[str, float]:
        """Mean of every name over the steps that had it, since the last call."""
        self.read()
        rows, self.rows = self.rows, []
        names = dict.fromkeys(name for row in rows for name in row)
        return {n: fmean(row[n] for row in rows if n in row) for n in names}


def _refuse_nonfinite(step: int, row: Mapping[str, float]) -> None:
    bad = [name for name, value in row.items() if not (name in SUMS or math.isfinite(value))]
    if not math.isfinite(row["total"]):
        raise FloatingPointError(f"step {step}: {bad or ['total']} not finite; {CAUSES}")
    if not math.isfinite(row["gradient_norm"]):
        raise FloatingPointError(f"step {step}: the gradient is not finite; {CAUSES}")
