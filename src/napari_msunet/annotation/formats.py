"""Reading shapes that were drawn in other programs; the format is recognised by the content.

Import, training, prediction and scores all read outlines here. GeoJSON is read in this file, object by object, so that
half a million of them fit into memory; other JSON is in `json_formats`, XML in `xml_formats`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from napari_msunet._io import input_error
from napari_msunet.annotation.json_formats import compact, read_json
from napari_msunet.annotation.shapes import NO_GEOMETRY, DrawnImage, DrawnShape, FoundShapes, LeftOut, ShapeFile
from napari_msunet.annotation.xml_formats import read_xml
from napari_msunet.constants import OUTLINE_ENDINGS
from napari_msunet.errors import ImageNeededError, ShapeFileError
from napari_msunet.names import same_name
from napari_msunet.slide import Slide

__all__ = [
    "KINDS",
    "DrawnImage",
    "DrawnShape",
    "ImageNeededError",
    "LeftOut",
    "ShapeFile",
    "ShapeFileError",
    "is_outline_file",
    "read_shape_file",
    "read_shapes",
]

KINDS = (
    "a file of outlines of QuPath (GeoJSON), ASAP, Aperio ImageScope, HALO, CVAT, Labelbox, labelme, Cytomine or COCO"
)
_LARGEST = 1 << 30


_MARKS = re.compile(
    rb"<\s*(ASAP_Annotations|Annotations|annotations?)\b"
    rb'|"(FeatureCollection|Feature|geometry|coordinates|segmentation|shapes|annotations|data_row|dataRow|Labeled Data'
    rb'|location|positive|categories)"'
)


def is_outline_file(path: Path) -> bool:
    """Whether a file looks like one of outlines, by its ending and its first kilobytes."""
    if path.suffix.lower() not in OUTLINE_ENDINGS:
        return False
    try:
        with path.open("rb") as file:
            return _MARKS.search(file.read(1 << 14).replace(b"\0", b"")) is not None
    except OSError:
        return False


def read_shapes(
    path: str | Path, on: Slide | DrawnImage | str | None = None, radius: float | tuple[float, float] | None = None
) -> list[DrawnShape]:
    """The shapes in an annotation file of another program.

    Parameters
    ----------
    path : path
        GeoJSON as QuPath writes it (a collection, a list, or one feature; objects inside others), the XML of ASAP,
        Aperio ImageScope, HALO, CVAT (for images) or LabelMe, the JSON of COCO, Labelbox (also one row a line),
        labelme, Cytomine or CAMELYON16. The format is recognised by the content, not by the name.
    on : Slide or str, optional
        The slide on which they were drawn, or the name of its image in the file. Needed where a file holds the shapes
        of several images, or counts y from the bottom of the image (Cytomine).
    radius : float or (y, x), optional
        Radius in level-0 pixels of the discs that points become; None: points stay points.

    Returns
    -------
    list of DrawnShape
        The shapes in the order of the file. Areas whose outline crosses itself are repaired (even-odd).

    Raises
    ------
    ShapeFileError
        If the file cannot be read, has none of these formats, or has no shape that can be used.
    ImageNeededError
        If it is about several images, or needs the height of its image, and `on` does not say it.
    """
    return list(read_shape_file(path, on, radius).shapes)


def read_shape_file(
    path: str | Path, on: Slide | DrawnImage | str | None = None, radius: float | tuple[float, float] | None = None
) -> ShapeFile:
    """As `read_shapes`, with the other information of the file, and the shapes that are left out."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ShapeFileError(f"{path} is larger than {_LARGEST >> 20} MB; export fewer shapes at once.")
        data = path.read_bytes()
    except OSError as error:
        raise input_error(path, error, f"give {KINDS}", ShapeFileError) from error
    start = data[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\0\x1e \t\r\n")[:1]
    if data.startswith((b"PK\3\4", b"\x1f\x8b")):
        raise ShapeFileError(f"{path} is a compressed file; unpack it, and give {KINDS}.")
    radii = None if radius is None else (radius, radius) if isinstance(radius, int | float) else radius
    if radii is not None and not all(0 < r < 1e9 for r in radii):
        raise ShapeFileError(f"A radius of {radius} level-0 pixels makes no disc of a point; give one above 0.")
    found = FoundShapes(path, DrawnImage.of(on), radii)
    try:
        if start in (b"{", b"["):
            text = data.decode(json.detect_encoding(data), "surrogatepass")
            del data
            return found.file(_json(text, found))
        if start == b"<":
            return found.file(*read_xml(data, found, KINDS))
    except ShapeFileError:
        raise
    except (ElementTree.ParseError, DefusedXmlException, RecursionError, LookupError, ValueError) as error:
        raise ShapeFileError(f"{path} is damaged, or no file of shapes ({_short(error)}); give {KINDS}.") from error
    raise ShapeFileError(f"{path} is neither JSON nor XML; give {KINDS}.")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


# ------------------------------------------------------------------------------------------------- JSON, item by item

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n\x1e]*")
_BESIDE = frozenset(("crs", "bbox", "properties", "metadata"))
"""Members beside the features of a collection, which may be long themselves."""


