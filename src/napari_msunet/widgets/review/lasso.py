"""One lasso, drawn over the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QEvent, QObject, Qt, Signal

from napari_msunet.widgets.placement import to_level0
from napari_msunet.widgets.tools.canvas import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.viewer import Viewer

    from napari_msunet.widgets.paint import PyramidLabels
_FEW = 3
_APART = 2.0
"""Canvas pixels between two corners."""


class Lasso(QObject):
    """Lets the user draw one lasso on a labels layer.

    Attributes
    ----------
    drawn : Signal(object)
        Corners `(n, 2)` of `y, x` in level-0 pixels of the layer.
    ended : Signal()
        The lasso was drawn, or cancelled with Escape.
    """

    drawn = Signal(object)
    ended = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.layer: PyramidLabels | None = None
        self._sketch: Sketch | None = None
        self._points: list[tuple[float, float]] = []

    @property
    def active(self) -> bool:
        """Whether the user is to draw a lasso."""
        return self.layer is not None

    def start(self, layer: PyramidLabels, hint: str) -> None:
        """Let the user draw a lasso on this layer; `hint` says what it is for."""
        self.stop()
        if self._sketch is None:
            self._sketch = Sketch(self.viewer)
        self.layer = layer
        self.viewer.layers.selection.active = layer
        layer.visible = True
        layer.mode = "pan_zoom"
        layer.mouse_pan = False
        layer.cursor = "crosshair"
        self._sketch.start(layer, hint, True)
        self.viewer.mouse_drag_callbacks.append(self._drag)
        self._sketch.canvas.installEventFilter(self)
        self._sketch.canvas.setFocus()

    def stop(self) -> None:
        """Stop waiting for a lasso."""
        layer, self.layer, self._points = self.layer, None, []
        if layer is None:
            return
        self._sketch.stop()
        self._sketch.canvas.removeEventFilter(self)
        self.viewer.mouse_drag_callbacks.remove(self._drag)
        if layer.mode == "pan_zoom":
            layer.mouse_pan = True
            layer.cursor = "standard"
        self.ended.emit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Cancel at Escape."""
        if self.active and event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Escape:
            self.stop()
            return True
        return False

    def _drag(self, viewer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Follow the mouse from its press to its release; a generator, as napari's mouse callbacks are."""
        if not self.active or event.button != 1:
            return
        self._sketch.clear()
        self._points, last = [self._place(event)], np.asarray(event.pos, float)
        self._sketch.add(self._points[0])
        yield
        while event.type == "mouse_move":
            if self.active and np.hypot(*(np.asarray(event.pos, float) - last)) >= _APART:
                last = np.asarray(event.pos, float)
                self._points.append(self._place(event))
                self._sketch.add(self._points[-1])
            yield
        if not self.active:
            return
        if len(self._points) < _FEW:
            self._sketch.clear()  # a click; the hint still says what to do
            return
        corners = np.array(self._points)
        self.stop()
        self.drawn.emit(corners)

    def _place(self, event: NapariMouseEvent) -> tuple[float, float]:
        return to_level0(self.viewer, self.layer, event.position)

    def close(self) -> None:
        """Release the viewer."""
        self.stop()
        if self._sketch is not None:
            self.viewer.scene.camera.events.disconnect(self._sketch._moved)
            self._sketch.deleteLater()
            self._sketch = None
