"""Label pixels to polygons that run exactly along the pixels' edges, window by window, with the seams healed.

An object is what is connected through pixel sides (4-connectivity) and has one value; it becomes one polygon with its
holes. Coordinates are ``x, y``, as shapely and GeoJSON have them, in pixels of the label array: the top left pixel
covers ``[0, 1] x [0, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.geometry import Window
from napari_msunet.objects.components import RowJoiner, Sides, connected, sides_of

Labels = npt.NDArray[Any]
Polygons = npt.NDArray[Any]
Sums = npt.NDArray[np.float64]
Parts = list[tuple[int, list[Any], Sums]]

NO_SUMS: Sums = np.zeros(0)

PixelSums = Callable[[Window, Labels], Sequence[npt.NDArray[Any]]]
"""Gives planes `(h, w)` for the labels of a window, whose sums over the pixels of each object are wanted."""

WINDOW = 2048
"""Side of the windows in which a store is read, in its pixels."""


@dataclass(frozen=True)
class LabelShape:
    """One object.

    Attributes
    ----------
    value : int
        Its number in the label array, never 0.
    polygon : shapely.Polygon
        Outline and holes, ``x, y`` in pixels of the array; no vertex on a straight line; in GEOS's normal form.
    sums : (m,) float64
        Sums of planes over its pixels, where they were asked for.
    """

    value: int
    polygon: Any
    sums: Sums = field(default_factory=lambda: NO_SUMS, compare=False, repr=False)


@dataclass(frozen=True)
class PolygonStep:
    """The result of one window: shapes that are complete now, and how many windows of `total` are done."""

    done: int
    total: int
    shapes: list[LabelShape]


def label_polygons(values: Labels, origin: tuple[int, int] = (0, 0)) -> list[LabelShape]:
    """All objects of a label array, as polygons.

    Parameters
    ----------
    values : (h, w) integer array
        0 is no object.
    origin : tuple of int
        `y, x` of the array's first pixel, added to all coordinates.
    """
    numbers, faces, _ = _faces(values, origin)
    return [LabelShape(int(n), p) for n, p in zip(numbers, _tidied(faces), strict=True)]


def walk_polygons(
    read: Callable[[Window], Labels], whole: Window, side: int = WINDOW, planes: PixelSums | None = None
) -> Iterator[PolygonStep]:
    """All objects of a label image of any size, as polygons, in bounded memory.

    The result does not depend on `side`: parts of an object in several windows become one polygon. What is held at a
    time is one window of labels, and the parts that still reach into windows not read yet.

    Parameters
    ----------
    read : callable
        Gives the labels of a window.
    whole : Window
        What to cover; objects are cut at its edge.
    side : int
        Side of a window in pixels.
    planes : callable, optional
        Gives planes of numbers for a window and its labels; each shape has their sums over its pixels.

    Yields
    ------
    Step
        One per window, in rows from the top.
    """
    rows = range(whole.y, whole.stop[0], side)
    columns = range(whole.x, whole.stop[1], side)
    joiner = RowJoiner(whole.width)
    parts: Parts = []  # value and polygons of each part that may go on
    done = 0
    for y in rows:
        joiner.begin_row()
        for x in columns:
            window = Window(y, x, side, side).intersection(whole)
            inner, touching, numbers, values = _window(read(window), window, planes)
            joiner.add(Window(y, x - whole.x, *window.shape), numbers, values, len(touching))
            parts += [(shape.value, [shape.polygon], shape.sums) for shape in touching]
            done += 1
            if x == columns[-1]:
                parts, closed = _joined(parts, *joiner.end_row(), last=y == rows[-1])
                inner += closed
            yield PolygonStep(done, len(rows) * len(columns), inner)


def _joined(
    parts: Parts, owner: npt.NDArray[np.int64], is_open: npt.NDArray[np.bool_], last: bool
) -> tuple[Parts, list[LabelShape]]:
    """Objects of a row of windows: the parts of those that go on, and those that are whole."""
    groups: Parts = [(0, [], NO_SUMS) for _ in is_open]
    for (value, polygons, sums), number in zip(parts, owner.tolist(), strict=True):
        _, others, added = groups[number]
        groups[number] = (value, others + polygons, sums + added if others else sums)
    if last:
        is_open = np.zeros_like(is_open)
    whole = [group for group, goes_on in zip(groups, is_open, strict=True) if not goes_on]
    polygons = [shapely.union_all(group) if len(group) > 1 else group[0] for _, group, _ in whole]
    shapes = zip(whole, _tidied(np.array(polygons, object)), strict=True)
    left = [group for group, goes_on in zip(groups, is_open, strict=True) if goes_on]
    return left, [LabelShape(value, polygon, sums) for (value, _, sums), polygon in shapes]


def _window(
    values: Labels, window: Window, planes: PixelSums | None
) -> tuple[list[LabelShape], list[LabelShape], Sides, Sides]:
    """The complete objects inside a window; the parts that touch its sides; their numbers and the values there."""
    numbers, faces, first = _faces(values, (window.y, window.x))
    components = connected(values)
    own = components[first[:, 0], first[:, 1]]
    top, left, bottom, right = sides_of(components)
    touching = np.isin(own, np.unique(np.concatenate([top, left, bottom, right])))
    parts = np.full(int(components.max(initial=0)) + 1, -1, np.int64)
    parts[own[touching]] = np.arange(touching.sum())
    sums = np.zeros((len(own), 0))
    if planes is not None:
        found = [np.bincount(components.ravel(), weights=plane.ravel())[own] for plane in planes(window, values)]
        sums = np.stack(found, 1)
    inner, outer = (
        [LabelShape(int(n), p, s) for n, p, s in zip(numbers[which], polygons, sums[which], strict=True)]
        for which, polygons in ((~touching, _tidied(faces[~touching])), (touching, faces[touching]))
    )
    return inner, outer, (parts[top], parts[left], parts[bottom], parts[right]), sides_of(values)


def _faces(values: Labels, origin: tuple[int, int]) -> tuple[Labels, Polygons, npt.NDArray[np.int64]]:
    """Value, polygon and first pixel `(y, x)` (in the array) of each object; GEOS makes faces of the edges."""
    # Merging lines up to where three or four meet first makes polygonize several times as fast.
    lines = shapely.line_merge(shapely.multilinestrings(_edge_lines(values)))
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(lines)))
    if not len(faces):
        return np.zeros(0, values.dtype), faces, np.zeros((0, 2), np.int64)
    first = first_corners(faces)
    numbers = values[first[:, 0], first[:, 1]]
    objects = numbers != 0
    shift = np.array([origin[1], origin[0]], float)
    return numbers[objects], shapely.transform(faces[objects], lambda c: c + shift), first[objects]


def first_corners(polygons: Polygons) -> npt.NDArray[np.int64]:
    """The topmost, then leftmost pixel of each polygon along pixel edges, `(n, 2)` of `y, x`."""
    corners, owner = shapely.get_coordinates(shapely.get_exterior_ring(polygons), return_index=True)
    order = np.lexsort((corners[:, 0], corners[:, 1], owner))
    first = order[np.r_[0, np.flatnonzero(np.diff(owner)) + 1]]
    pixels: npt.NDArray[np.int64] = corners[first][:, ::-1].astype(np.int64)
    return pixels


def _edge_lines(values: Labels) -> Polygons:
    """The borders between different values as straight lines that meet only at their ends."""
    padded = np.pad(values, 1)
    across = (padded[1:] != padded[:-1])[:, 1:-1]  # (h + 1, w): the upper edge of each pixel, and the last lower one
    down = (padded[:, 1:] != padded[:, :-1])[1:-1]  # (h, w + 1)
    y, x, stop = _runs(across, _touched(down.T).T)
    horizontal = np.stack([x, y, stop, y], 1)
    x, y, stop = _runs(down.T, _touched(across).T)
    vertical = np.stack([x, y, x, stop], 1)
    ends = np.concatenate([horizontal, vertical]).astype(float).reshape(-1, 2, 2)
    return shapely.linestrings(ends)  # type: ignore[no-any-return]


def _touched(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Grid corners at either end of an edge, edges running along the second axis."""
    corners = np.zeros((edges.shape[0], edges.shape[1] + 1), np.bool_)
    corners[:, :-1] |= edges
    corners[:, 1:] |= edges
    return corners


