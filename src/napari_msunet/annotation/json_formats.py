"""Shapes in the JSON of COCO, Labelbox, labelme, Cytomine and CAMELYON16.

Written from the formats' documentation: cocodataset.org (format-data), docs.labelbox.com (export-image-annotations),
github.com/wkentaro/labelme, and Cytomine's API (``userannotation`` with ``showWKT``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from napari_msunet.annotation.run_lengths import coco_runs, mask_polygons, png_mask, run_polygons
from napari_msunet.annotation.shapes import (
    NO_GEOMETRY,
    NO_NUMBER,
    BadRingError,
    DrawnShape,
    FoundShapes,
    ListedImage,
    box,
    corners_of,
    ellipse,
    signed_area,
)
from napari_msunet.errors import ShapeFileError
from napari_msunet.names import same_name

_WKT = re.compile(r"\s*(SRID=\d+;)?\s*((MULTI)?(POINT|LINESTRING|POLYGON)|LINEARRING|GEOMETRYCOLLECTION)\b", re.I)

ON_SERVER = "whose mask is kept on Labelbox's server"
ON_MAP = "on a map, in longitude and latitude"
ODD_COUNT = "with an odd number of coordinates"


def read_json(read: Any, found: FoundShapes) -> str | None:
    """Read the shapes of a file that is in one of these formats; its format, or None where it is in none of them."""
    first = read[0] if isinstance(read, list) and read else read
    if not isinstance(first, dict):
        return None
    for recognised, reader, format in _FORMATS:
        if recognised(read, first):
            reader(read, found)
            return format
    return None


def compact(item: dict[str, Any]) -> dict[str, Any]:
    """For `json.loads`: COCO's long lists of coordinates as arrays, which take a quarter of the memory."""
    outlines = item.get("segmentation")
    if isinstance(outlines, list) and outlines and isinstance(outlines[0], list):
        try:
            item["segmentation"] = [np.asarray(ring, np.float64) for ring in outlines]
        except (TypeError, ValueError):
            return item
    return item


def _text(value: Any) -> str:
    return same_name(value).strip() if isinstance(value, str) else ""


def _names(*values: Any) -> tuple[str, ...]:
    """Those of the values that can be names of an image."""
    said = [str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool) and str(v).strip()]
    return tuple(dict.fromkeys(said))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)


def _size(height: Any, width: Any) -> tuple[float, float] | None:
    h, w = _number(height), _number(width)
    return None if h is None or w is None or h <= 0 or w <= 0 else (h, w)


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _hex(text: Any) -> tuple[int, int, int] | None:
    if not isinstance(text, str) or not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        return None
    number = int(text.removeprefix("#"), 16)
    return number >> 16 & 255, number >> 8 & 255, number & 255


def _boxed(left: Any, top: Any, width: Any, height: Any) -> list[Any]:
    """The ring of a box; `BadRingError` where it is none."""
    x, y, w, h = (_number(v) for v in (left, top, width, height))
    if x is None or y is None or w is None or h is None:
        raise BadRingError(NO_NUMBER)
    return box([(x, y), (x + w, y + h)])


# ---------------------------------------------------------------------------------------------------------------- COCO


def _is_coco(read: Any, first: dict[str, Any]) -> bool:
    if isinstance(read, dict):
        lists = isinstance(read.get("annotations"), list)
        return lists and ("images" in read or "categories" in read) and "item" not in read
    return "image_id" in first and "category_id" in first and ("segmentation" in first or "bbox" in first)


