"""Masks as numbers: which reading of a file is meant, its values as classes, and bringing them to another grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.config import MaskValues
from napari_msunet.constants import IGNORED
from napari_msunet.data.mask_files import AS_STORED, MaskFile, read_mask
from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Window, footprints
from napari_msunet.slide.resample import settled_ratio

__all__ = ["IGNORED", "ChosenMask", "Mask", "choose_reading", "class_numbers", "majority", "read_mask"]

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
    """The reading of a mask that fits what its values are said to mean, and the doubt where another one fits, too.

    Raises
    ------
    SourceError
        If none fits, or only a person can say which is meant.
    """
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
            fitting.append((reading, *class_numbers(reading.numbers, values, classes, name)))
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


def class_numbers(
    mask: npt.NDArray[Any],
    values: Literal["classes", "instances"] | Mapping[int, str],
    classes: tuple[str, ...],
    name: str,
) -> tuple[Mask, bool]:
    """A mask's values as class numbers.

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
    """The mask with each value replaced; 0 is background unless said otherwise."""
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

    A tie goes to a class before background, then to the lower number. Ignored pixels do not vote; where nobody votes,
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
