"""Slides as napari layers, and napari's layers as slides.

Level-0 pixels of a slide begin at 0; napari puts 0 at the *centre* of the first pixel. So a place at `p` level-0 pixels
is at `p - 0.5` in the data coordinates of the slide's layer: only this module and `placement` know that.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pint
from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.utils.notifications import show_warning

from napari_msunet.errors import SlideError
from napari_msunet.geometry import Region
from napari_msunet.labels import open_labels
from napari_msunet.slide import Slide, open_slide, slide_from_array
from napari_msunet.slide.slide import checked_mpp
from napari_msunet.widgets.slide_levels import LAZY_FACTOR, OVERVIEW_SIDE, OpenSlide, Overview, SlideLevel

KEY = "napari_msunet"
"""Our key in a layer's metadata."""
CHANNEL_COLOURS = ("blue", "green", "red", "yellow", "magenta", "cyan", "gray")
SHOWN_CHANNELS = 4
AXES = ("y", "x")
MICROMETER = ("micrometer", "micrometer")

_slides: weakref.WeakKeyDictionary[Layer, tuple[Any, Slide | None]] = weakref.WeakKeyDictionary()
"""Slides made for layers that are not ours, each with what it was made for."""
_files: weakref.WeakKeyDictionary[Layer, Path] = weakref.WeakKeyDictionary()
"""Files written for layers that had none."""


# ------------------------------------------------------------------------------------------------------ slide -> layers


def slide_layers(path: str | Path, mpp: float | tuple[float, float] | None = None) -> list[Image]:
    """The layers that show a slide: one for colours, else one per channel.

    Parameters
    ----------
    path : path
        Whatever `open_slide` opens.
    mpp : float or (y, x), optional
        µm per level-0 pixel where the file does not say it.

    Returns
    -------
    list of Image
        Multiscale and lazy, `scale` in µm (in pixels where the µm per pixel is unknown); not yet in a viewer.

    Raises
    ------
    SlideError
        If the file cannot be read as an image.
    """
    layers = []
    for data, options, _ in slide_layer_data(path, mpp):
        layer = Image(data, **options)
        layers.append(layer)
        _fill_overviews(layer)
    return layers


def slide_layer_data(
    path: str | Path, mpp: float | tuple[float, float] | None = None
) -> list[tuple[list[SlideLevel], dict[str, Any], str]]:
    """As `slide_layers`, as napari's layer data tuples."""
    slide = open_slide(Path(path).absolute(), mpp)
    source = OpenSlide(slide)
    name = _plain_name(Path(path))
    common = {
        "multiscale": True,
        "metadata": {KEY: {"path": str(slide.path), "mpp": slide.mpp}},
        **placement(slide),
    }
    if _is_rgb(slide):
        limits = (0.0, 1.0) if slide.dtype.kind == "f" else (0, int(np.iinfo(slide.dtype).max))
        return [(_levels(source), {**common, "name": name, "rgb": True, "contrast_limits": limits}, "image")]
    found = []
    for number, channel in enumerate(slide.channels):
        several = len(slide.channels) > 1
        options = {
            **common,
            "name": f"{name} {channel}" if several else name,
            "rgb": False,
            "colormap": CHANNEL_COLOURS[number % len(CHANNEL_COLOURS)] if several else "gray",
            "blending": "additive" if several else "translucent",
            "visible": number < SHOWN_CHANNELS,
        }
        levels = _levels(source, number)
        options["contrast_limits"] = _limits(levels)
        options["metadata"] = {KEY: {**common["metadata"][KEY], "channel": number}}
        found.append((levels, options, "image"))
    return found


def add_slide(viewer: ViewerModel, path: str | Path, mpp: float | tuple[float, float] | None = None) -> Image:
    """Show a slide in a viewer.

    Parameters
    ----------
    viewer : napari.Viewer
    path, mpp
        As for `slide_layers`.

    Returns
    -------
    Image
        The layer; of a slide with several channels the first of its layers.

    Raises
    ------
    SlideError
        If the file cannot be read as an image.
    """
    layers = slide_layers(path, mpp)
    for layer in layers:
        viewer.add_layer(layer)
    return layers[0]


