"""Lines and lassos as masks."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt
from skimage.draw import line as segment

from napari_msunet.errors import StoreError
from napari_msunet.labels.edits.edit import Mask


def line(shape: tuple[int, int], points: npt.ArrayLike) -> Mask:
    """The pixels under a line through points: it separates what hangs together by the sides of pixels.

    Parameters
    ----------
    shape : (h, w)
        Of the window.
    points : (n, 2) array
        `y, x` in pixels of the window, 0.5 being the middle of the first; they may lie outside.

    Returns
    -------
    (h, w) bool
    """
    mask = np.zeros(shape, np.bool_)
    mask[pixels_along(shape, points)] = True
    return mask


def pixels_along(shape: tuple[int, ...], points: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the pixels of `line`, in the order in which it meets them."""
    corners = np.floor(_points(points, 1)).astype(np.int64)
    found = [corners[:1].T]
    for (y0, x0), (y1, x1) in pairwise(corners):
        found.append(np.stack(segment(y0, x0, y1, x1)))  # type: ignore[no-untyped-call]
    rows, columns = np.concatenate(found, axis=1)
    inside = (rows >= 0) & (columns >= 0) & (rows < shape[0]) & (columns < shape[1])
    return rows[inside], columns[inside]


def inside_polygon(shape: tuple[int, int], points: npt.ArrayLike) -> Mask:
    """The pixels whose middle lies in a polygon, such as a lasso: (h, w) bool.

    `points` as for `line`, at least 3; the last is joined to the first. Where it crosses itself, what is inside twice
    is outside. Time goes with the pixels plus the polygon's length, so a lasso may have thousands of points.
    """
    corners = _points(points, 3)
    height, width = shape
    crossings = np.zeros((height, width + 1), np.uint8)
    for (y0, x0), (y1, x1) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        if y0 > y1:
            y0, x0, y1, x1 = y1, x1, y0, x0
        first, stop = max(0, ceil(y0 - 0.5)), min(height, ceil(y1 - 0.5))
        if first >= stop:
            continue
        rows = np.arange(first, stop)
        columns = np.ceil(x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) - 0.5)
        crossings[rows, np.clip(columns, 0, width).astype(np.int64)] ^= 1
    inside: Mask = np.bitwise_xor.accumulate(crossings[:, :width], axis=1).view(np.bool_)
    return inside


def _points(points: npt.ArrayLike, fewest: int) -> npt.NDArray[np.float64]:
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < fewest or not np.isfinite(array).all():
        raise StoreError(f"A drawing needs at least {fewest} points (n, 2) of y, x; got an array of {array.shape}.")
    return array
