"""Regions to predict: polygons and rectangles drawn on a slide, in a layer of shapes that stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.project import Ring
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.placement import over, to_level0

if TYPE_CHECKING:
    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.components import ViewerModel
    from napari.layers import Layer

MARK = "regions_of"
SETTLED = 150
"""Milliseconds after which a shape that changes is looked at again."""

CORNERS = 64
"""Of the polygon that stands for an ellipse."""


class Regions(QObject):
    """The drawn regions of the slides in a viewer.

    Attributes
    ----------
    changed : Signal()
        A region was drawn, moved or taken away.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer
        self._layers: list[Shapes] = []
        self._pressed = False
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.setInterval(SETTLED)
        self._settling.timeout.connect(self._settled)

    def find(self, slide: Path) -> Shapes | None:
        """The layer with a slide's regions, if there is one."""
        for layer in self.viewer.layers:
            if isinstance(layer, Shapes) and layer.metadata.get(KEY, {}).get(MARK) == str(slide):
                return layer
        return None

    def draw(self, slide: Path, slide_layer: Layer, mode: str) -> Shapes:
        """Take the tool ("add_polygon", "add_rectangle") that draws a region of a slide; gives the layer."""
        layer = self.find(slide) or self._add(slide, slide_layer)
        layer.visible = True
        self.viewer.layers.selection.active = layer
        layer.mode = mode
        return layer

    def restore(self, slide: Path, slide_layer: Layer, rings: tuple[Ring, ...]) -> None:
        """Show regions as polygons that were drawn before; their corners in level-0 pixels."""
        layer = self.find(slide) or self._add(slide, slide_layer)
        layer.add([np.array(ring) - 0.5 for ring in rings], shape_type="polygon")

    def _add(self, slide: Path, slide_layer: Layer) -> Shapes:
        size = float(np.mean(slide_layer.scale[-2:]))
        layer = Shapes(
            ndim=2,
            name=f"Regions to predict {slide.name.split('.')[0]}",
            edge_color="#ffd84d",
            face_color="transparent",
            edge_width=2 / max(self.viewer.scene.camera.zoom * size, 1e-9),
            metadata={KEY: {MARK: str(slide)}},
            **over(slide_layer),
        )
        self.viewer.add_layer(layer)
        layer.events.data.connect(self._touched)
        layer.mouse_drag_callbacks.append(self._held)
        self._layers.append(layer)
        return layer

    def _touched(self, _: object = None) -> None:
        self._settling.start()

    def _held(self, _layer: Shapes, event: NapariMouseEvent) -> Iterator[None]:
        """Know whether the mouse is held: a shape under way does not count yet."""
        self._pressed = True
        yield
        while event.type == "mouse_move":
            yield
        self._pressed = False

    @property
    def drawing(self) -> bool:
        """Whether a shape is just being drawn or moved."""
        return self._pressed or any(
            getattr(layer, "_is_creating", False) or getattr(layer, "_is_moving", False) for layer in self._layers
        )

    def _settled(self) -> None:
        if self.drawing:
            self._settling.start()
        else:
            self.changed.emit()

    def rings(self, slide: Path, slide_layer: Layer) -> tuple[Ring, ...]:
        """The regions as polygons in level-0 pixels of their slide; lines have no inside, so they do not count."""
        layer = self.find(slide)
        if layer is None:
            return ()
        found = []
        for shape, kind in zip(layer.data, layer.shape_type, strict=True):
            corners = _outline(np.asarray(shape, float)[:, -2:], str(kind))
            if corners is not None and len(corners) >= 3:
                places = (to_level0(self.viewer, slide_layer, layer.data_to_world(c)) for c in corners)
                found.append(tuple((round(y, 2), round(x, 2)) for y, x in places))
        return tuple(found)

    def closing(self) -> None:
        """Let go of the layers."""
        self._settling.stop()
        for layer in self._layers:
            layer.events.data.disconnect(self._touched)
            if self._held in layer.mouse_drag_callbacks:
                layer.mouse_drag_callbacks.remove(self._held)
        self._layers.clear()


def area(rings: tuple[Ring, ...], mpp: tuple[float, float]) -> float:
    """Of the union of polygons, in mm²."""
    import shapely

    whole = shapely.union_all([shapely.make_valid(shapely.polygons(np.asarray(ring)[:, ::-1])) for ring in rings])
    return float(whole.area) * mpp[0] * mpp[1] / 1e6


def _outline(corners: npt.NDArray[np.float64], kind: str) -> npt.NDArray[np.float64] | None:
    """The corners of a shape's outline; None for lines."""
    if kind in ("line", "path"):
        return None
    if kind != "ellipse":
        return corners
    centre, down, right = corners.mean(0), (corners[2] - corners[1]) / 2, (corners[1] - corners[0]) / 2
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return centre + np.cos(angles)[:, None] * down + np.sin(angles)[:, None] * right


def checked(rings: tuple[Ring, ...]) -> tuple[Ring, ...]:
    """The polygons, or `MsunetError` where there are none."""
    if not rings:
        raise MsunetError("No region is drawn yet: press Polygon or Rectangle and draw one on the slide.")
    return rings
