"""Drawn shapes and files of them, whatever their format, and the builder with which every reader makes them.

Shapes that are no areas, or damaged, do not stop the rest: they are listed in `ShapeFile.left_out` with the reason. A
file may be about several images; `FoundShapes.choose` finds the one that is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.errors import ImageNeededError, ShapeFileError
from napari_msunet.names import printable, same_name
from napari_msunet.slide import Slide

_ELLIPSE_CORNERS = 72
_BEYOND = 2.0**31
"""Largest coordinate, in level-0 pixels, which no slide reaches."""

NO_NUMBER = "with a coordinate that is no number"
TOO_FAR = "with a coordinate beyond any slide"
FEW_CORNERS = "with fewer than three corners"
NO_AREA = "without an area"
NO_GEOMETRY = "without a geometry"
CROSSES = "with an outline that crosses itself"

Corners = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DrawnShape:
    """One shape.

    Attributes
    ----------
    name : str
        Its class, group or layer in the file, or else its own name; empty where there is none.
    geometry : shapely geometry
        A polygon (perhaps with holes), line, point, or several of them; ``x, y`` in level-0 pixels of the slide.
    hole : bool
        Whether it is a hole, which is cut out of the larger shapes of its layer.
    colour : tuple of int, optional
        Red, green, blue.
    number : int
        Its number among the file's shapes, from 1; 0: it is from no file.
    layer : int
        The number of its layer in the file; holes count in their own layer.
    classed : bool
        Whether `name` is a class, and not only the name of this one shape.
    repaired : str
        What was wrong with its outline and was repaired; empty for most shapes.
    crowd : bool
        Whether it is an area of objects that are not told apart.
    """

    name: str
    geometry: Any
    hole: bool = False
    colour: tuple[int, int, int] | None = None
    number: int = 0
    layer: int = 0
    classed: bool = True
    repaired: str = ""
    crowd: bool = False

    @property
    def areal(self) -> bool:
        """Whether it covers an area."""
        return self.geometry.geom_type in ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class LeftOut:
    """A shape that cannot be used: its number in the file, its name, and the reason (``"without an area"``)."""

    number: int
    name: str
    why: str


@dataclass(frozen=True)
class ShapeFile:
    """All shapes of a file, or those of one image where it is about several.

    Attributes
    ----------
    shapes : tuple of DrawnShape
    mpp : float or None
        µm per level-0 pixel, where the file has it.
    format : str
        The program or format.
    left_out : tuple of LeftOut
        The shapes that cannot be used.
    path : Path
    notes : tuple of str
        Sentences about the whole file, such as that it names another image.
    """

    shapes: tuple[DrawnShape, ...]
    mpp: float | None
    format: str
    left_out: tuple[LeftOut, ...] = ()
    path: Path = Path()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DrawnImage:
    """The image on which shapes were drawn, as far as it is known.

    Attributes
    ----------
    name : str
        Its path or name; empty where it is not known.
    extent : (height, width), optional
        In level-0 pixels.
    chosen : bool
        Whether a person gave the name, so that the file must contain it.
    """

    name: str = ""
    extent: tuple[int, int] | None = None
    chosen: bool = False

    @classmethod
    def of(cls, image: Slide | DrawnImage | str | None, name: str | None = None) -> DrawnImage:
        """From a slide, or a name in the file; `name` is used in place of the slide's."""
        if isinstance(image, Slide):
            own = "" if image.path is None else str(image.path)
            return cls(name or own, (image.shape[0], image.shape[1]), name is not None)
        if image is None or isinstance(image, str):
            called = name or image
            return cls(called or "", None, called is not None)
        return image


@dataclass(frozen=True)
class ListedImage:
    """An image that a file names: its names and numbers there, its size `(h, w)`, and how many shapes it has."""

    names: tuple[str, ...]
    size: tuple[float, float] | None = None
    shapes: int = 0
    key: Any = None

    def __str__(self) -> str:
        return printable(self.names[0]) if self.names else "an image without a name"


# ------------------------------------------------------------------------------------------------------- the builder


class BadRingError(Exception):
    """A ring cannot be used; the message is the reason."""


