"""Importing outlines into label stores, as strokes of a person; the files are read in `annotation.formats`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.annotation.formats import read_shape_file
from napari_msunet.annotation.painting import ShapePainter, class_numbers
from napari_msunet.annotation.shapes import DrawnImage, DrawnShape, ShapeFile
from napari_msunet.config import is_no_class
from napari_msunet.errors import ShapeFileError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.store import is_open
from napari_msunet.names import same_name
from napari_msunet.slide import Slide

# ----------------------------------------------------------------------------------------------------------------------
# The report of an import: which outlines were painted, outside the slide, hidden, repaired, or left out and why.

TOO_SMALL = "too small to hold the centre of a pixel"
_EDGE = 1.0
"""Level-0 pixels by which an outline may extend beyond the slide without a warning, because it follows pixel edges."""
_TINY = 16.0
"""Largest area, in level-0 pixels², of a shape that is checked for containing the centre of a pixel."""

FateName = Literal["painted", "partly outside", "outside", "hidden", "hole", "left out"]


@dataclass(frozen=True)
class ShapeFate:
    """The outcome of the import for one shape.

    Attributes
    ----------
    number : int
        Its number in the file, from 1.
    name : str
        Its name in the file.
    fate : str
        "painted"; "partly outside" the slide, the rest painted; "outside" the slide; "hidden" by shapes over it;
        "hole", cut out of others; "left out".
    why : str
        Why it was left out.
    repaired : str
        What was wrong with its outline and was repaired.
    pixels : int, optional
        The number of pixels of the store that show it; None where they were not counted.
    """

    number: int
    name: str
    fate: FateName
    why: str = ""
    repaired: str = ""
    pixels: int | None = None


@dataclass(frozen=True)
class ShapeReport:
    """The outcome of the import for all shapes of a file.

    Attributes
    ----------
    fates : tuple of ShapeFate
        In the order of the file.
    unknown : dict of str to int
        How many shapes have a name that is no class, by name.
    path : Path
        The file; empty where the shapes are from no file.
    notes : tuple of str
        Sentences about the whole file, as in `ShapeFile`.
    """

    fates: tuple[ShapeFate, ...]
    unknown: dict[str, int]
    path: Path = Path()
    notes: tuple[str, ...] = ()

    @property
    def painted(self) -> int:
        """How many shapes are visible, whole or in part."""
        return sum(f.fate in ("painted", "partly outside") for f in self.fates)

    @property
    def pixels(self) -> int:
        """The number of pixels that show any shape, where they were counted."""
        return sum(f.pixels or 0 for f in self.fates)

    @property
    def lost(self) -> bool:
        """Whether any part of the drawing is missing in the labels, or there is a doubt about the whole."""
        return bool(self.notes) or any(f.fate not in ("painted", "hole") or f.repaired for f in self.fates)

    def counted(self) -> str:
        """``"5 of 9 shapes"``, or ``"9 shapes"`` where all are visible; a hole counts with its shape."""
        total = sum(f.fate != "hole" for f in self.fates)
        return (
            f"{self.painted} shape{'s' * (total != 1)}"
            if total == self.painted
            else f"{self.painted} of {total} shapes"
        )

    def losses(self) -> str:
        """Sentences about all shapes that were not simply painted; empty where there are none."""
        said = []
        for fate, one, several in (
            ("partly outside", "1 lies partly outside the slide", "{} lie partly outside the slide"),
            ("outside", "1 lies outside the slide", "{} lie outside the slide"),
            ("hidden", "1 is hidden by shapes over it", "{} are hidden by shapes over them"),
        ):
            if numbers := [f.number for f in self.fates if f.fate == fate]:
                said.append(f"{(one if len(numbers) == 1 else several).format(len(numbers))}{_which(numbers)}.")
        for why, numbers in _by([(f.repaired, f.number) for f in self.fates if f.repaired]).items():
            said.append(f"{len(numbers)} {why} {'was' if len(numbers) == 1 else 'were'} mended{_which(numbers)}.")
        left = _by([(f.why, f.number) for f in self.fates if f.fate == "left out"])
        if left:
            told = [f"{len(n)} {_singular(why) if len(n) == 1 else why}{_which(n)}" for why, n in left.items()]
            said.append(f"Left out: {', '.join(told)}.")
        return " ".join((*said, *self.notes))


def _by(pairs: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key, number in pairs:
        found.setdefault(key, []).append(number)
    return found


def _singular(why: str) -> str:
    return {"points": "point", "lines": "line"}.get(why, why)


def _which(numbers: Sequence[int]) -> str:
    """The numbers of shapes of the file, in words, where they have numbers."""
    known = [str(n) for n in sorted(set(numbers)) if n]
    if not known:
        return ""
    rest = f" and {len(known) - 5} more" if len(known) > 5 else ""
    return f" (shape{'s' * (len(known) > 1)} {', '.join(known[:5])}{rest})"


@dataclass(frozen=True)
class ClassedShapes:
    """The shapes of a file with their classes.

    Attributes
    ----------
    file : ShapeFile
    numbered : list of (int, DrawnShape)
        Areas with a class, each with the number of its class.
    unknown : dict of str to int
        How many areas have a name that is no class.
    """

    file: ShapeFile
    numbered: list[tuple[int, DrawnShape]]
    unknown: dict[str, int]

    @classmethod
    def of(
        cls,
        shapes: ShapeFile | Sequence[DrawnShape],
        classes: Sequence[str],
        names: Mapping[str, str] | None = None,
    ) -> ClassedShapes:
        """As `class_numbers`."""
        file = shapes if isinstance(shapes, ShapeFile) else ShapeFile(tuple(shapes), None, "")
        return cls(file, *class_numbers(file.shapes, classes, names))

    def report(self, extent: tuple[int, int] | None, painting: ShapePainter | None = None) -> ShapeReport:
        """The outcome for each shape on a slide of this extent (level-0 pixels); None: shapes outside are not reported.

        A shape counts as hidden where shapes over it cover it fully.
        """
        painting = painting or ShapePainter(self.numbered)
        number_of = {id(shape): k for k, (_, shape) in enumerate(self.numbered)}
        seen = _seen(painting, extent)
        fates: list[tuple[int, ShapeFate]] = []
        for shape in self.file.shapes:
            index = number_of.get(id(shape))
            fate = _fate(shape, index, seen, painting.dropped)
            fates.append((shape.number, fate))
        fates += [(left.number, ShapeFate(left.number, left.name, "left out", left.why)) for left in self.file.left_out]
        ordered = tuple(fate for _, fate in sorted(fates, key=lambda pair: pair[0]))
        return ShapeReport(ordered, self.unknown, self.file.path, self.file.notes)

    def check(self, report: ShapeReport, classes: Sequence[str], whose: str, extent: tuple[int, int]) -> None:
        """Raise `ShapeFileError` where nothing would be painted.

        Parameters
        ----------
        whose : str
            The owner of the classes, for the sentence: ``"the model"``.
        """
        if report.painted:
            return
        from_file = f" in {report.path}" if report.path.name else ""
        if not self.numbered and self.unknown:
            called = sorted(name for name in self.unknown if name)
            told = f"they are called {', '.join(called)}" if called else "they have no class"
            example = f'{{"{[*called, "nothing"][0]}": "{[*classes, "gland"][0]}"}}'
            raise ShapeFileError(
                f"No shape{from_file} is of a class of {whose} ({', '.join(classes) or 'no classes'}); {told}: say "
                f"which class each of these names is, such as values={example}; nothing is the name of shapes without "
                "a class."
            )
        cure = " Say which class each name is, or give" if self.unknown else " Give"
        if any("Point" in s.geometry.geom_type for s in self.file.shapes):
            cure = f" With a radius, points are read as discs.{cure}"
        raise ShapeFileError(
            f"No shape{from_file} can be used on a slide of {extent[0]} x {extent[1]} pixels (height "
            f"x width). {report.losses()}{cure} the outlines of this slide, in its level-0 pixels."
        )


def with_pixels(report: ShapeReport, pixels: Mapping[int, int]) -> ShapeReport:
    """The report with counts of pixels, which are given by a shape's index in the report."""
    fates = list(report.fates)
    for k, count in pixels.items():
        fate = fates[k]
        if fate.fate in ("painted", "partly outside") and not count:
            fate = replace(fate, fate="left out", why=TOO_SMALL)
        fates[k] = replace(fate, pixels=count)
    return replace(report, fates=tuple(fates))


