"""Maps of one grid on another over the same slide, bilinearly between pixel centres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Grid, Window

Probabilities = npt.NDArray[np.float32]


def target_window(own: Window, own_grid: Grid, grid: Grid) -> Window:
    """The pixels of `grid` between which the pixels of a window of `own_grid` are interpolated."""
    first, last = zip(*(_places(own, own_grid, grid, axis)[0][[0, -1]] for axis in (0, 1)), strict=True)
    stop = [min(int(v) + 2, n) for v, n in zip(last, grid.shape, strict=True)]
    return Window.between((int(first[0]), int(first[1])), (stop[0], stop[1]))


def _places(
    own: Window, own_grid: Grid, grid: Grid, axis: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel of a window along an axis: the grid pixel before its centre, and how far it is from that to the
    next, 0 to 1. Beyond the first and the last pixel centre of the grid, the outermost pixel counts."""
    start, count = (own.y, own.height) if axis == 0 else (own.x, own.width)
    centres = (start + np.arange(count) + 0.5) * own_grid.pixel[axis] / grid.pixel[axis] - 0.5
    centres = np.clip(centres, 0, grid.shape[axis] - 1)
    first = np.floor(centres).astype(np.int64)
    return first, (centres - first).astype(np.float32)


def on_grid(maps: Probabilities, window: Window, grid: Grid, own_grid: Grid, own: Window) -> Probabilities:
    """Bring maps to another grid over the same slide, bilinearly between pixel centres.

    Parameters
    ----------
    maps : (K+1, h, w) float32 array
        In `window` of `grid`, which holds at least `target_window(own, ...)`.
    own : Window
        The wanted pixels of `own_grid`.

    Returns
    -------
    (K+1, height, width) float32 array
    """
    rows, row_share = _places(own, own_grid, grid, 0)
    columns, column_share = _places(own, own_grid, grid, 1)
    rows, columns = rows - window.y, columns - window.x
    below, right = np.minimum(rows + 1, maps.shape[1] - 1), np.minimum(columns + 1, maps.shape[2] - 1)
    share = row_share[:, None]
    mixed: npt.NDArray[Any] = maps[:, rows] * (1 - share) + maps[:, below] * share
    mixed = mixed[:, :, columns] * (1 - column_share) + mixed[:, :, right] * column_share
    return mixed.astype(np.float32, copy=False)