def placement(
    slide: Slide, pixel: tuple[float, float] = (1.0, 1.0), corner: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """Scale, translate, units and axis labels of a layer over a slide, such that it lies exactly on it.

    Parameters
    ----------
    slide : Slide
    pixel : (y, x)
        Size of the layer's level-0 pixels in level-0 pixels of the slide.
    corner : (y, x)
        Where the layer's first pixel begins, in level-0 pixels of the slide.
    """
    return placed(slide.mpp, pixel, corner)


def placed(
    mpp: tuple[float, float] | None, pixel: tuple[float, float] = (1.0, 1.0), corner: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """As `placement`, from the slide's µm per pixel alone; see there."""
    size = mpp or (1.0, 1.0)
    return {
        "scale": tuple(p * s for p, s in zip(pixel, size, strict=True)),
        "translate": tuple((c + p / 2 - 0.5) * s for c, p, s in zip(corner, pixel, size, strict=True)),
        "units": MICROMETER if mpp is not None else ("pixel", "pixel"),
        "axis_labels": AXES,
    }


def set_mpp(layer: Image, mpp: float | tuple[float, float]) -> None:
    """Give a slide's layer µm per pixel, where its file does not say it or says it wrongly.

    Raises
    ------
    SlideError
        If `mpp` is not above zero, or the file is no longer there.
    """
    pair = checked_mpp(mpp)
    source = _source(layer)
    if source is not None:
        if source.slide.mpp != pair:
            source.replace(open_slide(source.slide.path, pair))
        layer.metadata[KEY] = {**layer.metadata[KEY], "mpp": pair}
    lead = layer.ndim - 2
    layer.scale = (*layer.scale[:lead], *pair)
    layer.units = (*layer.units[:lead], *MICROMETER)
    _slides.pop(layer, None)


def _plain_name(path: Path) -> str:
    for ending in (".ome.zarr", ".ome.tif", ".ome.tiff"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def _is_rgb(slide: Slide) -> bool:
    names = tuple(name.lower() for name in slide.channels)
    return names in (("red", "green", "blue"), ("r", "g", "b"))


def _levels(source: OpenSlide, channel: int | None = None) -> list[SlideLevel]:
    """The slide's own levels, and what napari needs besides: coarser ones down to a small overview."""
    slide = source.slide
    backend_levels = slide._backend.info.levels
    levels: list[SlideLevel] = []
    for level in backend_levels:
        if levels and int(np.prod(level.shape)) >= levels[-1].shape[0] * levels[-1].shape[1]:
            continue
        levels.append(SlideLevel(source, level.downsample, level.shape, level.chunk, channel))
    last = backend_levels[-1]
    factor, shape = 1, last.shape
    while max(shape) > OVERVIEW_SIDE:
        factor *= 2
        shape = (max(1, -(-last.shape[0] // factor)), max(1, -(-last.shape[1] // factor)))
        pixel = (last.downsample[0] * factor, last.downsample[1] * factor)
        kind = SlideLevel if factor <= LAZY_FACTOR else Overview
        levels.append(kind(source, pixel, shape, last.chunk, channel))
    return levels


def _limits(levels: list[SlideLevel]) -> tuple[float, float]:
    """Contrast limits from a coarse level; of a slide without one from a few places of the finest."""
    dtype = levels[0].dtype
    if dtype == np.uint8:
        return 0, 255
    coarse = levels[-1]
    if isinstance(coarse, Overview) or coarse._pixel[0] / levels[0]._pixel[0] < 1:
        height, width = levels[0].shape[:2]
        places = [(int(height * y), int(width * x)) for y in (0.3, 0.5, 0.7) for x in (0.3, 0.5, 0.7)]
        values = np.concatenate([levels[0][y : y + 128, x : x + 128].ravel() for y, x in places])
    else:
        values = np.asarray(coarse).ravel()
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    return (low, high) if high > low else (low, low + 1)


def _fill_overviews(layer: Image) -> None:
    """Make the levels that the file lacks in a thread, which ends with the layer."""
    missing = [level for level in layer.data if isinstance(level, Overview)]
    if not missing:
        return
    from napari_msunet.widgets.overviews import fill

    fill(layer, missing)


# ------------------------------------------------------------------------------------------------------ layer -> slide


def _source(layer: Layer) -> OpenSlide | None:
    """What a layer of ours shows."""
    data = getattr(layer, "data", None)
    first = data[0] if getattr(layer, "multiscale", False) else data
    return first.source if isinstance(first, SlideLevel) else None


def slide_of(layer: Layer) -> Slide | None:
    """The slide that an image layer shows.

    Parameters
    ----------
    layer : Layer
        One of ours, or any Image layer: numpy, dask or zarr, with or without levels, colours or not, opened by
        whatever plugin.

    Returns
    -------
    Slide or None
        Its `path` is None where there is no file that holds the same image. None for a layer that is no image. Of a
        stack, the plane that is shown.
    """
    source = _source(layer)
    if source is not None:
        return source.slide
    if not isinstance(layer, Image):
        return None
    key = (id(layer.data), layer_mpp(layer), _plane(layer), _files.get(layer))
    known = _slides.get(layer)
    if known is None or known[0] != key:
        known = _slides[layer] = (key, _slide_of_foreign(layer))
    return known[1]


def slide_path(layer: Layer) -> Path | None:
    """The file or folder of the image a layer shows, if there is one that `open_slide` reads as the same image."""
    slide = slide_of(layer)
    return None if slide is None else slide.path


def is_slide(layer: Layer) -> bool:
    """Whether a layer can be worked on: any image that is not one of our maps."""
    return isinstance(layer, Image) and "map" not in layer.metadata.get(KEY, {})


def layer_mpp(layer: Layer) -> tuple[float, float] | None:
    """µm per data pixel `(y, x)` of a layer; None where its units are no length."""
    try:
        factors = [(1 * unit).to("micrometer").magnitude for unit in layer.units[-2:]]
    except pint.DimensionalityError:
        return None
    scale = layer.scale[-2:]
    return abs(float(scale[0])) * factors[0], abs(float(scale[1])) * factors[1]


def _slide_of_foreign(layer: Image) -> Slide | None:
    mpp = layer_mpp(layer)
    plain = layer.ndim == 2
    path = _files.get(layer) or (Path(layer.source.path) if layer.source.path and plain else None)
    if path is not None:
        try:
            slide = open_slide(path, mpp)
            if slide.shape[:2] == tuple(layer.level_shapes[0][-2:]):
                return slide
        except (SlideError, OSError):
            pass  # some plugin reads what we cannot: the layer's own data will do
    arrays = [_as_image(level, layer) for level in (layer.data if layer.multiscale else [layer.data])]
    try:
        channels = None if layer.rgb else ("gray",)
        return slide_from_array(arrays, mpp, channels=channels)
    except SlideError as error:
        show_warning(f'The layer "{layer.name}" cannot be used as a slide: {error}')
        return None


def _as_image(level: Any, layer: Image) -> Any:
    """A level as `(h, w)` or `(h, w, 3)`, numpy or lazy."""
    if not isinstance(level, np.ndarray | da.Array):
        chunks = getattr(level, "chunks", None) or "auto"
        level = da.from_array(level, chunks=chunks)
    spatial = level.ndim - (1 if layer.rgb else 0)
    index = _plane(layer, level.shape[: spatial - 2], layer.level_shapes[0][: spatial - 2])
    level = level[(*index, ...)]
    return level[..., :3] if layer.rgb else level


def _plane(layer: Image, shape: Any = None, full: Any = None) -> tuple[int, ...]:
    """Which plane of a stack is shown, in pixels of a level."""
    lead = layer.ndim - 2
    if lead <= 0:
        return ()
    full = layer.level_shapes[0][:lead] if full is None else full
    shape = full if shape is None else shape
    point = np.nan_to_num(np.asarray(layer._data_slice.point, float))[:lead]
    return tuple(int(np.clip(round(p * n / f), 0, n - 1)) for p, n, f in zip(point, shape, full, strict=True))


# ------------------------------------------------------------------------------------------------------------- the view


def visible_region(viewer: ViewerModel, layer: Layer) -> Region:
    """The part of a slide that is in view, in its level-0 pixels.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The slide's layer, with whatever scale and translate.

    Returns
    -------
    Region
        Cut at the slide's edges.

    Raises
    ------
    SlideError
        If nothing of the slide is in view.
    """
    corners = _view_corners(viewer)
    places = [to_level0(viewer, layer, (y, x)) for y in corners[:, 0] for x in corners[:, 1]]
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    shape = _layer_shape(layer)
    low, high = np.maximum(low, 0), np.minimum(high, shape)
    if (high <= low).any():
        raise SlideError(f'Nothing of "{layer.name}" is in view; move the view over the slide (Home shows all of it).')
    return Region(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


def to_level0(viewer: ViewerModel, layer: Layer, world: tuple[float, float]) -> tuple[float, float]:
    """A place in the viewer's world `(y, x)` in level-0 pixels of a slide's layer."""
    data = layer.world_to_data(np.asarray(world, float) * _world_unit(viewer, layer))
    return float(data[-2] + 0.5), float(data[-1] + 0.5)


def to_world(viewer: ViewerModel, layer: Layer, place: tuple[float, float]) -> tuple[float, float]:
    """A place in level-0 pixels of a slide's layer in the viewer's world `(y, x)`."""
    lead = layer.ndim - 2
    world = layer.data_to_world((*(0.0,) * lead, place[0] - 0.5, place[1] - 0.5))
    unit = _world_unit(viewer, layer)
    return float(world[-2] / unit[0]), float(world[-1] / unit[1])


def _world_unit(viewer: ViewerModel, layer: Layer) -> np.ndarray[Any, Any]:
    """The viewer's world unit in units of the layer; napari converts units that are lengths, else takes numbers."""
    units = viewer.layers.units
    if units is None:
        return np.ones(2)
    return np.array([(1 * w).to(u).magnitude for w, u in zip(units[-2:], layer.units[-2:], strict=True)])


def _view_corners(viewer: ViewerModel) -> np.ndarray[Any, Any]:
    """Top left and bottom right `(y, x)` of the canvas in world units, from the camera."""
    size = np.asarray(viewer.canvas.size if hasattr(viewer, "canvas") else viewer._canvas_size, float)
    half = size / 2 / viewer.camera.zoom
    centre = np.asarray(viewer.camera.center[-2:], float)
    return np.stack([centre - half, centre + half])


def _layer_shape(layer: Layer) -> np.ndarray[Any, Any]:
    shapes = getattr(layer, "level_shapes", None)
    if shapes is None:
        raise SlideError(f'"{layer.name}" is no image; choose the layer of a slide.')
    return np.asarray(shapes[0][-2:], float)


# --------------------------------------------------------------------------------------------------------------- labels


def add_labels(viewer: ViewerModel, path: str | Path, slide_layer: Layer | None = None) -> Any:
    """Show a label store in a viewer, editable; read-only, saying who holds it, where another process writes into it.

    Parameters
    ----------
    viewer : napari.Viewer
    path : path
        A label store.
    slide_layer : Layer, optional
        The slide it belongs to: the labels lie exactly over it, also where that was moved or given another scale.

    Returns
    -------
    PyramidLabels

    Raises
    ------
    StoreError
        If it is no label store, or damaged.
    """
    layer = labels_layer(path, slide_layer)
    viewer.add_layer(layer)
    return layer


def labels_layer(path: str | Path, slide_layer: Layer | None = None) -> Any:
    """As `add_labels`, without a viewer."""
    from napari_msunet.errors import StoreLockedError
    from napari_msunet.widgets.pyramid_labels import PyramidLabels

    store = open_labels(path)
    read_only = False
    try:
        store._begin()
    except StoreLockedError as error:
        read_only = True
        show_warning(f"{error} Until then it is shown read-only.")
    slide_mpp = None if store.mpp is None else tuple(m / p for m, p in zip(store.mpp, store.pixel, strict=True))
    options = placed(slide_mpp, store.pixel)
    if slide_layer is not None:
        options = over(slide_layer, store.pixel)
    name = _plain_name(store.path)
    return PyramidLabels(store, name=name, read_only=read_only, **options)


def over(layer: Layer, pixel: tuple[float, float], corner: tuple[float, float] = (0.0, 0.0)) -> dict[str, Any]:
    """As `placement`, over a layer wherever the user moved it and whatever its scale."""
    scale, translate = layer.scale[-2:], layer.translate[-2:]
    return {
        "scale": tuple(float(s * p) for s, p in zip(scale, pixel, strict=True)),
        "translate": tuple(
            float(t + (c + p / 2 - 0.5) * s) for t, c, p, s in zip(translate, corner, pixel, scale, strict=True)
        ),
        "units": layer.units[-2:],
        "axis_labels": AXES,
    }