def _fate(shape: DrawnShape, index: int | None, seen: Mapping[int, FateName], dropped: Mapping[int, str]) -> ShapeFate:
    if not shape.areal:
        kind = "points" if "Point" in shape.geometry.geom_type else "lines"
        return ShapeFate(shape.number, shape.name, "left out", kind)
    if index is None:
        named = shape.classed and shape.name
        why = f"called {shape.name}, which is no class" if named else "without a class"
        return ShapeFate(shape.number, shape.name, "left out", why)
    if index in dropped:
        return ShapeFate(shape.number, shape.name, "left out", dropped[index])
    fate: FateName = "hole" if shape.hole else seen[index]
    if fate == "left out":
        return ShapeFate(shape.number, shape.name, fate, TOO_SMALL)
    return ShapeFate(shape.number, shape.name, fate, repaired=shape.repaired)


def _seen(painting: ShapePainter, extent: tuple[int, int] | None) -> dict[int, FateName]:
    """Whether any part of each painted shape is visible on the slide, by the shape's index."""
    if not painting.shapes:
        return {}
    geometries: Any = np.array([s.geometry for s in painting.shapes], object)
    fates: list[FateName] = ["painted"] * len(geometries)
    if extent is not None:
        low, high = shapely.bounds(geometries)[:, :2], shapely.bounds(geometries)[:, 2:]
        size = np.array([extent[1], extent[0]], float)
        slide = shapely.box(0, 0, *size)
        for k in np.flatnonzero((low < -_EDGE).any(1) | (high > size + _EDGE).any(1)).tolist():
            geometries[k] = shapely.intersection(geometries[k], slide)
            fates[k] = "partly outside" if geometries[k].area > 0 else "outside"
    areas = shapely.area(geometries)
    for k in np.flatnonzero((areas <= _TINY) & (areas > 0)).tolist():
        if fates[k] != "outside" and not painting.holds_a_centre(k):
            fates[k] = "left out"
    there = np.array([f in ("painted", "partly outside") for f in fates])
    for k in _hidden(np.where(there, geometries, None), areas):
        fates[k] = "hidden"
    return {s.place: fate for s, fate in zip(painting.shapes, fates, strict=True)}


