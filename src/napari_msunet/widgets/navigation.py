"""Showing a place of a label store: the camera moves to it, and a line is drawn around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely
from napari.layers import Layer
from vispy.scene.visuals import Line

from napari_msunet.geometry import Window
from napari_msunet.widgets.napari_internals import canvas_scene
from napari_msunet.widgets.placement import to_world

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.viewer import Viewer
    from shapely import Polygon
# ----------------------------------------------------------------------------------------------------------------------
# Where the camera goes, and a line around a place.

ORDER = 900_000
"""Order of drawing: after all layers, and before the fields of view."""

SHARE = 0.55
"""Share of the canvas's shorter side that a place fills when the camera goes there."""

LARGEST_ZOOM = 8.0
"""Most canvas pixels for a pixel of the store."""


MOST_CORNERS = 5000
"""An outline with more corners is drawn without its holes, whose lines would cover the object at a low zoom."""


def corners(window: Window) -> npt.NDArray[np.float64]:
    """The outline of a window, `(5, 2)` of `y, x` in its pixels, closed."""
    (y0, x0), (y1, x1) = (window.y, window.x), window.stop
    return np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0), (y0, x0)], float)


def go_to(viewer: ViewerModel, layer: Layer, window: Window, share: float = SHARE, zoom: bool = True) -> None:
    """Move the camera to a window (level-0 pixels of the layer's data).

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The labels.
    window : Window
    share : float
        Share of the canvas's shorter side that the window fills.
    zoom : bool
        Whether to zoom; with False the camera only moves.
    """
    world = to_world(viewer, layer, corners(window))
    low, high = world.min(0), world.max(0)
    camera = viewer.scene.camera
    centre = list(camera.center)
    centre[-2:] = [float(v) for v in (low + high) / 2]
    camera.center = tuple(centre)
    if zoom:
        size = np.asarray(viewer.canvas.size[-2:], float)
        wanted = share * float(np.min(size / np.maximum(high - low, 1e-9)))
        pixel = float(np.max((high - low) / np.maximum(window.shape, 1)))
        camera.zoom = min(wanted, LARGEST_ZOOM / pixel)


class Outline:
    """A line around a place, over all layers: white on black, so that it can be seen on any stain.

    Parameters
    ----------
    viewer : napari.Viewer
    colour : tuple of float
        Red, green, blue, 0..1.
    """

    def __init__(self, viewer: Viewer, colour: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.viewer, self.colour = viewer, colour
        self.shown = False
        self._lines: list[Line] = []

    def show(self, layer: Layer, pieces: list[npt.NDArray[np.float64]]) -> None:
        """Draw closed outlines, each `(n, 2)` of `y, x` in level-0 pixels of the layer."""
        if not self._lines:
            scene = canvas_scene(self.viewer)
            for number, width in enumerate((4, 2)):
                line = Line(
                    np.zeros((2, 2)), connect="segments", width=width, method="gl", antialias=True, parent=scene
                )
                line.order = ORDER + number
                line.set_gl_state("translucent", depth_test=False)
                self._lines.append(line)
        ends = np.concatenate([np.stack([p[:-1], p[1:]], 1).reshape(-1, 2) for p in pieces])
        world = to_world(self.viewer, layer, ends)[:, ::-1]
        for line, colour in zip(self._lines, ((0, 0, 0, 0.7), (*self.colour, 1.0)), strict=True):
            line.set_data(pos=world, color=colour, connect="segments")
            line.visible = True
        self.shown = True

    def show_window(self, layer: Layer, window: Window) -> None:
        """Draw around a window."""
        self.show(layer, [corners(window)])

    def show_polygon(self, layer: Layer, polygon: Polygon) -> None:
        """Draw along a shapely polygon, ``x, y``; a polygon with very many corners is drawn without its holes."""
        if shapely.get_num_coordinates(polygon) > MOST_CORNERS:
            polygon = shapely.polygons(shapely.get_exterior_ring(polygon))
        self.show(layer, [shapely.get_coordinates(ring)[:, ::-1] for ring in shapely.get_rings([polygon])])

    def hide(self) -> None:
        """Hide the line."""
        self.shown = False
        for line in self._lines:
            line.visible = False

    def close(self) -> None:
        """Remove the line from the canvas."""
        self.shown = False
        for line in self._lines:
            line.parent = None
        self._lines = []
