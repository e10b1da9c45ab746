"""Where a prediction is computed: the mask of what is wanted, and which tiles it touches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Grid, Window
from napari_msunet.labels.where import Mask, where_mask

__all__ = ["Mask", "coverage", "where_mask"]


def coverage(mask: Mask | None, grid: Grid, window: Window, cell: int) -> npt.NDArray[np.bool_]:
    """Which cells of a window hold any pixel that is wanted.

    It says the same as `mask.on` for each cell, without a value for each pixel, so a tissue mask over
    100,000 x 100,000 pixels takes well under a second and a few MB.

    Parameters
    ----------
    mask : Mask or None
        From `where_mask`; None: all of the slide.
    grid : Grid
        Over the mask's slide.
    window : Window
        In pixels of `grid`; it may stick out of the slide, where nothing is wanted.
    cell : int
        Side of a cell in pixels of `grid`; the first begins at the window's corner, the last may be cut.

    Returns
    -------
    (ceil(height / cell), ceil(width / cell)) bool

    Raises
    ------
    SlideError
        If the grid lies over a slide of another size.
    """
    if cell < 1:
        raise ValueError(f"A cell has at least one pixel a side; got {cell}.")
    if mask is not None:
        return mask.cells(grid, window, cell)
    sides = []
    for start, stop, length in zip((window.y, window.x), window.stop, grid.shape, strict=True):
        starts = np.arange(start, stop, cell)
        sides.append((np.minimum(starts + cell, stop) > 0) & (starts < length))
    return np.logical_and.outer(*sides)