def _hidden(geometries: Any, areas: Any) -> list[int]:
    """The indices of geometries that later ones cover."""
    tree = shapely.STRtree(geometries)
    under, over = tree.query(geometries, predicate="intersects")
    under, over = under[over > under], over[over > under]
    covering = np.bincount(under, areas[over], len(geometries))
    found = []
    order = np.argsort(under, kind="stable")
    starts = np.searchsorted(under[order], np.arange(len(geometries) + 1))
    for k in np.flatnonzero((covering >= areas * (1 - 1e-6)) & (areas > 0)).tolist():
        above = geometries[over[order[starts[k] : starts[k + 1]]]]
        left = shapely.difference(geometries[k], shapely.union_all(above))
        if left.area <= 1e-6 * areas[k]:
            found.append(k)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Importing a file of outlines into a label store, as strokes that can be undone.

Values = npt.NDArray[np.uint8]

_TILE = 2048
_STROKE = 64 << 20  # most pixels of the tiles of one stroke of an import


def import_shapes(
    shapes: Sequence[DrawnShape] | ShapeFile, store: LabelStore, names: Mapping[str, str] | None = None
) -> ShapeReport:
    """Paint drawn shapes into a label store as strokes of a person, which can be undone and which no prediction
    changes.

    Parameters
    ----------
    shapes : sequence of DrawnShape, or ShapeFile
        Shapes on the store's slide, from `read_shapes`; a `ShapeFile` also lists shapes that cannot be read.
    store : LabelStore
    names : mapping, optional
        The class of each name in the file, also "background" or "ignored"; "nothing" means shapes without a class.
        None: the names in the file are those of the classes; where the store has one class and no shape has any, all
        shapes get this class.

    Returns
    -------
    ShapeReport
        The outcome for each shape, and the number of painted pixels.

    Raises
    ------
    ShapeFileError
        If no shape has one of the store's classes, or none lies on the slide.
    StoreError, StoreLockedError, OutputError
        If the store cannot be written.
    """
    found = ClassedShapes.of(shapes, store.classes, names)
    extent = (int(store.extent[0]), int(store.extent[1]))
    report = found.report(extent)
    found.check(report, store.classes, store.path.name, extent)
    numbered = [
        (255 if n == 0 and store.kind == "annotation" else n, _scaled(s, store.grid.pixel)) for n, s in found.numbered
    ]
    painting = ShapePainter(numbered)
    counted = _paint(painting, store)
    place = {id(shape): k for k, shape in enumerate(_in_order(found.file))}
    pixels = {place[id(found.numbered[s.place][1])]: int(n) for s, n in zip(painting.shapes, counted, strict=True)}
    return with_pixels(report, pixels)