def _runs(edges: npt.NDArray[np.bool_], crossed: npt.NDArray[np.bool_]) -> Iterable[npt.NDArray[np.int64]]:
    """Row, start and stop of edges joined along the second axis up to a corner where another line meets them."""
    joined = edges[:, 1:] & edges[:, :-1] & ~crossed[:, 1:-1]
    starts, stops = edges.copy(), edges.copy()
    starts[:, 1:] &= ~joined
    stops[:, :-1] &= ~joined
    row, start = np.nonzero(starts)
    _, last = np.nonzero(stops)
    return row, start, last + 1


def _tidied(polygons: Polygons) -> Polygons:
    """The same polygons without vertices on straight lines, in normal form: one way only to write each shape."""
    if not len(polygons):
        return polygons
    rings, owner = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    closing = np.r_[ring[1:] != ring[:-1], True]
    points, ring = points[~closing], ring[~closing]
    starts = np.flatnonzero(np.r_[True, ring[1:] != ring[:-1]])
    stops = np.r_[starts[1:], len(ring)] - 1
    before, after = np.arange(len(ring)) - 1, np.arange(len(ring)) + 1
    before[starts], after[stops] = stops, starts
    straight = ((points[before] == points) & (points == points[after])).any(1)
    corners = shapely.linearrings(points[~straight], indices=ring[~straight])
    return shapely.normalize(shapely.polygons(corners, indices=owner))  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------------------------
