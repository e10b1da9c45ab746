"""The readers of images that are in memory: PNG, JPEG and BMP, decoded whole by Pillow (or by libpng where Pillow would
drop bits), and arrays, also lazy ones of dask."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    CHUNK_SIDE,
    RGB,
    TAG,
    Backend,
    Level,
    Pixels,
    Samples,
    SlideInfo,
    Space,
    chunk_size,
    default_channels,
    level_downsample,
    turn,
    turn_note,
)
from napari_msunet.slide.foreign import jpeg_of_another_kind, not_supported
from napari_msunet.slide.openslide_backend import damaged
from napari_msunet.slide.pixel_size import inches

FORMATS = ("PNG", "JPEG", "BMP")
LARGEST = 2**30
"""Largest image, in pixels, that is decoded whole; larger ones must be written as a pyramid."""

_MODES: dict[str, tuple[Space, type[Any], int, int]] = {
    "1": ("gray", np.uint8, 1, 1),
    "L": ("gray", np.uint8, 1, 8),
    "I;16": ("gray", np.uint16, 1, 16),
    "I": ("gray", np.int32, 1, 32),
    "F": ("gray", np.float32, 1, 32),
    "P": ("palette", np.uint8, 1, 8),
    "RGB": ("rgb", np.uint8, 3, 8),
    "CMYK": ("cmyk", np.uint8, 4, 8),
    "LA": ("gray", np.uint8, 2, 8),
    "RGBA": ("rgb", np.uint8, 4, 8),
}
"""The coding of Pillow's modes: space, type, samples, bits."""

_PNG_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}
"""Samples of a pixel, by the colour type of a PNG without a palette."""


class RasterBackend(Backend):
    """A PNG, JPEG or BMP image, turned by its EXIF. Palettes become colours, and transparency background."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as image:
            width, height = image.size
            if width * height > LARGEST:
                raise SlideError(
                    f"{path} has {width} x {height} pixels, too many to decode at once; save it as "
                    "a tiled TIFF or as OME-Zarr."
                )
            try:
                self._wide = image.format == "PNG" and _png_header(path)[0] == 16
                self.samples = samples = _samples(image, path)
                self._mode = image.mode
                self._turn = turn(_orientation(image, path))
                self.turned = self._turn.number
            except (OSError, ValueError, SyntaxError) as error:
                raise error if isinstance(error, SlideError) else damaged(path, error) from error
            dpi = image.info.get("dpi")
            properties = {"format": str(image.format), "mode": image.mode}
        shape = self._turn.pair((height, width))
        mpp = (inches(dpi[1]), inches(dpi[0])) if dpi and any(dpi) else None  # 0, 0 in a BMP means unknown
        self.info = SlideInfo(
            (Level(shape, (1.0, 1.0), shape),),
            samples.image_dtype,
            RGB if samples.colour else default_channels(samples.channels, False),
            None if mpp is None else self._turn.pair(mpp),
            None,
            properties,
            notes=(*turn_note(self._turn, True), *samples.notes()),
        )

    def _open(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return Image.open(self._path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise SlideError(
                f"{self._path} has too many pixels to decode at once; save it as a tiled TIFF or OME-Zarr."
            ) from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> SlideError:
        with self._path.open("rb") as file:
            start = file.read(2)
        kind = jpeg_of_another_kind(self._path) if start == b"\xff\xd8" else None
        return damaged(self._path, error) if kind is None else not_supported(self._path, f"a {kind}")

    def read_stored(self, level: int, cy: int, cx: int) -> Pixels:
        assert self.samples is not None
        try:
            if self._wide:
                pixels = imagecodecs.png_decode(self._path.read_bytes())
            else:
                with self._open() as image:
                    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
                    if self._mode == "1":
                        pixels = pixels // 255
        except (OSError, ValueError, SyntaxError, RuntimeError) as error:
            if isinstance(error, SlideError):
                raise
            raise self._unreadable(error) from error
        pixels = pixels.reshape(*pixels.shape[:2], -1)[..., : self.samples.count]
        return self._turn.pixels(pixels)

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        assert self.samples is not None
        stored = self.read_stored(level, cy, cx)
        samples = self.samples
        # an alpha that is 0 everywhere is not meant as transparency
        if samples.alpha is not None and not stored[..., -1].any():
            stored, samples = stored[..., :-1], replace(samples, alpha=None, count=samples.count - 1)
        pixels = samples.image(stored)
        return np.array(pixels, self.info.dtype, order="C")


def _samples(image: Image.Image, path: Path) -> Samples:
    """The coding of an image, from its header alone."""
    clear = image.info.get("transparency")
    depth, kind = _png_header(path) if image.format == "PNG" else (8, 0)
    if depth == 16:
        count = _PNG_SAMPLES[kind]
        alpha = "straight" if count in (2, 4) else None
        return Samples(
            "gray" if count < 3 else "rgb",
            np.dtype(np.uint16),
            count,
            16,
            alpha=alpha,  # type: ignore[arg-type]  # mypy does not narrow to the literal
            transparent=None if alpha else _colour(clear, 1),
        )
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    if mode not in _MODES:
        raise not_supported(path, f"pixels of the kind {image.mode}")
    space, dtype, count, bits = _MODES[mode]
    step = 255 // (2**depth - 1) if mode == "L" and depth < 8 else 1
    samples = Samples(space, np.dtype(dtype), count, bits, step=step)
    if space == "palette":
        return _with_palette(image, samples)
    if count in (2, 4) and space != "cmyk":
        return Samples(space, np.dtype(dtype), count, bits, alpha="straight")
    if isinstance(clear, int | tuple):
        return Samples(space, np.dtype(dtype), count, bits, step=step, transparent=_colour(clear, step))
    return samples


def _with_palette(image: Image.Image, samples: Samples) -> Samples:
    colours = np.zeros((256, 3), np.uint8)
    given = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    colours[: len(given)] = given
    clear = image.info.get("transparency")
    opacity = None
    if clear is not None:
        opacity = np.full(256, 255, np.uint8)
        if isinstance(clear, bytes):
            opacity[: len(clear)] = np.frombuffer(clear, np.uint8)[:256]
        else:
            opacity[int(clear)] = 0
    return Samples("palette", samples.dtype, 1, 8, palette=colours, opacity=opacity)


def _colour(clear: Any, step: int) -> tuple[int, ...] | None:
    """The transparent colour, in numbers of the decoder."""
    if clear is None or isinstance(clear, bytes):
        return None
    return tuple(int(c) * step for c in (clear if isinstance(clear, tuple) else (clear,)))


def _png_header(path: Path) -> tuple[int, int]:
    """Bits of a sample and colour type of a PNG."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[24], start[25]


def _orientation(image: Image.Image, path: Path) -> Any:
    """The orientation in the EXIF; that of a PNG is found without decoding, wherever the EXIF is in the file."""
    if image.format != "PNG" or "exif" in image.info:
        return image.getexif().get(TAG)
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(size))
                return exif.get(TAG)
            file.seek(size + 4, 1)
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Arrays.


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
