"""What a model's first layer subtracts and divides by, from a sample of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Normalisation, NormaliseBy
from napari_msunet.data.loader import as_tensor, as_unit

_KEPT = 65536
"""Pixels of a window that percentiles are taken of."""
_LOW, _HIGH = 0.01, 0.99
_LEAST, _SAME = 1e-3, 2e-5
"""What a channel is divided by that is the same everywhere: that varies by less than this."""


def fit_normalisation(windows: Iterable[npt.NDArray[Any]], by: NormaliseBy) -> Normalisation:
    """The constants of ``(input - mean) / std`` for each channel.

    Parameters
    ----------
    windows : iterable of (h, w, c) arrays
        A sample of the images' pixels, uint8 or float32 in 0..1; not looked at where only the range of numbers counts.
    by : str
        "z-score": mean 0, standard deviation 1. "percentile": the 1st percentile becomes 0, the 99th 1. "0-1" and
        "-1-1": the range of the numbers of the files.
    """
    count = 0
    total = square = np.zeros(0)
    kept: list[npt.NDArray[np.float32]] = []
    channels = 0
    for pixels in windows:
        values = as_unit(as_tensor(pixels)).double().numpy()
        channels = values.shape[0]
        if by in ("0-1", "-1-1"):
            break
        if not count:
            total, square = np.zeros(channels), np.zeros(channels)
        count += values[0].size
        if by == "z-score":
            total = total + values.sum((1, 2))
            square = square + (values**2).sum((1, 2))
        else:
            flat = values.reshape(channels, -1)
            kept.append(flat[:, :: max(1, flat.shape[1] // _KEPT)].astype(np.float32))
    if by == "0-1":
        mean, std = np.zeros(channels), np.ones(channels)
    elif by == "-1-1":
        mean, std = np.full(channels, 0.5), np.full(channels, 0.5)
    elif by == "percentile":
        low, high = np.quantile(np.concatenate(kept, 1).astype(np.float64), (_LOW, _HIGH), axis=1)
        mean, std = low, _not_zero(high - low)
    else:
        mean = total / count
        std = _not_zero(np.sqrt(np.maximum(square / count - mean**2, 0)))
    return Normalisation(mean=_rounded(mean), std=_rounded(std))


def _not_zero(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What to divide by: a dim image is no constant one."""
    return np.where(spread < _SAME, _LEAST, spread)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{v:.8g}") if abs(v) < 0.01 else round(float(v), 6) for v in values)
