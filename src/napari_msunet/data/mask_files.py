"""Mask files as whole numbers, read by the readers of images: every way in which their numbers can be meant.

A palette, a white zero or transparency makes two readings of one file possible. The first is what every viewer shows,
except that the numbers of a palette of colours are meant themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.slide.backend import Backend
from napari_msunet.slide.opening import open_backend
from napari_msunet.slide.samples import Samples

Numbers = npt.NDArray[Any]

AS_SHOWN = "as it is shown"
AS_STORED = "by the numbers in the file"
AS_PLACES = "by the places in its palette"
AS_OPACITY = "by what is not transparent"
WITHOUT_OPACITY = "by its colours, whatever is transparent"


class Reading(NamedTuple):
    """One way in which a mask's numbers can be meant.

    Attributes
    ----------
    numbers : (h, w) array of integers
    words : str
        How they are read, for a sentence.
    asked_only : bool
        It is taken only where a person names its values, never because another reading does not fit.
    """

    numbers: Numbers
    words: str
    asked_only: bool = False


class MaskFile(NamedTuple):
    """A mask file's readings, the likeliest first, and what else matters of it.

    Attributes
    ----------
    readings : tuple of Reading
    lossy : bool
        Whether it is a JPEG, which changes numbers.
    unsure : str, optional
        Why no reading can be taken unless a person names the values.
    orientation : int
        Its orientation tag.
    white_is_zero : bool
        Whether the file says that its 0 is white; where values are named, they are the numbers in the file.
    """

    readings: tuple[Reading, ...]
    lossy: bool = False
    unsure: str | None = None
    orientation: int = 1
    white_is_zero: bool = False


def read_mask(path: Path) -> Numbers:
    """A mask file as whole numbers, by its likeliest reading.

    Parameters
    ----------
    path : Path
        Any image that can be opened, or ``.npy``. A palette of colours gives its indices, a palette of greys and a
        white zero what is shown; a colour image must be grey.

    Returns
    -------
    (h, w) array of integers

    Raises
    ------
    SourceError
        If the file cannot be read, has colours, or values that are no whole numbers.
    """
    return read_mask_file(path).readings[0].numbers


def read_mask_file(path: Path) -> MaskFile:
    """A mask file with all its readings; raises as `read_mask`."""
    if path.suffix.lower() == ".npy":
        return MaskFile((Reading(_whole(_plain(np.atleast_3d(_array(path)), path), path), AS_STORED),))
    try:
        backend = open_backend(path)
        try:
            if backend.planes > 1:
                raise SourceError(f"The mask {path} holds {backend.planes} images; give one image of height x width.")
            stored = _pixels(backend)
        finally:
            backend.close()
    except SourceError:
        raise
    except MsunetError as error:
        raise SourceError(f"The mask {path} cannot be read as an image: {error}") from error
    properties = backend.info.properties
    lossy = "JPEG" in (properties.get("format"), properties.get("compression"))
    samples = backend.samples
    unsure = None
    if samples is None or samples.space == "plain":
        found = [Reading(_whole(_plain(stored, path), path), AS_STORED)]
    elif samples.palette is not None:
        places = stored[..., 0].astype(np.uint8) if stored.dtype == bool else stored[..., 0]
        found, unsure = _of_palette(places, samples.palette, samples.opacity)
    else:
        found = list(_of_samples(stored, samples, path, properties.get("kind") == "imagej"))
        if samples.white_is_zero and samples.bits == 1 and properties.get("software") == "tifffile.py":
            # Its usual way to write an array of bool, whatever was meant: the objects are as often 1 as white.
            unsure = (
                "of its numbers 0 and 1, 0 is white (WhiteIsZero); say which one is the object, with --values 1=NAME "
                "(shown black) or --values 0=NAME,1=background (shown white), or save it as 8 bits"
            )
    return MaskFile(tuple(found), lossy, unsure, backend.turned, samples is not None and samples.white_is_zero)


def _array(path: Path) -> Numbers:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"The mask {path} cannot be read as an array: {error}") from error


def _pixels(backend: Backend) -> Numbers:
    """All of level 0 as it is stored, `(h, w, samples)`."""
    level = backend.info.levels[0]
    rows = [
        np.concatenate([backend.read_stored(0, cy, cx) for cx in range(level.chunks[1])], axis=1)
        for cy in range(level.chunks[0])
    ]
    stored: Numbers = np.concatenate(rows, axis=0)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _plain(stored: Numbers, path: Path) -> Numbers:
    """The one number of each pixel: of several channels, all must be equal."""
    if stored.ndim != 3 or stored.shape[2] not in (1, 3, 4):
        raise SourceError(f"The mask {path} has the shape {stored.shape}; give one image of height x width.")
    colours = stored[..., :3]
    if (colours != colours[..., :1]).any():
        raise SourceError(f"The mask {path} is a colour image; save it with one channel of class numbers.")
    number: Numbers = stored[..., 0]
    return number


def _whole(values: Numbers, path: Path) -> Numbers:
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise SourceError(f"The mask {path} holds fractions; save it as whole class numbers.")
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise SourceError(f"The mask {path} holds values of type {values.dtype}; save it as whole class numbers.")
    return values


def _of_samples(stored: Numbers, samples: Samples, path: Path, imagej: bool) -> Iterator[Reading]:
    """The readings of grey and of colours that are all grey."""
    opaque = None
    if samples.alpha is not None:
        opaque = stored[..., -1]
        stored = stored[..., :-1]
    elif samples.transparent is not None:
        clear = (stored == np.asarray(samples.transparent, stored.dtype)).all(-1)
        opaque = np.where(clear, 0, 2**samples.bits - 1).astype(stored.dtype)
    if samples.space not in ("gray", "rgb"):
        stored = samples.colours(stored)
    if opaque is not None:  # what a transparent pixel would show does not count
        stored = np.where(opaque[..., None] == 0, stored[..., :1], stored)
    values = _whole(_plain(stored, path), path)
    if opaque is not None and opaque.min() != opaque.max():
        values = (2**samples.bits - 1) - values if samples.white_is_zero else values
        yield from _of_opacity(values, opaque, 2**samples.bits - 1, path)
        return
    if samples.white_is_zero:
        turned = (2**samples.bits - 1) - values
        both = [Reading(turned, AS_SHOWN), Reading(values, AS_STORED)]
        yield from both[:: -1 if imagej else 1]  # ImageJ inverts what it shows, and measures the numbers in the file
        return
    yield Reading(values // samples.step, AS_STORED)
    if samples.step > 1:
        yield Reading(values, AS_SHOWN)
    elif samples.bits < 8:
        yield Reading(np.rint(values * (255 / (2**samples.bits - 1))).astype(np.uint8), AS_SHOWN)


def _of_opacity(values: Numbers, opaque: Numbers, top: int, path: Path) -> Iterator[Reading]:
    """The readings of greys that are partly transparent."""
    clear = opaque == 0
    visible = np.unique(values[~clear])
    partial = bool(((opaque > 0) & (opaque < top)).any())
    shown = np.where(clear, 0, values).astype(values.dtype)
    if visible.size <= 1 and (partial or not visible.any()):
        yield Reading(opaque if top == 255 else opaque // max(1, top // 255), AS_OPACITY)
    elif partial:
        raise SourceError(f"The mask {path} has half transparent pixels; save it without transparency.")
    else:
        yield Reading(shown, AS_SHOWN)
    yield Reading(values, WITHOUT_OPACITY)


def _of_palette(index: Numbers, palette: Numbers, opacity: Numbers | None) -> tuple[list[Reading], str | None]:
    """The readings of places in a palette, and why none can be taken unasked."""
    used = np.unique(index)
    colours = palette[used].astype(int)
    clear = np.zeros(used.size, bool) if opacity is None else opacity[used] == 0
    places = Reading(index, AS_PLACES)
    if (colours == colours[:, :1]).all():
        greys = np.where(clear, 0, colours[:, 0])
        if opacity is not None and clear.any() and not greys.any():  # black on transparent
            greys = np.where(clear, 0, 255)
        shown = np.zeros(len(palette), np.uint8)
        shown[used] = greys
        seen = Reading(shown[index], AS_SHOWN)
        if np.array_equal(greys, used):
            return [places], None
        rising = bool((np.diff(greys) > 0).all()) and (used[0] != 0 or greys[0] == 0)
        if rising:
            return [places, Reading(seen.numbers, seen.words, asked_only=used.size > 2)], None
        return [seen, Reading(index, AS_PLACES, asked_only=True)], None
    ground = clear | (colours == 0).all(1) | (colours == 255).all(1)
    if used[0] == 0 and not ground[0] and ground.any():
        other = int(used[np.flatnonzero(ground)[0]])
        red, green, blue = colours[0]
        look = "transparent" if clear[np.flatnonzero(ground)[0]] else "black or white"
        return [places], (
            f"its number 0, which is the background elsewhere, has the colour ({red}, {green}, {blue}) in its palette, "
            f"and its number {other} is {look}; say which number is the background, as in "
            f"--values 0=NAME,{other}=background, or save it as plain grey numbers"
        )
    return [places], None
