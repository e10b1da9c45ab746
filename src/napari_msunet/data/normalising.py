"""The constants that a model's first layer subtracts and divides by: of a training, or of one image or slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Normalisation, NormaliseBy, OwnStatistics
from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Window
from napari_msunet.slide import Slide
from napari_msunet.slide.appearance import legacy_scale
from napari_msunet.slide.numbers import Scale, to_unit
from napari_msunet.slide.tissue import found_tissue

# ----------------------------------------------------------------------------------------------------------------------
# The constants of a training, from a sample of the pixels of all its images.

_KEPT = 65536
"""How many pixels of a window the percentiles are taken from."""
_LOW, _HIGH = 0.01, 0.99
_LEAST, _SAME = 1e-3, 2e-5
"""The divisor of a constant channel, which is one whose values vary by less than this."""


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
        values = np.moveaxis(to_unit(pixels, legacy_scale(pixels.dtype)), -1, 0).astype(np.float64)
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
    """Divisors without zeros: a dim image must not be taken for a constant one."""
    return np.where(spread < _SAME, _LEAST, spread)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{v:.8g}") if abs(v) < 0.01 else round(float(v), 6) for v in values)


# ----------------------------------------------------------------------------------------------------------------------
# The constants of one image or slide, from its own pixels: the same for every window of it.

LOOKED = 2**22
"""Most pixels that are looked at; a larger image is averaged to about so many."""

_ROWS = 1024


def own_normalisation(
    slides: Sequence[Slide], scales: Sequence[Scale], how: OwnStatistics, channels: Sequence[int] | None = None
) -> Normalisation:
    """The constants of ``(input - mean) / std`` for each channel of a slide, or of several that count as one.

    For "z-score" they are the mean and the standard deviation of the slide's values, for "min-max" the lowest value and
    the distance to the highest. An image of up to `LOOKED` pixels is taken as it is; a larger one is averaged to about
    so many.

    Parameters
    ----------
    slides : sequence of Slide
    scales : sequence of Scale
        For each of them, how the model sees its values as 0..1.
    how : OwnStatistics
    channels : sequence of int, optional
        The channels that count; None: all.

    Raises
    ------
    SourceError
        If nothing counts, or all that counts has one value.
    SlideError
        If a slide cannot be read.
    """
    names = ", ".join(slide.name for slide in slides[:3])
    count, total, square = 0, 0.0, 0.0  # arrays from the first pixels on
    low, high = np.inf, -np.inf
    for slide, scale in zip(slides, scales, strict=True):
        for pixels in _counting(slide, how.within == "tissue"):
            values = to_unit(pixels if channels is None else pixels[:, list(channels)], scale).astype(np.float64)
            count += len(values)
            total, square = total + values.sum(0), square + (values**2).sum(0)
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    if not count:
        raise SourceError(
            f"No tissue was found in {names}, so it has no statistics to normalise by; take those of the whole image "
            "(statistics_of whole), or leave the image out."
        )
    if bool(np.all(np.asarray(high) - np.asarray(low) < _SAME)):
        raise SourceError(
            f"All pixels of {names} have one value, so it has no statistics of its own to normalise by; leave the "
            "image out, or normalise by the training images (z-score)."
        )
    if how.by == "min-max":
        mean, std = np.asarray(low), np.asarray(high) - np.asarray(low)
    else:
        mean = np.asarray(total) / count
        std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 0))
    return Normalisation(mean=tuple(map(float, mean)), std=tuple(map(float, _not_zero(std))))


def _counting(slide: Slide, tissue_only: bool) -> Iterator[npt.NDArray[Any]]:
    """The pixels that count, `(n, c)`, some rows at a time."""
    height, width = slide.shape[:2]
    step = float(max(1, ceil(sqrt(height * width / LOOKED))))
    grid = Grid((height, width), (step, step))
    tissue = found_tissue(slide) if tissue_only else None
    for top in range(0, grid.shape[0], _ROWS):
        window = Window(top, 0, min(_ROWS, grid.shape[0] - top), grid.shape[1])
        pixels = slide.read_window(grid, window)
        chosen = pixels.reshape(-1, pixels.shape[2]) if tissue is None else pixels[tissue.on(grid, window)]
        if len(chosen):
            yield chosen
