"""A stroke under way: what was painted since the mouse went down, kept in memory until it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.levels import coarsen

TILE = 256
"""Side of the tiles a stroke is kept in."""

BLOCK = 512
"""Side of the windows that are stored and coarsened: a long slanting stroke is a row of them, not one large window."""

Key = tuple[int, int]
Place = tuple[slice, slice]


class _Tile(NamedTuple):
    """Painted values: arrays of `TILE` x `TILE`, or one value for all of it (then `mask` is None)."""

    values: Any
    mask: npt.NDArray[np.bool_] | None


def cut(window: Window, side: int) -> Iterator[tuple[Key, Window]]:
    """The squares of `side` pixels a window touches: their number `(row, column)`, and the part of the window there."""
    for row in range(window.y // side, -(-window.stop[0] // side)):
        for column in range(window.x // side, -(-window.stop[1] // side)):
            yield (row, column), window.intersection(Window(row * side, column * side, side, side))


def around(a: Window, b: Window) -> Window:
    """The smallest window around two."""
    stop = (max(a.stop[0], b.stop[0]), max(a.stop[1], b.stop[1]))
    return Window.between((min(a.y, b.y), min(a.x, b.x)), stop)


class Stroke:
    """Level-0 pixels that were painted, wherever they lie: memory goes with the area that was touched.

    Parameters
    ----------
    shape : (height, width)
        Of the store.
    dtype : numpy.dtype
        Of its labels.
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._bounds = Window(0, 0, *shape)
        self._dtype = dtype
        self._tiles: dict[Key, _Tile] = {}
        self._boxes: dict[Key, Window] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was painted."""
        return not self._tiles

    @property
    def window(self) -> Window:
        """The smallest window around all that was painted."""
        boxes = list(self._boxes.values())
        start = (min(box.y for box in boxes), min(box.x for box in boxes))
        return Window.between(start, (max(box.stop[0] for box in boxes), max(box.stop[1] for box in boxes)))

    def paint(self, window: Window, values: Any, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Paint one value, or an array of the window's shape, where `mask` is true (None: everywhere)."""
        inside = window.intersection(self._bounds)
        for key, part in cut(inside, TILE):
            outer = part.slices((window.y, window.x))
            part_mask = None if mask is None else mask[outer]
            if part_mask is not None and not part_mask.any():
                continue
            inner = part.slices((key[0] * TILE, key[1] * TILE))
            scalar = np.ndim(values) == 0
            if scalar and part == self._square(key) and (part_mask is None or part_mask.all()):
                self._tiles[key] = _Tile(int(values), None)
            else:
                tile = self._opened(key)
                np.copyto(tile.values[inner], values if scalar else values[outer], where=_or_all(part_mask))
                np.copyto(tile.mask[inner], True, where=_or_all(part_mask))
            block = (key[0] * TILE // BLOCK, key[1] * TILE // BLOCK)
            self._boxes[block] = around(self._boxes.get(block, part), part)

    def lay_over(self, window: Window, out: npt.NDArray[Any]) -> None:
        """Put what was painted over the labels `out` of a window."""
        for key, part in cut(window, TILE):
            tile = self._tiles.get(key)
            if tile is None:
                continue
            inner, outer = part.slices((key[0] * TILE, key[1] * TILE)), part.slices((window.y, window.x))
            if tile.mask is None:
                out[outer] = tile.values
            else:
                np.copyto(out[outer], tile.values[inner], where=tile.mask[inner])

    def boxes(self, window: Window) -> Iterator[Window]:
        """Windows, one at most in each block of `BLOCK` pixels, around all that was painted inside `window`."""
        if not self._boxes or window.empty:
            return
        for box in list(self._boxes.values()):
            part = box.intersection(window)
            if not part.empty:
                yield part

    def parts(self) -> Iterator[tuple[Window, Any, npt.NDArray[np.bool_] | None]]:
        """What was painted as windows that do not overlap, with values and mask, as the store wants them."""
        for box in self._boxes.values():
            tiles = [self._tiles.get(key) for key, _ in cut(box, TILE)]
            first = tiles[0]
            if all(tile is not None and tile.mask is None and tile.values == first.values for tile in tiles):
                yield box, first.values, None
                continue
            values, mask = np.zeros(box.shape, self._dtype), np.zeros(box.shape, np.bool_)
            for key, part in cut(box, TILE):
                tile = self._tiles.get(key)
                if tile is None:
                    continue
                inner, outer = part.slices((key[0] * TILE, key[1] * TILE)), part.slices((box.y, box.x))
                values[outer] = tile.values if tile.mask is None else tile.values[inner]
                mask[outer] = True if tile.mask is None else tile.mask[inner]
            yield box, values, mask

    def _square(self, key: Key) -> Window:
        return Window(key[0] * TILE, key[1] * TILE, TILE, TILE).intersection(self._bounds)

    def _opened(self, key: Key) -> _Tile:
        """A tile as arrays."""
        tile = self._tiles.get(key)
        if tile is None:
            tile = _Tile(np.zeros((TILE, TILE), self._dtype), np.zeros((TILE, TILE), np.bool_))
        elif tile.mask is None:
            tile = _Tile(np.full((TILE, TILE), tile.values, self._dtype), np.ones((TILE, TILE), np.bool_))
        else:
            return tile
        self._tiles[key] = tile
        return tile


def _or_all(mask: npt.NDArray[np.bool_] | None) -> Any:
    return True if mask is None else mask


class Canvas:
    """A store's labels with the stroke under way over them, at every level.

    Parameters
    ----------
    store : LabelStore

    Attributes
    ----------
    stroke : Stroke
        What was painted and is not stored yet.
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self.shapes = list(store.info.shapes)
        self.stroke = self.new_stroke()

    def new_stroke(self) -> Stroke:
        """An empty stroke."""
        return Stroke(self.store.shape, self.store.dtype)

    def read(self, level: int, window: Window) -> npt.NDArray[Any]:
        """Labels of a window inside a level."""
        finest = Window(window.y << level, window.x << level, window.height << level, window.width << level)
        values = self.store.read(finest, level)
        if level == 0:
            self.stroke.lay_over(window, values)
            return values
        for box in self.stroke.boxes(finest):
            source = box.aligned(1 << level).intersection(Window(0, 0, *self.shapes[0]))
            part = self.store.read(source)
            self.stroke.lay_over(source, part)
            for _ in range(level):
                part = coarsen(part)
                source = source.halved()
            values[source.slices((window.y, window.x))] = part
        return values
