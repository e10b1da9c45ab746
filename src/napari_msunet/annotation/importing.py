"""Outlines into label stores, as strokes of a person."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.annotation.fates import ClassedShapes, ShapeReport, with_pixels
from napari_msunet.annotation.painting import Painting
from napari_msunet.annotation.shape_files import DrawnShape, ShapeFile, ShapeFileError, read_shape_file
from napari_msunet.config import is_no_class
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.store import is_open
from napari_msunet.names import same_name
from napari_msunet.slide import Slide

Values = npt.NDArray[np.uint8]

_TILE = 2048
_STROKE = 64 << 20  # pixels of tiles that one stroke of an import has at most


def import_shapes(
    shapes: Sequence[DrawnShape] | ShapeFile, store: LabelStore, names: Mapping[str, str] | None = None
) -> ShapeReport:
    """Paint drawn shapes into a label store, as a person's strokes: they can be undone, and no prediction changes them.

    Parameters
    ----------
    shapes : sequence of DrawnShape, or ShapeFile
        As `read_shapes` gives them, of the store's slide; a `ShapeFile` tells also of shapes that cannot be read.
    store : LabelStore
    names : mapping, optional
        The class of each name in the file, also "background" or "ignored"; "nothing" stands for shapes without a class.
        None: the names themselves; where the store has one class and no shape has any, all shapes are of it.

    Returns
    -------
    ShapeReport
        What became of each shape, and the pixels that were painted.

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
    painting = Painting(numbered)
    counted = _paint(painting, store)
    place = {id(shape): k for k, shape in enumerate(_in_order(found.file))}
    pixels = {place[id(found.numbered[s.place][1])]: int(n) for s, n in zip(painting.shapes, counted, strict=True)}
    return with_pixels(report, pixels)


def _in_order(file: ShapeFile) -> list[Any]:
    """Shapes, read or not, in the order of the file: that of a report's fates."""
    return sorted((*file.shapes, *file.left_out), key=lambda shape: shape.number)


def _paint(painting: Painting, store: LabelStore) -> npt.NDArray[np.int64]:
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


def import_file(
    path: Path,
    labels: Path,
    slide: Slide | None = None,
    *,
    classes: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    kind: Literal["annotation", "labels"] = "annotation",
) -> ShapeReport:
    """Paint the outlines of a file into a label store, which is made where there is none.

    Where this is refused, nothing is made and nothing is changed.

    Parameters
    ----------
    path : Path
        The file of outlines.
    labels : Path
        The label store.
    slide : Slide, optional
        The slide that was drawn on; needed for a new store.
    classes : sequence of str, optional
        Of a new store: classes 1, 2, ...; None: those in `names`, else the names in the file.
    names : mapping, optional
        As of `import_shapes`.
    kind : str
        Of a new store.

    Raises
    ------
    ShapeFileError, StoreError, StoreLockedError, OutputError
    """
    file = read_shape_file(path)
    if labels.exists():
        held, store = is_open(labels), open_labels(labels)
        if slide is not None:
            store.check_slide(slide, "give another label store")
        if missing := sorted({same_name(c) for c in classes or ()} - {same_name(c) for c in store.classes}):
            raise StoreError(
                f"{labels} has the classes {', '.join(store.classes) or 'none'}, but not {', '.join(missing)}; leave "
                "the classes away, or give another label store."
            )
        if held:  # by whoever edits it in this process, who goes on
            report = import_shapes(file, store, names)
            store.flush()
            return report
        with store:
            return import_shapes(file, store, names)
    if slide is None:
        raise StoreError(f"There is no label store at {labels}; give the slide too, and one is made.")
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
