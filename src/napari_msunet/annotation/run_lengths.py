"""Masks inside files of shapes, as run lengths or as PNG, and their outlines along the edges of pixels.

Only the part of a mask that holds the object is ever made, so the image may have any size.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from napari_msunet.annotation.shapes import BadRingError
from napari_msunet.objects.polygons import label_polygons

_LARGEST = 1 << 28
"""Most pixels of the box around one object."""

DAMAGED = "with a damaged mask"
TOO_LARGE = "with a mask of more than 268 million pixels"

Runs = npt.NDArray[np.int64]
Rings = list[list[npt.NDArray[np.float64]]]


def coco_runs(text: str) -> Runs:
    """The run lengths in COCO's compressed text.

    Each number is written in groups of five bits, lowest first, in characters from "0" on; the sixth bit says that the
    number goes on, the highest bit of its last group is its sign. From the fourth number on, each is the difference to
    the one two places before (pycocotools, ``rleToString``).

    Raises
    ------
    BadRingError
        If it is no such text.
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        raise BadRingError(DAMAGED)
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise BadRingError(DAMAGED)
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    runs = np.where(negative, runs - (np.int64(1) << (5 * lengths)), runs)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.asarray(runs, np.int64)


def run_polygons(runs: Any, shape: tuple[int, int], down: bool, origin: tuple[float, float] = (0.0, 0.0)) -> Rings:
    """The outlines of a mask given by run lengths.

    Parameters
    ----------
    runs : sequence of int
        Lengths of runs, the first one outside the object, then inside and outside by turns.
    shape : (height, width)
        Of the mask.
    down : bool
        Whether the runs go down the columns, as in COCO, and not along the rows, as in CVAT.
    origin : (y, x)
        Place of the mask's first pixel, which is added.

    Returns
    -------
    list of list of (n, 2) arrays
        Polygons, each the rings ``x, y`` of its outline and holes; empty for an empty mask.

    Raises
    ------
    BadRingError
        If the runs cannot be read, do not fit the shape, or the object is too large.
    """
    try:
        lengths = np.asarray(runs, np.float64)
    except (TypeError, ValueError):
        raise BadRingError(DAMAGED) from None
    side, count = (shape[0], shape[1]) if down else (shape[1], shape[0])
    if lengths.ndim != 1 or side <= 0 or count <= 0 or not ((lengths >= 0) & (lengths < 2.0**53)).all():
        raise BadRingError(DAMAGED)
    ends = np.cumsum(lengths.astype(np.int64))
    if len(ends) and (ends[-1] > side * count or (np.diff(ends) < 0).any()):
        raise BadRingError(DAMAGED)
    starts, stops = ends[0 : len(ends) // 2 * 2 : 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return []
    first, last = int(starts[0]) // side, (int(stops[-1]) - 1) // side
    if (last - first + 1) * side > _LARGEST:
        raise BadRingError(TOO_LARGE)
    change = np.zeros((last - first + 1) * side + 1, np.int8)
    change[starts - first * side] += 1
    change[stops - first * side] -= 1  # where a run ends and the next begins at once, both count
    inside = np.cumsum(change[:-1], dtype=np.int8).reshape(-1, side)
    used = np.flatnonzero(inside.any(0))
    inside, corner = inside[:, used[0] : used[-1] + 1], (first, int(used[0]))
    y, x = (corner[1], corner[0]) if down else corner
    return mask_polygons(inside.T if down else inside, (origin[0] + y, origin[1] + x))


def mask_polygons(mask: npt.NDArray[Any], origin: tuple[float, float]) -> Rings:
    """The outlines of a mask, along its pixels' edges, with its first pixel at `origin` ``(y, x)``."""
    found = label_polygons(np.ascontiguousarray(mask != 0).astype(np.uint8))
    move = [origin[1], origin[0]]
    return [
        [shapely.get_coordinates(ring) + move for ring in (p.polygon.exterior, *p.polygon.interiors)] for p in found
    ]


def png_mask(text: str) -> npt.NDArray[np.bool_]:
    """The mask in a PNG that is written in base64.

    Raises
    ------
    BadRingError
        If it is none, or too large.
    """
    try:
        data = base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRingError(DAMAGED) from None
    mask: npt.NDArray[np.bool_] = image_mask(io.BytesIO(data))
    return mask


def image_mask(file: Path | io.BytesIO, formats: tuple[Literal["PNG", "TIFF", "BMP"], ...] = ("PNG",)) -> Any:
    """Where an image is not black, in any of its channels but transparency.

    Raises
    ------
    BadRingError
        If it cannot be read, or is too large.
    """
    try:
        with Image.open(file, formats=formats) as image:
            if image.size[0] * image.size[1] > _LARGEST:
                raise BadRingError(TOO_LARGE)
            values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "P", "LA", "PA") else image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise BadRingError(DAMAGED) from None
    return (values != 0).any(-1) if values.ndim == 3 else values != 0
