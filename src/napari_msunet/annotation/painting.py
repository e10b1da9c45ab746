"""Drawn shapes as class numbers, a window at a time, and into label stores: never a whole slide as one array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.annotation.shape_files import DrawnShape, ShapeFileError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.shapes import Polygon

Values = npt.NDArray[np.uint8]

_TILE = 2048
_STROKE = 64 << 20  # pixels of tiles that one stroke of an import has at most


class Painting:
    """Class numbers of the pixels that shapes cover: a later shape is over an earlier one, holes are over all.

    A pixel belongs to a shape if its centre lies inside, whatever the window it is asked for in.

    Parameters
    ----------
    shapes : sequence of (int, DrawnShape)
        The class number of each; shapes that are no areas are left out.
    hole : int
        The number of what a hole takes away.
    """

    def __init__(self, shapes: Sequence[tuple[int, DrawnShape]], hole: int = 0) -> None:
        solid = [(n, s.geometry) for n, s in shapes if s.areal and not s.hole]
        holes = [(hole, s.geometry) for _, s in shapes if s.areal and s.hole]
        self._numbers = [n for n, _ in (*solid, *holes)]
        self._geometries = [g for _, g in (*solid, *holes)]
        self._tree = shapely.STRtree(self._geometries)

    @property
    def bounds(self) -> list[Window]:
        """The smallest window around each shape."""
        return [_around(g, 1) for g in self._geometries]

    def read(self, window: Window, outside: int, step: int = 1) -> Values:
        """Class numbers `(h, w)` in a window of the grid of every `step`-th level-0 pixel; `outside` of all shapes."""
        values = np.full(window.shape, outside, np.uint8)
        y, x, y2, x2 = (v * step for v in (window.y, window.x, *window.stop))
        for index in sorted(self._tree.query(shapely.box(x, y, x2, y2)).tolist()):
            geometry = self._geometries[index]
            own = _around(geometry, step).intersection(window)
            inside = None if own.empty else self._covered(geometry, own, step)
            if inside is not None:
                values[own.slices((window.y, window.x))][inside] = self._numbers[index]
        return values

    def _covered(self, geometry: Any, window: Window, step: int) -> Any:
        """Which pixels a geometry covers: an index into an array of the window, None for none."""
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
        if step > 1 and polygon.area < 4 * step**2:  # too small for any pixel's centre, but not to be missed
            point = polygon.representative_point()
            y, x = int(point.y // step) - window.y, int(point.x // step) - window.x
            if 0 <= y < window.height and 0 <= x < window.width:
                inside = np.array(np.broadcast_to(inside, window.shape))
                inside[y, x] = True
        return inside


def _around(geometry: Any, step: int) -> Window:
    """The smallest window around a geometry on the grid of every `step`-th pixel."""
    x, y, x2, y2 = (v / step for v in geometry.bounds)
    return Window.between((floor(y), floor(x)), (floor(y2) + 1, floor(x2) + 1))


def _ring(ring: Any, window: Window, step: int) -> npt.NDArray[np.bool_] | bool:
    """Which pixels have their centre inside a ring, by the even-odd rule."""
    return Polygon(shapely.get_coordinates(ring)[:-1, ::-1] / step).on(window)


def class_numbers(
    shapes: Sequence[DrawnShape], classes: Sequence[str], names: Mapping[str, str] | None = None
) -> tuple[list[tuple[int, DrawnShape]], dict[str, int]]:
    """The class number of each shape.

    Parameters
    ----------
    shapes : sequence of DrawnShape
    classes : sequence of str
        Names of classes 1..K.
    names : mapping, optional
        The class of each name in the file, also "background" (0) or "ignored" (255). None: the names themselves,
        whatever their case.

    Returns
    -------
    numbered : list of (int, DrawnShape)
    unknown : dict of str to int
        How many shapes have a name that is no class; they are not in `numbered`.
    """
    known = {"background": 0, "ignored": 255} | {c: i for i, c in enumerate(classes, start=1)}
    if names is not None:
        wrong = sorted({c for c in names.values() if c not in known})
        if wrong:
            raise ShapeFileError(
                f"The shapes are said to be {', '.join(wrong)}, but the classes are {', '.join(classes)}; use these "
                'names, "background" or "ignored".'
            )
        known = {name: known[c] for name, c in names.items()}
    lower = {name.lower(): number for name, number in known.items()}
    numbered: list[tuple[int, DrawnShape]] = []
    unknown: dict[str, int] = {}
    for shape in shapes:
        number = known.get(shape.name, lower.get(shape.name.lower()))
        if number is None and not shape.hole:
            unknown[shape.name] = unknown.get(shape.name, 0) + 1
        else:
            numbered.append((number or 0, shape))
    return numbered, unknown


def import_shapes(
    shapes: Sequence[DrawnShape], store: LabelStore, names: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Paint drawn shapes into a label store, as a person's strokes: they can be undone, and no prediction changes them.

    Parameters
    ----------
    shapes : sequence of DrawnShape
        As `read_shapes` gives them, of the store's slide.
    store : LabelStore
    names : mapping, optional
        As in `class_numbers`; None: names that are no classes of the store are left out.

    Returns
    -------
    dict of str to int
        How many shapes had a name that is no class, by name.

    Raises
    ------
    ShapeFileError
        If no shape has one of the store's classes.
    StoreError, StoreLockedError, OutputError
        If the store cannot be written.
    """
    numbered, unknown = class_numbers(shapes, store.classes, names)
    if not any(shape.areal and not shape.hole for _, shape in numbered):
        raise ShapeFileError(
            f"None of the {len(shapes)} shapes is of a class of {store.path} ({', '.join(store.classes)}); they are "
            f"called {', '.join(sorted(unknown)) or 'nothing'}: say which class each of these names is."
        )
    if store.kind == "annotation":
        numbered = [(255 if number == 0 else number, shape) for number, shape in numbered]
    pixel = store.grid.pixel
    scaled = [(n, _scaled(s, pixel)) for n, s in numbered]
    painting = Painting(scaled, hole=255 if store.kind == "annotation" else 0)
    whole = Window(0, 0, *store.shape)
    parts: list[tuple[Window, Values, npt.NDArray[np.bool_]]] = []
    for tile in _touched(painting, whole):
        values, other = painting.read(tile, 0), painting.read(tile, 1)
        mask = values == other  # what no shape covers differs
        if mask.any():
            parts.append((tile, values, mask))
        if len(parts) * _TILE**2 >= _STROKE:
            store.write_parts(parts)
            parts = []
    if parts:
        store.write_parts(parts)
    return unknown


def _scaled(shape: DrawnShape, pixel: tuple[float, float]) -> DrawnShape:
    """A shape in pixels of the store."""
    if pixel == (1.0, 1.0):
        return shape
    geometry = shapely.transform(shape.geometry, lambda c: c / [pixel[1], pixel[0]])
    return DrawnShape(shape.name, geometry, shape.hole, shape.colour)


def _touched(painting: Painting, whole: Window) -> Iterator[Window]:
    """Tiles of the store that any shape's box touches."""
    rows, columns = -(-whole.height // _TILE), -(-whole.width // _TILE)
    wanted = np.zeros((rows, columns), bool)
    for window in painting.bounds:
        inside = window.intersection(whole)
        if not inside.empty:
            wanted[inside.y // _TILE : -(-inside.stop[0] // _TILE), inside.x // _TILE : -(-inside.stop[1] // _TILE)] = 1
    for row, column in np.argwhere(wanted).tolist():
        yield Window(row * _TILE, column * _TILE, _TILE, _TILE).intersection(whole)


def overview_step(extent: tuple[int, int], pixels: int) -> int:
    """Level-0 pixels between the pixels of an overview of at most about so many."""
    return max(1, ceil(sqrt(extent[0] * extent[1] / pixels)))
