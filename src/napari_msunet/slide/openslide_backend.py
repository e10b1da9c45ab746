"""The reader of whole-slide files through OpenSlide: SVS, NDPI, MRXS, SCN, BIF and others."""

from __future__ import annotations

import re
from contextlib import suppress
from math import nan
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openslide
import tifffile
from PIL.Image import Image

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    CHUNK_SIDE,
    RGB,
    TAG,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    chunk_size,
    level_downsample,
    on_background,
    turn,
    turn_note,
)
from napari_msunet.slide.foreign import is_unsupported

TILE_CACHE_BYTES = 32 << 20
WAVELENGTH = re.compile(r"(Excitation|Emission)WaveLength=\d")
"""The property of a fluorescence channel in Hamamatsu files; Leica files have an illumination source `fluorescence`."""


class OpenSlideBackend(Backend):
    """One slide that OpenSlide reads, within the bounds that it declares.

    OpenSlide interpolates where a place of a level is no whole pixel, so each chunk is always read from the level-0
    place that is nearest to its corner. After one damaged tile, a handle of OpenSlide refuses all reads, so a chunk
    that failed is tried once with a new handle, and the rest of the slide is read with another one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache = openslide.OpenSlideCache(TILE_CACHE_BYTES)
        self._lock = Lock()
        try:
            self._slide = self._opened()
        except openslide.OpenSlideError as error:
            raise damaged(path, error) from error
        if missing := missing_bytes(path):
            raise SlideError(
                f"{path} is cut short, {missing} bytes or more are missing; copy it from its source again."
            )
        properties = dict(self._slide.properties)
        width, height = self._slide.dimensions
        self._corner = _integer(properties, "bounds-y", 0), _integer(properties, "bounds-x", 0)
        extent = _integer(properties, "bounds-height", height), _integer(properties, "bounds-width", width)
        self._factors = self._slide.level_downsamples
        levels = []
        for number, (level_width, level_height) in enumerate(self._slide.level_dimensions):
            shape: tuple[int, int] = (level_height, level_width)
            if extent != (height, width):
                shape = _covering(extent[0], self._factors[number]), _covering(extent[1], self._factors[number])
            native = (
                _integer(properties, f"level[{number}].tile-height", CHUNK_SIDE),
                _integer(properties, f"level[{number}].tile-width", CHUNK_SIDE),
            )
            if not all(64 <= n <= 2 * CHUNK_SIDE for n in native):
                native = (CHUNK_SIDE, CHUNK_SIDE)
            levels.append(Level(shape, level_downsample(extent, shape), chunk_size(native, shape, 4)))
        self.info = SlideInfo(
            tuple(levels),
            np.dtype(np.uint8),
            RGB,
            _mpp(properties),
            _background(properties),
            properties,
            "fluorescence" if _fluorescent(properties) else None,
            notes=turn_note(turn(_orientation(path)), heeded=False),
        )
        # parts that are missing in sparse levels are transparent
        self._ground = self.info.background if self.info.background is not None else _ground(properties)

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        y, x, height, width = self.chunk_box(level, cy, cx)
        factor = self._factors[level]
        place = round(x * factor) + self._corner[1], round(y * factor) + self._corner[0]
        try:
            image = self._slide.read_region(place, level, (width, height))
        except openslide.OpenSlideError:
            image = self._read_afresh(place, level, (width, height))
        return on_background(np.asarray(image), self._ground)

    def _opened(self) -> openslide.OpenSlide:
        slide = openslide.OpenSlide(self._path)
        slide.set_cache(self._cache)
        return slide

    def _read_afresh(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> Image:
        with self._lock:
            try:
                own = self._opened()
                image = own.read_region(place, level, size)
                self._slide = own  # the old handle is closed when no other thread uses it
            except openslide.OpenSlideError as error:
                with suppress(openslide.OpenSlideError):
                    self._slide = self._opened()
                raise damaged(self._path, error) from error
        return image

    def close(self) -> None:
        self._slide.close()


def _orientation(path: Path) -> object:
    """The orientation tag of a slide that is a TIFF file; OpenSlide does not follow it."""
    try:
        with tifffile.TiffFile(path) as file:
            first: Any = file.pages[0]
            return first.tags.valueof(TAG, 1)
    except Exception:  # no TIFF, or a damaged one, which raises when it is read
        return 1


def missing_bytes(path: Path) -> int:
    """How many bytes of a TIFF's tiles are beyond its end, which OpenSlide finds out tile by tile or never."""
    end = 0
    try:
        with path.open("rb") as file:
            if file.read(4) not in TIFF_STARTS:
                return 0
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                ends = np.add(page.dataoffsets, page.databytecounts)[np.asarray(page.databytecounts) > 0]
                end = max(end, int(ends.max(initial=0)))
            return max(0, end - tiff.filehandle.size)
    except Exception:  # OpenSlide can read the file, so an error of tifffile does not matter
        return 0


TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def damaged(path: Path, error: BaseException, where: str = "") -> SlideError:
    """The error about a file whose pixels cannot be read; `where` names them."""
    detail = (str(error) or type(error).__name__).splitlines()[0].replace(str(path), "").strip(" .:,")
    detail += f"; {where}" if where else ""
    if is_unsupported(error):
        return SlideError(f"{path} is not supported: {detail}; convert it to TIFF or OME-Zarr.")
    return SlideError(
        f"{path} cannot be read, the file is damaged or cut short ({detail}); copy it from its source again."
    )


def _integer(properties: dict[str, str], name: str, default: int) -> int:
    return int(properties.get(f"openslide.{name}", default))


def _covering(length: int, factor: float) -> int:
    return max(1, int(np.ceil(round(length / factor, 3))))


def _mpp(properties: dict[str, str]) -> tuple[float, float] | None:
    try:
        return float(properties["openslide.mpp-y"]), float(properties["openslide.mpp-x"])
    except KeyError:
        return (nan, nan) if properties.get("aperio.MPP") else None  # OpenSlide could not read it as a number
    except ValueError:
        return nan, nan


def _background(properties: dict[str, str]) -> Pixels | None:
    """The file's own background colour."""
    colour = properties.get("openslide.background-color")
    if colour is not None and len(colour) == 6:
        return np.frombuffer(bytes.fromhex(colour), np.uint8).copy()
    return None


def _fluorescent(properties: dict[str, str]) -> bool:
    """Whether the file names an excitation filter or a fluorescence source."""
    return any(v.lower() == "fluorescence" or WAVELENGTH.search(v) for v in properties.values())


def _ground(properties: dict[str, str]) -> Pixels:
    """The default background: black for fluorescence, else white."""
    return np.full(3, 0 if _fluorescent(properties) else 255, np.uint8)
