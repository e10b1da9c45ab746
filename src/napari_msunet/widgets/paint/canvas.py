"""The labels of a store at every level, with strokes that are not stored yet over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.levels import coarsen
from napari_msunet.widgets.paint.stroke import TILE, Key, Stroke
from napari_msunet.widgets.paint.writer import writer_of

QUICK_LEVELS = 3
"""By how many levels a large stroke under way is sampled more finely than the level shown."""

_QUICK_SIDE = 1024
_AT_ONCE = 512 * 512  # level-0 pixels: a smaller area is read and coarsened in one piece
_BATCH = 128  # tiles that are coarsened together


class Canvas:
    """The labels as they are shown.

    Parameters
    ----------
    store : LabelStore

    Attributes
    ----------
    stroke : Stroke
        The stroke being painted; it lies over strokes that wait to be stored.
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self.shapes = list(store.info.shapes)
        self.writer = writer_of(store)
        self.stroke = self.new_stroke()

    def new_stroke(self) -> Stroke:
        """An empty stroke."""
        return Stroke(self.store.shape, self.store.dtype)

    def read(self, level: int, window: Window, quick: bool = False) -> npt.NDArray[np.integer]:
        """Labels of a window inside a level.

        `quick` is for showing a stroke while it is drawn: where it is large, 64 samples vote on a coarse pixel.
        """
        # The waiting strokes are listed before the store is read. One that is stored in between is then laid over
        # itself, which changes nothing; in the other order it would be missing.
        strokes = [stroke for stroke in (*self.writer.strokes(), self.stroke) if not stroke.empty]
        finest = Window(window.y << level, window.x << level, window.height << level, window.width << level)
        if quick and QUICK_LEVELS < level <= TILE.bit_length() - 1 and max(finest.shape) > _QUICK_SIDE:
            return self._sampled(level, window, finest, strokes)
        inside = finest.intersection(Window(0, 0, *self.shapes[0]))
        if level == 0 or (strokes and inside.height * inside.width <= _AT_ONCE):
            return _coarsen(self._finest(inside, strokes), level)
        values = self.store.read(finest, level)
        if strokes:
            self._lay_over(level, window, finest, strokes, values)
        return values

    def _sampled(
        self, level: int, window: Window, finest: Window, strokes: Sequence[Stroke]
    ) -> npt.NDArray[np.integer]:
        """As `read`, but the strokes are sampled once for each pixel of a level that is somewhat finer than the wanted
        one."""
        step = level - QUICK_LEVELS
        inside = finest.intersection(Window(0, 0, *self.shapes[0]))
        area, half = _coarser(inside, step), (1 << step) // 2
        values = self.store.read(inside, step)
        for stroke in strokes:
            for key in stroke.keys(inside):
                tile = stroke.tile(key)
                square = _coarser(stroke.square(key), step)
                part = square.intersection(area)
                if tile is None or part.empty:
                    continue
                inner = part.slices((square.y, square.x))
                painted = (
                    tile.values[half :: 1 << step, half :: 1 << step][inner] if np.ndim(tile.values) else tile.values
                )
                where = True if tile.mask is None else tile.mask[half :: 1 << step, half :: 1 << step][inner]
                np.copyto(values[part.slices((area.y, area.x))], painted, where=where)
        return _coarsen(values, QUICK_LEVELS)[: window.height, : window.width]

    def _lay_over(
        self, level: int, window: Window, finest: Window, strokes: Sequence[Stroke], out: npt.NDArray[np.integer]
    ) -> None:
        """Put strokes over a coarser level: a fully painted tile is one value there, other tiles are coarsened."""
        side = max(TILE, 1 << level)
        several: set[Key] = set()
        for key in {key for stroke in strokes for key in stroke.keys(finest)}:
            top = next(tile for stroke in reversed(strokes) if (tile := stroke.tile(key)) is not None)
            if top.uniform and side == TILE:
                place = _coarser(strokes[0].square(key), level).intersection(window)
                if not place.empty:
                    out[place.slices((window.y, window.x))] = top.values
            else:
                several.add((key[0] * TILE // side, key[1] * TILE // side))
        for place, values in self._coarsened(sorted(several), side, level, strokes):
            part = place.intersection(window)
            if not part.empty:
                out[part.slices((window.y, window.x))] = values[part.slices((place.y, place.x))]

    def _coarsened(
        self, keys: Sequence[Key], side: int, level: int, strokes: Sequence[Stroke]
    ) -> Iterator[tuple[Window, npt.NDArray[np.integer]]]:
        """Squares of level 0 with the strokes over them, coarsened to a level; whole squares are done many at a
        time."""
        whole: list[Window] = []
        for row, column in keys:
            square = Window(row * side, column * side, side, side)
            inside = square.intersection(Window(0, 0, *self.shapes[0]))
            if inside == square:
                whole.append(square)
            else:
                yield _coarser(inside, level), _coarsen(self._finest(inside, strokes), level)
        small = side >> level
        for start in range(0, len(whole), _BATCH):
            batch = whole[start : start + _BATCH]
            stack = np.concatenate([self._finest(square, strokes) for square in batch])
            values = _coarsen(stack, level)
            for number, square in enumerate(batch):
                yield _coarser(square, level), values[number * small : (number + 1) * small]

    def _finest(self, window: Window, strokes: Sequence[Stroke]) -> npt.NDArray[np.integer]:
        values = self.store.read(window)
        for stroke in strokes:
            stroke.lay_over(window, values)
        return values


def _coarsen(values: npt.NDArray[np.integer], level: int) -> npt.NDArray[np.integer]:
    for _ in range(level):
        values = coarsen(values)
    return values


def _coarser(window: Window, level: int) -> Window:
    for _ in range(level):
        window = window.halved()
    return window
