"""A level of a pyramid as a plane without end: its chunks, its last pixels repeated, and background all around."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window, snapped
from napari_msunet.slide.backend import Level, Pixels

Chunks = Callable[[int, int], Pixels]


class LevelPlane:
    """Reads any window of a level.

    Parameters
    ----------
    level : Level
        The level.
    extent : tuple of int
        Height and width of the slide in level-0 pixels. A level that was rounded down ends before the slide does: its
        last pixels are repeated up to the slide's end. A pixel that the slide's end cuts is mixed with background.
    background : (c,) array
        Colour outside the slide.
    """

    def __init__(self, level: Level, extent: tuple[int, int], background: Pixels) -> None:
        self.shape = level.shape
        self._chunk = level.chunk
        self._background = background
        self._ends = tuple(snapped(n / d) for n, d in zip(extent, level.downsample, strict=True))

    def read(self, window: Window, chunks: Chunks) -> Pixels:
        """The pixels of a window that may stick out anywhere."""
        rows = self._inside(window.y, window.height, 0)
        columns = self._inside(window.x, window.width, 1)
        if rows.take.size == window.height and columns.take.size == window.width and rows.whole and columns.whole:
            return self.inner(window, chunks)
        result = np.empty((*window.shape, self._background.size), self._background.dtype)
        result[...] = self._background
        if not rows.take.size or not columns.take.size:
            return result
        top, left = int(rows.take[0]), int(columns.take[0])
        inner = Window.between((top, left), (int(rows.take[-1]) + 1, int(columns.take[-1]) + 1))
        pixels = self.inner(inner, chunks)
        if not rows.whole:
            pixels = self._mixed(pixels[rows.take - top], rows.share[:, None, None])
        if not columns.whole:
            pixels = self._mixed(pixels[:, columns.take - left], columns.share[None, :, None])
        y, x = rows.offset, columns.offset
        result[y : y + rows.take.size, x : x + columns.take.size] = pixels
        return result

    def inner(self, window: Window, chunks: Chunks) -> Pixels:
        """The pixels of a window that lies inside the level; a copy, or a read-only view of one chunk."""
        (y, x), (bottom, right) = (window.y, window.x), window.stop
        height, width = self._chunk
        first, last = (y // height, x // width), ((bottom - 1) // height, (right - 1) // width)
        if first == last:
            return chunks(*first)[y - first[0] * height : bottom - first[0] * height, x - first[1] * width :][
                :, : right - x
            ]
        result = np.empty((*window.shape, self._background.size), self._background.dtype)
        for cy in range(first[0], last[0] + 1):
            for cx in range(first[1], last[1] + 1):
                part = Window(cy * height, cx * width, height, width).intersection(window)
                result[part.slices((y, x))] = chunks(cy, cx)[part.slices((cy * height, cx * width))]
        return result

    def _inside(self, start: int, count: int, axis: int) -> _Run:
        """Which pixels of the level a run along one axis takes, and how much of each lies in the slide."""
        end, size = self._ends[axis], self.shape[axis]
        places = np.arange(start, start + count, dtype=np.int64)
        share = np.clip(end - places, 0.0, 1.0)
        inside = (places >= 0) & (share > 0)
        places, share = places[inside], share[inside]
        return _Run(np.minimum(places, size - 1), share, max(0, -start))

    def _mixed(self, pixels: Pixels, share: npt.NDArray[np.float64]) -> Pixels:
        """Pixels mixed with background by the share of them that lies in the slide, rounded to the slide's dtype."""
        if share.min() == 1:
            return pixels
        mixed = share * pixels + (1 - share) * self._background
        if pixels.dtype.kind in "iu":
            mixed = np.rint(mixed)
        return np.where(share == 1, pixels, mixed.astype(pixels.dtype))


class _Run:
    """Pixels along one axis: which to take, their share in the slide, and where they go."""

    def __init__(self, take: npt.NDArray[np.int64], share: npt.NDArray[np.float64], offset: int) -> None:
        self.take, self.share, self.offset = take, share, offset
        self.whole = take.size > 0 and bool(share.min() == 1) and int(take[-1] - take[0]) + 1 == take.size
