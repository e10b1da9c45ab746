"""Adding a label store to a viewer as a layer that can be painted on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_msunet.errors import StoreError
from napari_msunet.geometry import first_position
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.widgets.layer_slides import is_slide, slide_of
from napari_msunet.widgets.napari_internals import linear_map, missing
from napari_msunet.widgets.paint import lifetime
from napari_msunet.widgets.paint.pyramid_labels import PyramidLabels
from napari_msunet.widgets.paint.region import paint_in_region

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_msunet.widgets.placement import LayerPlacement


def add_labels(
    viewer: Viewer, path: str | Path | LabelStore, slide_layer: Layer | None = None, read_only: bool = False
) -> PyramidLabels:
    """Open a label store as a layer that can be painted on.

    Where napari (before 0.9) lacks the internals that painting on a pyramid needs, another layer over the part in view
    is added for painting.

    Parameters
    ----------
    viewer : napari.Viewer
    path : path or LabelStore
    slide_layer : napari layer, optional
        The layer of the labels' slide, over which they are placed. None: they are placed by the store's µm per pixel.
    read_only : bool
        Whether the labels can only be looked at. A store that another process holds is always opened read-only, with a
        notification.

    Raises
    ------
    StoreError
        If the path is no label store, or the store is damaged or of another slide.
    """
    if not isinstance(path, (str, Path, LabelStore)):
        kind = f"an array of {path.dtype}" if hasattr(path, "dtype") else f"a {type(path).__name__}"
        raise StoreError(
            f"Labels that can be painted on are a label store or its path, not {kind}: make one with LabelStore.create "
            "and write whole numbers into it."
        )
    store = path if isinstance(path, LabelStore) else open_labels(path)
    if slide_layer is not None:
        _check_shape(store, slide_layer)
        if is_slide(slide_layer) and (slide := slide_of(slide_layer)) is not None:
            store.check_slide(slide, "open the labels of this slide")
    place = {} if slide_layer is None else _beside(store, slide_layer)
    store.shown = True  # damaged parts are marked by a red frame and named in a message
    layer = PyramidLabels(store, read_only=read_only, warn=False, **place)
    viewer.add_layer(layer)
    lifetime.watch(viewer)
    if missing() is not None and layer.can_be_stored():
        paint_in_region(viewer, layer)
    return layer


def _check_shape(store: LabelStore, slide_layer: Layer) -> None:
    """Raise where the store is not of this slide."""
    shape = np.shape(slide_layer.data[0] if slide_layer.multiscale else slide_layer.data)
    shape = shape[:-1] if getattr(slide_layer, "rgb", False) else shape
    height, width = (int(side) for side in shape[-2:])
    if (height, width) != tuple(store.extent):
        raise StoreError(
            f"{store.path.name} belongs to a slide of {store.extent[0]} x {store.extent[1]} pixels, and "
            f"'{slide_layer.name}' has {height} x {width}: open the labels of this slide."
        )


def _beside(store: LabelStore, slide_layer: Layer) -> LayerPlacement:
    """The placement of a store over the layer of its slide."""
    pixel = np.asarray(store.pixel, float)
    return {
        "scale": np.asarray(slide_layer.scale)[-2:] * pixel,
        "translate": np.asarray(slide_layer.translate)[-2:] + linear_map(slide_layer)[-2:, -2:] @ first_position(pixel),
        "rotate": slide_layer.rotate,
        "shear": slide_layer.shear,
        "affine": slide_layer.affine,
        "units": slide_layer.units[-2:],
    }
