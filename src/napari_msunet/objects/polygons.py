"""Label pixels to polygons that run exactly along the pixels' edges, window by window, with the seams healed.

An object is a set of pixels of one value that are connected by their sides (4-connectivity); it becomes one polygon
with its holes. Coordinates are ``x, y``, as shapely and GeoJSON have them, in pixels of the label array: the top left
pixel covers ``[0, 1] x [0, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from skimage.measure import label as connected

from napari_msunet.geometry import Window

Labels = npt.NDArray[Any]
Polygons = npt.NDArray[Any]

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
    """

    value: int
    polygon: Any


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


def walk_polygons(read: Callable[[Window], Labels], whole: Window, side: int = WINDOW) -> Iterator[PolygonStep]:
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

    Yields
    ------
    Step
        One per window, in rows from the top.
    """
    rows = range(whole.y, whole.stop[0], side)
    columns = range(whole.x, whole.stop[1], side)
    seams = _Seams()
    above = _Edge.blank(whole.width)
    done = 0
    for y in rows:
        below: list[_Edge] = []
        before = _Edge.blank(side)
        for x in columns:
            window = Window(y, x, side, side).intersection(whole)
            inner, edges = _window(read(window), window, seams)
            seams.join(before.head(window.height), edges.left)
            seams.join(above.part(x - whole.x, window.width), edges.top)
            before = edges.right
            below.append(edges.bottom)
            done += 1
            if x == columns[-1]:
                above = _Edge.chain(below)
                inner += seams.closed(above if y != rows[-1] else _Edge.blank(0))
            yield PolygonStep(done, len(rows) * len(columns), inner)


@dataclass(frozen=True)
class _Edge:
    """Pixels along one side of a window: the number of the part each belongs to (0: none), and its value."""

    parts: npt.NDArray[np.int64]
    values: Labels

    @classmethod
    def blank(cls, length: int) -> _Edge:
        return cls(np.zeros(length, np.int64), np.zeros(length, np.int64))

    @classmethod
    def chain(cls, edges: list[_Edge]) -> _Edge:
        return cls(np.concatenate([e.parts for e in edges]), np.concatenate([e.values for e in edges]))

    def part(self, start: int, length: int) -> _Edge:
        return _Edge(self.parts[start : start + length], self.values[start : start + length])

    def head(self, length: int) -> _Edge:
        return self.part(0, length)


@dataclass(frozen=True)
class _Edges:
    top: _Edge
    left: _Edge
    bottom: _Edge
    right: _Edge


class _Seams:
    """Parts of objects that touch a window's side, joined as the windows come in (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._polygons: dict[int, list[Any]] = {}
        self._values: dict[int, int] = {}
        self._next = 1

    def add(self, value: int, polygon: Any) -> int:
        number, self._next = self._next, self._next + 1
        self._parent[number] = number
        self._polygons[number] = [polygon]
        self._values[number] = value
        return number

    def join(self, one: _Edge, other: _Edge) -> None:
        """Parts that lie side by side and have the same value are one object."""
        same = (one.parts > 0) & (other.parts > 0) & (one.values == other.values)
        if not same.any():
            return
        for a, b in np.unique(np.stack([one.parts[same], other.parts[same]], 1), axis=0).tolist():
            first, second = self._root(a), self._root(b)
            if first != second:
                self._parent[second] = first
                self._polygons[first] += self._polygons.pop(second)

    def closed(self, still_open: _Edge) -> list[LabelShape]:
        """Take out the objects that reach no part of `still_open`."""
        reaching = np.unique(still_open.parts).tolist()
        keep = {self._root(part) for part in reaching if part}
        roots = [root for root in self._polygons if root not in keep]
        groups = [self._polygons.pop(root) for root in roots]
        polygons = [shapely.union_all(group) if len(group) > 1 else group[0] for group in groups]
        shapes = [
            LabelShape(self._values[root], polygon)
            for root, polygon in zip(roots, _tidied(np.array(polygons, object)), strict=True)
        ]
        # Only what the next row can still meet is remembered: memory must not grow with the slide.
        self._parent = {part: self._root(part) for part in reaching if part} | {root: root for root in keep}
        self._values = {root: self._values[root] for root in keep}
        return shapes

    def _root(self, part: int) -> int:
        while self._parent[part] != part:
            self._parent[part] = self._parent[self._parent[part]]
            part = self._parent[part]
        return part


def _window(values: Labels, window: Window, seams: _Seams) -> tuple[list[LabelShape], _Edges]:
    """The complete objects inside a window; parts that touch its side go to `seams`."""
    numbers, faces, first = _faces(values, (window.y, window.x))
    components: npt.NDArray[np.int64] = connected(values, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    own = components[first[:, 0], first[:, 1]]
    sides = (components[0], components[:, 0], components[-1], components[:, -1])
    touching = np.isin(own, np.unique(np.concatenate(sides)))
    parts = np.zeros(int(components.max(initial=0)) + 1, np.int64)
    for number, polygon, component in zip(numbers[touching], faces[touching], own[touching], strict=True):
        parts[component] = seams.add(int(number), polygon)
    edges = [_Edge(parts[s], v) for s, v in zip(sides, _sides(values), strict=True)]
    inner = zip(numbers[~touching], _tidied(faces[~touching]), strict=True)
    return [LabelShape(int(n), p) for n, p in inner], _Edges(*edges)


def _sides(values: Labels) -> tuple[Labels, ...]:
    """Copies, so that the window itself can be freed."""
    return values[0].copy(), values[:, 0].copy(), values[-1].copy(), values[:, -1].copy()


def _faces(values: Labels, origin: tuple[int, int]) -> tuple[Labels, Polygons, npt.NDArray[np.int64]]:
    """Value, polygon and first pixel `(y, x)` (in the array) of each object; GEOS makes faces of the edges."""
    # Merging lines up to where three or four meet first makes polygonize several times as fast.
    lines = shapely.line_merge(shapely.multilinestrings(_edge_lines(values)))
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(lines)))
    if not len(faces):
        return np.zeros(0, values.dtype), faces, np.zeros((0, 2), np.int64)
    corners, owner = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    # The topmost, then leftmost corner of an outline is the top left corner of a pixel of the object.
    order = np.lexsort((corners[:, 0], corners[:, 1], owner))
    first = corners[order[np.r_[0, np.flatnonzero(np.diff(owner)) + 1]]][:, ::-1].astype(np.int64)
    numbers = values[first[:, 0], first[:, 1]]
    objects = numbers != 0
    shift = np.array([origin[1], origin[0]], float)
    return numbers[objects], shapely.transform(faces[objects], lambda c: c + shift), first[objects]


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
