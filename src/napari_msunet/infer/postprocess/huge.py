"""Pieces of foreground too large to be parted as a whole: in cells that lie fast on the slide, with a halo."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_msunet.geometry import Window
from napari_msunet.infer.postprocess.components import Numbers
from napari_msunet.infer.postprocess.parting import Mask, Parts, in_order
from napari_msunet.infer.postprocess.walking import Plane, Walk

CELL = 2048
HALO = 256
"""A cell and what is looked at around it, in pixels. Both are part of the result: never chosen by memory or speed."""

KEPT_CELLS, KEPT_WINDOWS = 8, 12

Values = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.uint32]


class HugePieces:
    """Parts huge pieces in cells of `CELL` pixels at multiples of `CELL`, seen with `HALO` pixels around.

    Two cells see the pixels on both sides of the line between them. Where both find that the two pixels belong
    together, their instances there are one. So an object whose shape can be seen within the halo comes out as if the
    piece were parted as a whole, and the result depends on where it lies on the slide only.

    Parameters
    ----------
    walk : Walk
    labels : Plane
    huge_in : callable
        Which pixels of a window of the walk belong to huge pieces.
    part : callable
        Parts all pieces of an array.
    new : callable
        Takes parts in, and gives the number before the first one's.
    """

    def __init__(
        self,
        walk: Walk,
        labels: Plane,
        huge_in: Callable[[Window, Values], Mask],
        part: Callable[[Values], Parts],
        new: Callable[[Parts, Window], int],
    ) -> None:
        self.walk, self.labels = walk, labels
        self.same: list[Numbers] = []
        self._huge_in, self._part, self._new = huge_in, part, new
        self._bases: dict[tuple[int, int], int] = {}
        self._cells: OrderedDict[tuple[int, int], Ids] = OrderedDict()
        self._masks: OrderedDict[Window, Mask] = OrderedDict()
        self._sides: dict[tuple[int, int, str], Numbers] = {}

    def paste(self, window: Window, out: Ids) -> None:
        """Put the instances of huge pieces into the `(h, w)` instances of a window."""
        for cy in range(window.y // CELL, -(-window.stop[0] // CELL)):
            for cx in range(window.x // CELL, -(-window.stop[1] // CELL)):
                core = self._core(cy, cx)
                inside = core.intersection(window)
                found = self._cell(cy, cx)[inside.slices((core.y, core.x))]
                np.copyto(out[inside.slices((window.y, window.x))], found, where=found > 0)

    def _core(self, cy: int, cx: int) -> Window:
        return Window(cy * CELL, cx * CELL, CELL, CELL).intersection(self.walk.whole)

    def _cell(self, cy: int, cx: int) -> Ids:
        """The instances in a cell, by their first numbers."""
        if (cy, cx) not in self._cells:
            core = self._core(cy, cx)
            seen = core.padded(HALO).intersection(self.walk.whole)
            parts = self._part(np.where(self._mask(seen), self.labels.read(seen), 0).astype(np.uint8))
            place = core.slices((seen.y, seen.x))
            numbered = in_order(parts[place])
            base = self._bases.get((cy, cx))
            if base is None:
                base = self._bases[cy, cx] = self._new(numbered, core)
            ids = np.where(numbered > 0, numbered + base, 0).astype(np.uint32)
            self._join(cy, cx, parts, ids, place)
            self._cells[cy, cx] = ids
            if len(self._cells) > KEPT_CELLS:
                self._cells.popitem(last=False)
        self._cells.move_to_end((cy, cx))
        return self._cells[cy, cx]

    def _mask(self, seen: Window) -> Mask:
        found = np.zeros(seen.shape, np.bool_)
        for window in self.walk.over(seen):
            if window not in self._masks:
                self._masks[window] = self._huge_in(window, self.labels.read(window))
                if len(self._masks) > KEPT_WINDOWS:
                    self._masks.popitem(last=False)
            self._masks.move_to_end(window)
            part = window.intersection(seen)
            found[part.slices((seen.y, seen.x))] = self._masks[window][part.slices((window.y, window.x))]
        return found

    def _join(self, cy: int, cx: int, parts: Parts, ids: Ids, place: tuple[slice, slice]) -> None:
        """Compare the pixels along the cell's sides with what the neighbours found, once both are known."""
        rows, columns = place
        lines = {
            "top": (ids[0], parts[rows.start, columns], parts[rows.start - 1, columns] if rows.start else None),
            "left": (ids[:, 0], parts[rows, columns.start], parts[rows, columns.start - 1] if columns.start else None),
            "bottom": (ids[-1], parts[rows.stop - 1, columns], parts[rows.stop : rows.stop + 1, columns]),
            "right": (ids[:, -1], parts[rows, columns.stop - 1], parts[rows, columns.stop : columns.stop + 1]),
        }
        beside = {
            "top": (cy - 1, cx, "bottom"),
            "left": (cy, cx - 1, "right"),
            "bottom": (cy + 1, cx, "top"),
            "right": (cy, cx + 1, "left"),
        }
        for side, (own, here, there) in lines.items():
            if there is None or not there.size or (cy, cx, side) in self._sides:
                continue
            line = np.where(here == there.reshape(here.shape), own, 0).astype(np.int64)
            self._sides[cy, cx, side] = line
            other = self._sides.get(beside[side])
            if other is None:
                continue
            both = (line > 0) & (other > 0)
            if both.any():
                self.same.append(np.unique(np.stack([line[both], other[both]], 1), axis=0))
            # Both are known now; what is left says that this side is done.
            self._sides[cy, cx, side] = self._sides[beside[side]] = np.zeros(0, np.int64)
