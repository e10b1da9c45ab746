"""The reader of arrays in memory and of lazy dask arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    CHUNK_SIDE,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    chunk_size,
    default_channels,
    level_downsample,
)


class ArrayBackend(Backend):
    """Levels given as arrays `(h, w)` or `(h, w, c)`, finest first."""

    def __init__(
        self,
        arrays: Sequence[Any],
        channels: Sequence[str] | None = None,
        background: Any = None,
    ) -> None:
        self._arrays = [checked_array(a) for a in arrays]
        full = self._arrays[0]
        number = full.shape[2]
        colour = channels is None and number == 3
        names = tuple(channels) if channels is not None else default_channels(number, colour)
        if len(names) != number:
            raise SlideError(f"{len(names)} channel names were given for an array of {number} channels; give one each.")
        dtype = np.dtype(full.dtype).newbyteorder("=")
        levels = []
        for array in self._arrays:
            shape = array.shape[:2]
            native = (CHUNK_SIDE, CHUNK_SIDE)
            if is_lazy(array):
                native = max(array.chunks[0]), max(array.chunks[1])
            chunk = chunk_size(native, shape, number * dtype.itemsize)
            levels.append(Level(shape, level_downsample(full.shape[:2], shape), chunk))
        try:
            colours = None if background is None else np.broadcast_to(np.asarray(background, dtype), number).copy()
        except (ValueError, TypeError, OverflowError) as error:
            raise SlideError(f"{background!r} is no background for {number} channels of {dtype}.") from error
        self.info = SlideInfo(tuple(levels), dtype, names, None, colours)

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        y, x, height, width = self.chunk_box(level, cy, cx)
        part: Any = self._arrays[level][y : y + height, x : x + width]
        if is_lazy(part):
            part = part.compute()
        pixels: Pixels = np.array(part, dtype=self.info.dtype, copy=True, order="C")
        return pixels

    def identity(self) -> str:
        """Hash of the values; for a lazy array, of its dask graph."""
        from napari_msunet.slide.identity import array_identity

        first = self._arrays[0]
        if not is_lazy(first):
            return array_identity(first)
        import dask

        return str(dask.base.tokenize(first))


def is_lazy(array: Any) -> bool:
    """Whether this is a dask array; found out without importing dask, which takes a second."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(array, module.Array)


def checked_array(array: Any) -> Any:
    """An image as `(h, w, c)`; raises SlideError for anything else."""
    if not is_lazy(array):
        array = np.asarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "uif":
        raise SlideError(
            f"An array of shape {array.shape} and type {array.dtype} is no image; give numbers as (height, width) or "
            "(height, width, channels), none of them empty."
        )
    return array
