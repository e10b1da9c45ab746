"""OME-Zarr metadata, read and written with yaozarrs; only this module knows its keys."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaozarrs
from pydantic import ValidationError
from yaozarrs import v04, v05

from napari_msunet.errors import SlideError
from napari_msunet.geometry import first_position
from napari_msunet.slide.numbers import is_rgb
from napari_msunet.slide.pixel_size import both, micrometres

COLOURS = ("FF0000", "00FF00", "0000FF", "FFFF00", "FF00FF", "00FFFF")
Colour = str | Sequence[int]


@dataclass(frozen=True)
class ImageMetadata:
    """The metadata of one image.

    Attributes
    ----------
    paths : tuple of str
        The arrays of the levels, below the image's group, finest first.
    axes : tuple of str
        Names of the arrays' axes, in order.
    scales : tuple of (float, float)
        Size `(y, x)` of each level's pixels in the axes' own units.
    mpp : tuple of float or None
        Size of a level-0 pixel in µm, unchecked; None where the axes have no unit of length.
    channels : tuple of str or None
        Names of the channels.
    colour : bool
        Whether the channels are the red, green and blue of one colour image.
    name : str
        Name of the image.
    window : (low, high), optional
        The smallest and largest displayed value, where it is the same for all channels.
    """

    paths: tuple[str, ...]
    axes: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    mpp: tuple[float, float] | None
    channels: tuple[str, ...] | None
    colour: bool
    name: str
    window: tuple[float, float] | None = None


def image_attributes(
    name: str,
    shapes: Sequence[Sequence[int]],
    axes: str | Sequence[str],
    mpp: tuple[float, float] | None,
    channels: Sequence[str] = (),
    dtype: str = "uint8",
    value_range: tuple[float, float] | None = None,
    pixel: tuple[float, float] = (1.0, 1.0),
) -> dict[str, Any]:
    """The attributes of the group of an image pyramid (OME-Zarr 0.5).

    Parameters
    ----------
    name : str
        Name of the image.
    shapes : sequence of shapes
        Shape of each level, finest first, in the order of `axes`; each level halves the one before, rounded up, and
        lies in the array named by its number ("0", "1", ...).
    axes : str or sequence of str
        Names of the axes, such as "cyx" or "yx".
    mpp : (y, x) or None
        Size of a level-0 pixel in µm; None: unknown, no unit is written.
    channels : sequence of str
        Names of the channels, for the `omero` block; none: no such block.
    dtype : str
        Type of the pixels.
    value_range : (low, high), optional
        The range that is shown; None: that of the type.
    pixel : (y, x)
        Size of a level-0 pixel where `mpp` is not known, in pixels of the image that it lies over.

    Returns
    -------
    dict
        `{"ome": {...}}`, to be put into the group's attributes.
    """
    multiscale = _multiscale(name, shapes, axes, mpp, pixel=pixel)
    omero = _omero(tuple(channels), dtype, value_range) if channels else None
    return {"ome": _dumped(v05.Image(multiscales=[multiscale], omero=omero))}


def label_attributes(
    name: str,
    shapes: Sequence[Sequence[int]],
    mpp: tuple[float, float] | None,
    classes: Sequence[str] | Mapping[int, str] = (),
    colours: Sequence[Colour] | Mapping[int, Colour] | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
    pixel: tuple[float, float] = (1.0, 1.0),
) -> dict[str, Any]:
    """The attributes of the group of a label pyramid `y x` (OME-Zarr 0.5).

    Parameters
    ----------
    name : str
        Name of the labels.
    shapes, mpp
        As for `image_attributes`.
    classes : sequence of str, or dict of label value to name
        Names of the label values, from 1 on where it is a sequence.
    colours : sequence or dict, optional
        Colours of the same values: hexadecimal, or 3 or 4 numbers from 0 to 255.
    offset : (y, x)
        Where the first pixel starts, in the unit of the axes: µm, or pixels where `mpp` is unknown.
    pixel
        As for `image_attributes`.

    Returns
    -------
    dict
        `{"ome": {...}}`, to be put into the group's attributes.
    """
    names = dict(classes) if isinstance(classes, Mapping) else dict(enumerate(classes, 1))
    if colours is None:
        colours = {}
    tints = dict(colours) if isinstance(colours, Mapping) else dict(enumerate(colours, 1))
    properties = [{"label-value": value, "name": text} for value, text in names.items()]
    label = {"colors": [{"label-value": v, "rgba": _rgba(c)} for v, c in tints.items()] or None}
    image = v05.LabelImage.model_validate(
        {
            "multiscales": [_multiscale(name, shapes, "yx", mpp, offset, pixel)],
            "image-label": {**label, "properties": properties or None},
        }
    )
    attributes = _dumped(image)
    if properties:  # yaozarrs keeps only the label value of a property, but the specification allows any key
        attributes["image-label"]["properties"] = properties
    for colour in attributes["image-label"].get("colors", ()):
        colour["label-value"] = int(colour["label-value"])
    return {"ome": attributes}


def read_pyramid(attributes: Mapping[str, Any], path: Path) -> ImageMetadata:
    """The metadata in the attributes of an image's group, in OME-Zarr 0.4 or 0.5.

    Raises
    ------
    SlideError
        If they are no valid image metadata of these versions.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Any = (
                v05.Image.model_validate(attributes["ome"])
                if "ome" in attributes
                else v04.Image.model_validate(dict(attributes))
            )
    except (ValidationError, TypeError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise SlideError(
            f"{path} has metadata that are not valid OME-Zarr 0.4 or 0.5 ({' '.join(detail.split())[:200]}); "
            "write it again with a current tool."
        ) from error
    multiscale = image.multiscales[0]
    axes = tuple(axis.name for axis in multiscale.axes)
    if "y" not in axes or "x" not in axes:
        raise SlideError(f"{path} has the axes {', '.join(axes)}; an image needs axes named y and x.")
    places = axes.index("y"), axes.index("x")
    common = _scale(multiscale.coordinateTransformations or (), len(axes))
    sizes = [_scale(dataset.coordinateTransformations, len(axes)) for dataset in multiscale.datasets]
    scales = tuple((s[places[0]] * common[places[0]], s[places[1]] * common[places[1]]) for s in sizes)
    height = micrometres(scales[0][0], multiscale.axes[places[0]].unit)
    width = micrometres(scales[0][1], multiscale.axes[places[1]].unit)
    channels = (
        None if image.omero is None else tuple(c.label or f"channel {i}" for i, c in enumerate(image.omero.channels))
    )
    return ImageMetadata(
        tuple(dataset.path for dataset in multiscale.datasets),
        axes,
        scales,
        both(height, width),
        channels,
        _is_colour(image.omero),
        multiscale.name or path.name,
        _window(image.omero),
    )


def image_group(attributes: Mapping[str, Any], series: Mapping[str, Any] | None) -> str | None:
    """The path of the first image below a group that bioformats2raw wrote; None where it is no such group.

    `series` are the attributes of its group `OME`, where there is one.
    """
    inner = attributes.get("ome", attributes)
    if "bioformats2raw.layout" not in inner:
        return None
    listed = (series or {}).get("ome", series or {}).get("series")
    return str(listed[0]) if listed else "0"


def is_image(attributes: Mapping[str, Any]) -> bool:
    """Whether a group's attributes are those of an image."""
    return "multiscales" in attributes.get("ome", attributes)


def validate(path: str | Path) -> None:
    """Check a folder against the specification: its metadata, its arrays and what lies below it.

    Raises
    ------
    SlideError
        If the folder is not valid; the message names the first error.
    """
    try:
        yaozarrs.validate_zarr_store(str(path))
    except (ValueError, OSError) as error:
        raise SlideError(f"{path} is no valid OME-Zarr: {' '.join(str(error).split())}") from error


def _multiscale(
    name: str,
    shapes: Sequence[Sequence[int]],
    axes: str | Sequence[str],
    mpp: tuple[float, float] | None,
    offset: tuple[float, float] = (0.0, 0.0),
    pixel: tuple[float, float] = (1.0, 1.0),
) -> v05.Multiscale:
    """The multiscale metadata: axes, and levels that halve, shifted as area averages are (by half a pixel of the
    level)."""
    size = pixel if mpp is None else mpp  # axes without a unit are in pixels
    base = {"y": float(size[0]), "x": float(size[1])}
    start = {"y": float(offset[0]), "x": float(offset[1])}
    unit = None if mpp is None else "micrometer"
    listed: list[Any] = [
        v05.SpaceAxis(type="space", name=a, unit=unit) if a in base else v05.ChannelAxis(type="channel", name=a)
        for a in axes
    ]
    datasets = []
    for number in range(len(shapes)):
        scale = [base.get(a, 0.0) * 2**number or 1.0 for a in axes]
        shift = [start.get(a, 0.0) + base.get(a, 0.0) * first_position(2**number) for a in axes]
        transforms: list[Any] = [v05.ScaleTransformation(scale=scale)]
        if any(shift):
            transforms.append(v05.TranslationTransformation(translation=shift))
        datasets.append(v05.Dataset(path=str(number), coordinateTransformations=transforms))
    return v05.Multiscale(name=name, axes=listed, datasets=datasets)


def _omero(channels: tuple[str, ...], dtype: str, value_range: tuple[float, float] | None) -> v05.Omero:
    import numpy as np

    kind = np.dtype(dtype)
    low, high = value_range or (0.0, float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0)
    window = v05.OmeroWindow(min=low, max=high, start=low, end=high)
    colour = is_rgb(channels)
    tints = ("FFFFFF",) if len(channels) == 1 else COLOURS
    return v05.Omero(
        channels=[
            v05.OmeroChannel(window=window, label=c, color=tints[i % len(tints)], active=True)
            for i, c in enumerate(channels)
        ],
        rdefs=v05.OmeroRenderingDefs(model="color" if colour or len(channels) > 1 else "greyscale"),
    )


def _is_colour(omero: Any) -> bool:
    """Whether there are three channels, named as colours, or unnamed and shown as pure red, green and blue."""
    if omero is None or len(omero.channels) != 3:
        return False
    labels = [c.label or f"Channel {i}" for i, c in enumerate(omero.channels)]
    if is_rgb(labels):
        return True
    unnamed = all(label.lower() == f"channel {i}" for i, label in enumerate(labels))
    return unnamed and tuple(c.color for c in omero.channels) == COLOURS[:3]


def _window(omero: Any) -> tuple[float, float] | None:
    """The window that all channels share."""
    found = {(c.window.min, c.window.max) for c in omero.channels if c.window is not None} if omero else set()
    return found.pop() if len(found) == 1 else None


def _scale(transforms: Sequence[Any], dimensions: int) -> Sequence[float]:
    """The scale among the transformations of a level; ones where there is none."""
    scales: list[Sequence[float]] = [t.scale for t in transforms if t.type == "scale"]
    return scales[0] if scales else (1.0,) * dimensions


def _rgba(colour: Colour) -> list[int]:
    numbers = list(bytes.fromhex(colour.lstrip("#"))) if isinstance(colour, str) else [int(v) for v in colour]
    return numbers + [255] * (4 - len(numbers))


def _dumped(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
