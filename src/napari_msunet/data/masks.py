"""Masks as numbers: which reading of a file is meant, its values as classes, and bringing them to another grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from napari_msunet.config import MaskValues
from napari_msunet.constants import IGNORED
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.geometry import Grid, Window, footprints
from napari_msunet.slide.backend import Backend, Samples
from napari_msunet.slide.resample import settled_ratio
from napari_msunet.slide.slide import open_backend

# ----------------------------------------------------------------------------------------------------------------------
# Mask files as whole numbers, read by the readers of images: every way in which their numbers can be meant.
#
# A palette, a white zero or transparency makes two readings of one file possible. The first is what every viewer
# shows, except that the numbers of a palette of colours are meant themselves.

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
    stored, backend = _opened(path)
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


def read_colour_mask(path: Path) -> MaskFile:
    """A mask whose colours mean classes; its numbers are ``65536 red + 256 green + blue``.

    Transparency does not count. Grey masks are colours with equal parts.

    Raises
    ------
    SourceError
        If the file cannot be read, or its values are no colours of 8 bits.
    """
    if path.suffix.lower() == ".npy":
        colours, lossy, turned = _array(path), False, 1
    else:
        stored, backend = _opened(path)
        samples, properties = backend.samples, backend.info.properties
        lossy, turned = "JPEG" in (properties.get("format"), properties.get("compression")), backend.turned
        colours = stored
        if samples is not None and samples.space != "plain":
            inked = stored[..., :-1] if samples.alpha is not None else stored
            colours = replace(samples, alpha=None, transparent=None, opacity=None).image(inked)
    if colours.ndim != 3 or colours.shape[2] not in (1, 3, 4) or colours.dtype != np.uint8:
        shape = " x ".join(map(str, colours.shape))
        raise SourceError(
            f"The mask {path} has the shape {shape} and values of type {colours.dtype}, but colours mean its classes; "
            "give an image of height x width with red, green and blue of 8 bits."
        )
    red, green, blue = (colours[..., n].astype(np.int64) for n in ((0, 0, 0) if colours.shape[2] == 1 else (0, 1, 2)))
    return MaskFile((Reading((red << 16) + (green << 8) + blue, AS_SHOWN),), lossy, orientation=turned)


def _opened(path: Path) -> tuple[Numbers, Backend]:
    """The numbers of a mask as they are stored, and its reader, which is closed."""
    try:
        backend = open_backend(path)
        try:
            if backend.planes > 1:
                raise SourceError(f"The mask {path} holds {backend.planes} images; give one image of height x width.")
            return _pixels(backend), backend
        finally:
            backend.close()
    except SourceError:
        raise
    except MsunetError as error:
        raise SourceError(f"The mask {path} cannot be read as an image: {error}") from error


def _array(path: Path) -> Numbers:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise SourceError(f"The mask {path} cannot be read as an array: {error}") from error


def _pixels(backend: Backend) -> Numbers:
    """All pixels of level 0 as they are stored, `(h, w, samples)`."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The reading that is meant, and its values as class numbers.


_TIE = 1e-9

Mask = npt.NDArray[np.uint8]


class ChosenMask(NamedTuple):
    """A mask as it was read.

    Attributes
    ----------
    numbers : (h, w) array of integers
        The file's own.
    truth : (h, w) uint8
        0 background, 1..K classes, 255 ignored.
    stretched : bool
        Whether 255 was read as the only class.
    doubt : str, optional
        How else it could have been read, as a sentence without its subject.
    orientation : int
        The mask's orientation tag.
    """

    numbers: npt.NDArray[Any]
    truth: Mask
    stretched: bool
    doubt: str | None
    orientation: int


