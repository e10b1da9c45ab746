"""Label stores into a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.widgets.pyramid_labels import lifetime
from napari_msunet.widgets.pyramid_labels.layer import PyramidLabels
from napari_msunet.widgets.pyramid_labels.napari_internals import linear_map, missing
from napari_msunet.widgets.pyramid_labels.region import paint_in_region


def add_labels(
    viewer: Any, path: str | Path | LabelStore, slide_layer: Any = None, read_only: bool = False
) -> PyramidLabels:
    """Open a label store as a layer that can be painted on.

    Where napari (before 0.9) lacks what painting on a pyramid needs, a layer over the part in view is added for that.

    Parameters
    ----------
    viewer : napari.Viewer
    path : path or LabelStore
    slide_layer : napari layer, optional
        The slide the labels belong to: they lie where it lies. None: by the store's own µm per pixel.
    read_only : bool
        Only look; a store that another process holds opens so by itself, with a notification.

    Raises
    ------
    StoreError
        If it is no label store, or damaged.
    """
    store = path if isinstance(path, LabelStore) else open_labels(path)
    place = {} if slide_layer is None else _beside(store, slide_layer)
    layer = PyramidLabels(store, read_only=read_only, warn=False, **place)
    viewer.add_layer(layer)
    lifetime.watch(viewer)
    if missing() is not None and layer.can_be_stored():
        paint_in_region(viewer, layer)
    return layer


def _beside(store: LabelStore, slide_layer: Any) -> dict[str, Any]:
    """The place of a store over the layer of its slide."""
    pixel = np.asarray(store.pixel, float)
    return {
        "scale": np.asarray(slide_layer.scale)[-2:] * pixel,
        "translate": np.asarray(slide_layer.translate)[-2:] + linear_map(slide_layer)[-2:, -2:] @ ((pixel - 1) / 2),
        "rotate": slide_layer.rotate,
        "shear": slide_layer.shear,
        "affine": slide_layer.affine,
        "units": slide_layer.units[-2:],
    }
