"""Rasterising drawn shapes to class numbers, window by window, so that no slide is one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.annotation.shapes import DrawnShape
from napari_msunet.errors import ShapeFileError
from napari_msunet.geometry import Window
from napari_msunet.labels.shape_masks import Polygon
from napari_msunet.names import same_name

Values = npt.NDArray[np.uint8]


class PlacedShape(NamedTuple):
    """A shape to be painted: its index among the given shapes, its class number, and its geometry without holes."""

    place: int
    number: int
    geometry: Any


class ShapePainter:
    """Class numbers of the pixels that shapes cover: smaller shapes lie over larger ones, and holes are cut out.

    A pixel belongs to a shape if its centre lies inside, in whatever window it is read. The order in the file counts
    only for shapes of the same area, of which the later lies over the earlier.

    Parameters
    ----------
    shapes : sequence of (int, DrawnShape)
        Shapes with their class numbers; shapes that are no areas are left out.

    Attributes
    ----------
    shapes : list of PlacedShape
        The shapes in the order in which they are painted.
    dropped : dict of int to str
        Holes that are in no shape, and shapes that holes remove, by their index among the given shapes.
    """

    def __init__(self, shapes: Sequence[tuple[int, DrawnShape]]) -> None:
        self.shapes, self.dropped = _arranged(shapes)
        self._numbers = np.array([s.number for s in self.shapes], np.uint8)
        self._geometries = [s.geometry for s in self.shapes]
        self._tree = shapely.STRtree(self._geometries)

    @property
    def bounds(self) -> list[Window]:
        """The smallest window around each shape."""
        return [_around(g, 1) for g in self._geometries]

    def holds_a_centre(self, place: int) -> bool:
        """Whether the shape at this index of `shapes` contains the centre of any pixel."""
        geometry = self._geometries[place]
        inside = self._covered(geometry, _around(geometry, 1), 1)
        return inside is not None and (inside is ... or bool(inside.any()))

    def read(self, window: Window, outside: int, step: int = 1) -> Values:
        """Class numbers `(h, w)` in a window of the grid of every `step`-th level-0 pixel, with `outside` where no
        shape is."""
        values = np.full(window.shape, outside, np.uint8)
        self._paint(values, self._numbers, window, step)
        return values

    def read_objects(self, window: Window) -> npt.NDArray[np.int32]:
        """The number of the visible shape at each level-0 pixel of a window, counted from 1; 0: none."""
        values = np.zeros(window.shape, np.int32)
        self._paint(values, np.arange(1, len(self.shapes) + 1, dtype=np.int32), window, 1)
        return values

    def _paint(self, values: npt.NDArray[Any], numbers: npt.NDArray[Any], window: Window, step: int) -> None:
        y, x, y2, x2 = (v * step for v in (window.y, window.x, *window.stop))
        for index in sorted(self._tree.query(shapely.box(x, y, x2, y2)).tolist()):
            geometry = self._geometries[index]
            own = _around(geometry, step).intersection(window)
            inside = None if own.empty else self._covered(geometry, own, step)
            if inside is not None:
                values[own.slices((window.y, window.x))][inside] = numbers[index]

    def _covered(self, geometry: Any, window: Window, step: int) -> Any:
        """The pixels that a geometry covers, as an index into an array of the window; None for no pixel."""
        found: Any = None
        for part in shapely.get_parts(geometry):
            inside = self._part(part, window, step)
            if inside is not False:
                found = inside if found is None else found | inside
        if found is None:
            return None
        return found if isinstance(found, np.ndarray) else ...

    def _part(self, polygon: Any, window: Window, step: int) -> npt.NDArray[np.bool_] | bool:
        inside = _ring(polygon.exterior, window, step)
        for hole in polygon.interiors:
            within = _ring(hole, window, step)
            if inside is False or within is True:
                return False
            if within is not False:
                inside = ~within & inside
        # it may contain no pixel's centre, but must not be lost in an overview
        if step > 1 and polygon.area < 4 * step**2:
            point = polygon.representative_point()
            y, x = int(point.y // step) - window.y, int(point.x // step) - window.x
            if 0 <= y < window.height and 0 <= x < window.width:
                inside = np.array(np.broadcast_to(inside, window.shape))
                inside[y, x] = True
        return inside


def _arranged(shapes: Sequence[tuple[int, DrawnShape]]) -> tuple[list[PlacedShape], dict[int, str]]:
    """The shapes in the order in which they are painted, and the reasons why others are not painted."""
    solid = [PlacedShape(i, n, s.geometry) for i, (n, s) in enumerate(shapes) if s.areal and not s.hole]
    dropped: dict[int, str] = {}
    holes = [(i, s) for i, (_, s) in enumerate(shapes) if s.areal and s.hole]
    if holes:
        solid = _cut([s.layer for _, s in shapes], solid, holes, dropped)
    areas = np.round([s.geometry.area for s in solid], 6)
    return [solid[k] for k in np.argsort(-areas, kind="stable")], dropped


def _cut(
    layers: list[int], solid: list[PlacedShape], holes: list[tuple[int, DrawnShape]], dropped: dict[int, str]
) -> list[PlacedShape]:
    """Cut the holes of their layers out of shapes. A shape inside a hole is an island, which the hole does not
    change."""
    tree = shapely.STRtree([s.geometry for s in solid])
    cuts: dict[int, list[Any]] = {}
    for index, hole in holes:
        met = False
        for k in sorted(tree.query(hole.geometry, predicate="intersects").tolist()):
            shape = solid[k]
            island = shape.geometry.area < hole.geometry.area * (1 - 1e-9) and hole.geometry.covers(shape.geometry)
            if layers[shape.place] == hole.layer and not island:
                cuts.setdefault(k, []).append(hole.geometry)
                met = True
        if not met:
            dropped[index] = "holes that are in no shape"
    result = []
    for k, shape in enumerate(solid):
        if k in cuts:
            left = shapely.difference(shape.geometry, shapely.union_all(cuts[k]))
            parts = [p for p in shapely.get_parts(left) if p.geom_type == "Polygon" and p.area > 0]
            if not parts:
                dropped[shape.place] = "that holes take away"
                continue
            shape = shape._replace(geometry=parts[0] if len(parts) == 1 else shapely.multipolygons(parts))
        result.append(shape)
    return result


def _around(geometry: Any, step: int) -> Window:
    """The smallest window around a geometry on the grid of every `step`-th pixel."""
    x, y, x2, y2 = (v / step for v in geometry.bounds)
    return Window.between((floor(y), floor(x)), (floor(y2) + 1, floor(x2) + 1))


def _ring(ring: Any, window: Window, step: int) -> npt.NDArray[np.bool_] | bool:
    """The pixels whose centre lies inside a ring, by the even-odd rule."""
    return Polygon(shapely.get_coordinates(ring)[:-1, ::-1] / step).on(window)


NOTHING = "nothing"
"""The name of shapes without a class, where names are mapped to classes."""


def class_numbers(
    shapes: Sequence[DrawnShape], classes: Sequence[str], names: Mapping[str, str] | None = None
) -> tuple[list[tuple[int, DrawnShape]], dict[str, int]]:
    """The class number of each shape.

    Parameters
    ----------
    shapes : sequence of DrawnShape
    classes : sequence of str
        Names of classes 1..K. Where there is one class and no shape of the file has any, all shapes get this class.
    names : mapping, optional
        The class of each name in the file, also "background" (0) or "ignored" (255); "nothing" (or "") means shapes
        without a class. None: the names in the file are those of the classes, in any case.

    Returns
    -------
    numbered : list of (int, DrawnShape)
        The areas that have a class.
    unknown : dict of str to int
        How many areas have a name that is no class; they are not in `numbered`.
    """
    own = {"background": 0, "ignored": 255} | {c: i for i, c in enumerate(classes, start=1)}
    known, lower = _looked_up(own)
    if names is not None:
        wrong = sorted({c for c in names.values() if same_name(c) not in known})
        if wrong:
            raise ShapeFileError(
                f"The shapes are said to be {', '.join(wrong)}, but the classes are {', '.join(classes)}; use these "
                'names, "background" or "ignored".'
            )
        known, lower = _looked_up({name: known[same_name(c)] for name, c in names.items()})
    unclassed = known.get("", known.get(NOTHING)) if names is not None else None
    areas = [s for s in shapes if s.areal and not s.hole]
    if names is None and len(classes) == 1 and areas and not any(s.classed and s.name for s in areas):
        unclassed = 1
    numbered: list[tuple[int, DrawnShape]] = []
    unknown: dict[str, int] = {}
    for shape in (s for s in shapes if s.areal):
        number = known.get(same_name(shape.name), lower.get(_folded(shape.name))) if shape.name else None
        if number is None and not (shape.classed and shape.name):
            number = unclassed
        if number is None and not shape.hole:
            name = shape.name if shape.classed else ""
            unknown[name] = unknown.get(name, 0) + 1
        else:
            numbered.append((number or 0, shape))
    return numbered, unknown


def _folded(name: str) -> str:
    return same_name(name).strip().casefold()


def _looked_up(numbers: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers by name, and by name in any case (of two names that differ only in case, the first)."""
    lower: dict[str, int] = {}
    for name, number in numbers.items():
        lower.setdefault(_folded(name), number)
    return {same_name(name): number for name, number in numbers.items()}, lower


def overview_step(extent: tuple[int, int], pixels: int) -> int:
    """Level-0 pixels between the pixels of an overview with at most about `pixels` pixels."""
    return max(1, ceil(sqrt(extent[0] * extent[1] / pixels)))
