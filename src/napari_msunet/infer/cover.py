"""Rectangles that cover what is wanted of a grid, at the least cost for a network that needs a margin around each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window

Cells = npt.NDArray[np.bool_]

PER_TILE = 20_000
"""Pixels through the network that take as long as whatever a tile costs beside its pixels."""


@dataclass(frozen=True)
class Cost:
    """What a rectangle costs.

    Attributes
    ----------
    cell : int
        Side of a cell in pixels of the branch.
    margin : int
        Pixels around the rectangle that the network sees, too.
    limit : int
        Pixels, margins included, that may go through the network at once.
    """

    cell: int
    margin: int
    limit: int

    def one(self, rows: float, columns: float) -> float:
        """Pixels through the network for one rectangle of this many cells, or those that would take as long."""
        return (rows * self.cell + 2 * self.margin) * (columns * self.cell + 2 * self.margin) + PER_TILE

    def fits(self, rows: int, columns: int) -> bool:
        """Whether so many cells may be one rectangle."""
        return rows * columns == 1 or self.one(rows, columns) - PER_TILE <= self.limit

    def split(self, rows: int, columns: int) -> tuple[int, int]:
        """Into how many equal parts, down and across, to cut a full rectangle."""
        if self.fits(rows, columns):
            return 1, 1
        best, found = (rows, columns), float("inf")
        for down in range(1, rows + 1):
            height = ceil(rows / down)
            if ceil(rows / height) != down:
                continue
            across = self._across(height, columns)
            if across is None:
                continue
            cost = down * across * self.one(rows / down, columns / across)
            if cost < found:
                best, found = (down, across), cost
        return best

    def _across(self, height: int, columns: int) -> int | None:
        """The fewest parts across that fit at a height."""
        room = self.limit / (height * self.cell + 2 * self.margin) - 2 * self.margin
        width = int(room // self.cell)
        if width < 1:
            return columns if self.fits(height, 1) else None
        return ceil(columns / width)

    def bounding(self, cells: Cells) -> float:
        """Of everything within the bounding box, cut where it must be."""
        if cells.size == 0:
            return 0.0
        down, across = self.split(*cells.shape)
        return down * across * self.one(cells.shape[0] / down, cells.shape[1] / across)


def cover(cells: Cells, cost: Cost) -> list[Window]:
    """Disjoint rectangles over all true cells.

    Cut in two, again and again, wherever the two bounding boxes cost less than the one around both.

    Parameters
    ----------
    cells : (rows, columns) bool
    cost : Cost

    Returns
    -------
    list of Window
        In cells, row by row of their corners.
    """
    return sorted(_pieces(cells, 0, 0, cost), key=lambda w: (w.y, w.x))


def _pieces(cells: Cells, y: int, x: int, cost: Cost) -> Iterator[Window]:
    box = _box(cells)
    if box is None:
        return
    cells, y, x = cells[box.slices()], y + box.y, x + box.x
    if not cells.all():
        cut = _best_cut(cells, cost)
        if cut is not None:
            first, second, dy, dx = cut
            yield from _pieces(first, y, x, cost)
            yield from _pieces(second, y + dy, x + dx, cost)
            return
    down, across = cost.split(*cells.shape)
    if (down, across) == (1, 1):
        yield Window(y, x, *cells.shape)
        return
    rows, columns = _parts(cells.shape[0], down), _parts(cells.shape[1], across)
    for a, b in rows:
        for c, d in columns:
            yield from _pieces(cells[a:b, c:d], y + a, x + c, cost)


def _best_cut(cells: Cells, cost: Cost) -> tuple[Cells, Cells, int, int] | None:
    """The cut after which both bounding boxes cost least; None where that is not less than one around both."""
    least, best = cost.bounding(cells) * 0.999, None
    for axis in (0, 1):
        for at in range(1, cells.shape[axis]):
            first, second = np.split(cells, [at], axis)
            both = sum(cost.bounding(part[box.slices()]) for part in (first, second) if (box := _box(part)) is not None)
            if both < least:
                least, best = both, (first, second, at if axis == 0 else 0, at if axis == 1 else 0)
    return best


def _box(cells: Cells) -> Window | None:
    """The bounding box of the true cells."""
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    if not len(rows):
        return None
    return Window.between((int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1))


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    """`count` parts whose lengths differ by one at most."""
    edges = [round(i * length / count) for i in range(count + 1)]
    return list(pairwise(edges))