def choose_reading(file: MaskFile, values: MaskValues, classes: tuple[str, ...], name: str) -> ChosenMask:
    """The reading of a mask that fits the given meaning of its values, and the doubt where another reading fits, too.

    Raises
    ------
    SourceError
        If none fits, or only a person can say which is meant.
    """
    if is_colour_table(values):
        if file.lossy:
            raise SourceError(f"The mask {name} is a JPEG, which changes colours; save it as PNG or TIFF.")
        numbers = file.readings[0].numbers
        return ChosenMask(numbers, class_colours(numbers, values, classes, name), False, None, file.orientation)
    meant = cast("Literal['classes', 'instances'] | Mapping[int, str]", values)
    named = isinstance(values, Mapping)
    if file.unsure is not None and not named:
        raise SourceError(f"The mask {name} can be read in two ways: {file.unsure}.")
    if file.lossy and not named and not set(np.unique(file.readings[0].numbers).tolist()) <= {0, 255}:
        raise SourceError(f"The mask {name} is a JPEG, which changes numbers; save it as PNG or TIFF.")
    readings = list(file.readings)
    if named and file.white_is_zero:
        readings = [r for r in readings if r.words == AS_STORED] or readings
    if values == "instances" and any((r.numbers == 0).any() for r in readings):
        readings = [r for r in readings if (r.numbers == 0).any()]  # some pixel is background
    refused: SourceError | None = None
    fitting = []
    for reading in readings:
        try:
            fitting.append((reading, *class_numbers(reading.numbers, meant, classes, name)))
        except SourceError as error:
            refused = refused or error
    if refused is not None and (not fitting or (fitting[0][0].asked_only and not named)):
        raise refused
    best, truth, stretched = fitting[0]
    other = next((r for r, t, _ in fitting[1:] if not np.array_equal(t, truth)), None)
    doubt = None
    if other is not None:
        doubt = (
            f"can be read in two ways: {best.words}, which was done, and {other.words}; if that is wrong, say which "
            'class each number is ("values"), or save masks as plain grey numbers'
        )
    return ChosenMask(best.numbers, truth, stretched, doubt, file.orientation)


def is_colour_table(values: MaskValues) -> TypeGuard[Mapping[str, str]]:
    """Whether the meaning of a mask's values is a table of colours."""
    return isinstance(values, Mapping) and any(isinstance(key, str) for key in values)