def _coco(read: Any, found: FoundShapes) -> None:
    """COCO's instances: all annotations of the chosen image, each one shape, however many parts it has."""
    items = read["annotations"] if isinstance(read, dict) else read
    if any("segments_info" in item for item in _dicts(items[:1])):
        raise ShapeFileError(
            f"{found.path} is COCO's panoptic form, whose outlines are in PNG files beside it; give the form for "
            "instances, or read the PNG files as masks."
        )
    chosen = found.choose(_coco_images(_dicts(read.get("images")) if isinstance(read, dict) else [], items))
    categories = _dicts(read.get("categories")) if isinstance(read, dict) else []
    named = {c.get("id"): c for c in categories if _hashable(c.get("id"))}
    crowds, filled = [], []
    for found.number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            found.leave("", NO_GEOMETRY)
            continue
        if chosen is not None and item.get("image_id") != chosen.key:
            continue
        key = item.get("category_id")
        category = named.get(key, {}) if _hashable(key) else {}
        name = _text(category.get("name")) or ("" if key is None else str(key))
        before = len(found.shapes)
        look = {"colour": _colour(category.get("color")), "classed": bool(name), "crowd": bool(item.get("iscrowd"))}
        _coco_item(item, name, None if chosen is None else chosen.size, found, look)
        if len(found.shapes) > before:
            crowds += [found.number] if item.get("iscrowd") else []
            filled += [found.number] if _overlapping(item.get("segmentation"), found.shapes[-1]) else []
    if crowds:
        said = "shapes are crowds ({}), which count" if len(crowds) > 1 else "shape is a crowd ({}), which counts"
        found.notes.append(f"{len(crowds)} {said.format(_first(crowds))} for the class, but not as an object.")
    if filled:
        have = "shapes have" if len(filled) > 1 else "shape has"
        said = f"{len(filled)} {have} parts that overlap ({_first(filled)})"
        found.notes.append(f"{said}; COCO has no holes, so all are filled.")


def _first(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _overlapping(outlines: Any, shape: DrawnShape) -> bool:
    """Whether parts of an object overlap, of which one may be meant as a hole."""
    if not isinstance(outlines, list) or len(outlines) < 2:
        return False
    parts = [part for part in outlines if isinstance(part, np.ndarray) and part.size and part.size % 2 == 0]
    return sum(abs(signed_area(part.reshape(-1, 2))) for part in parts) > float(shape.geometry.area) * (1 + 1e-6)


def _coco_images(images: list[dict[str, Any]], items: list[Any]) -> list[ListedImage]:
    """The images that a file lists, and those that only its annotations name."""
    counts = Counter(item.get("image_id") for item in _dicts(items) if _hashable(item.get("image_id")))
    listed = [
        ListedImage(
            _names(image.get("file_name"), image.get("id")),
            _size(image.get("height"), image.get("width")),
            counts.pop(image.get("id"), 0) if _hashable(image.get("id")) else 0,
            image.get("id"),
        )
        for image in images
    ]
    return listed + [ListedImage(_names(key), None, count, key) for key, count in counts.items()]


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int | float | None)


def _colour(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, list) and len(value) >= 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in value[:3]):
        return value[0], value[1], value[2]
    return _hex(value)


def _coco_item(
    item: dict[str, Any], name: str, size: tuple[float, float] | None, found: FoundShapes, look: dict[str, Any]
) -> None:
    outlines = item.get("segmentation")
    try:
        if isinstance(outlines, dict):
            found.polygons(name, _coco_mask(outlines, size), **look)
        elif isinstance(outlines, list | np.ndarray) and len(outlines):
            rings, wrong = _coco_rings(outlines)
            found.polygons(name, [[ring] for ring in rings], wrong, **look)
        elif isinstance(item.get("bbox"), list) and len(item["bbox"]) == 4:
            found.polygons(name, [[_boxed(*item["bbox"])]], **look)
        elif item.get("keypoints"):
            found.leave(name, "of key points, without an outline")
        else:
            found.leave(name, NO_GEOMETRY)
    except BadRingError as bad:
        found.leave(name, str(bad))


def _coco_mask(mask: dict[str, Any], size: tuple[float, float] | None) -> Any:
    """Run lengths, as numbers or in COCO's text."""
    shape, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(shape, list) and len(shape) == 2) and size is not None:
        shape = list(size)
    if not isinstance(shape, list) or not all(isinstance(s, int | float) and 0 < s < 2**31 for s in shape):
        raise BadRingError("with a mask without a size")
    if isinstance(counts, str):
        counts = coco_runs(counts)
    return run_polygons(counts, (int(shape[0]), int(shape[1])), down=True)


