"""The objects of a label store as a table: found, measured, kept up to date while labels are edited."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from napari_msunet.constants import ANNOTATED_BACKGROUND, CHUNK
from napari_msunet.errors import StoreError
from napari_msunet.events import Progress, progress
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.levels import tiles
from napari_msunet.objects.components import connected, cut_off, piece_at
from napari_msunet.objects.edits import box_of
from napari_msunet.objects.instances import window_of
from napari_msunet.objects.polygons import WINDOW, LabelShape, first_corners, label_polygons, walk_polygons

# ----------------------------------------------------------------------------------------------------------------------
# Measures of an object, from the polygon along its pixels' edges.

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


def eccentricities(polygons: Any, mpp: tuple[float, float]) -> Numbers:
    """Eccentricity of the ellipse with the same second moments as each polygon, holes left out: 0 a disc, 1 a line.

    The moments are those of the area itself, by Green's theorem over its outline, so a single pixel has 0.

    Parameters
    ----------
    polygons : sequence of shapely.Polygon
        ``x, y`` in pixels.
    mpp : (y, x)
        µm per pixel.
    """
    polygons = np.asarray(polygons, object)
    if not len(polygons):
        return np.zeros(0)
    rings, owner = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    middles = shapely.get_coordinates(shapely.centroid(polygons))
    points = (points - middles[owner[ring]]) * (mpp[1], mpp[0])
    inner = ring[1:] == ring[:-1]
    (x0, y0), (x1, y1) = points[:-1][inner].T, points[1:][inner].T
    ring = ring[1:][inner]
    cross = x0 * y1 - x1 * y0
    terms = (
        cross / 2,
        (x0 * x0 + x0 * x1 + x1 * x1) * cross / 12,
        (y0 * y0 + y0 * y1 + y1 * y1) * cross / 12,
        (x0 * y1 + 2 * x0 * y0 + 2 * x1 * y1 + x1 * y0) * cross / 24,
    )
    area, xx, yy, xy = (np.bincount(ring, weights=term, minlength=len(rings)) for term in terms)
    # an outline counts as positive whichever way round it runs, and a hole as negative
    sign = np.where(np.r_[True, owner[1:] != owner[:-1]], 1, -1) * np.sign(area)
    xx, yy, xy = (np.bincount(owner, weights=sign * v, minlength=len(polygons)) for v in (xx, yy, xy))
    spread = np.hypot(xx - yy, 2 * xy)
    longest = xx + yy + spread
    found: npt.NDArray[np.float64] = np.sqrt(np.clip(2 * spread / np.where(longest > 0, longest, 1), 0, 1))
    return found


def solidities(polygons: Any) -> Numbers:
    """Area of each polygon, holes left out, as a share of that of its convex hull, 0..1."""
    polygons = np.asarray(polygons, object)
    found: Numbers = shapely.area(polygons) / np.maximum(shapely.area(shapely.convex_hull(polygons)), 1e-12)
    return np.minimum(found, 1.0)


# ----------------------------------------------------------------------------------------------------------------------
# Objects of a label store as columns of numbers: what tables, histograms and the review queue work on.


@dataclass(frozen=True)
class ObjectTable:
    """Measures of `n` objects.

    Attributes
    ----------
    kind : (n,) integers
        The value in the labels: the class, or the number of the object in a store of instances.
    area : (n,)
        µm² (pixels where the store does not know its µm per pixel).
    perimeter : (n,)
        µm, holes' outlines included.
    centroid : (n, 2)
        `y, x` in level-0 pixels of the store.
    box : (n, 4)
        First `y`, first `x`, height and width, in the same pixels.
    first : (n, 2) integers
        The topmost and then leftmost pixel: no two objects share it, so it names the object.
    """

    kind: npt.NDArray[Any]
    area: Numbers
    perimeter: Numbers
    centroid: Numbers
    box: Numbers
    first: npt.NDArray[np.int64]

    @classmethod
    def empty(cls) -> Self:
        """A table of no objects."""
        none = np.zeros(0)
        return cls(np.zeros(0, np.int64), none, none, np.zeros((0, 2)), np.zeros((0, 4)), np.zeros((0, 2), np.int64))

    def __len__(self) -> int:
        return len(self.area)

    @property
    def roundness(self) -> Numbers:
        """4 pi area / perimeter squared: 1 for a disc, less for everything else; at most 1."""
        found: Numbers = np.minimum(4 * np.pi * self.area / np.maximum(self.perimeter, 1e-12) ** 2, 1.0)
        return found

    def take(self, rows: npt.ArrayLike) -> Self:
        """Some of the objects, by index or mask."""
        chosen = np.asarray(rows)
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Iterable[ObjectTable]) -> Self:
        """The objects of several tables, one after the other."""
        tables = [part for part in parts if len(part)]
        if not tables:
            return cls.empty()
        return cls(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)})

    def at(self, first: tuple[int, int]) -> int | None:
        """The row of the object that this pixel names; None if there is none."""
        found = np.flatnonzero((self.first == np.asarray(first)).all(1))
        return int(found[0]) if len(found) else None


# ----------------------------------------------------------------------------------------------------------------------
# Measuring the objects of a store: all of them, those around an edit, or the one at a place.

UPDATE_LIMIT = 4096
"""Pixels a side around an edit that are measured again at once; more: the table says that it is out of date."""

CHANGE_LIMIT = 16_384
"""Largest height or width, in pixels, of an object that can be changed from the table."""

_SIDES = (256, 1024)
"""Windows, in pixels of a level, in which the object under a point is looked for."""


_LEAST = 230
"""Pixels of a coarser level that an object must have a side which did not fit into `_SIDES` of the finer one."""


@dataclass(frozen=True)
class FoundObject:
    """The object at a place.

    Attributes
    ----------
    kind : int
        Its value in the labels: the class, or its number in a store of instances.
    area, perimeter : float
        µm² and µm (pixels where the store does not know its µm per pixel).
    polygon : shapely.Polygon
        Its outline, ``x, y`` in level-0 pixels of the store.
    first : (y, x)
        The topmost, then leftmost pixel; names it, as in `ObjectTable`. Only right where `exact`.
    about : str
        Empty: exact. "about": so large that it was measured on a coarser level. "more than": only what is within 512
        pixels of the place was measured, since coarser levels tear the object.
    """

    kind: int
    area: float
    perimeter: float
    polygon: Any
    first: tuple[int, int]
    about: Literal["", "about", "more than"] = ""

    @property
    def exact(self) -> bool:
        """Whether all of it was measured at level 0."""
        return not self.about


def walk_objects(
    store: LabelStore, region: tuple[float, float, float, float] | None = None, side: int = WINDOW
) -> Iterator[tuple[Progress, ObjectTable]]:
    """Measure all objects of a store, window by window, in bounded memory.

    An object is the same as for `measure`: pixels of one value that are connected by their sides.

    Parameters
    ----------
    store : LabelStore
        Of classes or of instances.
    region : tuple, optional
        `y, x, height, width` in its level-0 pixels; objects are cut at its edge.
    side : int
        Of the windows, in pixels; the result does not depend on it.

    Yields
    ------
    Progress, ObjectTable
        How far, and the objects that are complete now.
    """
    started = time.monotonic()
    for step in walk_polygons(store.read, window_of(store, region), side):
        yield progress(step.done, step.total, "windows", started), _table(store, step.shapes)


def updated(table: ObjectTable, store: LabelStore, window: Window) -> ObjectTable | None:
    """The table after the labels changed within a window, without measuring the rest again.

    What changed touches the window now, and lies within it and the boxes of the objects that met it before. So only
    the objects that touch the window are measured again.

    Parameters
    ----------
    table : ObjectTable
        Right before the change.
    store : LabelStore
    window : Window
        All that changed, in level-0 pixels.

    Returns
    -------
    ObjectTable or None
        The objects that stayed, then those measured now; None where that would be more than `UPDATE_LIMIT` pixels.
    """
    near = window.padded(1)
    met = _meets(table.box, near)
    around = near
    if met.any():
        start, size = table.box[met, :2].astype(int), table.box[met, 2:].astype(int)
        low, high = start.min(0), (start + size).max(0)
        around = Window.between(
            (min(near.y, int(low[0])), min(near.x, int(low[1]))),
            (max(near.stop[0], int(high[0])), max(near.stop[1], int(high[1]))),
        )
    around = around.padded(1).intersection(Window(0, 0, *store.shape))
    if max(around.shape) > UPDATE_LIMIT:
        return None
    values = store.read(around)
    parts = connected(values)
    here = near.intersection(around).slices((around.y, around.x))
    changed = np.zeros(int(parts.max(initial=0)) + 1, np.bool_)
    changed[parts[here]] = True
    changed[0] = False
    # objects in the same boxes that do not touch the window have not changed
    rows = np.flatnonzero(met)
    y, x = (table.first[rows] - (around.y, around.x)).T
    same = (values[y, x] == table.kind[rows]) & ~changed[parts[y, x]]
    kept = np.sort(np.concatenate([np.flatnonzero(~met), rows[same]]))
    box = box_of(changed[parts])
    if box is None:
        return table.take(kept)
    inner = np.where(changed[parts[box.slices()]], values[box.slices()], 0)
    found = _table(store, label_polygons(inner, (around.y + box.y, around.x + box.x)))
    return ObjectTable.joined([table.take(kept), found])


def object_at(store: LabelStore, y: int, x: int) -> FoundObject | None:
    """The object at a pixel; None on background or outside the store.

    Looks at small windows first. What does not fit into 1024 pixels is looked for on coarser levels, so the work is
    bounded however large the object is.
    """
    if not (0 <= y < store.shape[0] and 0 <= x < store.shape[1]):
        return None
    kind = int(store.read(Window(y, x, 1, 1))[0, 0])
    if kind == 0 or (store.kind == "annotation" and kind == ANNOTATED_BACKGROUND):
        return None
    seen = None
    for side in _SIDES:
        seen, cut = _component(store, kind, 0, (y, x), side) or (None, True)
        if seen is not None and not cut:
            return _described(store, kind, 0, *seen, "")
    for level in range(1, len(store.info.shapes)):
        found, cut = _component(store, kind, level, (y >> level, x >> level), _SIDES[-1]) or (None, False)
        if found is None or (not cut and (max(found[0].shape) < _LEAST or _thin(found[1]))):
            break  # too thin for this level, which would show a piece of it only, or make it wider than it is
        if not cut:
            return _described(store, kind, level, *found, "about")
    return None if seen is None else _described(store, kind, 0, *seen, "more than")


def set_objects(store: LabelStore, table: ObjectTable, rows: Sequence[int], value: int) -> int:
    """Give objects another value, or delete them (0): one stroke.

    Parameters
    ----------
    store : LabelStore
    table : ObjectTable
        As the labels are now.
    rows : sequence of int
        Which of its objects.
    value : int
        A class, or 0.

    Returns
    -------
    int
        Number of the stroke; 0 if no rows were given.

    Raises
    ------
    StoreError
        If one of them is no longer there, is larger than `CHANGE_LIMIT`, or the value is no class.
    """
    masks: dict[Window, npt.NDArray[np.bool_]] = {}
    whole = Window(0, 0, *store.shape)
    for row in rows:
        box, mask = object_mask(store, table, int(row))
        for part in tiles(box, CHUNK):
            tile = Window(part.y // CHUNK * CHUNK, part.x // CHUNK * CHUNK, CHUNK, CHUNK).intersection(whole)
            if tile not in masks:
                masks[tile] = np.zeros(tile.shape, np.bool_)
            masks[tile][part.slices((tile.y, tile.x))] |= mask[part.slices((box.y, box.x))]
    parts = []
    for tile, mask in masks.items():
        tight = box_of(mask)
        if tight is not None:
            inner = Window(tile.y + tight.y, tile.x + tight.x, *tight.shape)
            parts.append((inner, value, mask[tight.slices()]))
    return store.write_parts(parts)


def object_mask(store: LabelStore, table: ObjectTable, row: int) -> tuple[Window, npt.NDArray[np.bool_]]:
    """The box of one of a table's objects, and which of its pixels are the object. Errors as for `set_objects`."""
    box = Window(*(int(v) for v in table.box[row]))
    if max(box.shape) > CHANGE_LIMIT:
        raise StoreError(
            f"An object of {box.height} x {box.width} pixels is too large to be changed from the table (at most "
            f"{CHANGE_LIMIT} a side); use the fill or polygon tool."
        )
    y, x = (int(v) for v in table.first[row])
    values = store.read(box)
    kind = table.kind[row]
    parts, _ = ndimage.label(values == kind)
    number = parts[y - box.y, x - box.x]
    if number == 0:
        raise StoreError(f"The object at y {y}, x {x} is no longer as it was measured: measure again, then change it.")
    return box, parts == number


