"""Shapes in the XML of ASAP, Aperio ImageScope, HALO, CVAT and LabelMe (the program on the web)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import TreeBuilder

import numpy as np
from defusedxml import ElementTree

from napari_msunet.annotation.run_lengths import image_mask, mask_polygons, run_polygons
from napari_msunet.annotation.shapes import (
    NO_GEOMETRY,
    NO_NUMBER,
    BadRingError,
    FoundShapes,
    ListedImage,
    box,
    corners_of,
    ellipse,
    turned,
)
from napari_msunet.errors import ShapeFileError
from napari_msunet.names import same_name
from napari_msunet.slide.pixel_size import believed_text

Events = Iterator[tuple[str, Any]]


def read_xml(data: bytes, found: FoundShapes, kinds: str) -> tuple[str, float | None]:
    """Read the shapes of a file; its format, and the µm per pixel that it gives.

    Files of ASAP, ImageScope and HALO have an element for each corner, so each shape is forgotten once it was read.
    """
    events, root = _begun(data)
    if root.tag == "ASAP_Annotations":
        _asap(events, found)
        return "ASAP XML", None
    if root.tag == "Annotations":
        halo = _layers(events, found)
        return ("HALO annotations" if halo else "Aperio XML"), believed_text(root.get("MicronsPerPixel"))
    for _ in events:
        pass  # all others are read whole
    if root.tag == "annotations":
        _cvat(root, found)
        return "CVAT", None
    if root.tag == "annotation":
        _labelme_web(root, found)
        return "LabelMe XML", None
    raise ShapeFileError(
        f"{found.path} is XML with <{root.tag}>, which is neither ASAP's nor Aperio's, HALO's, CVAT's or LabelMe's; "
        f"give {kinds}."
    )


def _begun(data: bytes) -> tuple[Events, Any]:
    """The events of a file, and its root; some programs for Windows say utf-16 in it, but write UTF-8."""
    kinds = ("start", "end")
    try:
        events = iter(ElementTree.iterparse(io.BytesIO(data), kinds))
        _, root = next(events)
    except ElementTree.ParseError:
        if not re.match(rb"(\xef\xbb\xbf)?\s*<\?xml[^>]*utf-16", data, re.I):
            raise
        parser = ElementTree.DefusedXMLParser(target=TreeBuilder(), encoding="utf-8")
        events = iter(ElementTree.iterparse(io.BytesIO(data), kinds, parser))
        _, root = next(events)
    return events, root


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text or otherwise)
    except ValueError:
        return otherwise


def _floats(element: Any, *names: str) -> list[float]:
    """Attributes as numbers; `BadRingError` where one is missing or none."""
    try:
        values = [float(element.get(name)) for name in names]
    except (TypeError, ValueError):
        raise BadRingError(NO_NUMBER) from None
    if not np.isfinite(values).all():
        raise BadRingError(NO_NUMBER)
    return values


def _parts(number: int) -> tuple[int, int, int]:
    return number >> 16 & 255, number >> 8 & 255, number & 255


def _hex(text: str | None) -> tuple[int, int, int] | None:
    try:
        return _parts(int((text or "").removeprefix("#"), 16))
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------------- ASAP


def _asap(events: Events, found: FoundShapes) -> None:
    """ASAP: the group is the class; an annotation without a group has its own name."""
    for event, item in events:
        if event != "end" or item.tag != "Annotation":
            continue
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
            found.polygons(name, [[box(corners) if kind == "Rectangle" and len(corners) == 2 else corners]], **look)
        item.clear()


# ------------------------------------------------------------------------------------------------- ImageScope and HALO


def _layers(events: Events, found: FoundShapes) -> bool:
    """ImageScope and HALO: a layer has a name or an attribute with one, a negative region is a hole, colours are BGR.
    The value is whether the file is HALO's."""
    number = 0
    corner_tags: set[str] = set()
    regions: list[tuple[dict[str, str], Any]] = []
    for event, item in events:
        if event == "start":
            continue
        if item.tag == "Region":
            corners = [(tag, v.get("X"), v.get("Y")) for tag in ("Vertex", "V") for v in item.iter(tag)]
            corner_tags.update(tag for tag, _, _ in corners)
            regions.append((dict(item.attrib), _compact([(x, y) for _, x, y in corners])))
            item.clear()
        elif item.tag == "Annotation":
            number += 1
            _layer(item, number, regions, found)
            regions = []
            item.clear()
    return corner_tags == {"V"}


def _compact(corners: list[Any]) -> Any:
    """Corners as an array, which takes a tenth of the memory; unchanged where they are no numbers."""
    try:
        return corners_of(corners) if corners else corners
    except BadRingError:
        return corners


