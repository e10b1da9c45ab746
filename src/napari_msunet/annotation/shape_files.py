"""Shapes that people drew in other programs: QuPath's GeoJSON, ASAP's and Aperio ImageScope's XML, told by content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from napari_msunet.errors import MsunetError
from napari_msunet.slide.units import believed_text

KINDS = "a GeoJSON file (QuPath), or the XML of ASAP or Aperio ImageScope"
_ELLIPSE_CORNERS = 72
_LARGEST = 512 << 20


class ShapeFileError(MsunetError):
    """A file of shapes cannot be read."""


@dataclass(frozen=True)
class DrawnShape:
    """One shape.

    Attributes
    ----------
    name : str
        What the file says it is: its class, group or layer; empty where it says nothing.
    geometry : shapely geometry
        A polygon (perhaps with holes), line, point, or several of them; ``x, y`` in level-0 pixels of the slide.
    hole : bool
        It takes away from the other shapes instead of adding to them.
    colour : tuple of int, optional
        Red, green, blue.
    """

    name: str
    geometry: Any
    hole: bool = False
    colour: tuple[int, int, int] | None = None

    @property
    def areal(self) -> bool:
        """Whether it covers an area."""
        return "Polygon" in str(self.geometry.geom_type)


@dataclass(frozen=True)
class ShapeFile:
    """All shapes of a file, its µm per level-0 pixel where it says them, and which program's it is."""

    shapes: tuple[DrawnShape, ...]
    mpp: float | None
    format: str


def read_shapes(path: str | Path) -> list[DrawnShape]:
    """The shapes in an annotation file of another program.

    Parameters
    ----------
    path : path
        GeoJSON as QuPath writes it (a collection, a list, or one feature), ASAP XML, Aperio ImageScope XML, or the JSON
        of CAMELYON16 outlines. Its content tells which, not its name.

    Returns
    -------
    list of DrawnShape
        In the order of the file.

    Raises
    ------
    ShapeFileError
        If it cannot be read, is none of these, or has a coordinate that is no number.
    """
    return list(read_shape_file(path).shapes)


def read_shape_file(path: str | Path) -> ShapeFile:
    """As `read_shapes`, with what else the file says."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ShapeFileError(f"{path} is larger than {_LARGEST >> 20} MB; export fewer shapes at once.")
        data = path.read_bytes()
    except OSError as error:
        raise ShapeFileError(f"{path} cannot be read ({error.strerror}); give {KINDS}.") from error
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    try:
        if start in (b"{", b"["):
            return _json(json.loads(data), path)
        if start == b"<":
            return _xml(ElementTree.fromstring(data), path)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ShapeFileError):
            raise
        raise ShapeFileError(f"{path} is damaged, or no file of shapes ({error}); give {KINDS}.") from error
    except shapely.errors.ShapelyError as error:
        raise ShapeFileError(f"{path} has a shape that cannot be read ({error}); export it again.") from error
    raise ShapeFileError(f"{path} is neither JSON nor XML; give {KINDS}.")


def _checked(places: Any, path: Path) -> list[tuple[float, float]]:
    """Corners ``x, y`` as numbers."""
    corners = [(float(x), float(y)) for x, y in places]
    if not all(isfinite(v) for corner in corners for v in corner):
        raise ShapeFileError(f"{path} has a coordinate that is no number; export it again.")
    return corners


def _shape(corners: list[tuple[float, float]], areal: bool) -> Any | None:
    """A polygon, or points; None for an area of fewer than three corners."""
    if areal:
        return shapely.Polygon(corners) if len(corners) >= 3 else None
    return shapely.Point(corners[0]) if len(corners) == 1 else shapely.MultiPoint(corners)


# ---------------------------------------------------------------------------------------------------------------- JSON


def _json(found: Any, path: Path) -> ShapeFile:
    if isinstance(found, dict) and {"positive", "negative"} <= found.keys():
        return ShapeFile(tuple(_camelyon(found, path)), None, "CAMELYON16 JSON")
    items = found if isinstance(found, list) else found.get("features", [found])
    if not all(isinstance(item, dict) and ("geometry" in item or "coordinates" in item) for item in items):
        raise ShapeFileError(f"{path} is JSON, but no GeoJSON; give {KINDS}.")
    return ShapeFile(tuple(_features(items, path)), None, "GeoJSON")


def _features(items: list[Any], path: Path) -> Iterator[DrawnShape]:
    for item in items:
        geometry = item.get("geometry", item)
        if geometry is None:
            continue
        shape = shapely.from_geojson(json.dumps(geometry))
        if shape.is_empty:
            continue
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise ShapeFileError(f"{path} has a coordinate that is no number; export it again.")
        properties = item.get("properties") or {}
        said = properties.get("classification") or {}
        if isinstance(said, str):
            said = {"name": said}
        name = said.get("name") or ": ".join(said.get("names", ())) or properties.get("name") or ""
        yield DrawnShape(str(name), shape, False, _json_colour(said) or _json_colour(properties))


def _json_colour(said: dict[str, Any]) -> tuple[int, int, int] | None:
    """A colour as QuPath writes it: three numbers, in older files one."""
    colour = said.get("color")
    if isinstance(colour, list) and len(colour) == 3:
        return int(colour[0]), int(colour[1]), int(colour[2])
    if isinstance(said.get("colorRGB"), int):
        return _parts(said["colorRGB"])
    return None


def _parts(number: int) -> tuple[int, int, int]:
    return number >> 16 & 255, number >> 8 & 255, number & 255


def _camelyon(found: dict[str, Any], path: Path) -> Iterator[DrawnShape]:
    """CAMELYON16's outlines as JSON: tumour, and what is cut out of it."""
    for key in ("positive", "negative"):
        for item in found[key]:
            shape = _shape(_checked(item["vertices"], path), areal=True)
            if shape is not None:
                yield DrawnShape("tumor", shape, hole=key == "negative")