@dataclass
class FoundShapes:
    """The shapes of a file that were read so far.

    Attributes
    ----------
    path : Path
    on : DrawnImage
        The image for which they are read.
    radius : (y, x), optional
        Radius in level-0 pixels of the discs that points become; None: points stay points.
    height : float, optional
        Height of the image where the file counts y upwards from its bottom; None: y goes down.
    number : int
        The number of the shape that is being read.
    """

    path: Path
    on: DrawnImage = field(default_factory=DrawnImage)
    radius: tuple[float, float] | None = None
    height: float | None = None
    shapes: list[DrawnShape] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    number: int = 0

    def file(self, format: str, mpp: float | None = None) -> ShapeFile:
        """All that was found."""
        if self.left_out and not self.shapes:
            first = self.left_out[0]
            raise ShapeFileError(
                f"{self.path} holds no shape that can be used: all {len(self.left_out)} are left out, the first for "
                f"being one {first.why}; export it again."
            )
        return ShapeFile(tuple(self.shapes), mpp, format, tuple(self.left_out), self.path, tuple(self.notes))

    def leave(self, name: str, why: str) -> None:
        """Count a shape that is not used."""
        self.left_out.append(LeftOut(self.number, name, why))

    def polygons(self, name: str, polygons: Iterable[Any], wrong: Sequence[str] = (), **look: Any) -> None:
        """Add a shape of polygons, each a sequence of rings of corners ``x, y``, the outline first; `wrong` are reasons
        for which other parts of it cannot be used."""
        parts: list[Any] = []
        said = list(wrong)
        for rings in polygons:
            try:
                parts.append(_polygon(rings, said))
            except BadRingError as bad:
                said.append(str(bad))
        if not parts:
            self.leave(name, said[0] if said else NO_GEOMETRY)
            return
        geometry = parts[0] if len(parts) == 1 else shapely.multipolygons(shapely.get_parts(parts))
        if len(parts) > 1 and not geometry.is_valid:  # overlapping parts become one area
            geometry = shapely.union_all(parts)
        self._add(name, geometry, repaired=said[0] if said else "", **look)

    def _add(self, name: str, geometry: Any, **look: Any) -> None:
        height = self.height
        if height is not None:
            geometry = shapely.transform(geometry, lambda c: c * [1.0, -1.0] + [0.0, height])
        self.shapes.append(DrawnShape(name, geometry, number=self.number, **look))

    def points(self, name: str, places: Any, line: bool = False, **look: Any) -> None:
        """Add points (discs, where there is a radius), or the line through them."""
        try:
            corners = corners_of(places)
        except BadRingError as bad:
            self.leave(name, str(bad))
            return
        if not len(corners):
            self.leave(name, NO_GEOMETRY)
        elif line and len(corners) > 1:
            self._add(name, shapely.LineString(corners), **look)
        elif self.radius is not None and not line:
            for x, y in corners.tolist():
                self._add(name, shapely.Polygon(ellipse((x, y), self.radius)), **look)
        else:
            self._add(name, shapely.Point(corners[0]) if len(corners) == 1 else shapely.MultiPoint(corners), **look)

    def wkt(self, name: str, text: str, **look: Any) -> None:
        """Add a shape in well-known text."""
        try:
            geometry = shapely.from_wkt(text)
        except (shapely.errors.ShapelyError, ValueError, TypeError):
            self.leave(name, "with a text that gives no geometry")
            return
        if geometry is None or geometry.is_empty:
            self.leave(name, NO_GEOMETRY)
            return
        parts = list(flat(geometry))
        areas = [[shapely.get_coordinates(r) for r in (p.exterior, *p.interiors)] for p in parts if _is_polygon(p)]
        if areas:
            self.polygons(name, areas, **look)
        for part in parts:
            if part.geom_type in ("LineString", "LinearRing"):
                self.points(name, shapely.get_coordinates(part), line=True, **look)
        dots = [shapely.get_coordinates(part) for part in parts if part.geom_type == "Point"]
        if dots:
            self.points(name, np.concatenate(dots), **look)

    def upwards(self, listed: ListedImage | None, program: str) -> None:
        """Take y as counted upwards from the bottom of the image, whose height must be known."""
        if self.on.extent is not None:
            self.height = float(self.on.extent[0])
        elif listed is not None and listed.size is not None:
            self.height = float(listed.size[0])
        else:
            raise ImageNeededError(
                f"{self.path} is a file of {program}, which counts y upwards from the bottom of the image, and does "
                "not give the image's height; give the slide on which it was drawn too."
            )

    # ------------------------------------------------------------------------------------------- one of several images

    def choose(self, images: Sequence[ListedImage]) -> ListedImage | None:
        """The image that is meant; None where the file names none.

        Raises
        ------
        ImageNeededError
            If it may be any of several.
        ShapeFileError
            If the file has no image of the name that a person gave, or several.
        """
        wanted, name = self.on.name, printable(_base(self.on.name))
        matched = _called(images, wanted) if wanted else []
        if len(matched) > 1:
            raise ShapeFileError(
                f"{self.path} names {len(matched)} images that can be {name} ({_some(matched)}); say which one is "
                "meant by its whole name in the file: image=... (import --image, train --shapes-image)."
            )
        if not images:
            return None
        if not matched and self.on.chosen:
            raise ShapeFileError(f"{self.path} has no image called {name}, but {_some(images)}; give one of these.")
        if not matched:
            drawn = [image for image in images if image.shapes] or list(images)
            if len(drawn) > 1:
                doubt = f"none of which is called {name}" if wanted else "and it was not said which one is meant"
                needed = ImageNeededError(
                    f"{self.path} holds the outlines of {len(drawn)} images ({_some(drawn)}), {doubt}; give the slide "
                    f"of that name, or say which image it is: image={printable(drawn[0])!r} (import --image, train "
                    "--shapes-image)."
                )
                needed.images = tuple(map(str, drawn))
                raise needed
            matched = drawn
            if wanted and matched[0].names:
                self.notes.append(f"{self.path.name} was drawn on {matched[0]}, as it says, and not on {name}.")
        self._compare(matched[0], name)
        return matched[0]

    def _compare(self, listed: ListedImage, name: str) -> None:
        """Note a size in the file that is not the slide's."""
        extent = self.on.extent
        if extent is None or listed.size is None or not all(side > 0 for side in listed.size):
            return
        if any(abs(there - here) > 1 for there, here in zip(listed.size, extent, strict=True)):
            self.notes.append(
                f"{self.path.name} was drawn on an image of {listed.size[0]:g} x {listed.size[1]:g} pixels (height x "
                f"width), but {name or 'the image'} has {extent[0]} x {extent[1]}: check that the outlines lie where "
                "they should."
            )


