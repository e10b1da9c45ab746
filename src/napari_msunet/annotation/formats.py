"""Reading shapes that were drawn in other programs: QuPath's GeoJSON, and the XML of ASAP, ImageScope and HALO.

Import, training, prediction and scores all read outlines here; the format is recognised by the content. Shapes that are
no areas, or damaged, do not stop the rest: they are listed in `ShapeFile.left_out` with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from napari_msunet._io import input_error
from napari_msunet.errors import MsunetError
from napari_msunet.names import same_name
from napari_msunet.slide.pixel_size import believed_text

KINDS = "a GeoJSON file (QuPath), or the XML of ASAP, Aperio ImageScope or HALO"
_ELLIPSE_CORNERS = 72
_LARGEST = 512 << 20
_BEYOND = 2.0**31
"""Largest coordinate, in level-0 pixels, which no slide reaches."""

NO_NUMBER = "with a coordinate that is no number"
TOO_FAR = "with a coordinate beyond any slide"
FEW_CORNERS = "with fewer than three corners"
NO_AREA = "without an area"
NO_GEOMETRY = "without a geometry"

Corners = npt.NDArray[np.float64]


class ShapeFileError(MsunetError):
    """A file of shapes cannot be read."""


@dataclass(frozen=True)
class DrawnShape:
    """One shape.

    Attributes
    ----------
    name : str
        Its class, group or layer in the file, or else its own name; empty where there is none.
    geometry : shapely geometry
        A polygon (perhaps with holes), line, point, or several of them; ``x, y`` in level-0 pixels of the slide.
    hole : bool
        Whether it is a hole, which is cut out of the larger shapes of its layer.
    colour : tuple of int, optional
        Red, green, blue.
    number : int
        Its number among the file's shapes, from 1; 0: it is from no file.
    layer : int
        The number of its layer in the file; holes count in their own layer.
    classed : bool
        Whether `name` is a class, and not only the name of this one shape.
    repaired : str
        What was wrong with its outline and was repaired; empty for most shapes.
    """

    name: str
    geometry: Any
    hole: bool = False
    colour: tuple[int, int, int] | None = None
    number: int = 0
    layer: int = 0
    classed: bool = True
    repaired: str = ""

    @property
    def areal(self) -> bool:
        """Whether it covers an area."""
        return self.geometry.geom_type in ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class LeftOut:
    """A shape that cannot be used: its number in the file, its name, and the reason (``"without an area"``)."""

    number: int
    name: str
    why: str


@dataclass(frozen=True)
class ShapeFile:
    """All shapes of a file, its µm per level-0 pixel where it has them, its program, and the shapes that are left
    out."""

    shapes: tuple[DrawnShape, ...]
    mpp: float | None
    format: str
    left_out: tuple[LeftOut, ...] = ()
    path: Path = Path()


def read_shapes(path: str | Path) -> list[DrawnShape]:
    """The shapes in an annotation file of another program.

    Parameters
    ----------
    path : path
        GeoJSON as QuPath writes it (a collection, a list, or one feature; objects inside others), ASAP XML, Aperio
        ImageScope XML, HALO's ``.annotations``, or the JSON of CAMELYON16 outlines. The format is recognised by the
        content, not by the name.

    Returns
    -------
    list of DrawnShape
        The shapes in the order of the file. Areas whose outline crosses itself are repaired (even-odd).

    Raises
    ------
    ShapeFileError
        If the file cannot be read, has none of these formats, or has no shape that can be used.
    """
    return list(read_shape_file(path).shapes)


def read_shape_file(path: str | Path) -> ShapeFile:
    """As `read_shapes`, with the other information of the file, and the shapes that are left out."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ShapeFileError(f"{path} is larger than {_LARGEST >> 20} MB; export fewer shapes at once.")
        data = path.read_bytes()
    except OSError as error:
        raise input_error(path, error, f"give {KINDS}", ShapeFileError) from error
    start = data[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if data.startswith((b"PK\3\4", b"\x1f\x8b")):
        raise ShapeFileError(f"{path} is a compressed file; unpack it, and give {KINDS}.")
    found = _Found(path)
    try:
        if start in (b"{", b"["):
            return found.file(*_json(json.loads(data), found))
        if start == b"<":
            return found.file(*_xml(ElementTree.fromstring(data), found))
    except ShapeFileError:
        raise
    except (ElementTree.ParseError, DefusedXmlException, RecursionError, ValueError) as error:
        raise ShapeFileError(f"{path} is damaged, or no file of shapes ({error}); give {KINDS}.") from error
    raise ShapeFileError(f"{path} is neither JSON nor XML; give {KINDS}.")


# --------------------------------------------------------------------------------------------------------- any format


class _BadRingError(Exception):
    """A ring cannot be used; the message is the reason."""


@dataclass
class _Found:
    """The shapes of a file that were read so far."""

    path: Path
    shapes: list[DrawnShape] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    number: int = 0

    def file(self, format: str, mpp: float | None = None) -> ShapeFile:
        if self.left_out and not self.shapes:
            first = self.left_out[0]
            raise ShapeFileError(
                f"{self.path} holds no shape that can be used: all {len(self.left_out)} are left out, the first for "
                f"being one {first.why}; export it again."
            )
        return ShapeFile(tuple(self.shapes), mpp, format, tuple(self.left_out), self.path)

    def leave(self, name: str, why: str) -> None:
        """Count a shape that is not used."""
        self.left_out.append(LeftOut(self.number, name, why))

    def polygons(self, name: str, polygons: Iterable[Any], **look: Any) -> None:
        """Add a shape of polygons, each a sequence of rings of corners ``x, y``, the outline first."""
        parts: list[Any] = []
        wrong: list[str] = []
        for rings in polygons:
            try:
                parts.append(_polygon(rings, wrong))
            except _BadRingError as bad:
                wrong.append(str(bad))
        if not parts:
            self.leave(name, wrong[0] if wrong else NO_GEOMETRY)
            return
        geometry = parts[0] if len(parts) == 1 else shapely.multipolygons(shapely.get_parts(parts))
        if len(parts) > 1 and not geometry.is_valid:  # overlapping parts become one area
            geometry = shapely.union_all(parts)
        self.shapes.append(DrawnShape(name, geometry, number=self.number, repaired=wrong[0] if wrong else "", **look))

    def thin(self, name: str, geometry: Any, **look: Any) -> None:
        """Add a shape that covers no area."""
        self.shapes.append(DrawnShape(name, geometry, number=self.number, **look))

    def points(self, name: str, places: Any, line: bool = False, **look: Any) -> None:
        """Add points, or the line through them."""
        try:
            corners = _corners(places)
        except _BadRingError as bad:
            self.leave(name, str(bad))
            return
        if not len(corners):
            self.leave(name, NO_GEOMETRY)
        elif line and len(corners) > 1:
            self.thin(name, shapely.LineString(corners), **look)
        else:
            self.thin(name, shapely.Point(corners[0]) if len(corners) == 1 else shapely.MultiPoint(corners), **look)


def _corners(places: Any) -> Corners:
    """Corners ``x, y`` as numbers; a third number, the plane, is not used."""
    try:
        corners = np.asarray(places, np.float64)
    except (TypeError, ValueError):
        try:  # some corners have three numbers, others two
            corners = np.asarray([place[:2] for place in places], np.float64)
        except (TypeError, ValueError, KeyError, IndexError):
            raise _BadRingError(NO_NUMBER) from None
    if corners.size == 0:
        return np.zeros((0, 2))
    if corners.ndim != 2 or corners.shape[1] < 2:
        raise _BadRingError(NO_NUMBER)
    corners = corners[:, :2]
    if not np.isfinite(corners).all():
        raise _BadRingError(NO_NUMBER)
    if np.abs(corners).max() > _BEYOND:
        raise _BadRingError(TOO_FAR)
    return corners


def _ring(places: Any) -> Corners:
    """The corners of a ring, without the repeated first one at the end."""
    corners = _corners(places)
    while len(corners) > 1 and (corners[0] == corners[-1]).all():
        corners = corners[:-1]
    if len(corners) < 3:
        raise _BadRingError(FEW_CORNERS)
    return corners


def _polygon(rings: Any, wrong: list[str]) -> Any:
    """A valid polygon, or several; repairs are added to `wrong`."""
    if not isinstance(rings, Sequence) or isinstance(rings, str) or not rings:
        raise _BadRingError(FEW_CORNERS)
    shell = _ring(rings[0])
    holes = []
    for ring in rings[1:]:
        try:
            holes.append(shapely.linearrings(_ring(ring)))
        except _BadRingError as bad:
            wrong.append(f"with a hole {bad}")
    polygon = shapely.polygons(shapely.linearrings(shell), holes or None)
    if not shapely.is_valid(polygon):
        parts = [p for p in _flat(shapely.make_valid(polygon)) if p.geom_type == "Polygon" and p.area > 0]
        if parts:
            wrong.append("with an outline that crosses itself")
            return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
        polygon = shapely.Polygon()
    if not polygon.area > 0:
        raise _BadRingError(FEW_CORNERS if len(np.unique(shell, axis=0)) < 3 else NO_AREA)
    return polygon


def _flat(geometry: Any) -> Iterator[Any]:
    """The simple geometries of a geometry, however deeply nested."""
    for part in shapely.get_parts(geometry):
        if shapely.get_num_geometries(part) > 1 or part.geom_type == "GeometryCollection":
            yield from _flat(part)
        else:
            yield part


# ---------------------------------------------------------------------------------------------------------------- JSON

_OTHERS = (
    ({"images", "annotations", "categories"}, "COCO"),
    ({"images", "annotations"}, "COCO"),
    ({"shapes", "imagePath"}, "labelme"),
    ({"shapes", "version"}, "labelme"),
    ({"Label", "Labeled Data"}, "Labelbox"),
    ({"data_row", "projects"}, "Labelbox"),
    ({"_via_settings"}, "the VGG Image Annotator"),
    ({"_via_img_metadata"}, "the VGG Image Annotator"),
)
_GEOMETRIES = frozenset(
    ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
)


def _json(read: Any, found: _Found) -> tuple[str]:
    if isinstance(read, dict) and {"positive", "negative"} <= read.keys():
        _camelyon(read, found)
        return ("CAMELYON16 JSON",)
    first = read[0] if isinstance(read, list) and read else read
    for keys, program in _OTHERS:
        if isinstance(first, dict) and keys <= first.keys():
            raise ShapeFileError(
                f"{found.path} is a file of {program}, which is not read; export it as GeoJSON, or give {KINDS}."
            )
    items = read if isinstance(read, list) else [read]
    if not all(isinstance(item, dict) for item in items) or not (not items or any(map(_is_geojson, items))):
        raise ShapeFileError(f"{found.path} is JSON, but no GeoJSON; give {KINDS}.")
    for item in items:
        _feature(item, found)
    return ("GeoJSON",)


def _is_geojson(item: dict[str, Any]) -> bool:
    return isinstance(item.get("features"), list) or "geometry" in item or "coordinates" in item or "geometries" in item


def _feature(item: Any, found: _Found) -> None:
    """A feature, a collection of them, or a bare geometry; then the objects inside it (QuPath's hierarchy)."""
    if not isinstance(item, dict):
        found.number += 1
        found.leave("", NO_GEOMETRY)
        return
    if isinstance(item.get("features"), list):
        for one in item["features"]:
            _feature(one, found)
        return
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    children = [c for c in (item.get("childObjects"), properties.get("childObjects")) if c]
    geometry = item.get("geometry") if "geometry" in item else item
    if not (geometry is None and (children or properties.get("objectType") == "root")):
        found.number += 1
        name, classed = _class_name(properties)
        said = properties.get("classification")
        look = {"colour": _json_colour(said) or _json_colour(properties), "classed": classed}
        _geometry(geometry, name, found, look)
    for child in children:
        for one in child if isinstance(child, list) else [child]:
            _feature(one, found)


def _geometry(geometry: Any, name: str, found: _Found, look: dict[str, Any]) -> None:
    """Read one geometry of GeoJSON, as far as possible."""
    if not isinstance(geometry, dict):
        found.leave(name, NO_GEOMETRY)
        return
    kind, places = geometry.get("type"), geometry.get("coordinates")
    if kind not in _GEOMETRIES:
        found.leave(name, f"of the unknown geometry {kind!r}")
    elif kind == "GeometryCollection":
        members = geometry.get("geometries")
        members = [m for m in members if isinstance(m, dict)] if isinstance(members, list) else []
        areas = list(_areas(members))
        if areas:
            found.polygons(name, areas, **look)
        for member in members:
            if member.get("type") not in ("Polygon", "MultiPolygon", "GeometryCollection"):
                _geometry(member, name, found, look)
        if not members:
            found.leave(name, NO_GEOMETRY)
    elif not isinstance(places, list) or not places:
        found.leave(name, NO_GEOMETRY)
    elif kind == "Polygon":
        found.polygons(name, [places], **look)
    elif kind == "MultiPolygon":
        found.polygons(name, places, **look)
    elif kind == "MultiLineString":
        for line in places:
            found.points(name, line, line=True, **look)
    else:
        found.points(name, [places] if kind == "Point" else places, line=kind == "LineString", **look)


def _areas(members: list[dict[str, Any]]) -> Iterator[Any]:
    """The polygons of a collection's members, including nested collections."""
    for member in members:
        places = member.get("coordinates")
        if member.get("type") == "Polygon":
            yield places
        elif member.get("type") == "MultiPolygon" and isinstance(places, list):
            yield from places
        elif member.get("type") == "GeometryCollection" and isinstance(member.get("geometries"), list):
            yield from _areas([m for m in member["geometries"] if isinstance(m, dict)])


def _class_name(properties: dict[str, Any]) -> tuple[str, bool]:
    """The class of a feature, or else its own name, and whether it is a class."""
    said = properties.get("classification")
    if isinstance(said, dict):
        names = said.get("names")
        said = said.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else "")
    if said and isinstance(said, str):
        return same_name(said), True
    own = properties.get("name")
    return (same_name(own) if isinstance(own, str) else ""), False


