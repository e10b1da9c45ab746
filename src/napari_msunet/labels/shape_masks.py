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
from napari_msunet.geometry import Window, first_inside, pixel_centres, to_place

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
        y = pixel_centres(window.y, window.height)[:, None]
        x = pixel_centres(window.x, window.width)[None, :]
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
        self._corners = points

    @property
    def window(self) -> Window:
        low, high = self._corners.min(axis=0), self._corners.max(axis=0)
        return Window.between((floor(low[0]), floor(low[1])), (ceil(high[0]), ceil(high[1])))

    def on(self, window: Window) -> Inside:
        if window.intersection(self.window).empty:
            return False
        inside = filled(self._corners, window)
        return bool(inside[0, 0]) if inside.all() or not inside.any() else inside


def filled(corners: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.bool_]:
    """Which pixels of a window have their centre inside a polygon `(n, 2)`: an odd number of edges lies left of it.

    Where an edge meets a row of centres depends on the edge and the row alone, so all windows agree.
    """
    upper, lower = downward(corners)
    first = np.clip(first_inside(upper[:, 0]), window.y, window.stop[0]).astype(np.int64)
    counts = np.clip(first_inside(lower[:, 0]), window.y, window.stop[0]).astype(np.int64) - first
    edge = np.repeat(np.arange(len(corners)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    column = np.clip(first_right_of(upper[edge], lower[edge], row), window.x, window.stop[1]).astype(np.int64)
    turns = np.zeros((window.height, window.width + 1), np.uint8)
    np.bitwise_xor.at(turns, (row - window.y, column - window.x), 1)
    inside: npt.NDArray[np.bool_] = np.bitwise_xor.accumulate(turns[:, :-1], axis=1).view(np.bool_)
    return inside


def downward(corners: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The upper and the lower end of each edge of a polygon."""
    other = np.roll(corners, -1, axis=0)
    down = (corners[:, 0] <= other[:, 0])[:, None]
    return np.where(down, corners, other), np.where(down, other, corners)


def first_right_of(
    upper: npt.NDArray[np.float64], lower: npt.NDArray[np.float64], row: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The first pixel of a row whose centre is not left of an edge."""
    rise = (to_place(row.astype(np.float64)) - upper[:, 0]) / (lower[:, 0] - upper[:, 0])
    return first_inside(upper[:, 1] + rise * (lower[:, 1] - upper[:, 1]))


def _quads(points: npt.NDArray[np.float64], radius: float) -> list[npt.NDArray[np.float64]]:
    """The rectangles between neighbouring points of a line of twice this radius."""
    quads = []
    for a, b in pairwise(points):
        length = float(np.hypot(*(b - a)))
        if length > 0:
            across = np.array([-(b - a)[1], (b - a)[0]]) * (radius / length)
            quads.append(np.array([a + across, b + across, b - across, a - across]))
    return quads