# ----------------------------------------------------------------------------------------------------------------- XML


def _xml(root: Any, path: Path) -> ShapeFile:
    if root.tag == "ASAP_Annotations":
        return ShapeFile(tuple(_asap(root, path)), None, "ASAP XML")
    if root.tag == "Annotations":
        return ShapeFile(tuple(_aperio(root, path)), believed_text(root.get("MicronsPerPixel")), "Aperio XML")
    raise ShapeFileError(f"{path} is XML with <{root.tag}>, which is neither ASAP's nor Aperio's; give {KINDS}.")


def _asap(root: Any, path: Path) -> Iterator[DrawnShape]:
    """ASAP: the group is the class, an annotation without a group is named by itself."""
    for item in root.iter("Annotation"):
        order = sorted(item.iter("Coordinate"), key=lambda c: float(c.get("Order", 0)))
        corners = _checked(((c.get("X"), c.get("Y")) for c in order), path)
        group = item.get("PartOfGroup") or "None"
        name = item.get("Name", "") if group == "None" else group
        if not corners:
            continue
        shape = _shape(corners, item.get("Type") not in ("Dot", "PointSet"))
        if shape is not None:
            yield DrawnShape(name, shape, False, _hex(item.get("Color")))


def _hex(text: str | None) -> tuple[int, int, int] | None:
    try:
        return _parts(int((text or "").removeprefix("#"), 16))
    except ValueError:
        return None


def _aperio(root: Any, path: Path) -> Iterator[DrawnShape]:
    """ImageScope: a layer has a name or an attribute with one; a negative region is a hole; colours are blue first."""
    for layer in root.iter("Annotation"):
        attributes = [a.get("Name", "") for a in layer.findall("./Attributes/Attribute")]
        name = layer.get("Name") or next((a for a in attributes if a and a != "Description"), "")
        number = int(float(layer.get("LineColor") or 0))
        colour = _parts(number)[::-1]
        for region in layer.iter("Region"):
            corners = _checked(((v.get("X"), v.get("Y")) for v in region.iter("Vertex")), path)
            shape = _region(int(region.get("Type", 0)), corners)
            if shape is not None:
                hole = region.get("NegativeROA", "0") == "1"
                yield DrawnShape(region.get("Text") or name, shape, hole, (colour[0], colour[1], colour[2]))


def _region(kind: int, corners: list[tuple[float, float]]) -> Any | None:
    """A region of ImageScope: 0 freehand, 1 rectangle, 2 ellipse in the box of its corners, 3 ruler, 5 point."""
    if not corners or kind == 3:
        return None
    (left, top), (right, bottom) = np.min(corners, 0).tolist(), np.max(corners, 0).tolist()
    if kind == 2 and len(corners) <= 4:
        angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
        x = (left + right) / 2 + (right - left) / 2 * np.cos(angle)
        y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angle)
        return shapely.Polygon(np.stack([x, y], 1))
    if kind == 1 and len(corners) == 2:
        return shapely.box(left, top, right, bottom)
    return _shape(corners, areal=kind != 5)
