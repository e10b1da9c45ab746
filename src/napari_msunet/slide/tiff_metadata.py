"""µm per pixel and channel names of TIFF files, from OME-XML, ImageJ, QPTIFF or the resolution tags."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from napari_msunet.config.base import Kind, ValueRange
from napari_msunet.slide.units import both, inches, micrometres

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

INCH, CENTIMETRE = 2, 3
_MAXIMUM, _SMALLEST, _LARGEST = 281, 340, 341
_ILLUMINATION = ("ContrastMethod", "IlluminationType", "AcquisitionMode", "Fluor")


def tiff_mpp(file: Any, series: Any) -> tuple[float, float] | None:
    """µm per pixel `(y, x)` of a series, as the file has it; None where it says nothing."""
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
    """Bright-field or fluorescence, where OME-XML says it of the channels."""
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
    """The values that are black and white, where the file says more of them than their type.

    That is OME's significant bits, fewer bits in a sample than in the type, or the tags of least and largest values. A
    largest value alone (`MaxSampleValue`) counts where it is that of a number of bits: programs also write there what
    was largest in this one image.
    """
    page = series.keyframe
    if file.is_ome and (pixels := _ome_pixels(file, series)) is not None:
        bits = pixels.get("SignificantBits", "")
        if bits.isdecimal() and dtype.kind in "iu" and 0 < int(bits) < np.iinfo(dtype).bits:
            return (0.0, float(2 ** int(bits) - 1))
    if dtype == np.uint8:  # samples of fewer bits are spread to 8 when they are read
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
    """Pixels per unit `(y, x)` of the resolution tags; 0 / 0, which is nothing, counts as not there."""
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
    """The element `Pixels` that describes a series: images stand in the XML in the order of the series."""
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
        text = text[text.find("?>") + 2 :]  # its encoding was that of bytes
    try:
        root: Element = fromstring(text)
    except (ParseError, DefusedXmlException, ValueError):
        return None
    return root


def _tag(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]
