"""Annotations: fully annotated polygons, and what of an annotation counts as true."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon as fill_polygon

from napari_msunet.constants import IGNORED
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND


def checked_polygon(polygon: npt.ArrayLike) -> tuple[tuple[float, float], ...]:
    """The corners of a polygon, as plain numbers."""
    corners = np.asarray(polygon, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise StoreError(f"A polygon needs at least three corners (y, x) of finite numbers; got shape {corners.shape}.")
    return tuple((float(y), float(x)) for y, x in corners)


def inside(window: Window, polygons: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    """Which pixels of a window have their centre inside one of the polygons."""
    mask = np.zeros(window.shape, np.bool_)
    for corners in polygons:
        # skimage has pixel centres on whole numbers, we have them half a pixel further
        y, x = corners[:, 0] - window.y - 0.5, corners[:, 1] - window.x - 0.5
        rows, columns = fill_polygon(y, x, window.shape)  # type: ignore[no-untyped-call]
        mask[rows, columns] = True
    return mask


def truth(
    values: npt.NDArray[np.uint8], window: Window, polygons: Iterable[npt.NDArray[np.float64]]
) -> npt.NDArray[np.uint8]:
    """An annotation's values as truth: 255 is background, 0 is ignored unless all around it was annotated."""
    out = np.where(values == ANNOTATED_BACKGROUND, 0, values).astype(np.uint8)
    out[(values == 0) & ~inside(window, polygons)] = IGNORED
    return out