def _in_order(file: ShapeFile) -> list[Any]:
    """Shapes, readable or not, in the order of the file, which is that of the fates of a report."""
    return sorted((*file.shapes, *file.left_out), key=lambda shape: shape.number)


def _paint(painting: ShapePainter, store: LabelStore) -> npt.NDArray[np.int64]:
    """Paint tile by tile, and count the pixels that show each shape."""
    table = np.array([0, *(s.number for s in painting.shapes)], np.uint8)
    counted = np.zeros(len(table), np.int64)
    parts: list[tuple[Window, Values, npt.NDArray[np.bool_]]] = []
    for tile in _touched(painting, Window(0, 0, *store.shape)):
        objects = painting.read_objects(tile)
        counted += np.bincount(objects.ravel(), minlength=len(table))
        if objects.any():
            parts.append((tile, table[objects], objects != 0))
        if len(parts) * _TILE**2 >= _STROKE:
            store.write_parts(parts)
            parts = []
    if parts:
        store.write_parts(parts)
    return counted[1:]


def _scaled(shape: DrawnShape, pixel: tuple[float, float]) -> DrawnShape:
    """A shape in pixels of the store."""
    if pixel == (1.0, 1.0):
        return shape
    return replace(shape, geometry=shapely.transform(shape.geometry, lambda c: c / [pixel[1], pixel[0]]))


