"""What a model's first layer subtracts and divides by, from a sample of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Normalisation, NormaliseBy
from napari_msunet.data.loader import as_tensor, as_unit

_BINS = 2**16
_LOW, _HIGH = 0.01, 0.99
_LEAST = 1e-3  # a channel that is the same everywhere


def fit_normalisation(windows: Iterable[npt.NDArray[Any]], by: NormaliseBy) -> Normalisation:
    """The constants of ``(input - mean) / std`` for each channel.

    Parameters
    ----------
    windows : iterable of (h, w, c) arrays
        A sample of the images' pixels, in their own dtype; not looked at where only the range of numbers counts.
    by : str
        "z-score": mean 0, standard deviation 1. "percentile": the 1st percentile becomes 0, the 99th 1. "0-1" and
        "-1-1": the range of the numbers of the files.
    """
    count = 0
    total = square = np.zeros(0)
    histogram = np.zeros((0, _BINS), np.int64)
    channels = 0
    for pixels in windows:
        values = as_unit(as_tensor(pixels)).double().numpy()
        channels = values.shape[0]
        if by in ("0-1", "-1-1"):
            break
        if not count:
            total, square = np.zeros(channels), np.zeros(channels)
            histogram = np.zeros((channels, _BINS), np.int64)
        count += values[0].size
        if by == "z-score":
            total = total + values.sum((1, 2))
            square = square + (values**2).sum((1, 2))
        else:
            bins = (values.clip(0, 1) * (_BINS - 1)).round().astype(np.int64)
            histogram += np.stack([np.bincount(b.ravel(), minlength=_BINS) for b in bins])
    if by == "0-1":
        mean, std = np.zeros(channels), np.ones(channels)
    elif by == "-1-1":
        mean, std = np.full(channels, 0.5), np.full(channels, 0.5)
    elif by == "percentile":
        share = histogram.cumsum(1) / count
        low, high = ((share < q).sum(1) / (_BINS - 1) for q in (_LOW, _HIGH))
        mean, std = low, np.maximum(high - low, _LEAST)
    else:
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, _LEAST**2))
    return Normalisation(mean=_rounded(mean), std=_rounded(std))


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