def _coco_rings(outlines: Any) -> tuple[list[Any], list[str]]:
    """The rings of the parts of an object, each a flat list ``x, y, x, y``, and what is wrong with others."""
    if not isinstance(outlines[0], list | np.ndarray):
        outlines = [outlines]  # one ring that is not in a list of its own
    rings: list[Any] = []
    wrong = []
    for ring in outlines:
        if isinstance(ring, list) and ring and isinstance(ring[0], list):
            rings.append(ring)  # corners as pairs, as some programs write
            continue
        try:
            numbers = np.asarray(ring, np.float64)
        except (TypeError, ValueError):
            wrong.append(NO_NUMBER)
            continue
        if numbers.ndim == 2:
            rings.append(numbers)
        elif numbers.size % 2:
            wrong.append(ODD_COUNT)
        else:
            rings.append(numbers.reshape(-1, 2))
    return rings, wrong


# ------------------------------------------------------------------------------------------------------------ Labelbox


def _is_labelbox(read: Any, first: dict[str, Any]) -> bool:
    return (
        ("data_row" in first and ("projects" in first or "experiments" in first))
        or ("Label" in first and bool({"Labeled Data", "DataRow ID", "External ID", "ID"} & first.keys()))
        or (isinstance(first.get("dataRow"), dict) and bool({"name", "schemaId", "uuid"} & first.keys()))
    )


def _labelbox(read: Any, found: FoundShapes) -> None:
    """Labelbox's rows, one for each image: the export of today (v2), the one before, and the one before that, in which
    each class has outlines with y upwards; and the lines that are imported there."""
    rows = _dicts(read if isinstance(read, list) else [read])
    grouped: dict[str, list[dict[str, Any]]] = {}
    listed: dict[str, ListedImage] = {}
    for row in rows:
        names, size, objects = _labelbox_row(row)
        key = names[0] if names else ""
        grouped.setdefault(key, []).extend(objects)
        listed[key] = ListedImage(names, size, len(grouped[key]), key)
    chosen = found.choose(list(listed.values()))
    for key, objects in grouped.items():
        if chosen is not None and key == chosen.key:
            if any("upwards" in one for one in objects):
                found.upwards(chosen, "Labelbox's first format")
            for one in objects:
                found.number += 1
                _labelbox_object(one, found)
        else:
            found.number += len(objects)
    if chosen is not None:
        _labelbox_doubt([row for row in rows if (_labelbox_row(row)[0] or ("",))[0] == chosen.key], found)


def _labelbox_row(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[float, float] | None, list[dict[str, Any]]]:
    """The names of the image of a row, its size, and its objects."""
    data = row.get("data_row") if isinstance(row.get("data_row"), dict) else row.get("dataRow")
    if isinstance(data, dict):
        address = data.get("row_data")
        names = _names(
            data.get("external_id"), data.get("global_key"), data.get("globalKey"),
            address if isinstance(address, str) and len(address) < 4096 else None, data.get("id"),
        )  # fmt: skip
    else:
        names = _names(row.get("External ID"), row.get("Labeled Data"), row.get("DataRow ID"), row.get("ID"))
    media = row.get("media_attributes") or row.get("Media Attributes")
    media = media if isinstance(media, dict) else {}
    size = _size(media.get("height"), media.get("width"))
    if "dataRow" in row:
        return names, size, [row]
    if "data_row" in row:
        return names, size, [o for label in _labelbox_labels(row) for o in _dicts(_within(label, "objects"))]
    label = row.get("Label")
    if isinstance(label, dict) and isinstance(label.get("objects"), list):
        return names, size, _dicts(label["objects"])
    return names, size, list(_labelbox_first(label)) if isinstance(label, dict) else []