def _json(text: str, found: FoundShapes) -> str:
    features = _features(text)
    if features is not None:
        for item in features:
            _feature(item, found)
        return "GeoJSON"
    read = _decoded(text)
    format = read_json(read, found)
    if format is not None:
        return format
    items = read if isinstance(read, list) else [read]
    if not all(isinstance(item, dict) for item in items) or not (not items or any(map(_is_geojson, items))):
        raise ShapeFileError(f"{found.path} is JSON, but no GeoJSON and in no other format known here; give {KINDS}.")
    for item in items:
        _feature(item, found)
    return "GeoJSON"


def _decoded(text: str) -> Any:
    """The value in a text of JSON, or a list of them where it holds one on each line (NDJSON)."""
    try:
        return json.loads(text, object_hook=compact)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" and not text.startswith("\x1e"):
            raise
    values, place = [], _after_space(text, 0)
    decoder = json.JSONDecoder(object_hook=compact)
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        values.append(value)
        place = _after_space(text, place)
    return values


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _features(text: str) -> Iterator[Any] | None:
    """The features of a collection or a list, decoded one after the other; None for all other JSON."""
    place = _after_space(text, 0)
    if text[place] == "[":
        inside = _after_space(text, place + 1)
        if text[inside : inside + 1] != "{":
            return None
        first, _ = _DECODER.raw_decode(text, inside)
        return _listed(text, place, closing="") if _is_geojson(first) else None
    place = _after_space(text, place + 1)
    while text[place : place + 1] == '"':
        key, place = _DECODER.raw_decode(text, place)
        place = _after_space(text, place)
        if text[place : place + 1] != ":":
            return None
        place = _after_space(text, place + 1)
        opening = text[place : place + 1]
        if key == "features" and opening == "[":
            return _listed(text, place, closing="}")
        if opening in ("{", "[") and key not in _BESIDE:
            return None
        _, place = _DECODER.raw_decode(text, place)
        place = _after_space(text, place)
        if text[place : place + 1] != ",":
            return None
        place = _after_space(text, place + 1)
    return None


def _listed(text: str, place: int, closing: str) -> Iterator[Any]:
    """The items of the list that begins at a place, and what follows it decoded too, so that damage is noticed."""
    place = _after_space(text, place + 1)
    while text[place : place + 1] != "]":
        item, place = _DECODER.raw_decode(text, place)
        yield item
        place = _after_space(text, place)
        if text[place : place + 1] == ",":
            place = _after_space(text, place + 1)
        elif text[place : place + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    rest = text[place + 1 :]
    if closing:
        json.loads('{"": 0' + rest)
    elif rest.strip():
        raise json.JSONDecodeError("Extra data", text, place)


# ------------------------------------------------------------------------------------------------------------- GeoJSON

_GEOMETRIES = frozenset(
    ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection")
)


def _is_geojson(item: dict[str, Any]) -> bool:
    return isinstance(item.get("features"), list) or "geometry" in item or "coordinates" in item or "geometries" in item


def _feature(item: Any, found: FoundShapes) -> None:
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


def _geometry(geometry: Any, name: str, found: FoundShapes, look: dict[str, Any]) -> None:
    """Read one geometry of GeoJSON, as far as possible."""
    if not isinstance(geometry, dict):
        found.leave(name, NO_GEOMETRY)
        return
    kind, places = geometry.get("type"), geometry.get("coordinates")
    if not isinstance(kind, str) or kind not in _GEOMETRIES:
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
