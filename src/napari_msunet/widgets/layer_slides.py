"""napari's layers as slides: ours, and any image the user has, whichever plugin opened it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.notifications import show_warning

from napari_msunet.errors import SlideError
from napari_msunet.slide import Slide, open_slide, slide_from_array
from napari_msunet.slide.array_backend import is_lazy
from napari_msunet.slide.units import believed
from napari_msunet.widgets.placement import layer_mpp
from napari_msunet.widgets.slide_levels import OpenSlide, SlideLevel

KEY = "napari_msunet"
"""Our key in a layer's metadata."""

_slides: weakref.WeakKeyDictionary[Layer, tuple[Any, Slide | None]] = weakref.WeakKeyDictionary()
"""Slides made for layers that are not ours, each with what it was made for."""
_files: weakref.WeakKeyDictionary[Layer, Path] = weakref.WeakKeyDictionary()
"""Files written for layers that had none."""


def open_slide_of(layer: Layer) -> OpenSlide | None:
    """What a layer of ours shows; None for a layer that is not ours."""
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
        Its `path` is None where no file is known that holds the same image. Of a stack: the plane that is shown. None
        for a layer that is no image.
    """
    source = open_slide_of(layer)
    if source is not None:
        return source.slide
    if not is_slide(layer):
        return None
    key = (id(layer.data), layer_mpp(layer), plane(layer), _files.get(layer))
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


def remember_file(layer: Layer, path: Path) -> None:
    """From now on this file is what the layer shows: it was written from it."""
    _files[layer] = path


def layer_arrays(layer: Image) -> list[Any]:
    """A layer's levels as images `(h, w)` or `(h, w, 3)`, numpy or lazy; of a stack the plane that is shown."""
    return [_as_image(level, layer) for level in (layer.data if layer.multiscale else [layer.data])]


def plane(layer: Layer) -> tuple[int, ...]:
    """Which plane of a stack is shown: an index for each axis but the last two; empty for an image."""
    lead = layer.ndim - 2
    shape = layer.level_shapes[0][:lead]
    shown = np.nan_to_num(np.asarray(layer._data_slice.point, float)[:lead])
    return tuple(int(np.clip(round(p), 0, n - 1)) for p, n in zip(shown, shape, strict=True))


def _slide_of_foreign(layer: Image) -> Slide | None:
    mpp, note = layer_pixel_size(layer)
    if note:
        show_warning(f"{note} Give the size of its pixels in the Slide step.")
    path = _files.get(layer) or _source_file(layer)
    if path is not None:
        try:
            slide = open_slide(path, mpp)
            if slide.shape[:2] == tuple(layer.level_shapes[0][-2:]):
                return slide
            slide.close()
        except (SlideError, OSError):
            pass  # another plugin reads what we cannot: the layer's own data will do
    try:
        return slide_from_array(layer_arrays(layer), mpp, channels=_channels(layer))
    except SlideError as error:
        show_warning(f'The layer "{layer.name}" cannot be used as a slide: {error}')
        return None


def layer_pixel_size(layer: Layer) -> tuple[tuple[float, float] | None, str]:
    """µm per pixel of a layer that is not ours, and what its scale says that is not believed, as a sentence.

    What a person gave in the dock is taken as it is.
    """
    mpp = layer_mpp(layer)
    if mpp is not None and layer.metadata.get(KEY, {}).get("mpp") == mpp:
        return mpp, ""
    return believed(mpp, f'The layer "{layer.name}"')


def _source_file(layer: Image) -> Path | None:
    """The file another plugin opened a plain image from."""
    whole = layer.ndim == 2 and layer.source.path is not None and layer.source.parent is None
    return Path(layer.source.path) if whole else None


def _channels(layer: Image) -> Sequence[str]:
    return ("red", "green", "blue") if layer.rgb else ("gray",)


def _as_image(level: Any, layer: Image) -> Any:
    if not isinstance(level, np.ndarray) and not is_lazy(level):
        import dask.array as da  # takes a second: not before it is needed

        chunks = getattr(level, "chunks", None) or "auto"
        level = da.from_array(level, chunks=chunks)
    lead = layer.ndim - 2
    sizes = zip(plane(layer), level.shape[:lead], layer.level_shapes[0][:lead], strict=True)
    level = level[tuple(p * n // full for p, n, full in sizes)]
    return level[..., :3] if layer.rgb else level
