"""Bootstrap intervals: how much a score would move on another sample of the same size.

All draw n items with replacement, RESAMPLES times, and take the middle of what comes out
(Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"; the percentile interval is
in chapter 13 of Efron and Tibshirani 1993, "An Introduction to the Bootstrap").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lessonkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["bootstrap_interval", "bootstrap_ratio_interval", "percentile_interval", "resamples"]

RESAMPLES = 1000


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values``, shape (n,).

    Draws n values with replacement RESAMPLES times (Efron 1979, "Bootstrap Methods: Another Look at
    the Jackknife") and takes the middle ``level`` of the means.
    Raises DataError if ``values`` is empty, not one-dimensional, or holds anything but finite numbers.
    """
    sample = _finite(values)
    return percentile_interval([sample[drawn].mean() for drawn in resamples(len(sample), seed=seed)], level)


def bootstrap_ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``sum(numerators) / sum(denominators)``, both of shape (n,).

    Each draw takes an item's numerator and denominator together: so a mean over tokens gets an interval
    that resamples texts (numerator: a text's summed loss; denominator: its tokens).
    Raises DataError as ``bootstrap_interval`` does, and if a denominator is not above 0.
    """
    above, below = _finite(numerators), _finite(denominators)
    if above.shape != below.shape:
        raise DataError(
            f"There are {len(above)} numerators and {len(below)} denominators.", fix="pass one of each a text"
        )
    if (below <= 0).any():
        raise DataError("A denominator is not above 0.", fix="leave out the texts that count nothing")
    drawn_ratios = [above[drawn].sum() / below[drawn].sum() for drawn in resamples(len(above), seed=seed)]
    return percentile_interval(drawn_ratios, level)


def resamples(n: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """RESAMPLES arrays of n places out of 0 to n - 1, drawn with replacement."""
    import numpy as np

    draws = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield draws.integers(0, n, n)


def percentile_interval(statistics: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of what the resamples gave. Raises DataError if ``level`` is not a share."""
    import numpy as np

    if not 0 < level < 1:
        raise DataError(f"An interval's level is a share between 0 and 1, not {level}.", fix="use level=0.95")
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _finite(values: Sequence[float]) -> np.ndarray:
    """The values as one row of finite numbers, at least one."""
    import numpy as np

    try:
        sample = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            "Only numbers can be resampled.", why=str(error), fix="pass one number a text"
        ) from error
    if sample.ndim != 1 or not len(sample):
        raise DataError(
            f"There is nothing to resample in the shape {sample.shape}.",
            fix="pass one number a text, at least one",
        )
    if not np.isfinite(sample).all():
        raise DataError("A value to resample is not a finite number.", fix="look for NaN in the scores")
    return sample
