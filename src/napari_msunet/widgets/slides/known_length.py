"""The size of a pixel from a known length: a line drawn on the slide, such as its scale bar, and how long it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.widgets.dock.fields import NumberField
from napari_msunet.widgets.placement import to_level0
from napari_msunet.widgets.tools.canvas import Sketch

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.layers import Layer
    from napari.viewer import Viewer
_SHORTEST = 5.0
"""Fewest pixels of a line that can be measured: one pixel more or less would change the result by a fifth."""

_DRAW = "Draw a line along something whose length you know, such as the scale bar or a cell counter's square."


class KnownLength(QWidget):
    """Asks for a line on the slide and for its length in µm; hidden while it does not.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    found : Signal(float)
        µm per level-0 pixel.
    """

    found = Signal(float)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Layer | None = None
        self._sketch: Sketch | None = None
        self.pixels: float | None = None
        self.say = QLabel(_DRAW)
        self.say.setObjectName("note")
        self.say.setWordWrap(True)
        self.say.setMinimumHeight(2 * self.say.fontMetrics().lineSpacing() + 4)
        self.length = NumberField(0, 1e6, 10, 3, "µm")
        self.length.setValue(100)
        self.length.setAccessibleName("Length of the line in µm")
        self.length.setToolTip("How long the line is in reality.")
        self.length.valueChanged.connect(lambda *_: self._show())
        self.use = QPushButton("Use")
        self.use.setToolTip("Takes the size of a pixel that follows from the line and its length.")
        self.use.clicked.connect(lambda *_: self._use())
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Removes the line; the size of a pixel stays as it is.")
        self.cancel.clicked.connect(lambda *_: self.stop())
        row = QHBoxLayout()
        row.addWidget(QLabel("It is"))
        row.addWidget(self.length, 1)
        row.addWidget(self.use)
        row.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.say)
        column.addLayout(row)
        self.hide()

    @property
    def active(self) -> bool:
        """Whether a line is drawn, or to be drawn."""
        return self.layer is not None

    @property
    def mpp(self) -> float | None:
        """µm per pixel by the line and its length; None where there is no line yet."""
        return None if not self.pixels or not self.length.value() else self.length.value() / self.pixels

    def start(self, slide_layer: Layer) -> None:
        """Let the person draw a line on this slide, of any size and in any direction; a later line replaces it."""
        self.stop()
        # an overlay instead of a layer of shapes: napari 0.9.2 can crash (in OpenGL) when one of these is removed
        self._sketch = self._sketch or Sketch(self.viewer)
        self.layer = slide_layer
        self.viewer.layers.selection.active = slide_layer
        slide_layer.mode = "pan_zoom"
        slide_layer.mouse_pan = False
        self._sketch.start(slide_layer, _DRAW, False)
        self.viewer.mouse_drag_callbacks.append(self._drawn)
        self.show()
        self._show()

    def stop(self) -> None:
        """Remove the line."""
        layer, self.layer, self.pixels = self.layer, None, None
        self.hide()
        if layer is not None and self._sketch is not None:
            self._sketch.stop()
            self.viewer.mouse_drag_callbacks.remove(self._drawn)
            layer.mouse_pan = True

    def close_overlay(self) -> None:
        """Release the viewer."""
        self.stop()
        if self._sketch is not None:
            self.viewer.scene.camera.events.disconnect(self._sketch._moved)
            self._sketch.deleteLater()
            self._sketch = None

    def _drawn(self, viewer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Follow the mouse from its press to its release; a generator, as napari's mouse callbacks are."""
        if self.layer is None or self._sketch is None or event.button != 1:
            return
        first = to_level0(self.viewer, self.layer, event.position)
        yield
        while event.type == "mouse_move":
            if self.layer is None:
                return
            self._sketch.clear()
            ends = (first, to_level0(self.viewer, self.layer, event.position))
            for end in ends:
                self._sketch.add(end)
            self.pixels = float(np.hypot(ends[1][0] - first[0], ends[1][1] - first[1]))
            yield
        if self.pixels is not None and self.pixels < _SHORTEST:
            self.pixels = None
        self._show()

    def _show(self) -> None:
        mpp = self.mpp
        self.use.setEnabled(mpp is not None)
        self.say.setText(_DRAW if mpp is None else f"{self.pixels:,.1f} pixels: {mpp:.4g} µm per pixel.")

    def _use(self) -> None:
        mpp = self.mpp
        self.stop()
        if mpp is not None:
            self.found.emit(mpp)
