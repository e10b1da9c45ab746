"""A stroke under way: the pixels painted since the mouse was pressed, kept in memory until they are stored."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels.levels import around
from napari_msunet.widgets.brush import Disc, Mask, part_of

TILE = 256
"""Side of the tiles in which a stroke is kept."""

BLOCK = 512
"""Side of the windows in which a stroke is stored; a long slanting stroke is a row of them, not one large window."""

WIDE = 2048
"""Largest width in pixels of a row of blocks that are stored together, where all are fully painted with one value."""

Key = tuple[int, int]

Values = int | npt.NDArray[np.integer]
"""The painted values: one label, or one for each pixel."""


class PaintedTile(NamedTuple):
    """A tile of painted values (an array of `TILE` x `TILE`, or one value), and where they were painted (None:
    everywhere)."""

    values: Values
    mask: npt.NDArray[np.bool_] | None

    @property
    def uniform(self) -> bool:
        """Whether all of the tile was painted with one value."""
        return self.mask is None and np.ndim(self.values) == 0


def cut(window: Window, side: int) -> Iterator[tuple[Key, Window]]:
    """The squares of `side` pixels that a window touches: their number `(row, column)`, and the part of the window
    there."""
    if window.empty:
        return
    for row in range(window.y // side, -(-window.stop[0] // side)):
        for column in range(window.x // side, -(-window.stop[1] // side)):
            yield (row, column), window.intersection(Window(row * side, column * side, side, side))


class Stroke:
    """The level-0 pixels that were painted; the memory grows with the touched area.

    A tile that was fully painted is one value, and a tile at the border of the stroke is a value and a mask, so that a
    brush of thousands of pixels takes only the memory and time of its border. Dabs are put into tiles when tiles are
    read, so that a dab that can be shown without them takes nearly no time. Any thread may read tiles.

    Parameters
    ----------
    shape : (height, width)
        Shape of the store.
    dtype : numpy.dtype
        Type of its labels.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[np.integer]) -> None:
        self._bounds = Window(0, 0, *shape)
        self._dtype = dtype
        self._tiles: dict[Key, PaintedTile] = {}
        self._boxes: dict[Key, Window] = {}
        self._dabs: deque[tuple[Window, Values, Mask]] = deque()
        self._settling = threading.RLock()

    @property
    def empty(self) -> bool:
        """Whether nothing was painted."""
        return not self._tiles and not self._dabs

    @property
    def window(self) -> Window:
        """The smallest window around all that was painted."""
        self._settle()
        boxes = list(self._boxes.values())
        start = (min(box.y for box in boxes), min(box.x for box in boxes))
        return Window.between(start, (max(box.stop[0] for box in boxes), max(box.stop[1] for box in boxes)))

    def paint(self, window: Window, values: Values, mask: Mask = None) -> None:
        """Paint one value, or an array of the window's shape, where `mask` is true (None: everywhere).

        The arrays are kept, and must not be changed afterwards.
        """
        inside = window.intersection(self._bounds)
        large = isinstance(mask, Disc)
        if inside.empty or not (large or mask is None or part_of(mask, window, inside).any()):  # type: ignore[union-attr]
            return  # the mask is empty: the stroke stays as it is
        self._dabs.append((window, values, mask))
        if large:  # many large dabs would take much memory, and time when they are put into tiles
            self._settle()

    def _settle(self) -> None:
        """Put the dabs that wait into tiles."""
        with self._settling:
            while self._dabs:
                self._put(*self._dabs[0])
                self._dabs.popleft()

    def _put(self, window: Window, values: Values, mask: Mask) -> None:
        scalar = np.ndim(values) == 0
        for key, part in cut(window.intersection(self._bounds), TILE):
            part_mask = part_of(mask, window, part)
            if part_mask is not None and not part_mask.any():
                continue
            if scalar:
                self._dab(key, part, int(values), part_mask)
            else:
                self._lay(key, part, values[part.slices((window.y, window.x))], part_mask)
            block = (key[0] * TILE // BLOCK, key[1] * TILE // BLOCK)
            self._boxes[block] = around((self._boxes.get(block, part), part))

    def _dab(self, key: Key, part: Window, value: int, mask: npt.NDArray[np.bool_] | None) -> None:
        """Paint one value into a tile."""
        tile = self._tiles.get(key)
        if (mask is None or mask.all()) and part == self.square(key):
            self._tiles[key] = PaintedTile(value, None)
        elif tile is None or (np.ndim(tile.values) == 0 and tile.values == value):
            if tile is None:
                tile = self._tiles[key] = PaintedTile(value, np.zeros((TILE, TILE), np.bool_))
            if tile.mask is None:
                return
            inner = self._inner(key, part)
            if mask is None:
                tile.mask[inner] = True
            else:
                tile.mask[inner] |= mask
            if tile.mask[self._inner(key, self.square(key))].all():
                self._tiles[key] = PaintedTile(value, None)
        else:
            self._lay(key, part, value, mask)

    def _lay(self, key: Key, part: Window, values: Values, mask: npt.NDArray[np.bool_] | None) -> None:
        """Paint several values into a tile."""
        tile = self._tiles.get(key, PaintedTile(0, np.zeros((TILE, TILE), np.bool_)))
        array = tile.values if np.ndim(tile.values) else np.full((TILE, TILE), tile.values, self._dtype)
        marks = np.ones((TILE, TILE), np.bool_) if tile.mask is None else tile.mask
        inner = self._inner(key, part)
        np.copyto(array[inner], values, where=True if mask is None else mask)
        np.copyto(marks[inner], True, where=True if mask is None else mask)
        self._tiles[key] = PaintedTile(array, marks)

    def keys(self, window: Window) -> Iterator[Key]:
        """The tiles inside `window` that were painted on."""
        self._settle()
        if len(self._tiles) * TILE * TILE < window.height * window.width:
            first, last = (window.y // TILE, window.x // TILE), (-(-window.stop[0] // TILE), -(-window.stop[1] // TILE))
            yield from (k for k in self._tiles if first[0] <= k[0] < last[0] and first[1] <= k[1] < last[1])
        else:
            yield from (key for key, _ in cut(window, TILE) if key in self._tiles)

    def tile(self, key: Key) -> PaintedTile | None:
        """The painted values of a tile."""
        return self._tiles.get(key)

    def square(self, key: Key) -> Window:
        """The window of a tile, cut at the edges of the store."""
        return Window(key[0] * TILE, key[1] * TILE, TILE, TILE).intersection(self._bounds)

    def lay_over(self, window: Window, out: npt.NDArray[np.integer]) -> None:
        """Put the stroke over the labels `out` of a window."""
        for key in self.keys(window):
            part, tile = self.square(key).intersection(window), self._tiles[key]
            inner, outer = self._inner(key, part), part.slices((window.y, window.x))
            values = tile.values[inner] if np.ndim(tile.values) else tile.values
            np.copyto(out[outer], values, where=True if tile.mask is None else tile.mask[inner])

    def parts(self) -> Iterator[tuple[Window, Values, npt.NDArray[np.bool_] | None]]:
        """The stroke as windows that do not overlap, with values and masks, as the store takes them."""
        self._settle()
        wide: Window | None = None
        value = 0
        for _, box in sorted(self._boxes.items()):
            tiles = [self._tiles.get(key) for key, _ in cut(box, TILE)]
            first = tiles[0]
            if first is not None and all(t is not None and t.uniform and t.values == first.values for t in tiles):
                if wide is not None and value == first.values and _continues(wide, box):
                    wide = around((wide, box))
                    continue
                if wide is not None:
                    yield wide, value, None
                wide, value = box, first.values
            else:
                yield self._part(box, tiles)
        if wide is not None:
            yield wide, value, None

    def _part(self, box: Window, tiles: Iterable[PaintedTile | None]) -> tuple[Window, Values, npt.NDArray[np.bool_]]:
        """The painted values of a block: one value if all its tiles have the same."""
        tiles = list(tiles)
        found = {tile.values if np.ndim(tile.values) == 0 else None for tile in tiles if tile is not None}
        one = found.pop() if len(found) == 1 else None
        values, mask = np.zeros(() if one is not None else box.shape, self._dtype), np.zeros(box.shape, np.bool_)
        for tile, (key, part) in zip(tiles, cut(box, TILE), strict=True):
            if tile is None:
                continue
            inner, outer = self._inner(key, part), part.slices((box.y, box.x))
            mask[outer] = True if tile.mask is None else tile.mask[inner]
            if one is None:
                values[outer] = tile.values[inner] if np.ndim(tile.values) else tile.values
        return box, values if one is None else one, mask

    def _inner(self, key: Key, part: Window) -> tuple[slice, slice]:
        return part.slices((key[0] * TILE, key[1] * TILE))


def _continues(wide: Window, box: Window) -> bool:
    """Whether a block begins where a row of blocks ends, and can be joined to it."""
    return (box.y, box.height) == (wide.y, wide.height) and box.x == wide.stop[1] and box.x // WIDE == wide.x // WIDE
