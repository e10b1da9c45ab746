"""How a page of a TIFF file codes its pixels, from its tags; what is not supported is named."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_msunet.slide.foreign import not_supported
from napari_msunet.slide.samples import BASE, LUMA, NAMES, Alpha, Samples, Space

SPACES: dict[int, Space] = {
    **{0: "gray", 1: "gray", 4: "gray", 2: "rgb", 3: "palette", 5: "cmyk", 6: "ycbcr", 8: "cielab", 9: "icclab"}
}
"""PhotometricInterpretation; 4 is a mask of one bit."""

JPEG = (6, 7, 34892, 33007)
APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, whatever the photometric tag says
AS_RGB = (50001, 34927)
"""Compressions that have colours of their own (WebP): what they decode to is RGB."""

ALPHA: dict[int, Alpha] = {1: "premultiplied", 2: "straight"}
"""ExtraSamples."""


def tiff_samples(path: Path, page: Any, series: Any) -> Samples:
    """How the pixels of a series are coded.

    Raises
    ------
    SlideError
        If this is not supported, with the name of what it is.
    """
    stored = np.dtype(series.dtype)
    if stored.kind not in "buif":
        raise not_supported(path, f"pixels of type {stored}")
    axes = series.axes
    count = prod(int(n) for n, a in zip(series.shape, axes, strict=True) if a in "CS")
    own = int(series.shape[axes.index("S")]) if "S" in axes else 1
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * stored.itemsize
    space = _space(path, page, own)
    if space in ("rgb", "gray") and count != own:
        return Samples("plain", stored, count, bits)  # channels, each of its own
    if count != own or (space != "rgb" and space != "gray" and stored.kind not in "bu"):
        raise not_supported(path, f"{_named(space)} of type {stored} and {count} samples a pixel")
    extra = own - BASE[space]
    kinds = tuple(int(e) for e in page.extrasamples)
    alpha = ALPHA.get(kinds[-1]) if kinds and extra == 1 else None
    if extra < 0 or (extra and alpha is None):
        if space not in ("rgb", "gray") or any(kind in ALPHA for kind in kinds):
            raise not_supported(path, f"{_named(space)} with {own} samples a pixel")
        return Samples("plain", stored, count, bits)
    reference = _ratios(page, "ReferenceBlackWhite", 6)
    if reference is not None and bits > 8 and max(reference) < 256:
        reference = None  # of 8 bits: programs write it whatever the samples are
    samples = Samples(
        space,
        stored,
        count,
        bits,
        white_is_zero=space == "gray" and page.photometric == 0,
        palette=_palette(path, page) if space == "palette" else None,
        alpha=alpha,
        luma=_ratios(page, "YCbCrCoefficients", 3) or LUMA,
        reference=reference,
    )
    if space == "palette" and alpha is not None:
        raise not_supported(path, "a palette with transparency")
    if samples.white_is_zero and stored.kind in "if":
        raise not_supported(
            path,
            f"values of type {stored} whose 0 is white (WhiteIsZero), but not which value is black",
            "save it as BlackIsZero",
        )
    return samples


def check_codec(path: Path, page: Any) -> None:
    """Raise `SlideError` where the compression, or what it is used for, cannot be decoded here."""
    number = int(page.compression)
    name = str(getattr(page.compression, "name", number))
    if page.is_subsampled and (number not in JPEG or page.planarconfig == 2):
        size = page.subsampling or (2, 2)
        raise not_supported(path, f"YCbCr colours subsampled {size[0]} x {size[1]} without JPEG compression")
    if number != 1:
        try:
            tifffile.TIFF.DECOMPRESSORS[number]
        except Exception as error:  # of an unknown number, and of a codec that is not installed
            raise not_supported(
                path,
                f"tiles of the compression {name if name != str(number) else f'number {number}'}",
                "save it with LZW, Deflate or JPEG",
            ) from error
    if page.predictor != 1 and number not in tifffile.TIFF.IMAGE_COMPRESSIONS:
        try:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
        except Exception as error:
            raise not_supported(
                path, f"tiles with the predictor {int(page.predictor)}", "save it without a predictor"
            ) from error


def _space(path: Path, page: Any, own: int) -> Space:
    compression = int(page.compression)
    if compression == APERIO_YCBCR and own == 3:
        return "ycbcr"
    photometric = 1 if page.photometric is None else int(page.photometric)
    space = SPACES.get(photometric)
    if space is None:
        name = str(getattr(page.photometric, "name", photometric))
        raise not_supported(path, f"pixels coded as {name}")
    if space == "ycbcr":
        if (compression in JPEG and page.planarconfig == 1) or compression in AS_RGB:
            return "rgb"
        if compression in tifffile.TIFF.IMAGE_COMPRESSIONS and compression not in JPEG:
            raise not_supported(path, f"YCbCr colours in {getattr(page.compression, 'name', compression)}")
    if space == "palette" and page.colormap is None:
        raise not_supported(path, "places in a palette, but no palette")
    if space == "cmyk" and int(page.tags.valueof(332, 1)) != 1:
        raise not_supported(path, "inks other than cyan, magenta, yellow and black")
    return space


def _palette(path: Path, page: Any) -> Any:
    """The colours `(n, 3)`; as in libtiff, a palette with no number above 255 is one of 8 bits."""
    colours = np.asarray(page.colormap).T
    wide = colours.max(initial=0) > 255
    return (colours >> 8 if wide else colours).astype(np.uint8)


def _ratios(page: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Numbers that a tag holds as fractions."""
    value = page.tags.valueof(name)
    if value is None or len(value) != 2 * count or 0 in value[1::2]:
        return None
    return tuple(n / d for n, d in zip(value[::2], value[1::2], strict=True))


def _named(space: Space) -> str:
    return NAMES.get(space, {"rgb": "RGB", "gray": "grey", "palette": "places in a palette"}.get(space, space))
