"""PNG, JPEG and BMP images through pillow: one level, decoded whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    RGB,
    WHITE,
    Backend,
    Level,
    Pixels,
    SlideInfo,
    default_channels,
    on_background,
)
from napari_msunet.slide.openslide_backend import damaged
from napari_msunet.slide.units import inches

FORMATS = ("PNG", "JPEG", "BMP")
LARGEST = 2**30
"""Pixels of the largest image that is decoded whole; larger ones belong into a pyramid."""


class RasterBackend(Backend):
    """A PNG, JPEG or BMP image. Grey images have one channel; transparent and palette images come out as colours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as image:
            width, height = image.size
            if width * height > LARGEST:
                raise SlideError(
                    f"{path} has {width} x {height} pixels, too many to decode at once; save it as "
                    "a tiled TIFF or as OME-Zarr."
                )
            self._mode = _mode(image)
            dpi = image.info.get("dpi")
            properties = {"format": str(image.format), "mode": image.mode}
        colour = self._mode in ("RGB", "RGBA")
        dtype = np.dtype({"I;16": np.uint16, "F": np.float32, "I": np.int32}.get(self._mode, np.uint8))
        self.info = SlideInfo(
            (Level((height, width), (1.0, 1.0), (height, width)),),
            dtype,
            RGB if colour else default_channels(1, False),
            (inches(dpi[1]), inches(dpi[0])) if dpi and any(dpi) else None,  # 0, 0 says nothing in a BMP
            None,
            properties,
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
            raise damaged(self._path, error) from error

    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        try:
            with self._open() as image:
                pixels = np.asarray(image if image.mode == self._mode else image.convert(self._mode))
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, SlideError):
                raise
            raise damaged(self._path, error) from error
        if self._mode == "RGBA":
            pixels = on_background(pixels, WHITE)
        return np.array(pixels, self.info.dtype, order="C").reshape(*pixels.shape[:2], -1)


def _mode(image: Image.Image) -> str:
    """The pillow mode that an image is read in."""
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return "RGBA"
    if image.mode in ("1", "L", "F", "I"):
        return "L" if image.mode == "1" else image.mode
    return "RGB"