def _json_colour(said: Any) -> tuple[int, int, int] | None:
    """A colour of QuPath: three numbers, or one in older files."""
    if not isinstance(said, dict):
        return None
    colour = said.get("color")
    if isinstance(colour, list) and len(colour) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
        return colour[0], colour[1], colour[2]
    if isinstance(said.get("colorRGB"), int):
        return _parts(said["colorRGB"])
    return None


def _parts(number: int) -> tuple[int, int, int]:
    return number >> 16 & 255, number >> 8 & 255, number & 255


def _camelyon(read: dict[str, Any], found: _Found) -> None:
    """CAMELYON16's outlines in JSON: tumour, and the holes in it."""
    for key in ("positive", "negative"):
        for item in read[key] if isinstance(read[key], list) else ():
            found.number += 1
            vertices = item.get("vertices") if isinstance(item, dict) else None
            found.polygons("tumor", [[vertices or []]], hole=key == "negative")


# ----------------------------------------------------------------------------------------------------------------- XML


def _xml(root: Any, found: _Found) -> tuple[str, float | None]:
    if root.tag == "ASAP_Annotations":
        _asap(root, found)
        return "ASAP XML", None
    if root.tag == "Annotations":
        halo = next(root.iter("V"), None) is not None and next(root.iter("Vertex"), None) is None
        _layers(root, found)
        return ("HALO annotations" if halo else "Aperio XML"), believed_text(root.get("MicronsPerPixel"))
    known = {"annotations": "CVAT's", "annotation": "LabelMe's or Pascal VOC's"}.get(str(root.tag))
    if known:
        raise ShapeFileError(f"{found.path} is {known} XML, which is not read; export it as GeoJSON, or give {KINDS}.")
    raise ShapeFileError(
        f"{found.path} is XML with <{root.tag}>, which is neither ASAP's nor Aperio's nor HALO's; give {KINDS}."
    )


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text or otherwise)
    except ValueError:
        return otherwise


