"""Drawing one rectangle on a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_msunet.geometry import Region
from napari_msunet.widgets.placement import over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel
    from napari.layers import Layer, Shapes

NAME = "region to predict"


class RegionDrawing(QObject):
    """A shapes layer that lasts until one rectangle was drawn.

    Attributes
    ----------
    drawn : Signal(Region)
        In level-0 pixels of the slide.
    """

    drawn = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Shapes | None = None

    @property
    def active(self) -> bool:
        """Whether a rectangle is waited for."""
        return self.layer is not None and self.layer in self.viewer.layers

    def start(self, slide_layer: Layer) -> None:
        """Wait for a rectangle on this slide."""
        self.stop()
        size = float(np.mean(slide_layer.scale[-2:]))
        self.layer = self.viewer.add_shapes(
            name=NAME,
            ndim=2,
            edge_color="#ffd84d",
            face_color="transparent",
            edge_width=2 * size / max(self.viewer.scene.camera.zoom * size, 1e-9),
            **over(slide_layer, (1.0, 1.0)),
        )
        self.layer.mode = "add_rectangle"
        self.viewer.layers.selection.active = self.layer
        self.layer.mouse_drag_callbacks.append(self._watch)

    def _watch(self, layer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Runs beside napari's own drawing: when the mouse is let go, there is a rectangle."""
        yield
        while event.type == "mouse_move":
            yield
        from qtpy.QtCore import QTimer

        QTimer.singleShot(0, self._take)

    def _take(self) -> None:
        if not self.active or not self.layer.data:
            return
        corners = np.asarray(self.layer.data[-1])[:, -2:] + 0.5  # napari has 0 at the centre of the first pixel
        low, high = corners.min(0), corners.max(0)
        if (high - low < 1).any():
            return
        self.stop()
        self.drawn.emit(Region(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])))

    def stop(self) -> None:
        """Wait no longer."""
        if self.active:
            self.viewer.layers.remove(self.layer)
        self.layer = None
