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
    WHITE,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    chunk_size,
    default_channels,
    level_downsample,
    on_background,
)
from napari_msunet.slide.openslide_backend import damaged
from napari_msunet.slide.tiff_metadata import channel_names, tiff_kind, tiff_mpp, tiff_range

MINISWHITE, RGB_SPACE, PALETTE, YCBCR = 0, 2, 3, 6
COLOUR_SPACES = (RGB_SPACE, YCBCR, 8)  # and CIELab


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
        fill = 255 if level.keyframe.photometric in COLOUR_SPACES else 0
        return zarr.open_array(level.aszarr(level=0, fillvalue=fill), mode="r")

    def _info(self) -> SlideInfo:
        series, page = self._series, self._page
        axes = series.axes
        self._y, self._x = axes.index("Y"), axes.index("X")
        self._mixed = [i for i, a in enumerate(axes) if a in "CS"]
        stored = np.dtype(series.dtype)
        samples = series.shape[axes.index("S")] if "S" in axes else 1
        count = prod(int(series.shape[i]) for i in self._mixed)
        self._palette = page.photometric == PALETTE and page.colormap is not None and count == 1
        colour = (page.photometric in COLOUR_SPACES and count == samples and samples in (3, 4)) or self._palette
        self._alpha = colour and samples == 4 and stored == np.uint8
        if self._alpha or self._palette:
            count = 3
        if stored.kind not in "buif":
            raise SlideError(
                f"{self._path} has pixels of type {stored}, which is no image; convert it to 8 or 16 bits."
            )
        dtype = np.dtype(np.uint8) if stored.kind == "b" or self._palette else stored.newbyteorder("=")
        levels = []
        full = (series.shape[self._y], series.shape[self._x])
        for array in self._arrays:
            shape = (array.shape[self._y], array.shape[self._x])
            native = (512, 512) if isinstance(array, np.ndarray) else (array.chunks[self._y], array.chunks[self._x])
            chunk = chunk_size(native, shape, count * dtype.itemsize)
            levels.append(Level(shape, level_downsample(full, shape), chunk))
        colour = colour and count == 3
        names = RGB if colour else channel_names(self._file, self._series, count) or default_channels(count, False)
        properties = {"axes": axes, "kind": series.kind, "compression": str(getattr(page.compression, "name", ""))}
        return SlideInfo(
            tuple(levels),
            dtype,
            names,
            tiff_mpp(self._file, series),
            None,
            properties,
            tiff_kind(self._file, self._series),
            tiff_range(self._file, self._series, dtype),
        )

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        y, x, height, width = self.chunk_box(level, cy, cx)
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
        return self._plain(pixels.reshape(height, width, -1))

    def _plain(self, pixels: Pixels) -> Pixels:
        """Pixels as they are meant to be seen: no palette, no alpha, black is 0."""
        if self._palette:
            colours = (np.asarray(self._page.colormap) >> 8).astype(np.uint8).T
            return np.ascontiguousarray(colours[pixels[..., 0]])
        if self._alpha:
            return on_background(pixels, WHITE)
        if pixels.dtype.kind == "b":
            pixels = pixels.astype(np.uint8) * np.uint8(255)
        pixels = np.array(pixels, self.info.dtype, order="C")
        if self._page.photometric == MINISWHITE and pixels.dtype.kind == "u":
            pixels = np.iinfo(pixels.dtype).max - pixels
        return pixels

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
