"""The coarse levels that a file lacks, filled by a thread while the user already looks at the slide."""

from __future__ import annotations

import threading
import time
import weakref

from napari.layers import Image
from qtpy.QtCore import QObject, Signal

from napari_msunet.widgets.slide_levels import Overview

REFRESH_SECONDS = 1.0


class _Filler(QObject):
    """Fills levels in a thread and has the layer drawn again on the GUI thread."""

    changed = Signal(bool)

    def __init__(self, layer: Image, levels: list[Overview]) -> None:
        super().__init__()
        self._layer = weakref.ref(layer)
        self._levels = levels
        self._told = time.monotonic()
        self.stop = threading.Event()
        self.changed.connect(self._redraw)
        weakref.finalize(layer, self.stop.set)
        self.thread = threading.Thread(target=self._run, name="napari-msunet overview", daemon=True)

    def _run(self) -> None:
        for level in reversed(self._levels):
            level.fill(self._maybe_changed, self.stop)
        if not self.stop.is_set():
            self._emit(True)

    def _maybe_changed(self) -> None:
        if self._layer() is None:
            self.stop.set()
        elif time.monotonic() - self._told > REFRESH_SECONDS:
            self._told = time.monotonic()
            self._emit(False)

    def _emit(self, last: bool) -> None:
        try:
            self.changed.emit(last)
        except RuntimeError:  # Qt has gone
            self.stop.set()

    def _redraw(self, last: bool) -> None:
        layer = self._layer()
        if layer is not None:
            layer._reset_thumbnail_level_data()  # napari keeps a copy of the coarsest level
            layer.refresh(extent=False, thumbnail=last)


_running: weakref.WeakKeyDictionary[Image, _Filler] = weakref.WeakKeyDictionary()


def fill(layer: Image, levels: list[Overview]) -> threading.Thread:
    """Fill levels in a thread that ends with the layer; the layer is drawn again as they come.

    Parameters
    ----------
    layer : Image
    levels : list of Overview
        Its levels to fill; the coarsest first.
    """
    filler = _Filler(layer, levels)
    _running[layer] = filler
    filler.thread.start()
    return filler.thread
