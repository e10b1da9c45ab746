"""What is measured of an object, from the polygon along its pixels' edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

Numbers = npt.NDArray[np.float64]

TOLERANCE = 0.5
"""Pixels by which the outline may be straightened before its length is taken."""


@dataclass(frozen=True)
class Measurements:
    """Measures of `n` objects, in the order they were given.

    Attributes
    ----------
    area : (n,) float64
        µm².
    perimeter : (n,) float64
        µm, holes' outlines included; see `perimeters`.
    centroid : (n, 2) float64
        Centre of mass `y, x` in pixels of the polygons.
    box : (n, 4) float64
        First `y`, first `x`, height and width in pixels of the polygons.
    """

    area: Numbers
    perimeter: Numbers
    centroid: Numbers
    box: Numbers


def measure_polygons(polygons: Any, mpp: tuple[float, float]) -> Measurements:
    """Measure polygons along pixel edges.

    Parameters
    ----------
    polygons : sequence of shapely.Polygon
        ``x, y`` in pixels.
    mpp : (y, x)
        µm per pixel.
    """
    polygons = np.asarray(polygons, object)
    centres = shapely.centroid(polygons)
    x0, y0, x1, y1 = shapely.bounds(polygons).reshape(-1, 4).T
    return Measurements(
        area=shapely.area(polygons) * (mpp[0] * mpp[1]),
        perimeter=perimeters(polygons, mpp),
        centroid=np.stack([shapely.get_y(centres), shapely.get_x(centres)], 1).reshape(-1, 2),
        box=np.stack([y0, x0, y1 - y0, x1 - x0], 1),
    )


def perimeters(polygons: Any, mpp: tuple[float, float]) -> Numbers:
    """Length of the outlines of polygons along pixel edges, in µm, holes included.

    A staircase of pixels is up to 41 % longer than the line it stands for, and 27 % for a disc. So each outline is led
    through the middles of its pixels' edges and straightened by half a pixel (Douglas and Peucker, 1973). Measured:
    discs with a radius of 3 to 100 pixels come out 2-4 % too long; squares with a side of 20 pixels or more, at any
    angle, within 3 %; an axis-parallel square of 10 pixels loses its corners, 5 %. An outline of a few pixels, which
    would come out too short, has at least the length of the circle around the same area. Where the slide, or the
    measured region, cuts an object, the cut counts as outline.

    Parameters
    ----------
    polygons : sequence of shapely.Polygon
        ``x, y`` in pixels.
    mpp : (y, x)
        µm per pixel.

    References
    ----------
    D. H. Douglas and T. K. Peucker, "Algorithms for the reduction of the number of points required to represent a
    digitized line or its caricature", Cartographica 10 (1973) 112-122.
    """
    polygons = np.asarray(polygons, object)
    if not len(polygons):
        return np.zeros(0)
    rings, owner = shapely.get_rings(polygons, return_index=True)
    corners, ring = shapely.get_coordinates(shapely.segmentize(rings, 1.0), return_index=True)
    inner = ring[1:] == ring[:-1]
    middles = ((corners[1:] + corners[:-1]) / 2)[inner]
    outlines = shapely.linearrings(middles, indices=ring[1:][inner])
    straight = shapely.simplify(outlines, TOLERANCE)
    scaled = shapely.transform(straight, lambda xy: xy * np.array([mpp[1], mpp[0]]))
    circles = 2 * np.sqrt(np.pi * shapely.area(shapely.polygons(rings)) * mpp[0] * mpp[1])
    lengths = np.maximum(shapely.length(scaled), circles)
    return np.bincount(owner, weights=lengths, minlength=len(polygons)).astype(np.float64)
