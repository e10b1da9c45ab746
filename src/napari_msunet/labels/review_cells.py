"""Windows of one size laid over a label store, and sums over them taken from a coarse level of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

SMALLEST = 32
"""Least side of a window in pixels of the store: the work grows with the number of windows."""

_PIXELS_ACROSS = 4
"""Pixels of the coarse level that a window should have a side."""

_LONGEST = 4096
"""Longest side of the coarse level, so that it fits into memory whatever the slide's size."""

_BAND = 512
"""Rows of the coarse level that are read at once."""

Means = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """Windows of `size` pixels a side that cover a store; those at its edges are cut.

    Attributes
    ----------
    shape : (height, width)
        Of the store's level 0.
    size : int
        Side of a window in level-0 pixels.
    level : int
        The level that sums are taken from; a pixel of it has `factor` level-0 pixels a side.
    coarse : (height, width)
        Of that level.
    """

    shape: tuple[int, int]
    size: int
    level: int
    coarse: tuple[int, int]

    @classmethod
    def over(cls, shapes: Sequence[tuple[int, int]], size: int) -> Cells:
        """The windows over a pyramid with levels of these shapes.

        Raises
        ------
        StoreError
            If the size is under `SMALLEST` pixels.
        """
        if not isinstance(size, int) or size < SMALLEST:
            raise StoreError(f"Windows of {size!r} pixels are too small to be reviewed; give at least {SMALLEST}.")
        wanted = max(0, (size // _PIXELS_ACROSS).bit_length() - 1)
        level = min(wanted, len(shapes) - 1)
        while max(shapes[level]) > _LONGEST and level < len(shapes) - 1 and 2 ** (level + 1) <= size:
            level += 1
        return cls(shapes[0], size, level, shapes[level])

    @property
    def factor(self) -> int:
        """Level-0 pixels to one of the coarse level, along each side."""
        return int(2**self.level)

    @property
    def counts(self) -> tuple[int, int]:
        """Number of windows along y and x."""
        return -(-self.shape[0] // self.size), -(-self.shape[1] // self.size)

    def window(self, row: int, column: int) -> Window:
        """One of the windows."""
        return Window(row * self.size, column * self.size, self.size, self.size).intersection(Window(0, 0, *self.shape))

    def centres(self) -> npt.NDArray[np.float64]:
        """`(rows, columns, 2)`: the middles `y, x` of all windows, in level-0 pixels."""
        rows, columns = self.counts
        y = (np.arange(rows) + np.minimum(np.arange(1, rows + 1), self.shape[0] / self.size)) * self.size / 2
        x = (np.arange(columns) + np.minimum(np.arange(1, columns + 1), self.shape[1] / self.size)) * self.size / 2
        return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)

    def edges(self, axis: int) -> npt.NDArray[np.int64]:
        """First coarse pixel of each window along an axis, and the end of the last one."""
        starts = np.arange(self.counts[axis], dtype=np.int64) * self.size // self.factor
        return np.append(starts, self.coarse[axis])

    def bands(self) -> Iterator[tuple[slice, Window]]:
        """Rows of windows, a few at a time, and the coarse pixels that they are made of."""
        edges = self.edges(0)
        step = max(1, _BAND * self.factor // self.size)
        for first in range(0, self.counts[0], step):
            last = min(first + step, self.counts[0])
            yield (
                slice(first, last),
                Window.between((int(edges[first]), 0), (int(edges[last]), self.coarse[1])),
            )

    def mean(self, values: npt.NDArray[Any], rows: slice | None = None) -> Means:
        """Means over the windows of coarse pixels: of the whole level, or of a band as `bands` gives it."""
        y, x = self.edges(0), self.edges(1)
        if rows is not None:
            y = y[rows.start : rows.stop + 1] - y[rows.start]
        sums = np.add.reduceat(values.astype(np.float32, copy=False), x[:-1], axis=1)
        sums = np.add.reduceat(sums, y[:-1], axis=0)
        area = np.diff(y)[:, None] * np.diff(x)[None]
        means: Means = (sums / area).astype(np.float32)
        return means

    def means(self, read: Callable[[Window], npt.NDArray[Any]], tell: Callable[[int, int], None]) -> Means:
        """Means over all windows of what `read` gives for windows of coarse pixels, in bounded memory."""
        out = np.zeros(self.counts, np.float32)
        bands = list(self.bands())
        for number, (rows, window) in enumerate(bands, 1):
            out[rows] = self.mean(read(window), rows)
            tell(number, len(bands))
        return out

    def cover(self, windows: Sequence[Window], flags: Flags | None = None) -> Flags:
        """The coarse pixels that level-0 windows touch, as a mask of the level (added to `flags`, if given)."""
        mask = np.zeros(self.coarse, np.bool_) if flags is None else flags
        f = self.factor
        for w in windows:
            mask[max(0, w.y) // f : -(-max(0, w.stop[0]) // f), max(0, w.x) // f : -(-max(0, w.stop[1]) // f)] = True
        return mask
