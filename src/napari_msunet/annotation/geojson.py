"""Shapes as QuPath's GeoJSON: annotations in the slide's level-0 pixels, ``x, y``."""

from __future__ import annotations

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.polygon import orient

from napari_msunet.annotation.output import ClassLook
from napari_msunet.annotation.polygons import LabelShape

HEAD = '{"type":"FeatureCollection","features":['
TAIL = "\n]}\n"

NEARLY_WHOLE = 1e-6
DECIMALS = 4


def object_id(name: str, look: ClassLook, shape: LabelShape) -> str:
    """A UUID that is the same whenever the same object of the store `name` is exported or measured."""
    x, y = shape.polygon.exterior.coords[0]
    return str(uuid5(NAMESPACE_URL, f"napari-msunet/{name}/{look.name}/{y:.0f}/{x:.0f}"))


def feature(
    shape: LabelShape, look: ClassLook, name: str, pixel: tuple[float, float], extent: tuple[int, int]
) -> dict[str, Any]:
    """One object as a GeoJSON feature that QuPath reads as an annotation.

    Parameters
    ----------
    shape : LabelShape
        In pixels of the store.
    look : ClassLook
        Name and colour of its class.
    name : str
        Of the store; part of the object's id.
    pixel : (y, x)
        Size of the store's pixels in level-0 pixels of the slide.
    extent : (height, width)
        Of the slide in level-0 pixels. The store's last row and column may stick out of it; the outline does not.
    """
    polygon = orient(shape.polygon)  # outlines anticlockwise in x, y, holes clockwise (RFC 7946)
    rings = [
        _positions(shapely.get_coordinates(ring), pixel, extent) for ring in (polygon.exterior, *polygon.interiors)
    ]
    return {
        "type": "Feature",
        "id": object_id(name, look, shape),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": look.name, "color": list(look.colour)},
        },
    }


def feature_line(feature: dict[str, Any], first: bool) -> str:
    """A feature as it stands in the file: on a line of its own, so that a file of any size can be read line by line."""
    return ("\n" if first else ",\n") + json.dumps(feature, ensure_ascii=False, separators=(",", ":"))


def _positions(
    corners: npt.NDArray[np.float64], pixel: tuple[float, float], extent: tuple[int, int]
) -> list[list[float]]:
    """Level-0 pixels ``x, y``; whole numbers where they are."""
    places = np.minimum(corners * [pixel[1], pixel[0]], [extent[1], extent[0]])
    nearest = np.rint(places)
    whole = np.abs(places - nearest) <= NEARLY_WHOLE
    if whole.all():
        return nearest.astype(np.int64).tolist()  # type: ignore[no-any-return]
    rounded = np.where(whole, nearest, np.round(places, DECIMALS))
    return [[int(v) if v.is_integer() else v for v in place] for place in rounded.tolist()]
