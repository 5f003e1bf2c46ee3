r"""Compare variants from rows: means and differences with intervals, verdicts on claims.

Rows have one line per (variant, seed, image) and a column per metric (`evaluation.evaluate`). A
metric of image $i$, measured with variant $v$ that was trained with seed $s$, is taken as

$$ y_{vsi} = \mu_v + a_{vi} + b_{vs} + e_{vsi}, $$

where images and seeds are random draws: all variants and seeds share the $I$ test images, and a
model that is trained again gets another $b_{vs}$. The mean over both has the variance
$\sigma_a^2/I + \sigma_b^2/S + \sigma_e^2/(IS)$. The same holds for the paired difference of
two variants, $d_{vsi} = y_{vsi} - y_{rsi}$. Its parts are estimated by

- image part: variance of the seed-averaged values of the images, divided by $I$;
- seed part: variance of the image-averaged values of the seeds, divided by $S$. Few seeds say
  little about it, so it is **pooled** over all variants of the table, which assumes that it is
  the same for all of them, as in a one-way layout;
  A variant whose seeds differ clearly more than those of the others (F test of the largest
  variance against the rest, 1 % over the whole table) is left out there and has its own variance;
- the noise $\sigma_e^2/(IS)$ is in both parts, and is subtracted once (from the seed part, which
  cannot become negative).

For differences the pooled variance is the residual of the layout "variant + seed" (randomised
blocks: what a seed does to all variants cancels), with $(V-1)(S-1)$ degrees of freedom if no run
is missing. The half width of an interval is

$$ \sqrt{t_{I-1}^2\,\text{image part} + t_\nu^2\,\text{seed part}}, $$

each part with the quantile of Student's t for its own degrees of freedom; for two variants without
image noise this is the paired t-test. In simulations nominal 95 % intervals of three seeds cover
93 to 96 % (tests), those of two variants with two seeds only 87 %. They hold for one comparison at
a time. With one seed there is no seed part: the interval covers the choice of test images only,
says nothing about training again, and supports no verdict.

Rows of several test sets have a column `dataset`: each set is compared by itself, as 3DPW and EMDB
in HuMR's tables, and results name it. Rows of the open world, which is a single one, have none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import f as fisher
from scipy.stats import t as student

P = ParamSpec("P")
KEYS = ["variant", "seed", "image"]
DATASET = "dataset"
TOO_FEW = "fewer than 2 images with a value"
ONE_SEED = "1 seed: no interval over training"
UNSTEADY = 0.01  # chance that a table of equal variances has a variant that counts as unsteady


# ----------------------------------------------------------------------- several test sets


def per_dataset(
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


def select_dataset(rows: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return the rows of one test set; all, where rows are of a single one that has no name."""
    if DATASET not in rows:
        return rows
    if dataset not in set(rows[DATASET]):
        known = ", ".join(rows[DATASET].unique())
        raise ValueError(f"rows have no test set {dataset!r}; they are of {known}")
    return rows.loc[rows[DATASET] == dataset]


def dataset_phrase(rows: pd.DataFrame) -> str:
    """Say what rows are of, for a sentence: "on 3DPW", or "in the open world".

    Example:
        >>> dataset_phrase(pd.DataFrame({"dataset": ["3DPW", "EMDB"]}))
        'on 3DPW, EMDB'
    """
    if DATASET not in rows:
        return "in the open world"
    return f"on {', '.join(rows[DATASET].unique())}"


# ----------------------------------------------------------------------- estimates


@per_dataset
def means(rows: pd.DataFrame, metrics: Sequence[str], *, level: float = 0.95) -> pd.DataFrame:
    """Mean of each metric per variant, with an interval over images and over training again.

    The seed variance is pooled over the variants. To compare variants use `differences`: it is
    paired, therefore much sharper than a look at whether two of these intervals overlap.
    """
    variants, cubes = _cubes(rows, metrics)
    result = []
    for metric, cube in zip(metrics, cubes, strict=True):
        values = [_complete(part) for part in cube]
        seeds = _seed_means(values)
        alone = _unsteady(seeds)
        pooled = _residual_variance(seeds[~alone], blocks=False)
        for i, (variant, part) in enumerate(zip(variants, values, strict=True)):
            own = _residual_variance(seeds[[i]], blocks=False) if alone[i] else pooled
            estimate = _estimate(part, *own, level)
            result.append({"variant": variant, "metric": metric, **estimate})
    return pd.DataFrame(result)


