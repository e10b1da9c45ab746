"""napari's viewers: who shows a layer, their windows and cameras, where napari has no public name for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from napari.layers import Layer

if TYPE_CHECKING:
    from napari.components import Camera, ViewerModel
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QMainWindow


def viewers_showing(layer: Layer) -> Iterator[Viewer]:
    """The open viewers that have this layer."""
    module = sys.modules.get("napari.viewer")
    for viewer in list(module.Viewer._instances) if module is not None else ():
        if any(other is layer for other in viewer.layers):
            yield viewer


def main_window(viewer: Viewer) -> QMainWindow:
    """The Qt window of a viewer."""
    return viewer.window._qt_window


def linear_map(layer: Layer) -> npt.NDArray[np.float64]:
    """How a layer turns and stretches a step in its pixels into a step in the world, without its `affine`."""
    return np.asarray(layer._transforms["data2physical"].linear_matrix, float)


def camera(viewer: ViewerModel) -> Camera:
    """The camera of a viewer: napari moved it to the scene in 0.9."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera
