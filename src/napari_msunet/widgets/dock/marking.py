"""Fully annotated regions: drawn as shapes, kept in the annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import to_place, to_position
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.layers import ShapesUnderWay
from napari_msunet.widgets.placement import placement_of

if TYPE_CHECKING:
    from napari.utils.events import Event

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import State
KEY = "napari_msunet_marks"
"""Key in a shapes layer's metadata for the annotation whose regions it shows."""
TIP = (
    "Draw around an area in which everything is annotated: what is not painted there counts as background. "
    "Deleting the shape takes that back."
)


class Marking:
    """Lets the user draw fully annotated regions on the active slide.

    Parameters
    ----------
    state : State
    layers : Layers
    parent : QObject
    """

    def __init__(self, state: State, layers: Layers, parent: QObject) -> None:
        self.state, self.layers = state, layers
        self.viewer = layers.viewer
        self._syncing = QTimer(parent)
        self._syncing.setSingleShot(True)
        self._syncing.setInterval(50)
        self._syncing.timeout.connect(show_errors(self.sync))
        self._drawing = ShapesUnderWay()

    def buttons(self) -> QHBoxLayout:
        """The row of buttons."""
        row = QHBoxLayout()
        label = QLabel("All annotated in")
        label.setToolTip(TIP)
        self.rectangle, self.polygon = QPushButton("Rectangle"), QPushButton("Polygon")
        for button, mode in ((self.rectangle, "add_rectangle"), (self.polygon, "add_polygon")):
            button.setToolTip(TIP)
            button.clicked.connect(show_errors(lambda *_, m=mode: self.draw(m)))
        row.addWidget(label, 1)
        row.addWidget(self.rectangle)
        row.addWidget(self.polygon)
        return row

    def refresh(self, annotation: PyramidLabels | None) -> None:
        """Enable the buttons where there is an annotation that can be written."""
        possible = annotation is not None and annotation.can_be_painted()
        self.rectangle.setEnabled(possible)
        self.polygon.setEnabled(possible)

    def draw(self, mode: str) -> Shapes:
        """Choose the tool that draws a rectangle or a polygon; gives the layer of shapes."""
        layer = self.layer()
        self.viewer.layers.selection.active = layer
        layer.mode = mode
        return layer

    def layer(self) -> Shapes:
        """The layer of the active slide's fully annotated regions; it is made where there is none."""
        annotation = self.layers.annotation(self.state.active)
        if annotation is None:
            raise MsunetError("Start annotating first: the region is marked in an annotation.")
        path = str(annotation.store.path)
        for layer in self.viewer.layers:
            if isinstance(layer, Shapes) and layer.metadata.get(KEY) == path:
                return layer
        known = [to_position(corners) for corners in annotation.store.fully_annotated]
        layer = Shapes(
            known or None,
            shape_type="polygon",
            ndim=2,
            name=f"Fully annotated {self.state.active.name}",
            edge_color="#ffd24a",
            face_color="transparent",
            edge_width=3,
            metadata={KEY: path},
            **placement_of(annotation),
        )
        self.viewer.add_layer(layer)
        layer.events.data.connect(self._drawn)
        self._drawing.follow(layer)
        return layer

    def _drawn(self, event: Event) -> None:
        if str(getattr(event.action, "value", event.action)) in ("added", "changed", "removed"):
            self._syncing.start()

    def sync(self) -> None:
        """Keep the shapes as they are now in their annotations."""
        if self._drawing:
            self._syncing.start()  # napari tells of a shape when its drawing begins: wait for its end
            return
        for layer in [one for one in self._drawing.layers if one in self.viewer.layers]:
            record = next((r for r in self.state.slides if str(r.annotation) == layer.metadata[KEY]), None)
            annotation = self.layers.annotation(record)
            if annotation is None:
                continue
            polygons = [to_place(np.asarray(shape)[:, -2:]) for shape in layer.data if len(shape) >= 3]
            before = len(annotation.store.fully_annotated)
            annotation.store.set_annotated(polygons)
            self.state.set_counts(record, record.counts, len(polygons))
            if len(polygons) > before:
                self.viewer.layers.selection.active = annotation

    def closing(self) -> None:
        """Let go of the layers."""
        self._syncing.stop()
        for layer in self._drawing.layers:
            layer.events.data.disconnect(self._drawn)
        self._drawing.let_go()