def _is_polygon(geometry: Any) -> bool:
    return bool(geometry.geom_type == "Polygon" and not geometry.is_empty)


def _base(name: str) -> str:
    """The last part of a path, of whatever system, or of an address."""
    return name.replace("\\", "/").split("?")[0].rstrip("/").split("/")[-1]


def _folded(name: str) -> str:
    return same_name(name).strip().casefold()


def _stem(name: str) -> str:
    base = _base(_folded(name))
    for double in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if base.endswith(double):
            return base.removesuffix(double)
    head, dot, _ = base.rpartition(".")
    return head if dot and head else base


def _called(images: Sequence[ListedImage], wanted: str) -> list[ListedImage]:
    """The images of that name: the whole of it, else its last part, else that without its ending."""
    found: list[ListedImage] = []
    for form in (_folded, lambda n: _base(_folded(n)), _stem):
        found = [image for image in images if any(form(n) == form(wanted) for n in image.names if n)]
        if found:
            break
    if len(found) > 1:  # the same name in several folders: the one with most folders in common
        parts = [max(_common(name, wanted) for name in image.names) for image in found]
        found = [image for image, n in zip(found, parts, strict=True) if n == max(parts)]
    return found


def _common(one: str, other: str) -> int:
    """How many last parts of two paths are the same; the ending of the last one does not count."""
    a, b = ([*p[:-1], _stem(p[-1])] for p in (_folded(n).replace("\\", "/").split("/") for n in (one, other)))
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def _some(images: Sequence[ListedImage]) -> str:
    rest = f" and {len(images) - 5} more" if len(images) > 5 else ""
    return ", ".join(map(str, images[:5])) + rest


# -------------------------------------------------------------------------------------------------- corners and rings


def corners_of(places: Any) -> Corners:
    """Corners ``x, y`` as numbers; a third number, the plane, is not used."""
    try:
        corners = np.asarray(places, np.float64)
    except (TypeError, ValueError):
        try:  # some corners have three numbers, others two
            corners = np.asarray([place[:2] for place in places], np.float64)
        except (TypeError, ValueError, KeyError, IndexError):
            raise BadRingError(NO_NUMBER) from None
    if corners.size == 0:
        return np.zeros((0, 2))
    if corners.ndim != 2 or corners.shape[1] < 2:
        raise BadRingError(NO_NUMBER)
    corners = corners[:, :2]
    if not np.isfinite(corners).all():
        raise BadRingError(NO_NUMBER)
    if np.abs(corners).max() > _BEYOND:
        raise BadRingError(TOO_FAR)
    return corners


