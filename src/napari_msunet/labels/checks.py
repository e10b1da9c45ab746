"""Checks of the arguments of a label store; each error is one sentence."""

from __future__ import annotations

from math import isclose
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window, as_region, snap_ceil, snap_floor, snapped
from napari_msunet.labels.metadata import StoreInfo
from napari_msunet.labels.runs.run import Run

Pair = tuple[float, float]


class HasPixelSize(Protocol):
    """Anything on a slide whose pixels have a size: a store, its metadata, a grid."""

    @property
    def mpp(self) -> Pair | None: ...

    @property
    def pixel(self) -> Pair: ...


Mask = npt.NDArray[np.bool_] | None


def touched(region: Region | Window) -> Window:
    """The level-0 pixels a region touches."""
    if isinstance(region, Window):
        return region
    region = as_region(region)
    start = (snap_floor(region.y), snap_floor(region.x))
    return Window.between(start, (snap_ceil(region.stop[0]), snap_ceil(region.stop[1])))


def region_of(window: Window | None) -> Region | None:
    """A window of level 0 as a region."""
    return None if window is None else Region(window.y, window.x, window.height, window.width)


def whole_pixels(region: Region | Window) -> Window:
    """The window of a region that lies on whole pixels."""
    if isinstance(region, Region):
        edges = (region.y, region.x, *region.stop)
        if any(snapped(edge) != round(edge) for edge in edges):
            raise StoreError(f"{region} does not lie on whole pixels; round it to the store's level-0 pixels.")
    window = touched(region)
    if window.empty:
        raise StoreError(f"{window} is empty; give a height and a width above zero.")
    return window


def stroke(info: StoreInfo, path: Path, region: Region | Window, values: Any, mask: Any) -> tuple[Window, Any, Mask]:
    """The part of a stroke inside the store: its window, values (an array or one number) and mask."""
    window = whole_pixels(region)
    inside = window.intersection(Window(0, 0, *info.shape))
    if inside.empty:
        raise StoreError(f"{region} is outside of {path}, which has {info.shape[0]} x {info.shape[1]} pixels.")
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise StoreError(
            f"Labels are whole numbers; got {array.dtype}: convert them, e.g. with .astype('{info.dtype}')."
        )
    if array.ndim and array.shape != window.shape:
        raise StoreError(f"Values of shape {array.shape} do not fill a region of {window.shape} pixels.")
    place = inside.slices((window.y, window.x))
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != window.shape:
            raise StoreError(
                f"A mask of {mask.dtype} and shape {mask.shape} does not fit; give booleans of shape {window.shape}."
            )
        mask = np.array(mask[place])
    return inside, array[place] if array.ndim else array[()], mask


def values_are_classes(info: StoreInfo, values: Any) -> None:
    """Refuse values that have no meaning in this store."""
    values = np.asarray(values)
    if values.size == 0:
        return
    top = np.iinfo(info.dtype).max if info.instances else len(info.classes)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= top:
        return
    strange = values[(values < 0) | (values > top)]
    if info.kind == "annotation":
        strange = strange[strange != ANNOTATED_BACKGROUND]
    if strange.size and info.instances:
        raise StoreError(f"The value {int(strange.flat[0])} is no number of an object: they go from 0 to {top}.")
    if strange.size:
        also = ", and 255 for background" if info.kind == "annotation" else ""
        raise StoreError(
            f"The value {int(strange.flat[0])} is no class: this store has 0 to {top} "
            f"({', '.join(info.classes)}){also}; add_classes adds more."
        )


def size_of(placed: HasPixelSize) -> str:
    """The size of the pixels of a store or grid, in words."""
    unit = "image pixels" if placed.mpp is None else "µm"
    return f"{' x '.join(dict.fromkeys(f'{v:g}' for v in placed.mpp or placed.pixel))} {unit}"


def same_pixels(one: HasPixelSize, other: HasPixelSize) -> bool:
    """Whether two stores or grids have pixels of the same size, in the same unit."""
    if (one.mpp is None) != (other.mpp is None):
        return False
    pairs = zip(one.mpp or one.pixel, other.mpp or other.pixel, strict=True)
    return all(isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def fits(info: StoreInfo, path: Path, run: Run) -> None:
    """Refuse to merge a run that does not belong to a store."""
    if info.kind == "annotation":
        raise StoreError(f"{path} is an annotation; a prediction can be merged into labels only.")
    if not same_pixels(info, run.info):
        raise StoreError(
            f"The run {run.key} has pixels of {size_of(run.info)} and {path} of {size_of(info)}; predict into another "
            "store."
        )
    if run.info.shape != info.shape:
        raise StoreError(
            f"The run {run.key} has {run.info.shape} pixels and {path} has {info.shape}; predict into another store."
        )
    if run.path.parent.parent != path:
        raise StoreError(f"The run {run.key} belongs to {run.path.parent.parent}; only runs of {path} can be merged.")
    if (run.outputs["labels"] == "uint32") != info.instances:
        raise StoreError(f"The run {run.key} holds {run.outputs['labels']} and {path} holds {info.dtype}.")