# The same areas for formats without holes.


def without_holes(area: Any) -> list[Any]:
    """The same area as polygons without holes, by cuts through each hole.

    Parameters
    ----------
    area : shapely geometry
        A polygon, or several.
    """
    pieces: list[Any] = []
    waiting = [area]
    while waiting:
        part = waiting.pop()
        if part.geom_type in ("MultiPolygon", "GeometryCollection"):
            waiting += list(part.geoms)
        elif part.geom_type == "Polygon" and part.area and not part.interiors:
            pieces.append(part)
        elif part.geom_type == "Polygon" and part.area:
            left, _, right, _ = part.interiors[0].bounds
            # an odd fraction, so that hardly any pixel's centre lies on the cut
            middle = left + 0.4871 * (right - left)
            x0, y0, x1, y1 = part.bounds
            boxes = (shapely.box(x0 - 1, y0 - 1, middle, y1 + 1), shapely.box(middle, y0 - 1, x1 + 1, y1 + 1))
            waiting += [shapely.intersection(part, box) for box in boxes]
    return pieces


def bridged(polygon: Any) -> npt.NDArray[np.float64]:
    """The closed outline ``x, y`` of a polygon that goes into each of its holes and back along the same line.

    From the rightmost side of each hole the bridge goes straight right to the first line it meets, the holes from right
    to left, so that no bridge crosses a hole that has none yet. It starts half a pixel below the side's end, so that it
    does not run along the side of a pixel.
    """
    outline: npt.NDArray[np.float64] = shapely.get_coordinates(polygon.exterior)
    holes = [shapely.get_coordinates(ring)[:-1] for ring in polygon.interiors]
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].max()), reverse=True):
        hole = _begun_at_the_right(hole)
        y = hole[0, 1]
        start, stop = outline[:-1], outline[1:]
        crossing = (start[:, 1] <= y) != (stop[:, 1] <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = start[:, 0] + (y - start[:, 1]) / (stop[:, 1] - start[:, 1]) * (stop[:, 0] - start[:, 0])
        at = np.where(crossing & (at >= hole[0, 0]), at, np.inf)
        edge = int(np.argmin(at))
        foot = np.array([[at[edge], y]])
        way = np.concatenate([foot, hole, hole[:1], foot])
        outline = np.concatenate([outline[: edge + 1], way, outline[edge + 1 :]])
    return outline


def _begun_at_the_right(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """An open ring, begun at its rightmost corner, or within its rightmost side where that is vertical."""
    right = np.flatnonzero(ring[:, 0] == ring[:, 0].max())
    for k in right.tolist():
        after = ring[(k + 1) % len(ring)]
        length = after[1] - ring[k, 1]
        if after[0] == ring[k, 0] and length:
            middle = ring[k] + [0.0, np.sign(length) * min(0.5, abs(length) / 2)]
            return np.concatenate([middle[None], np.roll(ring, -(k + 1), 0)])
    return np.roll(ring, -int(right[0]), 0)