def _asap(root: Any, found: _Found) -> None:
    """ASAP: the group is the class; an annotation without a group has its own name."""
    for item in root.iter("Annotation"):
        found.number += 1
        order = sorted(item.iter("Coordinate"), key=lambda c: _number(c.get("Order"), 0.0))
        corners = [(c.get("X"), c.get("Y")) for c in order]
        group = item.get("PartOfGroup") or "None"
        name, kind = same_name(item.get("Name") or "" if group == "None" else group), item.get("Type")
        look: dict[str, Any] = {"colour": _hex(item.get("Color")), "classed": group != "None"}
        if not corners:
            found.leave(name, NO_GEOMETRY)
        elif kind in ("Dot", "PointSet"):
            found.points(name, corners, **look)
        elif kind == "Measurement":
            found.points(name, corners, line=True, **look)
        else:
            found.polygons(name, [[_box(corners) if kind == "Rectangle" and len(corners) == 2 else corners]], **look)


def _hex(text: str | None) -> tuple[int, int, int] | None:
    try:
        return _parts(int((text or "").removeprefix("#"), 16))
    except ValueError:
        return None


def _layers(root: Any, found: _Found) -> None:
    """ImageScope and HALO: a layer has a name or an attribute with one, a negative region is a hole, colours are
    BGR."""
    for number, layer in enumerate(root.iter("Annotation"), start=1):
        attributes = [a.get("Name", "") for a in layer.findall("./Attributes/Attribute")]
        called = layer.get("Name") or next((a for a in attributes if a and a != "Description"), "")
        colour = _parts(int(_number(layer.get("LineColor"), 0.0)))[::-1]
        for region in layer.iter("Region"):
            found.number += 1
            name = same_name(region.get("Text") or called)
            corners = [(v.get("X"), v.get("Y")) for tag in ("Vertex", "V") for v in region.iter(tag)]
            look: dict[str, Any] = {"colour": (colour[0], colour[1], colour[2]), "layer": number, "classed": bool(name)}
            _region(region, corners, name, look, found)


