"""The uncertainty of scores, by bootstrap intervals, and the calibration of probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap

from napari_msunet.constants import IGNORED

# ----------------------------------------------------------------------------------------------------------------------
# The calibration of probabilities, counted window by window.

BINS = 15


class Calibration:
    """How often the likeliest class is right, by its predicted probability.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: the expected calibration error is the mean over
    pixels of the difference between confidence and accuracy in their bin.
    """

    def __init__(self) -> None:
        self.pixels = np.zeros(BINS, np.int64)
        self.right = np.zeros(BINS, np.int64)
        self.confidence = np.zeros(BINS)
        self.surprise = 0.0

    def add(self, probabilities: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> None:
        """Count a window.

        Parameters
        ----------
        probabilities : (K+1, h, w) float32
        truth : (h, w) uint8
            255 does not count.
        """
        known = truth != IGNORED
        if not known.any():
            return
        picked, actual = probabilities[:, known], truth[known].astype(np.intp)
        largest, winner = picked.max(0), picked.argmax(0)
        bins = np.minimum((largest * BINS).astype(np.intp), BINS - 1)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.right += np.bincount(bins, winner == actual, BINS).astype(np.int64)
        self.confidence += np.bincount(bins, largest, BINS)
        said = np.take_along_axis(picked, actual[None], 0)[0]
        self.surprise -= float(np.log(np.maximum(said, 1e-12)).sum(dtype=np.float64))

    def merge(self, other: Calibration) -> None:
        """Add the counts of another calibration."""
        self.pixels += other.pixels
        self.right += other.right
        self.confidence += other.confidence
        self.surprise += other.surprise

    def report(self) -> dict[str, Any]:
        """Plain values: "error" (0 is perfect), "log_loss" (mean, nats), "bins" with confidence, accuracy, pixels."""
        total = int(self.pixels.sum())
        if not total:
            return {"error": None, "log_loss": None, "bins": []}
        used = self.pixels > 0
        confidence = np.divide(self.confidence, self.pixels, out=np.full(BINS, nan), where=used)
        accuracy = np.divide(self.right, self.pixels, out=np.full(BINS, nan), where=used)
        gap = np.abs(confidence - accuracy)[used]
        return {
            "error": float((gap * self.pixels[used]).sum() / total),
            "log_loss": self.surprise / total,
            "bins": [
                {"confidence": float(c), "accuracy": float(a), "pixels": int(n)}
                for c, a, n in zip(confidence[used], accuracy[used], self.pixels[used], strict=True)
            ],
        }


# ----------------------------------------------------------------------------------------------------------------------
# Confidence intervals: scores of images or groups that are drawn again with replacement.

DRAWS = 2000

Interval = list[float]
"""The lower and upper end of an interval."""


def mean_interval(values: npt.NDArray[np.float64], level: float = 0.95, seed: int = 0) -> Interval | None:
    """The interval of the mean of one number per image; None for fewer than two finite numbers.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993: percentiles of means of images drawn again with
    replacement.
    """
    known = values[np.isfinite(values)]
    return _interval(len(known), lambda drawn: known[drawn].mean(), level, seed)


def pooled_interval(
    counts: npt.NDArray[np.int64],
    score: Callable[[npt.NDArray[np.int64]], float],
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """The interval of a score of pooled counts, such as a Dice over all pixels, when images are drawn again.

    Parameters
    ----------
    counts : (n, ...) int64
        The counts of each image, such as its confusion matrix.
    score : callable
        From the sum over images to a number; draws that give NaN are left out.
    """
    return _interval(len(counts), lambda drawn: score(counts[drawn].sum(0)), level, seed)


def paired_interval(
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    score: Callable[[npt.NDArray[np.int64]], float],
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """The interval of the difference of a pooled score, second minus first, when groups are drawn again.

    Parameters
    ----------
    first, second : (n, ...) int64
        Counts of the same groups, in the same order.
    score : callable
        As for `pooled_interval`.
    """
    return _interval(len(first), lambda drawn: score(second[drawn].sum(0)) - score(first[drawn].sum(0)), level, seed)


def _interval(count: int, value: Callable[[npt.NDArray[np.int64]], float], level: float, seed: int) -> Interval | None:
    """Percentiles of `value` of images drawn again; it takes their numbers, 0 to `count` - 1."""
    if count < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of draws without the class, which are left out below
        drawn = bootstrap(
            (np.arange(count),),
            value,
            vectorized=False,
            n_resamples=DRAWS,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    found = drawn.bootstrap_distribution
    known = found[np.isfinite(found)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]
