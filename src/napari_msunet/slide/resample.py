"""Area averages: each target pixel is the mean of the source over its own footprint, in whatever window it is read.

All arithmetic is elementwise and in a fixed order per pixel, rows first, so that a pixel is the same to the bit in
every window. For a whole number of source pixels per target pixel, integers are summed exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import SNAP, footprints

Pixels = npt.NDArray[Any]


def settled_ratio(ratio: float, count: int) -> float:
    """The nearest whole number, where a ratio deviates by less than the tolerance over all `count` pixels of a grid."""
    nearest = round(ratio)
    return float(nearest) if nearest >= 1 and abs(ratio - nearest) * count <= SNAP else ratio


def source_span(start: int, count: int, ratio: float) -> tuple[int, int]:
    """The first source pixel, and the one after the last, for a run of `count` target pixels along one axis."""
    if ratio == int(ratio):
        return start * int(ratio), (start + count) * int(ratio)
    ends, weights = footprints(start, 1, ratio), footprints(start + count - 1, 1, ratio)
    return int(ends[0][0]), int(weights[0][0]) + weights[1].shape[1]


def area_average(
    source: Pixels, starts: tuple[int, int], shape: tuple[int, int], ratios: tuple[float, float]
) -> Pixels:
    """Average a source band over the footprints of target pixels.

    Parameters
    ----------
    source : (h, w, c) array
        The source pixels of `source_span` along both axes.
    starts, shape : tuple of int
        First target pixel and number of target pixels, `(y, x)`.
    ratios : tuple of float
        Source pixels per target pixel, `(y, x)`, as `settled_ratio` gives them.

    Returns
    -------
    (height, width, c) array of the source's dtype; integers are rounded to the nearest (half to even).
    """
    if ratios == (1.0, 1.0):
        return source
    if all(r == int(r) for r in ratios):
        return _whole(source, int(ratios[0]), int(ratios[1]))
    working = np.float32 if source.dtype.itemsize == 1 else np.float64
    rows = _taps(source, starts[0], shape[0], ratios[0], working)
    columns = _taps(rows.swapaxes(0, 1), starts[1], shape[1], ratios[1], working)
    return _as_dtype(columns.swapaxes(0, 1), source.dtype)


def _whole(source: Pixels, n: int, m: int) -> Pixels:
    """Mean of n x m blocks."""
    if source.dtype.kind in "iu":
        info = np.iinfo(source.dtype)
        fits = n * m * max(info.max, -int(info.min)) < 2**31
        row_type: type = np.int32 if fits else np.int64 if info.bits <= 32 else np.float64
        if source.dtype == np.uint8 and n <= 257:
            row_type = np.uint16
        total_type: type = np.int32 if fits else np.int64 if info.bits <= 32 else np.float64
    else:
        row_type = total_type = np.float64
    rows: Pixels = source[0::n].astype(row_type)
    for tap in range(1, n):
        rows += source[tap::n]
    total: Pixels = rows[:, 0::m].astype(total_type)
    for tap in range(1, m):
        total += rows[:, tap::m]
    return _as_dtype(total / np.float64(n * m), source.dtype)


def _taps(source: Pixels, start: int, count: int, ratio: float, working: type) -> Pixels:
    """Weighted sum along the first axis, tap after tap."""
    if ratio == int(ratio):
        index = np.arange(count) * int(ratio)
        shares: Pixels = np.full((count, int(ratio)), 1 / ratio, working)
    else:
        first, weights = footprints(start, count, ratio)
        index = first - first[0]
        shares = weights.astype(working)
    total = np.zeros((count, *source.shape[1:]), working)
    for tap in range(shares.shape[1]):
        part: Pixels = source[index + tap].astype(working, copy=False)
        total += part * shares[:, tap].reshape(-1, *(1,) * (source.ndim - 1))
    return total


def _as_dtype(values: Pixels, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind in "iu":
        values = np.rint(values)
        if dtype.itemsize > 4:
            return values.astype(dtype)
        info = np.iinfo(dtype)
        values = np.clip(values, info.min, info.max)
    return np.ascontiguousarray(values, dtype)
