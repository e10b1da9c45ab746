"""µm per pixel and channel names of TIFF files, from OME-XML, ImageJ, QPTIFF or the resolution tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from napari_msunet.slide.units import inches, micrometres, plausible

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

INCH, CENTIMETRE = 2, 3


def tiff_mpp(file: Any, series: Any) -> tuple[float, float] | None:
    """µm per pixel `(y, x)` of a series; None where the file does not say it, or says what only a printer means."""
    if file.is_ome:
        pixels = _ome_pixels(file, series)
        return None if pixels is None else _ome_mpp(pixels)
    per_unit = _resolution(series.keyframe)
    if per_unit is None:
        return None
    if file.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        return plausible(micrometres(1 / per_unit[0], unit), micrometres(1 / per_unit[1], unit))
    tag = series.keyframe.tags.get("ResolutionUnit")
    unit_number = int(tag.value) if tag is not None else 0
    if unit_number not in (INCH, CENTIMETRE):
        return None
    per_inch = 1.0 if unit_number == INCH else 2.54
    return plausible(inches(per_unit[0] * per_inch), inches(per_unit[1] * per_inch))


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


def _resolution(page: Any) -> tuple[float, float] | None:
    """Pixels per unit `(y, x)` of the resolution tags."""
    values = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        try:
            numerator, denominator = tag.value
            values.append(numerator / denominator)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None
    return (values[0], values[1]) if min(values) > 0 else None


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
        try:
            value = float(pixels.get(f"PhysicalSize{axis}", ""))
        except ValueError:
            return None
        sizes.append(micrometres(value, pixels.get(f"PhysicalSize{axis}Unit", "µm")))
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


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
