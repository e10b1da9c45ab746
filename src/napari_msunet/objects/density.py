"""Where objects are dense: neighbours, density maps and hotspots, from the places of the objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi

import numpy as np
import numpy.typing as npt
from scipy.signal import oaconvolve
from scipy.spatial import cKDTree

Numbers = npt.NDArray[np.float64]

_AT_ONCE = 1 << 16
_FINE = 16
"""Pixels of a density map along the diameter of its disc."""
_LARGEST = 4096
"""Longest side of a density map."""


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of each of `n` objects.

    Attributes
    ----------
    count : (n,) integers
        Other objects whose centroid is within the distance.
    nearest : (n,)
        Distance to the nearest other centroid; NaN for a single object.
    """

    count: npt.NDArray[np.int64]
    nearest: Numbers


def neighbours(places: Numbers, distance: float) -> Neighbours:
    """The neighbours of points `(n, 2)`, in the unit of `distance`."""
    if not len(places):
        return Neighbours(np.zeros(0, np.int64), np.zeros(0))
    tree = cKDTree(places)
    count, nearest = np.zeros(len(places), np.int64), np.full(len(places), np.nan)
    for start in range(0, len(places), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        count[part] = tree.query_ball_point(places[part], distance, return_length=True) - 1
        if len(places) > 1:
            nearest[part] = tree.query(places[part], k=2)[0][:, 1]
    return Neighbours(count, nearest)


@dataclass(frozen=True)
class DensityMap:
    """How many objects lie in a disc around each place.

    Attributes
    ----------
    values : (h, w) float32
        Objects per unit of area (of `spacing` squared).
    spacing : float
        Side of a pixel.
    """

    values: npt.NDArray[np.float32]
    spacing: float


def smallest_disc(extent: Sequence[float]) -> float:
    """The smallest diameter of a disc, in the unit of `extent`, that a density map shows well."""
    return 4 * max(extent) / _LARGEST


def density_map(places: Numbers, extent: tuple[float, float], diameter: float) -> DensityMap:
    """Objects in a disc around each place, divided by the disc's area; discs at the edge are not corrected.

    Parameters
    ----------
    places : (n, 2)
        Centroids `y, x`.
    extent : (height, width)
        Of the slide, in the same unit.
    diameter : float
        Of the disc.
    """
    spacing = max(diameter / _FINE, max(extent) / _LARGEST)
    shape = [max(1, ceil(side / spacing)) for side in extent]
    cells = np.minimum((places / spacing).astype(np.int64), np.array(shape) - 1)
    counts = np.bincount(cells[:, 0] * shape[1] + cells[:, 1], minlength=shape[0] * shape[1]).reshape(shape)
    reach = max(1, ceil(diameter / 2 / spacing))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (np.hypot(y, x) * spacing <= diameter / 2).astype(np.float64)
    found = np.rint(oaconvolve(counts.astype(np.float64), disc, mode="same")) / (disc.sum() * spacing**2)
    return DensityMap(found.astype(np.float32), spacing)


@dataclass(frozen=True)
class Hotspot:
    """A disc with many objects: its centre `y, x`, the number of objects in it, and how many per unit of area."""

    y: float
    x: float
    objects: int
    density: float


def hotspots(places: Numbers, extent: tuple[float, float], diameter: float, most: int) -> list[Hotspot]:
    """The discs with the most objects, most first, that do not overlap.

    Centres are pixels of the density map; the objects of each disc are counted exactly.

    Parameters
    ----------
    places : (n, 2)
        Centroids `y, x`.
    extent : (height, width)
        Of the slide, in the same unit.
    diameter : float
        Of the discs.
    most : int
        Largest number of discs.
    """
    if not len(places):
        return []
    tree = cKDTree(places)
    dense = density_map(places, extent, diameter)
    left = dense.values.copy()
    y, x = ((np.arange(n) + 0.5) * dense.spacing for n in left.shape)
    area = pi * diameter**2 / 4
    found: list[Hotspot] = []
    while len(found) < most and left.max() > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        centre = (float(y[row]), float(x[column]))
        count = int(tree.query_ball_point(centre, diameter / 2, return_length=True))
        if count:
            found.append(Hotspot(*centre, count, count / area))
        rows = np.flatnonzero(np.abs(y - centre[0]) < diameter)
        columns = np.flatnonzero(np.abs(x - centre[1]) < diameter)
        near = np.ix_(rows, columns)
        apart = np.hypot(y[rows, None] - centre[0], x[columns] - centre[1])
        left[near] = np.where(apart < diameter if count else apart <= dense.spacing, 0, left[near])
    return sorted(found, key=lambda spot: -spot.objects)