def _ring(places: Any) -> Corners:
    """The corners of a ring, without the repeated first one at the end."""
    corners = corners_of(places)
    while len(corners) > 1 and (corners[0] == corners[-1]).all():
        corners = corners[:-1]
    if len(corners) < 3:
        raise BadRingError(FEW_CORNERS)
    return corners


def _polygon(rings: Any, wrong: list[str]) -> Any:
    """A valid polygon, or several; repairs are added to `wrong`."""
    if not isinstance(rings, Sequence) or isinstance(rings, str) or not rings:
        raise BadRingError(FEW_CORNERS)
    shell = _ring(rings[0])
    holes = []
    for ring in rings[1:]:
        try:
            holes.append(shapely.linearrings(_ring(ring)))
        except BadRingError as bad:
            wrong.append(f"with a hole {bad}")
    polygon = shapely.polygons(shapely.linearrings(shell), holes or None)
    if not shapely.is_valid(polygon):
        touching = None if holes else _unbridged(shell)
        parts = [p for p in flat(touching or shapely.make_valid(polygon)) if p.geom_type == "Polygon" and p.area > 0]
        if parts:
            if touching is None:
                wrong.append(CROSSES)
            return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
        polygon = shapely.Polygon()
    if not polygon.area > 0:
        raise BadRingError(FEW_CORNERS if len(np.unique(shell, axis=0)) < 3 else NO_AREA)
    return polygon


def _unbridged(ring: Corners) -> Any:
    """The area of an outline that only touches itself, such as one that goes into each hole and back along the same
    line, as formats without holes have it; None where it crosses itself."""
    loops: list[list[Any]] = []
    way: list[Any] = []
    place: dict[Any, int] = {}
    for corner in map(tuple, ring.tolist()):
        if corner in place:  # the way since then is a loop
            start = place[corner]
            loops.append(way[start:])
            for left in way[start + 1 :]:
                del place[left]
            del way[start + 1 :]
        else:
            place[corner] = len(way)
            way.append(corner)
    rings = [np.array(loop) for loop in (*loops, way) if len(loop) > 2]
    signs = [signed_area(loop) for loop in rings]
    signed = sum(signs)
    if len(rings) < 2 or not signed:
        return None
    areas = [shapely.Polygon(loop) for loop in rings]
    if not all(area.is_valid for area in areas):
        return None
    found = shapely.Polygon()
    # what lies inside another loop is smaller, so from the largest to the smallest each adds or takes away
    order = sorted(range(len(areas)), key=lambda k: -float(areas[k].area))
    for solid, members in groupby(order, lambda k: signs[k] * signed > 0):
        together = shapely.union_all([areas[k] for k in members])
        found = shapely.union(found, together) if solid else shapely.difference(found, together)
    return found if abs(found.area - abs(signed)) <= 1e-9 * abs(signed) else None


def signed_area(ring: Corners) -> float:
    """The area within an open ring, negative where it goes round the other way."""
    x, y = (ring - ring[0]).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def flat(geometry: Any) -> Iterator[Any]:
    """The simple geometries of a geometry, however deeply nested."""
    for part in shapely.get_parts(geometry):
        if shapely.get_num_geometries(part) > 1 or part.geom_type == "GeometryCollection":
            yield from flat(part)
        else:
            yield part


def box(corners: Any) -> list[Any]:
    """The four corners of a rectangle given by two."""
    (x, y), (x2, y2) = corners
    return [(x, y), (x2, y), (x2, y2), (x, y2)]


def ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Corners:
    """The outline of an ellipse: centre ``x, y``, radii ``y, x``, turned clockwise (y goes down) by `angle` degrees."""
    along = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    outline = np.stack([radii[1] * np.cos(along), radii[0] * np.sin(along)], 1)
    return turned(outline, angle) + np.asarray(centre, np.float64)


def turned(corners: Corners, angle: float) -> Corners:
    """Corners around 0, turned clockwise (y goes down) by `angle` degrees."""
    if not angle:
        return corners
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotated: Corners = corners @ np.array([[cosine, sine], [-sine, cosine]])
    return rotated