def class_colours(mask: npt.NDArray[np.int64], table: Mapping[str, str], classes: tuple[str, ...], name: str) -> Mask:
    """The class numbers that a mask's colours stand for; black is background, unless the table has it as something
    else.

    Parameters
    ----------
    mask : (h, w) array of integers
        As `read_colour_mask` gives them.
    table : mapping
        From ``#rrggbb`` to a class, "background" or "ignored".

    Raises
    ------
    SourceError
        If a colour is not in the table.
    """
    numbers = {0: 0} | _numbers({int(colour[1:], 16): label for colour, label in table.items()}, classes)
    found, places = np.unique(mask, return_inverse=True)
    wrong = [int(v) for v in found if int(v) not in numbers]
    if wrong:
        pixels = int(np.isin(mask, wrong).sum())
        names = ", ".join(f"#{v:06x}" for v in wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise SourceError(
            f"The mask {name} has the colours {names} ({pixels} pixels), which the table of colours does not name; add "
            'them, as a class, "background" or "ignored".'
        )
    return np.array([numbers[int(v)] for v in found], np.uint8)[places.reshape(mask.shape)]


def class_numbers(
    mask: npt.NDArray[Any],
    values: Literal["classes", "instances"] | Mapping[int, str],
    classes: tuple[str, ...],
    name: str,
) -> tuple[Mask, bool]:
    """The class numbers that a mask's values stand for.

    Parameters
    ----------
    mask : (h, w) array of integers
    values : "classes", "instances" or mapping
        As in `FolderSource.values`. A mapping may also name "background" (0) and "ignored" (255).
    classes : tuple of str
        Names of classes 1..K.
    name : str
        The mask in error messages.

    Returns
    -------
    truth : (h, w) uint8
        0 background, 1..K classes, 255 ignored.
    stretched : bool
        Whether 255 was read as the only class.

    Raises
    ------
    SourceError
        If a value is no class.
    """
    if values == "instances":
        if mask.size and mask.min() < 0:
            raise SourceError(f"The instance mask {name} has values below 0; give 0 for background and 1, 2, ... .")
        return (mask != 0).astype(np.uint8), False
    found = np.unique(mask)
    if isinstance(values, Mapping):
        return _mapped(mask, found, _numbers(values, classes), name), False
    if len(classes) == 1 and found.size and set(found.tolist()) <= {0, 255} and 255 in found:
        return (mask == 255).astype(np.uint8), True
    wrong = [int(v) for v in found if not 0 <= v <= len(classes)]
    if wrong:
        raise SourceError(
            f"The mask {name} has the values {_listed(wrong)}, but the classes {', '.join(classes)} are 1 to "
            f'{len(classes)} and background is 0; say what its values mean with values="instances" or '
            f'values={{{wrong[0]}: "{classes[0]}", ...}}.'
        )
    return mask.astype(np.uint8), False


def _numbers(values: Mapping[int, str], classes: tuple[str, ...]) -> dict[int, int]:
    """Class number of each mask value."""
    known = {"background": 0, "ignored": IGNORED} | {c: i for i, c in enumerate(classes, start=1)}
    unknown = sorted({c for c in values.values() if c not in known})
    if unknown:
        raise SourceError(
            f"The mask values are said to mean {', '.join(unknown)}, but the model's classes are {', '.join(classes)}; "
            'use these names, "background" or "ignored".'
        )
    return {int(v): known[c] for v, c in values.items()}


def _mapped(mask: npt.NDArray[Any], found: npt.NDArray[Any], numbers: dict[int, int], name: str) -> Mask:
    """The mask with each value replaced; 0 is background unless `numbers` has it as something else."""
    numbers = {0: 0} | numbers
    wrong = [int(v) for v in found if int(v) not in numbers]
    if wrong:
        raise SourceError(
            f"The mask {name} has the values {_listed(wrong)}, which `values` does not name; add them, as a class, "
            '"background" or "ignored".'
        )
    truth = np.zeros(mask.shape, np.uint8)
    for value in found:
        truth[mask == value] = numbers[int(value)]
    return truth


def _listed(values: list[int]) -> str:
    """The first few of many numbers, as text."""
    return ", ".join(str(v) for v in values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def majority(read: Callable[[Window], Mask], own: Grid, grid: Grid, window: Window) -> Mask:
    """Class numbers of a window of another grid over the same slide: for each pixel what covers most of its footprint.

    A tie goes to a class before background, then to the lower number. Ignored pixels do not vote; where no pixel votes,
    the pixel is ignored.

    Parameters
    ----------
    read : callable
        Gives the truth in a window of `own`; outside the slide it gives 255.
    own, grid : Grid
        The truth's grid and the wanted one.
    window : Window
        In pixels of `grid`; may stick out of the slide.

    Returns
    -------
    (h, w) uint8
    """
    # The same ratios as the image's own averages, so that a pixel and its truth have the same footprint.
    ratio = tuple(settled_ratio(t / o, n) for t, o, n in zip(grid.pixel, own.pixel, grid.shape, strict=True))
    if ratio == (1.0, 1.0):
        return read(window)
    rows, row_weights = footprints(window.y, window.height, ratio[0])
    columns, column_weights = footprints(window.x, window.width, ratio[1])
    source = Window.between(
        (int(rows[0]), int(columns[0])),
        (int(rows[-1]) + row_weights.shape[1], int(columns[-1]) + column_weights.shape[1]),
    )
    values = read(source)
    rows, columns = rows - source.y, columns - source.x
    present = np.bincount(values.ravel(), minlength=IGNORED + 1)[:IGNORED].nonzero()[0]
    result = np.full(window.shape, IGNORED, np.uint8)
    best = np.zeros(window.shape)
    for value in sorted(present.tolist(), key=lambda v: (v == 0, v)):
        votes = _weighted((values == value).astype(np.float64), rows, row_weights)
        votes = _weighted(votes.T, columns, column_weights).T
        wins = votes > best + _TIE
        result[wins] = value
        best[wins] = votes[wins]
    return result


def _weighted(
    values: npt.NDArray[np.float64], first: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Weighted sums of rows: row `i` of the result is that of target pixel `i`."""
    total = weights[:, :1] * values[first]
    for tap in range(1, weights.shape[1]):
        total += weights[:, tap : tap + 1] * values[first + tap]
    return total