def _layer(layer: Any, number: int, regions: list[tuple[dict[str, str], Any]], found: FoundShapes) -> None:
    called = _layer_name(layer)
    shown = _number(layer.get("LineColor"), 0.0)
    colour = _parts(int(shown) if np.isfinite(shown) else 0)[::-1]
    for region, corners in regions:
        found.number += 1
        name = same_name(region.get("Text") or called)
        look: dict[str, Any] = {"colour": (colour[0], colour[1], colour[2]), "layer": number, "classed": bool(name)}
        _region(region, corners, name, look, found)


def _layer_name(layer: Any) -> str:
    """A layer's own name, that of an attribute, or the text of its description."""
    if layer.get("Name"):
        return str(layer.get("Name"))
    attributes = layer.findall("./Attributes/Attribute")
    named = [a.get("Name") for a in attributes if a.get("Name") not in (None, "", "Description")]
    described = [a.get("Value") for a in attributes if a.get("Name") == "Description" and a.get("Value")]
    return next(iter((*named, *described)), "")


_REGIONS = {
    **{"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "ruler", "4": "arrow", "5": "pin"},
    **{name: name for name in ("polygon", "rectangle", "ellipse", "ruler", "arrow", "pin")},
}
"""The kinds of regions, which are numbers in ImageScope and names in HALO."""


def _true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("1", "true")


def _region(region: dict[str, str], corners: Any, name: str, look: dict[str, Any], found: FoundShapes) -> None:
    """Read a region; an ellipse or a rectangle may be given by two corners of its box."""
    kind = _REGIONS.get((region.get("Type") or "0").strip().lower())
    if kind == "polygon" and _true(region.get("HasEndcaps")):
        kind = "ruler"  # an open line of HALO, which has ends
    if kind is None:
        found.leave(name, f"of the unknown kind {region.get('Type')!r}")
    elif not len(corners):
        found.leave(name, NO_GEOMETRY)
    elif kind in ("ruler", "arrow"):
        found.points(name, corners, line=True, **look)
    elif kind == "pin":
        found.points(name, corners, **look)
    else:
        look["hole"] = _true(region.get("NegativeROA"))
        if kind == "ellipse" and len(corners) <= 4:
            corners = _boxed_ellipse(corners)
        elif kind == "rectangle" and len(corners) == 2:
            corners = box(corners)
        found.polygons(name, [[corners]], **look)


def _boxed_ellipse(corners: list[Any]) -> Any:
    """The outline of an ellipse in the box of some corners."""
    try:
        (left, top), (right, bottom) = np.min(corners_of(corners), 0), np.max(corners_of(corners), 0)
    except BadRingError:
        return corners  # the error is reported with the shape
    return ellipse(((left + right) / 2, (top + bottom) / 2), ((bottom - top) / 2, (right - left) / 2))


# ---------------------------------------------------------------------------------------------------------------- CVAT

_CVAT = ("polygon", "box", "ellipse", "mask", "points", "polyline", "skeleton", "cuboid")


def _cvat(root: Any, found: FoundShapes) -> None:
    """CVAT for images (docs.cvat.ai, XML format 1.1): the shapes of one image in the order in which they are stored."""
    images = root.findall("image")
    if not images and root.find("track") is not None:
        raise ShapeFileError(
            f"{found.path} holds tracks of a video; export the task from CVAT as 'CVAT for images', and give that."
        )
    listed = [
        ListedImage(
            tuple(filter(None, (same_name(image.get("name") or ""), image.get("id")))),
            _extent(image.get("height"), image.get("width")),
            sum(shape.tag in _CVAT for shape in image),
            key,
        )
        for key, image in enumerate(images)
    ]
    chosen = found.choose(listed)
    colours = {
        same_name(label.findtext("name") or ""): _hex(label.findtext("color"))
        for label in root.iter("label")
        if label.find("name") is not None
    }
    for key, image in enumerate(images):
        shapes = [shape for shape in image if shape.tag in _CVAT]
        if chosen is None or key != chosen.key:
            found.number += len(shapes)
            continue
        for shape in shapes:
            found.number += 1
            name = same_name(shape.get("label") or "")
            try:
                _cvat_shape(shape, name, {"colour": colours.get(name), "classed": bool(name)}, found)
            except BadRingError as bad:
                found.leave(name, str(bad))


def _extent(height: str | None, width: str | None) -> tuple[float, float] | None:
    h, w = _number(height, 0.0), _number(width, 0.0)
    return (h, w) if np.isfinite([h, w]).all() and h > 0 and w > 0 else None


def _cvat_shape(shape: Any, name: str, look: dict[str, Any], found: FoundShapes) -> None:
    angle = _number(shape.get("rotation"), 0.0)
    angle = angle if np.isfinite(angle) else 0.0
    if shape.tag == "polygon":
        found.polygons(name, [[_pairs(shape)]], **look)
    elif shape.tag == "box":
        x, y, x2, y2 = _floats(shape, "xtl", "ytl", "xbr", "ybr")
        middle = np.array([(x + x2) / 2, (y + y2) / 2])
        found.polygons(name, [[turned(np.array(box([(x, y), (x2, y2)])) - middle, angle) + middle]], **look)
    elif shape.tag == "ellipse":
        x, y, rx, ry = _floats(shape, "cx", "cy", "rx", "ry")
        found.polygons(name, [[ellipse((x, y), (ry, rx), angle)]], **look)
    elif shape.tag == "mask":
        left, top, width, height = _floats(shape, "left", "top", "width", "height")
        if max(abs(left), abs(top), width, height) > 2**31:
            raise BadRingError("with a damaged mask")
        runs = (shape.get("rle") or "").replace(",", " ").split()
        found.polygons(name, run_polygons(runs, (int(height), int(width)), False, (top, left)), **look)
    elif shape.tag == "points":
        found.points(name, _pairs(shape), **look)
    elif shape.tag == "polyline":
        found.points(name, _pairs(shape), line=True, **look)
    else:
        found.leave(name, f"drawn as a {shape.tag}")


def _pairs(shape: Any) -> list[Sequence[str]]:
    """``"x,y;x,y"``."""
    return [part.split(",") for part in (shape.get("points") or "").split(";") if part.strip()]


# ------------------------------------------------------------------------------------------------- LabelMe on the web


def _labelme_web(root: Any, found: FoundShapes) -> None:
    """LabelMe's XML: polygons, and masks in PNG files beside it; deleted objects stay in the file."""
    objects = root.findall("object")
    boxes = [item.find("bndbox") is not None for item in objects]
    if any(boxes) and not any(item.find(tag) is not None for item in objects for tag in ("polygon", "segm")):
        raise ShapeFileError(
            f"{found.path} is Pascal VOC's XML, which holds boxes around objects and no outlines, and is not read; "
            "give outlines."
        )
    if not objects and root.find("filename") is None:
        raise ShapeFileError(f"{found.path} is XML with <annotation>, but neither LabelMe's nor a file of outlines.")
    name = same_name((root.findtext("filename") or "").strip())
    size = _extent(root.findtext("imagesize/nrows"), root.findtext("imagesize/ncols"))
    found.choose([ListedImage((name,) if name else (), size, len(objects))])
    folder = (root.findtext("folder") or "").strip()
    for item in objects:
        found.number += 1
        called = same_name((item.findtext("name") or "").strip())
        if (item.findtext("deleted") or "0").strip() == "1":
            found.leave(called, "deleted in LabelMe")
            continue
        try:
            _labelme_object(item, called, folder, found)
        except BadRingError as bad:
            found.leave(called, str(bad))


def _labelme_object(item: Any, name: str, folder: str, found: FoundShapes) -> None:
    look: dict[str, Any] = {"classed": bool(name)}
    polygon, mask = item.find("polygon"), item.find("segm")
    if polygon is not None:
        corners = [((p.findtext("x") or "").strip(), (p.findtext("y") or "").strip()) for p in polygon.iter("pt")]
        if len(corners) in (1, 2) and (item.findtext("type") or "").strip() != "bounding_box":
            found.points(name, corners, line=len(corners) == 2, **look)
        elif len(corners) == 2:
            found.polygons(name, [[box(corners)]], **look)
        else:
            found.polygons(name, [[corners]], **look)
    elif mask is not None:
        file = (mask.findtext("mask") or "").strip()
        where = _mask_file(found.path, folder, file)
        if where is None:
            raise BadRingError(f"whose mask ({file or 'without a name'}) is a file that is not beside this one")
        found.polygons(name, mask_polygons(image_mask(where), (0, 0)), **look)
    elif item.find("bndbox") is not None:
        edges = [item.find("bndbox").findtext(edge) for edge in ("xmin", "ymin", "xmax", "ymax")]
        found.polygons(name, [[box([(edges[0], edges[1]), (edges[2], edges[3])])]], **look)
    else:
        found.leave(name, NO_GEOMETRY)


def _mask_file(path: Path, folder: str, name: str) -> Path | None:
    """The PNG of a mask: beside the file, or in LabelMe's folder ``Masks``."""
    name = name.replace("\\", "/").split("/")[-1]
    if not name:
        return None
    below = folder.replace("\\", "/").strip("/").split("/")[-1]
    for place in (path.parent, path.parent / "Masks", path.parent.parent.parent / "Masks" / below):
        for where in (place / name, place / below / name):
            if where.is_file():
                return where
    return None
