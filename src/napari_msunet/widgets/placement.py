"""The coordinates of slides in napari, and the part of a slide that is in view.

A slide's level-0 pixels begin at 0; napari puts 0 at the *centre* of the first pixel. So a place in level-0 pixels is
another number, its position (see `geometry`), in the data coordinates of the slide's layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pint
from napari.components import ViewerModel
from napari.layers import Layer

from napari_msunet.errors import SlideError
from napari_msunet.geometry import Region, first_position, to_place, to_position

if TYPE_CHECKING:
    from napari.utils.transforms import Affine

    class LayerPlacement(TypedDict, total=False):
        """Where a layer lies in the world, as keyword arguments of the layer."""

        scale: npt.ArrayLike
        translate: npt.ArrayLike
        rotate: npt.ArrayLike
        shear: npt.ArrayLike
        affine: npt.ArrayLike | Affine
        units: tuple[str | pint.Unit, ...]
        axis_labels: tuple[str, ...]


Pair = tuple[float, float]

AXES = ("y", "x")
MICROMETER = ("micrometer", "micrometer")
PIXEL = ("pixel", "pixel")


def placed(mpp: Pair | None, pixel: Pair = (1.0, 1.0), corner: Pair = (0.0, 0.0)) -> LayerPlacement:
    """Scale, translate, units and axis labels of a layer that lies exactly over a slide of this µm per pixel.

    Parameters
    ----------
    mpp : (y, x), optional
        The slide's µm per level-0 pixel; None: unknown, the layer is in pixels.
    pixel : (y, x)
        Size of the layer's pixels in level-0 pixels of the slide.
    corner : (y, x)
        Where the layer's first pixel begins, in level-0 pixels of the slide.
    """
    size = mpp or (1.0, 1.0)
    return {
        "scale": tuple(p * s for p, s in zip(pixel, size, strict=True)),
        "translate": tuple(first_position(p, c) * s for c, p, s in zip(corner, pixel, size, strict=True)),
        "units": PIXEL if mpp is None else MICROMETER,
        "axis_labels": AXES,
    }


def over(layer: Layer, pixel: Pair = (1.0, 1.0), corner: Pair = (0.0, 0.0)) -> LayerPlacement:
    """As `placed`, for a layer over a slide's layer, which may have been moved, turned or scaled."""
    linear, origin = _matrix(layer)
    origin = origin + linear @ first_position(np.asarray(pixel, float), np.asarray(corner, float))
    linear = linear * np.asarray(pixel)
    place: LayerPlacement = {"units": tuple(layer.units[-2:]), "axis_labels": AXES}
    straight = linear[0, 1] == linear[1, 0] == 0 and (np.diag(linear) > 0).all()
    if straight:
        return {"scale": tuple(np.diag(linear).tolist()), "translate": tuple(origin.tolist()), **place}
    affine = np.eye(3)
    affine[:2, :2], affine[:2, 2] = linear, origin
    return {"affine": affine, **place}


def placement_of(layer: Layer) -> LayerPlacement:
    """Where a layer lies, for another one over it."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units")
    return cast("LayerPlacement", {name: getattr(layer, name) for name in names})


def to_level0(viewer: ViewerModel, layer: Layer, world: npt.ArrayLike) -> Pair:
    """The level-0 pixels `(y, x)` of a slide's layer at a place in the viewer's world (its last two axes)."""
    data = layer.world_to_data(np.asarray(world, float)[-2:] * _unit(viewer, layer))
    return to_place(float(data[-2])), to_place(float(data[-1]))


def to_world(viewer: ViewerModel, layer: Layer, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The places in the viewer's world, `(n, 2)` of `y, x`, of level-0 pixels `(n, 2)` of a slide's layer."""
    linear, origin = _matrix(layer)
    world = to_position(np.asarray(places, float)) @ linear.T + origin
    result: npt.NDArray[np.float64] = world / _unit(viewer, layer)
    return result


def visible_region(viewer: ViewerModel, layer: Layer) -> Region:
    """The part of a slide that is in view, in its level-0 pixels.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The slide's layer, with any scale, translate and rotation.

    Returns
    -------
    Region
        The smallest region that holds all that is in view, cut at the slide's edges.

    Raises
    ------
    SlideError
        If nothing of the slide is in view, or the layer is no image.
    """
    shapes = getattr(layer, "level_shapes", None)
    if shapes is None:
        raise SlideError(f'"{layer.name}" is no image; choose the layer of a slide.')
    view = _view(viewer)
    corners = [to_level0(viewer, layer, (y, x)) for y in view[:, 0] for x in view[:, 1]]
    low = np.maximum(np.min(corners, axis=0), 0)
    high = np.minimum(np.max(corners, axis=0), np.asarray(shapes[0][-2:], float))
    if (high <= low).any():
        raise SlideError(f'Nothing of "{layer.name}" is in view; move the view over it (the Home key shows it all).')
    return Region(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


def layer_mpp(layer: Layer) -> Pair | None:
    """µm per data pixel `(y, x)` of a layer; None where its units are not units of length."""
    try:
        factors = [(1 * unit).to("micrometer").magnitude for unit in layer.units[-2:]]
    except pint.DimensionalityError:
        return None
    scale = layer.scale[-2:]
    return abs(float(scale[0])) * factors[0], abs(float(scale[1])) * factors[1]


def _matrix(layer: Layer) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The map from the data coordinates `(y, x)` of a layer to its world: the linear part, and the place of 0, 0."""
    lead = (0.0,) * (layer.ndim - 2)
    origin, down, right = (np.asarray(layer.data_to_world((*lead, *p)))[-2:] for p in ((0, 0), (1, 0), (0, 1)))
    return np.stack([down - origin, right - origin], axis=1), origin


def _unit(viewer: ViewerModel, layer: Layer) -> npt.NDArray[np.float64]:
    """The viewer's unit of length in units of the layer: napari shows layers in nm and µm together in one of them."""
    units = viewer.layers.units
    if units is None:
        return np.ones(2)
    pairs = zip(units[-2:], layer.units[-2:], strict=True)
    return np.array([1.0 if w == u else (1 * w).to(u).magnitude for w, u in pairs])


def _view(viewer: ViewerModel) -> npt.NDArray[np.float64]:
    """Top left and bottom right `(y, x)` of the canvas in world units."""
    size = np.asarray(viewer.canvas.size, float)
    if viewer.canvas.grid.enabled:
        size = size / viewer.canvas.grid.actual_shape(len(viewer.layers))
    half = size / 2 / viewer.scene.camera.zoom
    centre = np.asarray(viewer.scene.camera.center[-2:], float)
    return np.stack([centre - half, centre + half])
