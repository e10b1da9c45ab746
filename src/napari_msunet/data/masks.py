"""Masks as files and as numbers: reading them, turning their values into classes, bringing them to another grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Window, footprints
from napari_msunet.slide.resample import settled_ratio

IGNORED = 255
"""The truth of a pixel that counts neither in the loss nor in a score."""

_TIE = 1e-9

Mask = npt.NDArray[np.uint8]


def read_mask(path: Path) -> npt.NDArray[Any]:
    """A mask file as whole numbers.

    Parameters
    ----------
    path : Path
        PNG, JPEG, BMP, TIFF or ``.npy``. A palette image gives its indices; a colour image must be grey.

    Returns
    -------
    (h, w) array of integers

    Raises
    ------
    SourceError
        If the file cannot be read, has colours, or values that are no whole numbers.
    """
    try:
        values = _pixels(path)
    except Exception as error:  # readers raise what they like on a damaged file
        raise SourceError(f"The mask {path} cannot be read as an image: {error}") from error
    if values.ndim == 3 and values.shape[2] in (1, 3, 4):
        colours = values[..., :3]
        if (colours != colours[..., :1]).any():
            raise SourceError(f"The mask {path} is a colour image; save it with one channel of class numbers.")
        values = values[..., 0]
    if values.ndim != 2:
        raise SourceError(f"The mask {path} has the shape {values.shape}; give one image of height x width.")
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise SourceError(f"The mask {path} holds fractions; save it as whole class numbers.")
        return values.astype(np.int64)
    return values


def _pixels(path: Path) -> npt.NDArray[Any]:
    """Whatever the file holds, as an array."""
    ending = path.suffix.lower()
    if ending == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if ending in (".tif", ".tiff"):
        import tifffile

        return np.squeeze(np.asarray(tifffile.imread(path)))
    from PIL import Image

    with warnings.catch_warnings():
        # A large mask is no attack; above twice its limit Pillow still refuses, and that becomes a sentence.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return np.asarray(image)


def mask_shape(path: Path) -> tuple[int, int] | None:
    """Height and width by the file's header alone; None where only reading it all would tell."""
    ending = path.suffix.lower()
    if ending in (".npy", ".tif", ".tiff"):
        return None
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.height, image.width
    except Exception as error:  # as above
        raise SourceError(f"The mask {path} cannot be read as an image: {error}") from error


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