def _touched(painting: ShapePainter, whole: Window) -> Iterator[Window]:
    """The tiles of the store that the box of any shape touches."""
    rows, columns = -(-whole.height // _TILE), -(-whole.width // _TILE)
    wanted = np.zeros((rows, columns), bool)
    for window in painting.bounds:
        inside = window.intersection(whole)
        if not inside.empty:
            wanted[inside.y // _TILE : -(-inside.stop[0] // _TILE), inside.x // _TILE : -(-inside.stop[1] // _TILE)] = 1
    for row, column in np.argwhere(wanted).tolist():
        yield Window(row * _TILE, column * _TILE, _TILE, _TILE).intersection(whole)


def import_file(
    path: Path,
    labels: Path,
    slide: Slide | None = None,
    *,
    classes: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    kind: Literal["annotation", "labels"] = "annotation",
    image: str | None = None,
    radius: float | None = None,
) -> ShapeReport:
    """Paint the outlines of a file into a label store, which is made where there is none.

    Where this raises an error, nothing is made and nothing is changed.

    Parameters
    ----------
    path : Path
        The file of outlines.
    labels : Path
        The label store.
    slide : Slide, optional
        The slide on which the outlines were drawn; needed for a new store.
    classes : sequence of str, optional
        Classes 1, 2, ... of a new store; None: those in `names`, else the names in the file.
    names : mapping, optional
        As for `import_shapes`.
    kind : str
        The kind of a new store.
    image : str, optional
        The image in the file, where it holds the outlines of several; None: the one of the slide's name.
    radius : float, optional
        Radius in µm (in pixels where the slide has no µm) of the discs that points become; None: they are left out.

    Raises
    ------
    ShapeFileError, StoreError, StoreLockedError, OutputError
    """
    if labels.exists():
        held, store = is_open(labels), open_labels(labels)
        if slide is not None:
            store.check_slide(slide, "give another label store")
        if missing := sorted({same_name(c) for c in classes or ()} - {same_name(c) for c in store.classes}):
            raise StoreError(
                f"{labels} has the classes {', '.join(store.classes) or 'none'}, but not {', '.join(missing)}; leave "
                "out the classes, or give another label store."
            )
        file = read_shape_file(path, *_place(slide or store, image, radius))
        if held:  # an editor in this process has the store open, and keeps it open
            report = import_shapes(file, store, names)
            store.flush()
            return report
        with store:
            return import_shapes(file, store, names)
    if slide is None:
        raise StoreError(f"There is no label store at {labels}; give the slide too, and one is made.")
    file = read_shape_file(path, *_place(slide, image, radius))
    wanted = tuple(_classes(file, classes, names))
    found, extent = ClassedShapes.of(file, wanted, names), (slide.shape[0], slide.shape[1])
    found.check(found.report(extent), wanted, "the new label store", extent)
    made = LabelStore.create(labels, classes=wanted, kind=kind, slide=slide)
    try:
        with made:
            return import_shapes(file, made, names)
    except BaseException:
        shutil.rmtree(labels, ignore_errors=True)
        raise


def _place(
    of: Slide | LabelStore, image: str | None, radius: float | None
) -> tuple[DrawnImage, tuple[float, float] | None]:
    """The image of which a file is read, and the radius of discs in its pixels."""
    if isinstance(of, Slide):
        return DrawnImage.of(of, image), radii(radius, of.mpp)
    extent = (round(of.extent[0]), round(of.extent[1]))
    sizes = None if of.mpp is None else (of.mpp[0] / of.pixel[0], of.mpp[1] / of.pixel[1])
    return DrawnImage(image or of.info.slide or "", extent, image is not None), radii(radius, sizes)


def radii(radius: float | None, mpp: tuple[float, float] | None) -> tuple[float, float] | None:
    """A radius in µm as pixels ``(y, x)`` of a slide; it is in pixels where the slide has no µm."""
    if radius is None:
        return None
    size = mpp or (1.0, 1.0)
    return radius / size[0], radius / size[1]


def _classes(file: ShapeFile, given: Sequence[str] | None, names: Mapping[str, str] | None) -> list[str]:
    """The classes of a new store."""
    if given:
        return list(given)
    if names:
        return [name for name in sorted(set(names.values())) if not is_no_class(name)]
    drawn = sorted({s.name for s in file.shapes if s.areal and s.classed and s.name and not is_no_class(s.name)})
    if not drawn and any(s.areal for s in file.shapes):
        raise ShapeFileError(
            f"No shape in {file.path} has a class; say which one they are: one name of a class (--classes nucleus) "
            "takes them all."
        )
    return drawn
