"""The reader of TIFF, OME-TIFF and QPTIFF through tifffile."""

from __future__ import annotations

import logging
import struct
from math import inf, nan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import zarr
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from napari_msunet.config.base import Kind, ValueRange
from napari_msunet.errors import SlideError
from napari_msunet.slide.backend import (
    AS_STORED,
    BASE,
    LUMA,
    NAMES,
    RGB,
    TAG,
    Alpha,
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
from napari_msunet.slide.foreign import not_supported
from napari_msunet.slide.openslide_backend import damaged
from napari_msunet.slide.pixel_size import both, inches, micrometres

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element
# ----------------------------------------------------------------------------------------------------------------------
# µm per pixel and channel names of TIFF files, from OME-XML, ImageJ, QPTIFF or the resolution tags.

INCH, CENTIMETRE = 2, 3
_MAXIMUM, _SMALLEST, _LARGEST = 281, 340, 341
_ILLUMINATION = ("ContrastMethod", "IlluminationType", "AcquisitionMode", "Fluor")


def tiff_mpp(file: Any, series: Any) -> tuple[float, float] | None:
    """µm per pixel `(y, x)` of a series, unchecked; None where the file has none."""
    if file.is_ome:
        pixels = _ome_pixels(file, series)
        return None if pixels is None else _ome_mpp(pixels)
    per_unit = _resolution(series.keyframe)
    if per_unit is None:
        return None
    if file.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        return both(*(micrometres(1 / p if p else inf, unit) for p in per_unit))
    tag = series.keyframe.tags.get("ResolutionUnit")
    unit_number = int(tag.value) if tag is not None else 0
    if unit_number not in (INCH, CENTIMETRE):
        return None
    per_inch = 1.0 if unit_number == INCH else 2.54
    return inches(per_unit[0] * per_inch), inches(per_unit[1] * per_inch)


def channel_names(file: Any, series: Any, count: int) -> tuple[str, ...] | None:
    """Names of the channels, where the file gives one for each."""
    names: list[str] = []
    if file.is_ome:
        pixels = _ome_pixels(file, series)
        names = [] if pixels is None else [e.get("Name", "") for e in pixels if _tag(e) == "Channel"]
    elif file.is_qpi:
        for page in series.pages:
            root = _xml(page.description if page is not None else "")
            name = None if root is None else root.find("Name")
            names.append((name.text or "") if name is not None else "")
    if len(names) != count or not any(names):
        return None
    return tuple(name or f"channel {i}" for i, name in enumerate(names))


def tiff_kind(file: Any, series: Any) -> Kind | None:
    """Bright-field or fluorescence, where the OME-XML has it for the channels."""
    pixels = _ome_pixels(file, series) if file.is_ome else None
    if pixels is None:
        return None
    channels = [e for e in pixels if _tag(e) == "Channel"]
    said = [" ".join(e.get(name, "") for name in _ILLUMINATION).lower() for e in channels]
    if any("fluor" in text or e.get("EmissionWavelength") for e, text in zip(channels, said, strict=True)):
        return "fluorescence"
    if said and all("brightfield" in text or "transmitted" in text for text in said):
        return "brightfield"
    return None


def tiff_range(file: Any, series: Any, dtype: np.dtype[Any]) -> ValueRange | None:
    """The values that are black and white, where the file has more about them than their type.

    These are the significant bits of OME, fewer bits in a sample than in its type, or the tags of smallest and largest
    values. A largest value alone (`MaxSampleValue`) is used only where it is that of a number of bits, because some
    programs write the largest value of the one image there.
    """
    page = series.keyframe
    if file.is_ome and (pixels := _ome_pixels(file, series)) is not None:
        bits = pixels.get("SignificantBits", "")
        if bits.isdecimal() and dtype.kind in "iu" and 0 < int(bits) < np.iinfo(dtype).bits:
            return (0.0, float(2 ** int(bits) - 1))
    if dtype == np.uint8:  # samples of fewer bits are scaled to 8 when they are read
        return None
    if dtype.kind == "u" and isinstance(page.bitspersample, int) and 1 < page.bitspersample < np.iinfo(dtype).bits:
        return (0.0, float(2**page.bitspersample - 1))
    low, high = _one_value(page, _SMALLEST, 0.0), _one_value(page, _LARGEST, None)
    if low is not None and high is not None and low < high:
        return None if dtype.kind in "iu" and high >= np.iinfo(dtype).max else (low, high)
    high = _one_value(page, _MAXIMUM, None)
    return (0.0, high) if high in {float(2**b - 1) for b in (8, 10, 12, 14)} else None


def _one_value(page: Any, tag: int, default: float | None) -> float | None:
    """The value of a tag that all samples share."""
    found = page.tags.get(tag)
    if found is None:
        return default
    values = {float(v) for v in np.atleast_1d(np.asarray(found.value, dtype=np.float64))}
    return values.pop() if len(values) == 1 else None


def _resolution(page: Any) -> tuple[float, float] | None:
    """Pixels per unit `(y, x)` from the resolution tags; None where there are none, or they are 0 / 0."""
    values = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        try:
            numerator, denominator = tag.value
            values.append(numerator / denominator if denominator or not numerator else inf)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None
    return values[0], values[1]


def _ome_pixels(file: Any, series: Any) -> Element | None:
    """The element `Pixels` of a series; the images in the XML have the order of the series."""
    root = _xml(file.ome_metadata or "")
    if root is None:
        return None
    found = [p for image in root if _tag(image) == "Image" for p in image if _tag(p) == "Pixels"]
    number = next((i for i, s in enumerate(file.series) if s is series), 0)
    return found[number] if number < len(found) else None


def _ome_mpp(pixels: Element) -> tuple[float, float] | None:
    sizes = []
    for axis in "YX":
        said = pixels.get(f"PhysicalSize{axis}")
        if said is None:
            return None
        try:
            value = float(said)
        except ValueError:
            value = nan
        sizes.append(micrometres(value, pixels.get(f"PhysicalSize{axis}Unit", "µm")))
    return both(*sizes)


def _xml(text: str) -> Element | None:
    """The root of a text that may be XML."""
    start = text.find("<")
    if start < 0:
        return None
    if text.lstrip().startswith("<?xml"):
        text = text[text.find("?>") + 2 :]  # the declared encoding was that of the bytes, not of this text
    try:
        root: Element = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


# ----------------------------------------------------------------------------------------------------------------------
# The coding of the pixels of a page, from its tags; errors name what is not supported.

SPACES: dict[int, Space] = {
    **{0: "gray", 1: "gray", 4: "gray", 2: "rgb", 3: "palette", 5: "cmyk", 6: "ycbcr", 8: "cielab", 9: "icclab"}
}
"""PhotometricInterpretation; 4 is a mask of one bit."""

JPEG = (6, 7, 34892, 33007)
APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, whatever the photometric tag says
AS_RGB = (50001, 34927)
"""Compressions that always decode to RGB, such as WebP."""

ALPHA: dict[int, Alpha] = {1: "premultiplied", 2: "straight"}
"""ExtraSamples."""


def tiff_samples(path: Path, page: Any, series: Any) -> Samples:
    """The coding of the pixels of a series.

    Raises
    ------
    SlideError
        If the coding is not supported; the message names it.
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
        return Samples("plain", stored, count, bits)  # independent channels
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
        reference = None  # ignored, because programs write the values for 8 bits whatever the samples are
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
    """Raise `SlideError` where the compression, or its combination with the coding, cannot be decoded."""
    number = int(page.compression)
    name = str(getattr(page.compression, "name", number))
    if page.is_subsampled and (number not in JPEG or page.planarconfig == 2):
        size = page.subsampling or (2, 2)
        raise not_supported(path, f"YCbCr colours subsampled {size[0]} x {size[1]} without JPEG compression")
    if number != 1:
        try:
            tifffile.TIFF.DECOMPRESSORS[number]
        except Exception as error:  # the number of the compression is unknown, or its codec is not installed
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


# ----------------------------------------------------------------------------------------------------------------------
# The reader of TIFF files.


class TiffBackend(Backend):
    """The largest image of a TIFF file with its levels, at the first plane of time, depth and other axes.

    An uncompressed image in one piece is mapped into memory; others are decoded tile by tile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _quiet()
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # tifffile raises many kinds of errors on damaged files
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
        """Raise where a file is cut short, because tifffile would silently fill the missing parts."""
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
        except Exception as error:  # codecs raise many kinds of errors
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
    """Keep tifffile's log messages about damaged files off the terminal, because our own errors report them."""
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _next_page(file: Any) -> int:
    """The offset of the page after the last one; 0 where there is none."""
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
