"""Does a probability mean what it says? Reliability, counted window by window."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import IGNORED

BINS = 15


class Calibration:
    """How often the likeliest class is right, by how likely it is said to be.

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
        """Add the counts of another."""
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