@per_dataset
def differences(
    rows: pd.DataFrame, reference: str, metrics: Sequence[str], *, level: float = 0.95
) -> pd.DataFrame:
    """Difference of each variant to the reference, paired by (seed, image), with an interval.

    Only seeds that both variants have count, and only images where the metric is defined for both
    with all these seeds. `from_images`, `from_training`: the two parts of the standard error.
    Variants that share a training run (evaluated otherwise) do not vary independently: leave them
    out of `rows` where other variants are compared.
    """
    _check_variant(rows, reference)
    variants, cubes = _cubes(rows, metrics)
    origin = variants.index(reference)
    result = []
    for metric, cube in zip(metrics, cubes, strict=True):
        values = [_complete(part) for part in cube - cube[origin]]
        seeds, alone = _seed_means(values), _unsteady(_seed_means([_complete(v) for v in cube]))
        variance, freedom = _residual_variance(seeds[~alone], blocks=True)
        for i, (variant, part) in enumerate(zip(variants, values, strict=True)):
            if variant != reference:
                both = 2 * variance, freedom
                if alone[i] or alone[origin]:
                    both = _residual_variance(seeds[[i]], blocks=False)
                estimate = _estimate(part, *both, level)
                line = {"variant": variant, "reference": reference, "metric": metric}
                result.append(line | estimate)
    return pd.DataFrame(result)


@per_dataset
def gains(
    rows: pd.DataFrame, pairs: Mapping[str, tuple[str, str]], metrics: Sequence[str]
) -> pd.DataFrame:
    """Rows of differences `variant - reference`, one new variant per pair: to compare gains.

    `differences` of the result is the interaction, for example "the loss helps more with few
    labels": `{"few": ("few_mmd", "few_none"), "many": ("many_mmd", "many_none")}`.
    """
    parts = []
    for name, (variant, reference) in pairs.items():
        for label in (variant, reference):
            _check_variant(rows, label)
        keyed = rows.set_index(["seed", "image"])
        one, other = (
            keyed.loc[keyed["variant"] == v, list(metrics)] for v in (variant, reference)
        )
        parts.append((one - other).dropna(how="all").reset_index().assign(variant=name))
    return pd.concat(parts, ignore_index=True)


def _cubes(
    rows: pd.DataFrame, metrics: Sequence[str]
) -> tuple[list[str], Float[np.ndarray, "metrics variants seeds images"]]:
    """Names of the variants in the order of the rows, and all values, NaN where there is none."""
    missing = [name for name in [*KEYS, *metrics] if name not in rows]
    if missing:
        raise ValueError(f"rows have no column {missing}; there are: {', '.join(rows.columns)}")
    twice = np.flatnonzero(rows.duplicated(KEYS))
    if len(twice):
        first = dict(zip(KEYS, rows[KEYS].to_numpy()[twice[0]], strict=True))
        raise ValueError(
            f"one row per {KEYS} expected; {first} is there twice: two studies mixed?"
        )
    codes, names = zip(*(pd.factorize(rows[key]) for key in KEYS), strict=True)
    values = rows[list(metrics)].to_numpy(float).T
    metric, row = np.nonzero(np.isinf(values))
    if len(row):
        run = f"variant {rows['variant'].iloc[row[0]]!r}, seed {rows['seed'].iloc[row[0]]}"
        raise ValueError(f"{metrics[metric[0]]} is infinite for {run}")
    cubes = np.full((len(metrics), *map(len, names)), np.nan)
    cubes[:, *codes] = values
    return list(names[0]), cubes


def _complete(values: Float[np.ndarray, "seeds _"]) -> Float[np.ndarray, "seeds _"]:
    """Leave out images that lack a value with one of the seeds (a seed without any is no run)."""
    runs = np.isfinite(values).any(1)
    return values[:, np.isfinite(values[runs]).all(0)]


def _seed_means(values: Sequence[np.ndarray]) -> Float[np.ndarray, "variants seeds"]:
    """Image-averaged values; NaN where there is no run or no image is left."""
    return np.stack([v.mean(1) if v.size else np.full(len(v), np.nan) for v in values])


def _unsteady(values: Float[np.ndarray, "variants seeds"]) -> Bool[np.ndarray, " variants"]:
    """Variants whose seeds vary clearly more than those of the others; at least two do not."""
    known = np.isfinite(values)
    freedom = known.sum(1) - 1
    mean = np.nansum(values, 1) / np.maximum(freedom + 1, 1)
    squares = np.square(np.where(known, values - mean[:, None], 0)).sum(1)
    alone = np.zeros(len(values), bool)
    while True:
        rest = np.flatnonzero(~alone & (freedom > 0))
        if len(rest) < 3:
            return alone
        worst = rest[np.argmax(squares[rest] / freedom[rest])]
        others = rest[rest != worst]
        usual = squares[others].sum() / freedom[others].sum()
        if not squares[worst] / freedom[worst] > usual * fisher.isf(
            UNSTEADY / len(rest), freedom[worst], freedom[others].sum()
        ):
            return alone
        alone[worst] = True


def _residual_variance(
    values: Float[np.ndarray, "variants seeds"], *, blocks: bool
) -> tuple[float, int]:
    """Mean square around one mean per row (plus one effect per column), degrees of freedom."""
    variant, seed = np.nonzero(np.isfinite(values))
    design = np.eye(values.shape[0])[variant]
    if blocks:
        design = np.concatenate([design, np.eye(values.shape[1])[seed]], 1)
    observed = values[variant, seed]
    solution, _, rank, _ = np.linalg.lstsq(design, observed)
    freedom = len(observed) - int(rank)
    rest = np.square(observed - design @ solution).sum()
    return (float(rest / freedom), freedom) if freedom else (np.nan, 0)


