"""TIFF, OME-TIFF and QPTIFF through tifffile."""

from __future__ import annotations

import logging
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    RGB,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    chunk_size,
    default_channels,
    level_downsample,
)
from napari_msunet.slide.openslide_backend import damaged
from napari_msunet.slide.orientation import AS_STORED, TAG, turn, turn_note
from napari_msunet.slide.tiff_metadata import channel_names, tiff_kind, tiff_mpp, tiff_range
from napari_msunet.slide.tiff_samples import check_codec, tiff_samples


class TiffBackend(Backend):
    """The largest image of a TIFF file with its levels; of time, depth and other axes the first plane.

    Uncompressed images lying in one piece are mapped into memory, others are decoded tile by tile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _quiet()
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # tifffile raises of all kinds on damaged files
            raise damaged(path, error) from error
        try:
            self._series: Any = max(self._file.series, key=_area, default=None)
            if self._series is None or _area(self._series) == 0:
                raise SlideError(f"{path} has no whole image in it, the file is damaged or cut short; copy it again.")
            levels = _levels(self._file, self._series)
            self._check_length(levels)
            self._page = self._series.keyframe
            for level in levels:
                check_codec(path, level.keyframe)
            self._arrays = [self._array(level) for level in levels]
            self.info = self._info()
        except SlideError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise damaged(path, error) from error

    def _check_length(self, levels: list[Any]) -> None:
        """A file that is cut short is found out here: tifffile would fill what is missing without a word."""
        size = self._file.filehandle.size
        if _next_page(self._file) > size:
            raise SlideError(f"{self._path} is cut short, its last pages are missing; copy it from its source again.")
        for level in levels:
            for page in level.pages:
                if page is None:
                    continue
                ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n]
                if ends and max(ends) > size:
                    raise SlideError(
                        f"{self._path} is cut short, {max(ends) - size} bytes or more are missing; "
                        "copy it from its source again."
                    )

    def _array(self, level: Any) -> Any:
        """The pixels of a level, lazily."""
        if level.dataoffset is not None and level.keyframe.is_memmappable:
            return level.asarray(out="memmap")
        samples = tiff_samples(self._path, level.keyframe, level)
        fill = samples.top if samples.space == "rgb" else 0
        return zarr.open_array(level.aszarr(level=0, fillvalue=fill), mode="r")

    def _info(self) -> SlideInfo:
        series, page = self._series, self._page
        axes = series.axes
        self._y, self._x = axes.index("Y"), axes.index("X")
        self._mixed = [i for i, a in enumerate(axes) if a in "CS"]
        self.samples = samples = tiff_samples(self._path, page, series)
        self.planes = prod(int(n) for n, a in zip(series.shape, axes, strict=True) if a not in "YXCS")
        asked = turn(page.tags.valueof(TAG, 1))
        whole_slide = self._file.is_ome or self._file.is_qpi
        self._turn = AS_STORED if whole_slide else asked
        self.turned = self._turn.number
        count, dtype = samples.channels, samples.image_dtype
        levels = []
        self._shapes = [(array.shape[self._y], array.shape[self._x]) for array in self._arrays]
        full = self._turn.pair(self._shapes[0])
        for array, stored in zip(self._arrays, self._shapes, strict=True):
            native = (512, 512) if isinstance(array, np.ndarray) else (array.chunks[self._y], array.chunks[self._x])
            shape = self._turn.pair(stored)
            chunk = chunk_size(self._turn.pair(native), shape, count * dtype.itemsize)
            levels.append(Level(shape, level_downsample(full, shape), chunk))
        names = RGB if samples.colour else channel_names(self._file, series, count) or default_channels(count, False)
        properties = {"axes": axes, "kind": series.kind, "compression": str(getattr(page.compression, "name", ""))}
        if page.software:
            properties["software"] = str(page.software)
        mpp = tiff_mpp(self._file, series)
        notes = (*turn_note(asked, not whole_slide), *samples.notes())
        if self.planes > 1:
            notes += (f"It holds {self.planes} planes ({axes}): the first is read.",)
        return SlideInfo(
            tuple(levels),
            dtype,
            names,
            None if mpp is None else self._turn.pair(mpp),
            None,
            properties,
            tiff_kind(self._file, self._series),
            None if samples.white_is_zero and samples.bits % 8 == 0 else tiff_range(self._file, self._series, dtype),
            notes=notes,
        )

    def read_stored(self, level: int, cy: int, cx: int) -> Pixels:
        box = self.chunk_box(level, cy, cx)
        y, x, height, width = self._turn.stored_box(box, self.info.levels[level].shape)
        array = self._arrays[level]
        index: list[Any] = [0] * array.ndim
        index[self._y], index[self._x] = slice(y, y + height), slice(x, x + width)
        for axis in self._mixed:
            index[axis] = slice(None)
        try:
            pixels = np.asarray(array[tuple(index)])
        except Exception as error:  # codecs raise of all kinds
            raise damaged(self._path, error) from error
        kept = sorted([self._y, self._x, *self._mixed])
        pixels = pixels.transpose([kept.index(a) for a in (self._y, self._x, *self._mixed)])
        return self._turn.pixels(pixels.reshape(height, width, -1))

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        assert self.samples is not None
        stored = self.read_stored(level, cy, cx)
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return self.samples.image(stored)

    def close(self) -> None:
        self._arrays = []
        self._file.close()


def _quiet() -> None:
    """Keep what tifffile logs about damaged files off the terminal: our own errors say it in one sentence."""
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _next_page(file: Any) -> int:
    """Where the page after the last one lies; 0 where there is none."""
    tiff, handle, last = file.tiff, file.filehandle, file.pages[-1]
    with handle.lock:
        handle.seek(last.offset)
        (count,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
        handle.seek(last.offset + tiff.tagnosize + count * tiff.tagsize)
        (offset,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
    return int(offset)


def _area(series: Any) -> int:
    """Pixels of one plane of a series; 0 where it is no image."""
    if "Y" not in series.axes or "X" not in series.axes:
        return 0
    return int(series.shape[series.axes.index("Y")]) * int(series.shape[series.axes.index("X")])


def _levels(file: Any, series: Any) -> list[Any]:
    """The levels of a series: its own, else the reduced images that follow it in the file (as libvips writes them)."""
    if len(series.levels) > 1:
        return list(series.levels)
    levels = [series]
    y, x = series.axes.index("Y"), series.axes.index("X")
    for other in file.series:
        if other is series or other.axes != series.axes or other.dtype != series.dtype or not other.keyframe.is_reduced:
            continue
        full, last = (series.shape[y], series.shape[x]), (levels[-1].shape[y], levels[-1].shape[x])
        shape = (other.shape[y], other.shape[x])
        factors = level_downsample(full, shape)
        if factors[0] == factors[1] == int(factors[0]) and shape[0] < last[0] and shape[1] < last[1]:
            levels.append(other)
    return levels