def _table(store: LabelStore, shapes: Sequence[LabelShape]) -> ObjectTable:
    """Measures of polygons."""
    if store.kind == "annotation":
        shapes = [shape for shape in shapes if shape.value != ANNOTATED_BACKGROUND]
    if not shapes:
        return ObjectTable.empty()
    polygons = np.array([shape.polygon for shape in shapes], object)
    found = measure_polygons(polygons, store.spacing)
    return ObjectTable(
        kind=np.array([shape.value for shape in shapes], np.int64),
        area=found.area,
        perimeter=found.perimeter,
        centroid=found.centroid,
        box=found.box,
        first=first_corners(polygons),
    )


def _meets(box: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.bool_]:
    """Which boxes share a pixel with a window."""
    y, x, height, width = box.T
    meets: npt.NDArray[np.bool_] = (
        (y < window.stop[0]) & (y + height > window.y) & (x < window.stop[1]) & (x + width > window.x)
    )
    return meets


def _component(
    store: LabelStore, kind: int, level: int, at: tuple[int, int], side: int
) -> tuple[tuple[Window, npt.NDArray[np.bool_]], bool] | None:
    """The part with this value at a pixel of a level, in the window around it, and whether the window cuts it."""
    whole = Window(0, 0, *store.info.shapes[level])
    window = Window(at[0] - side // 2, at[1] - side // 2, side, side)
    if max(whole.shape) <= _SIDES[-1] == side:
        window = whole
    window = window.intersection(whole)
    f = 2**level
    values = store.read(Window(window.y * f, window.x * f, window.height * f, window.width * f), level)
    same = values == kind
    y, x = at[0] - window.y, at[1] - window.x
    if not same[y, x]:  # a coarse pixel may show the class beside it
        places = np.argwhere(same)
        if not len(places):
            return None
        y, x = places[np.square(places - (y, x)).sum(1).argmin()]
    box, mask = piece_at(same, int(y), int(x))
    found = Window(window.y + box.y, window.x + box.x, *box.shape)
    return (found, mask), cut_off(found, window, whole)


def _thin(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a shape is so thin in its level's pixels that its area there says little."""
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return int(inner.sum()) < int(mask.sum()) / 2


def _described(
    store: LabelStore,
    kind: int,
    level: int,
    box: Window,
    mask: npt.NDArray[np.bool_],
    about: Literal["", "about", "more than"],
) -> FoundObject:
    f = 2**level
    polygon = label_polygons(mask.astype(np.uint8), (box.y, box.x))[0].polygon
    size = store.spacing
    found = measure_polygons([polygon], (size[0] * f, size[1] * f))
    first = first_corners(np.array([polygon], object))[0] * f
    outline = polygon if f == 1 else shapely.transform(polygon, lambda xy: xy * f)
    place = int(first[0]), int(first[1])
    return FoundObject(kind, float(found.area[0]), float(found.perimeter[0]), outline, place, about)