def _estimate(
    values: Float[np.ndarray, "seeds images"], variance: float, freedom: int, level: float
) -> dict[str, float | str]:
    """Mean and interval, given the variance of one seed's mean."""
    values = values[np.isfinite(values).all(1)]
    seeds, images = values.shape if values.size else (0, 0)
    if images < 2:
        empty = dict.fromkeys(["estimate", "low", "high", "from_images", "from_training"], np.nan)
        return empty | {"seeds": seeds, "images": images, "note": TOO_FEW}
    of_image = values.mean(0)
    image = of_image.var(ddof=1) / images
    training = 0.0
    half = image * student.ppf((1 + level) / 2, images - 1) ** 2
    if seeds > 1:
        rest = values - of_image - values.mean(1, keepdims=True) + values.mean()
        noise = np.square(rest).sum() / (images - 1) / (seeds - 1) / (images * seeds)
        training = max(variance / seeds - noise, 0.0)
        half += training * student.ppf((1 + level) / 2, freedom) ** 2
    half = np.sqrt(half)
    return {
        "estimate": values.mean(),
        "low": values.mean() - half,
        "high": values.mean() + half,
        "from_images": np.sqrt(image),
        "from_training": np.sqrt(training) if seeds > 1 else np.nan,
        "seeds": seeds,
        "images": images,
        "note": "" if seeds > 1 else ONE_SEED,
    }


# ----------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Claim:
    """A statement about the difference `variant - reference` of a metric, to be tested by runs.

    Attributes:
        text: the statement in words.
        source: where it stands, e.g. "Table S2".
        variant: what is claimed about.
        reference: what it is compared with; None: the metric itself is compared with zero.
        metric: column of the rows.
        direction: the difference is "lower" or "higher" than zero, or the "same".
        margin: slack. "lower" claims a difference below +margin, "higher" one above -margin (so
            that a positive margin makes it a claim of no harm), "same" one within +-margin.
        smallest: smallest effect of interest: an interval within +-smallest counts against the
            claim, whatever its sign.
    """

    text: str
    source: str
    variant: str
    reference: str | None
    metric: str
    direction: str
    margin: float = 0.0
    smallest: float = 0.0

    def __post_init__(self) -> None:
        if self.direction not in ("lower", "higher", "same"):
            raise ValueError(f"direction must be lower, higher or same; got {self.direction!r}")
        if self.margin < 0 or self.smallest < 0:
            raise ValueError(f"margin and smallest must not be negative; got {self}")
        if self.direction == "same" and not self.margin:
            raise ValueError(
                "a claim of no difference needs a margin: the largest one that counts"
            )

    @property
    def test(self) -> str:
        """The claim as an inequality."""
        against = "" if self.reference is None else f" - {self.reference}"
        bound = {
            "lower": f"< {self.margin:g}",
            "higher": f"> {0.0 - self.margin:g}",
            "same": f"within ±{self.margin:g}",
        }
        return f"{self.metric}: {self.variant}{against} {bound[self.direction]}"

    def verdict(self, low: float, high: float) -> str:
        """Judge by an interval: reproduced only if all of it agrees with the claim."""
        if not np.isfinite([low, high]).all():
            return "unclear"
        if self.smallest and -self.smallest < low and high < self.smallest:
            return "not reproduced"
        if self.direction == "same":
            inside = -self.margin < low and high < self.margin
            outside = low >= self.margin or high <= -self.margin
        else:
            low, high = (-high, -low) if self.direction == "higher" else (low, high)
            inside, outside = high < self.margin, low >= self.margin
        return "reproduced" if inside else "not reproduced" if outside else "unclear"


@per_dataset
def verdicts(rows: pd.DataFrame, claims: Sequence[Claim], *, level: float = 0.95) -> pd.DataFrame:
    """Test each claim: reproduced, not reproduced, or unclear (always, with a single seed)."""
    result = []
    for claim in claims:
        _check_variant(rows, claim.variant)
        if claim.reference is None:
            table = means(rows, [claim.metric], level=level)
        else:
            table = differences(rows, claim.reference, [claim.metric], level=level)
        found = table[table["variant"] == claim.variant].iloc[0]
        line: dict = {"claim": claim.text, "source": claim.source, "test": claim.test}
        line |= {name: found[name] for name in ("estimate", "low", "high", "seeds")}
        sure = claim.verdict(found["low"], found["high"])
        result.append(line | {"verdict": sure if found["seeds"] > 1 else "unclear"})
    columns = ["claim", "source", "test", "estimate", "low", "high", "seeds", "verdict"]
    return pd.DataFrame(result, columns=columns)


def _check_variant(rows: pd.DataFrame, name: str) -> None:
    if name not in rows["variant"].unique():
        raise ValueError(
            f"no variant {name!r} in rows; there are: {', '.join(rows['variant'].unique())}"
        )
