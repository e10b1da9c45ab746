"""Slides and label stores as napari layers; `layer_slides` is the way back, `placement` where things are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer

from napari_msunet.config import Kind, ValueRange
from napari_msunet.slide import open_slide
from napari_msunet.slide.appearance import display_limits, shows_colours
from napari_msunet.slide.pixel_size import given_mpp
from napari_msunet.slide.probing import PROBE
from napari_msunet.widgets.layer_slides import KEY, open_slide_of
from napari_msunet.widgets.placement import MICROMETER, PIXEL, placed
from napari_msunet.widgets.slide_levels import LAZY_FACTOR, OVERVIEW_SIDE, OpenSlide, Overview, SlideLevel, fill

if TYPE_CHECKING:
    from napari_msunet.widgets.paint import PyramidLabels
CHANNEL_COLOURS = ("blue", "green", "red", "yellow", "magenta", "cyan", "gray")
SHOWN_CHANNELS = 4


def slide_layers(path: str | Path, mpp: float | tuple[float, float] | Literal["px"] | None = None) -> list[Image]:
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
        missing = [level for level in data if isinstance(level, Overview)]
        if missing:
            fill(layer, missing)
    return layers


def slide_layer_data(
    path: str | Path, mpp: float | tuple[float, float] | Literal["px"] | None = None
) -> list[tuple[list[SlideLevel], dict[str, Any], str]]:
    """As `slide_layers`, as napari's layer data tuples."""
    PROBE.ask(Path(path))
    slide = open_slide(Path(path).absolute(), mpp)
    source = OpenSlide(slide)
    name = _plain_name(Path(path))
    common = {
        "multiscale": True,
        "metadata": {KEY: {"path": str(slide.path), "mpp": slide.mpp}},
        **placed(slide.mpp),
        "interpolation2d": "linear",
    }
    if shows_colours(slide):
        return [(_levels(source), {**common, "name": name, "rgb": True, "contrast_limits": (0, 255)}, "image")]
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
        options["contrast_limits"] = display_limits(slide, number)
        options["metadata"] = {KEY: {**common["metadata"][KEY], "channel": number}}
        found.append((levels, options, "image"))
    return found


def add_slide(
    viewer: ViewerModel, path: str | Path, mpp: float | tuple[float, float] | Literal["px"] | None = None
) -> Image:
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


def set_mpp(viewer: ViewerModel, layer: Image, mpp: float | tuple[float, float] | Literal["px"]) -> None:
    """Give a slide's layers µm per pixel, where its file does not say it or says it wrongly.

    Parameters
    ----------
    viewer : napari.Viewer
        All its layers that show the same slide (one per channel) are changed.
    layer : Image
    mpp : float, (y, x) or "px"
        "px": it is shown and used in its own pixels.

    Raises
    ------
    SlideError
        If `mpp` is not above zero, or the file is no longer there.
    """
    given = given_mpp(mpp)
    pair = None if given is None or isinstance(given, str) else given
    source = open_slide_of(layer)
    same = [layer] if source is None else [one for one in viewer.layers if open_slide_of(one) is source]
    if source is not None and source.slide.path is not None:
        again = open_slide(source.slide.path, mpp)
        again.numbers = source.slide.numbers
        source.replace(again)
    for one in same:
        lead = one.ndim - 2
        one.metadata[KEY] = {**one.metadata.get(KEY, {}), "mpp": given}
        one.scale = (*one.scale[:lead], *(pair or (1.0, 1.0)))
        one.units = (*one.units[:lead], *(PIXEL if pair is None else MICROMETER))


def set_numbers(viewer: ViewerModel, layer: Image, kind: Kind | None, value_range: ValueRange | None) -> None:
    """Say what the values of a slide's layers mean; None: as the file says, else as guessed.

    Parameters
    ----------
    viewer : napari.Viewer
        All its layers that show the same slide (one per channel) are shown by it.
    layer : Image
    kind, value_range : optional
        As for `open_slide`.

    Raises
    ------
    SlideError
        If one is none, or the file is no longer there.
    """
    source = open_slide_of(layer)
    if source is None or source.slide.path is None:
        return
    own: tuple[float, float] | Literal["px"] | None = "px" if source.slide.in_pixels else source.slide.mpp
    source.replace(open_slide(source.slide.path, own, kind, value_range))
    for one in viewer.layers:
        if open_slide_of(one) is not source:
            continue
        if not one.rgb:
            one.contrast_limits = display_limits(source.slide, one.metadata[KEY].get("channel"))
        one.refresh()


def _plain_name(path: Path) -> str:
    for ending in (".ome.zarr", ".ome.tif", ".ome.tiff"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


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


def add_labels(viewer: ViewerModel, path: str | Path, slide_layer: Layer | None = None) -> PyramidLabels:
    """Show a label store over its slide, editable; see `pyramid_labels.add_labels`."""
    from napari_msunet.widgets.paint import add_labels as add

    return add(viewer, path, slide_layer)