_REGIONS = {
    **{"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "ruler", "4": "arrow", "5": "pin"},
    **{name: name for name in ("polygon", "rectangle", "ellipse", "ruler", "arrow", "pin")},
}
"""The kinds of regions, which are numbers in ImageScope and names in HALO."""


def _region(region: Any, corners: list[Any], name: str, look: dict[str, Any], found: _Found) -> None:
    """Read a region; an ellipse or a rectangle may be given by two corners of its box."""
    kind = _REGIONS.get((region.get("Type") or "0").strip().lower())
    if kind is None:
        found.leave(name, f"of the unknown kind {region.get('Type')!r}")
    elif not corners:
        found.leave(name, NO_GEOMETRY)
    elif kind in ("ruler", "arrow"):
        found.points(name, corners, line=True, **look)
    elif kind == "pin":
        found.points(name, corners, **look)
    else:
        look["hole"] = region.get("NegativeROA", "0").strip().lower() in ("1", "true")
        if kind == "ellipse" and len(corners) <= 4:
            corners = _ellipse(corners)
        elif kind == "rectangle" and len(corners) == 2:
            corners = _box(corners)
        found.polygons(name, [[corners]], **look)


def _box(corners: list[Any]) -> list[Any]:
    """The four corners of a rectangle given by two."""
    (x, y), (x2, y2) = corners
    return [(x, y), (x2, y), (x2, y2), (x, y2)]


def _ellipse(corners: list[Any]) -> Any:
    """The outline of an ellipse in the box of some corners."""
    try:
        (left, top), (right, bottom) = np.min(_corners(corners), 0), np.max(_corners(corners), 0)
    except _BadRingError:
        return corners  # the error is reported with the shape
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angle)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angle)
    return np.stack([x, y], 1)
