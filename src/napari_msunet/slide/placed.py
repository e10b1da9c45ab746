"""Masks on a grid of their own, which can be read on any other grid over the same slide by the nearest pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import SlideError
from napari_msunet.geometry import SNAP, Grid, Window, pixel_centres

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

_READ = 1 << 24
"""Approximate largest number of pixels of a mask that are read at once."""


class PlacedMask(ABC):
    """A mask over a slide, with its pixels on `grid`; `read` gives them.

    A pixel of another grid gets the value of the mask's pixel in which its centre lies, so it depends on its own place
    only. Outside the slide, everything is False.
    """

    grid: Grid

    @abstractmethod
    def read(self, window: Window) -> Bools:
        """The mask's own pixels in a window of `grid`, inside it."""

    def on(self, grid: Grid, window: Window) -> Bools:
        """The mask on another grid.

        Parameters
        ----------
        grid : Grid
            Over the same slide.
        window : Window
            In pixels of `grid`; it may stick out of the slide.

        Returns
        -------
        (height, width) bool

        Raises
        ------
        SlideError
            If the grid lies over a slide of another size.
        """
        same_slide(self.grid, grid)
        result = np.zeros((max(0, window.height), max(0, window.width)), np.bool_)
        inside = window.intersection(grid.whole)
        if inside.empty:
            return result
        rows, columns = self._nearest(grid, inside, 0), self._nearest(grid, inside, 1)
        view = result[inside.slices((window.y, window.x))]
        left, right = int(columns[0]), int(columns[-1]) + 1
        step = _rows_at_once(rows, right - left)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            top = int(part[0])
            source = self.read(Window.between((top, left), (int(part[-1]) + 1, right)))
            view[first : first + step] = source[part - top][:, columns - left]
        return result

    def cells(self, grid: Grid, window: Window, cell: int) -> Bools:
        """Which squares of `cell` x `cell` pixels of a grid, from the window's corner, hold a true pixel.

        The result is that of `on`, but without a value for each pixel.
        """
        same_slide(self.grid, grid)
        counts = -(-max(0, window.height) // cell), -(-max(0, window.width) // cell)
        result = np.zeros(counts, np.bool_)
        inside = window.intersection(grid.whole)
        if inside.empty:
            return result
        rows, row_starts, first_row = self._touched(grid, inside, window.y, cell, 0)
        columns, column_starts, first_column = self._touched(grid, inside, window.x, cell, 1)
        left, right = int(columns[0]), int(columns[-1]) + 1
        stops = [*row_starts[1:].tolist(), len(rows)]
        done = 0
        while done < len(row_starts):
            until = done + 1
            start, top = int(row_starts[done]), int(rows[row_starts[done]])
            while until < len(stops) and (int(rows[stops[until] - 1]) + 1 - top) * (right - left) <= _READ:
                until += 1
            part = rows[start : stops[until - 1]]
            source = self.read(Window.between((top, left), (int(part[-1]) + 1, right)))
            across = np.logical_or.reduceat(source[:, columns - left], column_starts, axis=1)
            both = np.logical_or.reduceat(across[part - top], row_starts[done:until] - start, axis=0)
            result[first_row + done : first_row + until, first_column : first_column + both.shape[1]] = both
            done = until
        return result

    def _nearest(self, grid: Grid, window: Window, axis: int) -> Indices:
        """The mask's rows (axis 0) or columns (axis 1) that the centres of a window's pixels lie in."""
        start, count = (window.y, window.x)[axis], window.shape[axis]
        places = pixel_centres(start, count) * (grid.pixel[axis] / self.grid.pixel[axis])
        # a centre on a line belongs to the pixel after it; that of a grid's last pixel may lie a little outside
        lines = np.rint(places)
        places = np.where(np.abs(places - lines) <= SNAP, lines, places)
        nearest: Indices = np.minimum(places.astype(np.int64), self.grid.shape[axis] - 1)
        return nearest

    def _touched(self, grid: Grid, inside: Window, origin: int, cell: int, axis: int) -> tuple[Indices, Indices, int]:
        """The rows or columns of each cell, cell after cell, each once; where those of a cell begin; and the first
        cell."""
        used = self._nearest(grid, inside, axis)
        cells = (np.arange(len(used)) + (inside.y, inside.x)[axis] - origin) // cell
        new = np.r_[True, (np.diff(used) != 0) | (np.diff(cells) != 0)]
        used, cells = used[new], cells[new]
        return used, np.flatnonzero(np.r_[True, np.diff(cells) != 0]), int(cells[0])


class Held(PlacedMask):
    """A mask in memory."""

    def __init__(self, grid: Grid, mask: Bools) -> None:
        self.grid, self.mask = grid, mask

    def read(self, window: Window) -> Bools:
        """The mask's own pixels in a window of `grid`, inside it."""
        return self.mask[window.slices()]


def same_slide(own: Grid, other: Grid) -> None:
    """Raise `SlideError` where two grids lie over slides of different sizes."""
    if own.extent != other.extent:
        raise SlideError(
            f"The mask is for a slide of {own.extent[0]} x {own.extent[1]} pixels (height x width), but it is asked "
            f"for on one of {other.extent[0]} x {other.extent[1]}; use the mask of this slide."
        )


def _rows_at_once(rows: Indices, width: int) -> int:
    """How many target rows are read at once."""
    span = max(1, int(rows[-1] - rows[0]) + 1)
    return max(1, int(len(rows) * min(1.0, _READ / (span * width))))
