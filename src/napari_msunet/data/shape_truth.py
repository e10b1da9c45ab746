"""The truth of drawn outlines on a slide of any size, painted window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_msunet.annotation.painting import Painting, overview_step
from napari_msunet.annotation.shape_files import DrawnShape
from napari_msunet.data.masks import IGNORED, Mask
from napari_msunet.data.truth import OVERVIEW_PIXELS
from napari_msunet.geometry import Grid, Window

if TYPE_CHECKING:
    from napari_msunet.labels.where import Mask as Where


class ShapeTruth:
    """Class numbers of outlines; what none covers is background or ignored.

    Parameters
    ----------
    shapes : sequence of (int, DrawnShape)
        The class number of each.
    extent : (height, width)
        Of the slide in level-0 pixels.
    outside : int
        0 or 255.
    within : Mask, optional
        Pixels outside all shapes are background only in it.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, DrawnShape]],
        extent: tuple[int, int],
        outside: int = 0,
        within: Where | None = None,
    ) -> None:
        self.grid = Grid(extent, (1.0, 1.0))
        self._outside = outside
        self._within = within if outside == 0 else None
        self._painting = Painting(shapes)

    def read(self, window: Window) -> Mask:
        """The truth in a window of the slide's level-0 pixels; 255 outside the slide."""
        return self._painted(window, self.grid, 1)

    def instances(self) -> npt.NDArray[np.int64]:
        """`(h, w)` numbers of the objects, 0 outside: each outline is one, also where two touch."""
        objects = self._painting.read_objects(self.grid.whole).astype(np.int64)
        classes = np.array([0, *(s.number for s in self._painting.shapes)])
        objects[(classes[objects] == 0) | (classes[objects] == IGNORED)] = 0
        return objects

    def overview(self) -> tuple[Mask, Grid]:
        """Every n-th pixel; a shape smaller than that is one pixel."""
        step = overview_step(self.grid.extent, OVERVIEW_PIXELS)
        grid = Grid(self.grid.extent, (float(step), float(step)))
        return self._painted(grid.whole, grid, step), grid

    def _painted(self, window: Window, grid: Grid, step: int) -> Mask:
        values = self._painting.read(window, self._outside, step)
        if self._within is not None:
            covered = values == self._painting.read(window, 1, step)
            values[~covered & ~self._within.on(grid, window)] = IGNORED
        inside = window.intersection(grid.whole)
        if inside.shape != window.shape:
            values[: max(0, -window.y)] = IGNORED
            values[:, : max(0, -window.x)] = IGNORED
            values[max(0, grid.shape[0] - window.y) :] = IGNORED
            values[:, max(0, grid.shape[1] - window.x) :] = IGNORED
        return values
