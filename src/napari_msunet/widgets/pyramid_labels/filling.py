"""The fill bucket of a labels layer over a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.utils.notifications import show_error, show_warning

from napari_msunet.errors import MsunetError, NotSavedError
from napari_msunet.geometry import Window
from napari_msunet.widgets.pyramid_labels import fill
from napari_msunet.widgets.pyramid_labels.painting import PATIENCE, Painting
from napari_msunet.widgets.pyramid_labels.writer import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_ONCE = 1024
"""Where the view is at most this many level-0 pixels high and wide, a fill with the mouse is waited for."""


class Filling(Painting):
    """Fills by a call at once, and with the mouse in the background."""

    def flood(self, y: int, x: int, label: int) -> tuple[Window, npt.NDArray[np.bool_]] | None:
        bounds = Window(0, 0, *self.store.shape)
        if Window(y, x, 1, 1).intersection(bounds).empty:
            return None
        old = int(self._canvas.read(0, Window(y, x, 1, 1))[0, 0])
        if old == label or self._replaced(label) not in (None, old):
            return None

        try:
            return self._area(y, x, bounds)
        except fill.FillTooLargeError as error:
            show_warning(str(error))
            return None

    def _area(self, y: int, x: int, bounds: Window) -> tuple[Window, npt.NDArray[np.bool_]]:
        """What a fill covers; raises `FillTooLargeError`."""

        def read(window: Window) -> npt.NDArray[np.integer]:
            return self._canvas.read(0, window)

        if self.contiguous:
            return fill.connected(read, bounds, y, x)
        whole = Window(0, 0, *self.store.shape)
        return fill.everywhere(read, whole if max(whole.shape) <= fill.LIMIT else self.in_view, y, x)

    def fill(self, coord: Sequence[float], new_label: int, refresh: bool = True) -> None:
        """Fill the area at `coord` (level-0 pixels).

        With the mouse, only an area that is in view as a whole is filled, in the background, as a step of undo of its
        own; called, one of up to `fill.LIMIT` pixels a side wherever it reaches.
        """
        if not self.by_mouse:
            super().fill(coord, new_label, refresh)
            return
        y, x = (int(np.round(c)) for c in coord)
        label = int(new_label)
        seen = self.in_view
        if Window(y, x, 1, 1).intersection(seen).empty or not self._may_paint(label):
            return

        def action() -> tuple[Window, int] | None:
            old = int(self.store.read(Window(y, x, 1, 1))[0, 0])
            if old == label or self._replaced(label) not in (None, old):
                return None
            window, mask = self._area(y, x, seen.padded(1).intersection(Window(0, 0, *self.store.shape)))
            if self.contiguous and window.intersection(seen) != window:
                raise fill.FillTooLargeError(fill.BEYOND_VIEW)
            stroke = self._canvas.new_stroke()
            stroke.paint(window, label, mask)
            try:
                return window, self.store.write_parts(stroke.parts())
            except NotSavedError as error:  # the store has it, and tells that it is in memory only
                return window, error.number

        self._writer.put(Job(action, self._filled))
        self._writer.wait(None if max(seen.shape) <= AT_ONCE else PATIENCE)

    def _filled(self, found: tuple[Window, int] | None, error: Exception | None) -> None:
        if isinstance(error, fill.FillTooLargeError):
            show_warning(str(error))
        elif isinstance(error, MsunetError):
            show_error(str(error))
        elif error is not None:
            raise error
        elif found is not None:
            self.refresh_window(found[0])
            self._tell(*found)