def _labelbox_labels(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The labels of an image in all its projects, or else of a model's run."""
    projects = row.get("projects")
    found = []
    for project in projects.values() if isinstance(projects, dict) else ():
        found += _dicts(project.get("labels")) if isinstance(project, dict) else []
    experiments = row.get("experiments")
    for experiment in experiments.values() if isinstance(experiments, dict) and not found else ():
        runs = experiment.get("runs") if isinstance(experiment, dict) else None
        for run in runs.values() if isinstance(runs, dict) else ():
            found += _dicts(run.get("labels")) if isinstance(run, dict) else []
    return found


def _within(label: dict[str, Any], name: str) -> Any:
    inner = label.get("annotations")
    return inner.get(name) if isinstance(inner, dict) else None


def _labelbox_doubt(rows: list[dict[str, Any]], found: FoundShapes) -> None:
    """Note several labels of one image, such as those of several people."""
    labels = sum(len(_labelbox_labels(row)) if "data_row" in row else 1 for row in rows if "dataRow" not in row)
    if labels > 1:
        found.notes.append(
            f"{found.path.name} holds {labels} labels of this image (of several people or projects), and the outlines "
            "of all of them are used."
        )


def _labelbox_first(label: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of Labelbox's first format: for each class, outlines as points, or as well-known text."""
    for name, drawn in label.items():
        for one in drawn if isinstance(drawn, list) else [drawn]:
            outline = one.get("geometry", one) if isinstance(one, dict) else one
            if isinstance(outline, str) and _WKT.match(outline):
                yield {"title": name, "wkt": outline, "upwards": True}
            elif isinstance(outline, list) and outline and all(isinstance(p, dict) and "x" in p for p in outline):
                yield {"title": name, "polygon": outline, "upwards": True}
            elif isinstance(outline, dict) and {"x", "y"} <= outline.keys():
                yield {"title": name, "point": outline, "upwards": True}


def _labelbox_object(one: dict[str, Any], found: FoundShapes) -> None:
    name = next((text for key in ("title", "name", "value") if (text := _text(one.get(key)))), "")
    look: dict[str, Any] = {"colour": _hex(one.get("color")), "classed": bool(name)}
    boxed = one.get("bounding_box") or one.get("bbox")
    mask = one.get("mask")
    line = one.get("line") or one.get("polyline")
    try:
        if isinstance(one.get("polygon"), list):
            outline = one["polygon"]
            rings = outline if outline and isinstance(outline[0], list) else [outline]
            found.polygons(name, [[_places(ring)] for ring in rings], **look)
        elif isinstance(boxed, dict):
            ring = _boxed(*(boxed.get(key) for key in ("left", "top", "width", "height")))
            found.polygons(name, [[ring]], **look)
        elif isinstance(line, list):
            found.points(name, _places(line), line=True, **look)
        elif isinstance(one.get("point"), dict):
            found.points(name, _places([one["point"]]), **look)
        elif isinstance(one.get("wkt"), str):
            found.wkt(name, one["wkt"], **look)
        elif isinstance(mask, dict) and isinstance(mask.get("png"), str):
            found.polygons(name, mask_polygons(png_mask(mask["png"]), (0, 0)), **look)
        elif isinstance(mask, dict) or isinstance(one.get("instanceURI"), str) or "composite_mask" in one:
            found.leave(name, ON_SERVER)
        elif "geojson" in one or "geo_json" in one:
            found.leave(name, ON_MAP)
        else:
            found.leave(name, NO_GEOMETRY)
    except BadRingError as bad:
        found.leave(name, str(bad))


def _places(places: list[Any]) -> list[Any]:
    """Points ``{"x": ..., "y": ...}``, or pairs, as pairs."""
    return [(p.get("x"), p.get("y")) if isinstance(p, dict) else p for p in places]


# ------------------------------------------------------------------------------------------------------------- labelme


def _is_labelme(read: Any, first: dict[str, Any]) -> bool:
    return isinstance(first.get("shapes"), list) and bool({"imagePath", "imageData", "version", "flags"} & first.keys())


def _labelme(read: Any, found: FoundShapes) -> None:
    """labelme's shapes; those of one label and one group are one object."""
    files = _dicts(read if isinstance(read, list) else [read])
    listed = [
        ListedImage(
            _names(one.get("imagePath")),
            _size(one.get("imageHeight"), one.get("imageWidth")),
            len(one["shapes"]) if isinstance(one.get("shapes"), list) else 0,
            key,
        )
        for key, one in enumerate(files)
    ]
    chosen = found.choose(listed)
    for key, one in enumerate(files):
        shapes = one["shapes"] if isinstance(one.get("shapes"), list) else []
        if chosen is not None and chosen.key == key:
            _labelme_shapes(shapes, found)
        else:
            found.number += len(shapes)


def _labelme_shapes(shapes: list[Any], found: FoundShapes) -> None:
    start = found.number
    groups: dict[Any, list[int]] = {}
    for index, shape in enumerate(shapes):
        group = shape.get("group_id") if isinstance(shape, dict) else None
        areal = isinstance(shape, dict) and shape.get("shape_type") not in _THIN
        key = (_text(shape.get("label")), group) if areal and isinstance(group, int | str) else index
        groups.setdefault(key, []).append(index)
    for members in groups.values():
        found.number = start + members[0] + 1
        if not isinstance(shapes[members[0]], dict):
            found.leave("", NO_GEOMETRY)
        elif shapes[members[0]].get("shape_type") in _THIN:
            _labelme_thin(shapes[members[0]], found)
        else:
            _labelme_area([shapes[index] for index in members], found)
    found.number = start + len(shapes)


_THIN = ("point", "points", "line", "linestrip", "lines")


def _labelme_look(shape: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = _text(shape.get("label"))
    return name, {"colour": _colour(shape.get("line_color")), "classed": bool(name)}


def _labelme_thin(shape: dict[str, Any], found: FoundShapes) -> None:
    name, look = _labelme_look(shape)
    found.points(name, shape.get("points") or [], line="line" in shape["shape_type"], **look)


def _labelme_area(members: list[dict[str, Any]], found: FoundShapes) -> None:
    name, look = _labelme_look(members[0])
    parts: list[Any] = []
    wrong: list[str] = []
    for shape in members:
        try:
            parts += _labelme_rings(shape)
        except BadRingError as bad:
            wrong.append(str(bad))
    found.polygons(name, parts, wrong, **look)


def _labelme_rings(shape: dict[str, Any]) -> Any:
    """The polygons of an area; files of before 2018 have no types, only polygons."""
    kind = shape.get("shape_type") or "polygon"
    if kind not in _AREAS:
        raise BadRingError(f"of the unknown kind {kind!r}")
    corners = corners_of(shape.get("points") or [])
    if kind == "mask":
        if not isinstance(shape.get("mask"), str) or not len(corners):
            raise BadRingError("without its mask")
        left, top = np.floor(corners.min(0)).tolist()
        return mask_polygons(png_mask(shape["mask"]), (top, left))
    if kind == "rectangle" and len(corners) == 2:
        return [[box(corners)]]
    if kind == "circle":
        if len(corners) != 2:
            raise BadRingError("with fewer than a circle's two points")
        radius = float(np.hypot(*(corners[1] - corners[0])))
        return [[ellipse((corners[0, 0], corners[0, 1]), (radius, radius))]]
    return [[corners]]


_AREAS = ("polygon", "rectangle", "circle", "mask", "oriented_rectangle", "rotation")


# ------------------------------------------------------------------------------------------------------------ Cytomine


def _cytomine_items(read: Any) -> list[Any]:
    if isinstance(read, dict) and isinstance(read.get("collection"), list):
        return list(read["collection"])
    return read if isinstance(read, list) else [read]


def _cytomine_one(item: Any) -> dict[str, Any]:
    inner = item.get("annotation", item) if isinstance(item, dict) else {}
    return inner if isinstance(inner, dict) else {}


def _is_cytomine(read: Any, first: dict[str, Any]) -> bool:
    for item in _cytomine_items(read):
        one = _cytomine_one(item)
        if isinstance(one.get("location"), str) and _WKT.match(one["location"]):
            return True
        if str(one.get("class", "")).startswith("be.cytomine."):
            return True
    return False


def _cytomine(read: Any, found: FoundShapes) -> None:
    """Cytomine's annotations: well-known text with y upwards."""
    items = [_cytomine_one(item) for item in _cytomine_items(read)]
    keys = [_names(*(one.get(k) for k in _CYTOMINE_NAMES)) for one in items]
    listed: dict[tuple[str, ...], ListedImage] = {}
    for key, one in zip(keys, items, strict=True):
        size = _size(one.get("imageHeight"), one.get("imageWidth")) or (listed[key].size if key in listed else None)
        listed[key] = ListedImage(key, size, (listed[key].shapes if key in listed else 0) + 1, key)
    only_numbers = all(name.isdecimal() for key in listed for name in key)
    if len(listed) == 1 and only_numbers:  # the number of the image says nothing about its file
        listed = {key: ListedImage((), image.size, image.shapes, key) for key, image in listed.items()}
    chosen = found.choose(list(listed.values()))
    found.upwards(chosen, "Cytomine")
    for found.number, (key, one) in enumerate(zip(keys, items, strict=True), start=1):
        if chosen is not None and key != chosen.key:
            continue
        name = _cytomine_name(one)
        if isinstance(one.get("location"), str):
            found.wkt(name, one["location"], classed=bool(name))
        else:
            found.leave(name, NO_GEOMETRY)


_CYTOMINE_NAMES = ("originalFilename", "imageFilename", "filename", "instanceFilename", "imageName", "image")


def _cytomine_name(one: dict[str, Any]) -> str:
    """The terms of an annotation: their names where the file has them, else their numbers."""
    terms = one.get("termsNames") or one.get("termName") or one.get("terms") or one.get("term")
    said = []
    for term in terms if isinstance(terms, list) else [terms]:
        term = (term.get("name") or term.get("key") or term.get("id")) if isinstance(term, dict) else term
        if isinstance(term, str | int) and not isinstance(term, bool) and str(term).strip():
            said.append(same_name(str(term)).strip())
    return ", ".join(said)


# ---------------------------------------------------------------------------------------------------------- CAMELYON16


def _is_camelyon(read: Any, first: dict[str, Any]) -> bool:
    return isinstance(read, dict) and {"positive", "negative"} <= read.keys()


def _camelyon(read: Any, found: FoundShapes) -> None:
    """CAMELYON16's outlines in JSON: tumour, and the holes in it."""
    for key in ("positive", "negative"):
        for item in read[key] if isinstance(read[key], list) else ():
            found.number += 1
            vertices = item.get("vertices") if isinstance(item, dict) else None
            found.polygons("tumor", [[vertices or []]], hole=key == "negative")


# ----------------------------------------------------------------------------------------------------------------------


def _is_via(read: Any, first: dict[str, Any]) -> bool:
    return "_via_settings" in first or "_via_img_metadata" in first


def _via(read: Any, found: FoundShapes) -> None:
    raise ShapeFileError(
        f"{found.path} is a file of the VGG Image Annotator, which is not read; export it there as COCO."
    )


_FORMATS: tuple[tuple[Callable[[Any, dict[str, Any]], bool], Callable[[Any, FoundShapes], None], str], ...] = (
    (_is_camelyon, _camelyon, "CAMELYON16 JSON"),
    (_is_coco, _coco, "COCO"),
    (_is_labelme, _labelme, "labelme"),
    (_is_labelbox, _labelbox, "Labelbox"),
    (_is_cytomine, _cytomine, "Cytomine"),
    (_is_via, _via, "VIA"),
)
