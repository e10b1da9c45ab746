"""How sure a score is: bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

DRAWS = 2000

Interval = list[float]
"""Its lower and upper end."""


def mean_interval(values: npt.NDArray[np.float64], level: float = 0.95, seed: int = 0) -> Interval | None:
    """Interval of the mean of one number per image; None for fewer than two that are finite.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993: percentiles of means of images drawn again with
    replacement.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    means = known[_drawn(len(known), seed)].mean(1)
    return _ends(means, level)


def pooled_interval(
    counts: npt.NDArray[np.int64],
    score: Callable[[npt.NDArray[np.int64]], float],
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of a score of pooled counts, such as a Dice over all pixels, when images are drawn again.

    Parameters
    ----------
    counts : (n, ...) int64
        Of each image, such as its confusion matrix.
    score : callable
        From the sum over images to a number; draws where it is no number are left out.
    """
    if len(counts) < 2:
        return None
    values = np.array([score(counts[drawn].sum(0)) for drawn in _drawn(len(counts), seed)])
    values = values[np.isfinite(values)]
    return _ends(values, level) if len(values) else None


def paired_interval(
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    score: Callable[[npt.NDArray[np.int64]], float],
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of the difference of a pooled score, second minus first, when groups are drawn again.

    Parameters
    ----------
    first, second : (n, ...) int64
        Counts of the same groups, in the same order.
    score : callable
        As of `pooled_interval`.
    """
    if len(first) < 2:
        return None
    drawn = _drawn(len(first), seed)
    values = np.array([score(second[one].sum(0)) - score(first[one].sum(0)) for one in drawn])
    values = values[np.isfinite(values)]
    return _ends(values, level) if len(values) else None


def _drawn(count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (DRAWS, count))


def _ends(values: npt.NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
