"""Shapes of any size as masks, window by window, so that a large brush or polygon needs no array of its size.

Coordinates are the store's level-0 pixels as in a `Region`: the centre of pixel `i` is at `i + 0.5`. A pixel belongs to
a shape if its centre lies inside, whatever the window it is asked for in.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

LARGEST_SHAPE = 32_768
"""Side in level-0 pixels of the largest shape of one stroke, which takes about a second, off the GUI thread."""

Inside = npt.NDArray[np.bool_] | bool
"""Which pixels of a window are inside: an array of its shape, or one value for all."""


class Shape(Protocol):
    """A shape that `LabelStore.write_shape` can paint."""

    @property
    def window(self) -> Window:
        """The smallest window around it; may stick out of the store."""
        ...

    def on(self, window: Window) -> Inside:
        """Which pixels of a window have their centre inside."""
        ...


class Brush:
    """All pixels within `radius` of a line, as a round brush paints them along it.

    Parameters
    ----------
    points : (n, 2) array
        `y, x` of the line's points; one point is a disc.
    radius : float
        In level-0 pixels.

    Raises
    ------
    StoreError
        If points or radius are not finite numbers, or there is no point.
    """

    def __init__(self, points: npt.ArrayLike, radius: float) -> None:
        self._points = np.atleast_2d(np.asarray(points, np.float64))
        self._radius = float(radius)
        fine = self._points.ndim == 2 and self._points.shape[1:] == (2,) and len(self._points)
        if not fine or not np.isfinite(self._points).all() or not 0 < self._radius < 2**31:
            raise StoreError("A brush needs points (y, x) and a radius above zero, all finite numbers.")
        self._quads = [Polygon(q) for q in _quads(self._points, self._radius)]

    @property
    def window(self) -> Window:
        low, high = self._points.min(axis=0) - self._radius, self._points.max(axis=0) + self._radius
        return Window.between((floor(low[0]), floor(low[1])), (ceil(high[0]), ceil(high[1])))

    def on(self, window: Window) -> Inside:
        y = np.arange(window.height)[:, None] + window.y + 0.5
        x = np.arange(window.width)[None, :] + window.x + 0.5
        near = np.clip(self._points, [window.y, window.x], window.stop)
        square = self._radius**2
        out: Inside = False
        for cy, cx in self._points[((near - self._points) ** 2).sum(axis=1) <= square]:
            dy, dx = (y - cy) ** 2, (x - cx) ** 2
            if dy.max() + dx.max() <= square:
                return True
            out = out | (dy + dx <= square)
        for quad in self._quads:
            part = quad.on(window)
            if part is True:
                return True
            if part is not False:
                out = out | part
        return out if isinstance(out, bool) or out.any() else False


class Polygon:
    """The inside of a polygon, by the even-odd rule.

    Parameters
    ----------
    corners : (n, 2) array
        `y, x`; the last is joined to the first.

    Raises
    ------
    StoreError
        If there are fewer than three corners, or they are not finite numbers.
    """

    def __init__(self, corners: npt.ArrayLike) -> None:
        points = np.asarray(corners, np.float64)
        if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise StoreError(
                f"A polygon needs at least three corners (y, x) of finite numbers; got shape {points.shape}."
            )
        self._from, self._to = points, np.roll(points, -1, axis=0)

    @property
    def window(self) -> Window:
        low, high = self._from.min(axis=0), self._from.max(axis=0)
        return Window.between((floor(low[0]), floor(low[1])), (ceil(high[0]), ceil(high[1])))

    def on(self, window: Window) -> Inside:
        if window.intersection(self.window).empty:
            return False
        first = np.ceil(np.minimum(self._from[:, 0], self._to[:, 0]) - 0.5).astype(np.int64)
        last = np.ceil(np.maximum(self._from[:, 0], self._to[:, 0]) - 0.5).astype(np.int64)
        first, last = np.clip(first, window.y, window.stop[0]), np.clip(last, window.y, window.stop[0])
        counts = last - first
        edges = np.repeat(np.arange(len(counts)), counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
        start, stop = self._from[edges], self._to[edges]
        x = start[:, 1] + (rows + 0.5 - start[:, 0]) / (stop[:, 0] - start[:, 0]) * (stop[:, 1] - start[:, 1])
        # the border is crossed just before this column: all that follow in the row change sides
        columns = np.clip(np.ceil(x - 0.5) - window.x, 0, window.width).astype(np.int64)
        width = window.width + 1
        crossings = np.bincount((rows - window.y) * width + columns, minlength=window.height * width)
        crossings = crossings.reshape(window.height, width)
        if not crossings[:, 1:-1].any():
            whole = crossings[:, 0] % 2 == 1
            if whole.all() or not whole.any():
                return bool(whole[0])
        inside: npt.NDArray[np.bool_] = (np.cumsum(crossings[:, :-1], axis=1, dtype=np.int64) & 1).astype(np.bool_)
        return inside


def _quads(points: npt.NDArray[np.float64], radius: float) -> list[npt.NDArray[np.float64]]:
    """The rectangles between neighbouring points of a line of twice this radius."""
    quads = []
    for a, b in pairwise(points):
        length = float(np.hypot(*(b - a)))
        if length > 0:
            across = np.array([-(b - a)[1], (b - a)[0]]) * (radius / length)
            quads.append(np.array([a + across, b + across, b - across, a - across]))
    return quads
