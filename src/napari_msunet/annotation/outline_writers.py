"""Objects as files of COCO and ASAP, written one object at a time.

Neither format knows holes. In COCO an object with holes is several polygons that meet along cuts, which is one object
there; in ASAP its outline goes into each hole and back along the same line. Both are read here as the same areas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.polygon import orient

from napari_msunet.events import Progress, progress
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects.instances import ClassLook, Objects
from napari_msunet.objects.polygons import bridged, walk_polygons, without_holes

Written = Generator[Progress, None, int | None]

NEARLY_WHOLE = 1e-6
DECIMALS = 4

IGNORED_NAME = "Ignore*"
"""The class of damaged parts; QuPath leaves such shapes out of measurements and of training."""


def positions(
    corners: npt.NDArray[np.float64], pixel: tuple[float, float], extent: tuple[int, int]
) -> list[list[float]]:
    """Positions ``x, y`` in level-0 pixels, as integers where they are whole."""
    places = np.minimum(corners * [pixel[1], pixel[0]], [extent[1], extent[0]])
    nearest = np.rint(places)
    whole = np.abs(places - nearest) <= NEARLY_WHOLE
    if whole.all():
        return nearest.astype(np.int64).tolist()  # type: ignore[no-any-return]
    rounded = np.where(whole, nearest, np.round(places, DECIMALS))
    return [[int(v) if v.is_integer() else v for v in place] for place in rounded.tolist()]


def _each(
    store: LabelStore, window: Window, objects: Objects, put: Callable[[int, Any, ClassLook | None], None]
) -> Written:
    """Call `put` with the number, the polygon (pixels of the store) and the look of each object; damaged parts have
    none."""
    started, count = time.monotonic(), 0
    for step in walk_polygons(objects.image.read, window):
        for shape in step.shapes:
            look = objects.looks.get(objects.kind(shape.value))
            if look is not None:
                count += 1
                put(count, shape.polygon, look)
        yield progress(step.done, step.total, "windows", started)
    for lost in objects.lost_in(window):
        count += 1
        put(count, shapely.box(lost.x, lost.y, lost.stop[1], lost.stop[0]), None)
    return count


def write_coco(store: LabelStore, window: Window, objects: Objects, file: Path, name: str) -> Written:
    """Write COCO's instances: one image (the slide, at level 0), a category for each class, an annotation for each
    object. Damaged parts are crowds, which programs do not count."""
    height, width = (round(side) for side in store.extent)
    image = {"id": 1, "file_name": store.info.slide or store.path.name, "height": height, "width": width}
    numbers = {id(look): number for number, look in objects.looks.items()}
    categories = [{"id": n, "name": look.name, "color": list(look.colour)} for n, look in objects.looks.items()]
    damaged = max(objects.looks, default=0) + 1
    if objects.lost_in(window):
        categories.append({"id": damaged, "name": IGNORED_NAME, "color": [128, 128, 128]})
    area = store.pixel[0] * store.pixel[1]
    with file.open("w", encoding="utf8") as stream:

        def put(number: int, polygon: Any, look: ClassLook | None) -> None:
            rings = [positions(_corners(p.exterior), store.pixel, store.extent) for p in without_holes(polygon)]
            corners = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
            low, high = corners.min(0), corners.max(0)
            annotation = {
                "id": number,
                "image_id": 1,
                "category_id": damaged if look is None else numbers[id(look)],
                "segmentation": [[v for place in ring[:-1] for v in place] for ring in rings],
                "area": round(float(polygon.area) * area, DECIMALS),
                "bbox": [round(float(v), DECIMALS) for v in (*low, *(high - low))],
                "iscrowd": int(look is None),
            }
            stream.write(("\n" if number == 1 else ",\n") + _text(annotation))

        stream.write(
            f'{{"info":{_text({"description": f"{store.path.name}, written by napari-msunet"})},'
            f'"images":[{_text(image)}],"categories":{_text(categories)},"annotations":['
        )
        count = yield from _each(store, window, objects, put)
        stream.write("\n]}\n")
    return count


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _corners(ring: Any) -> npt.NDArray[np.float64]:
    corners: npt.NDArray[np.float64] = shapely.get_coordinates(ring)
    return corners


def write_asap(store: LabelStore, window: Window, objects: Objects, file: Path, name: str) -> Written:
    """Write ASAP's XML: a polygon for each object, a group for each class."""
    looks = dict(objects.looks)
    if objects.lost_in(window):
        looks[-1] = ClassLook(IGNORED_NAME, (128, 128, 128))
    with file.open("w", encoding="utf8") as stream:

        def put(number: int, polygon: Any, look: ClassLook | None) -> None:
            look = look or looks[-1]
            corners = positions(bridged(orient(polygon)), store.pixel, store.extent)
            places = "".join(
                f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>' for order, (x, y) in enumerate(corners[:-1])
            )
            stream.write(
                f'<Annotation Name="Annotation {number - 1}" Type="Polygon" PartOfGroup="{_quoted(look.name)}" '
                f'Color="{_hex(look.colour)}"><Coordinates>{places}</Coordinates></Annotation>\n'
            )

        stream.write('<?xml version="1.0" encoding="UTF-8"?>\n<ASAP_Annotations>\n<Annotations>\n')
        count = yield from _each(store, window, objects, put)
        stream.write("</Annotations>\n<AnnotationGroups>\n")
        for look in looks.values():
            stream.write(
                f'<Group Name="{_quoted(look.name)}" PartOfGroup="None" Color="{_hex(look.colour)}"><Attributes/>'
                "</Group>\n"
            )
        stream.write("</AnnotationGroups>\n</ASAP_Annotations>\n")
    return count


def _quoted(text: str) -> str:
    """Text for an attribute of XML, which cannot hold control characters."""
    return escape("".join(c if c >= " " else " " for c in text))


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02X}{:02X}{:02X}".format(*colour)
