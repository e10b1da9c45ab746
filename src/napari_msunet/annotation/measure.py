"""The measuring job, which writes one CSV of objects and one of classes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from napari_msunet._io import append_rows, csv_name, output_aside, table_text
from napari_msunet.annotation.export import object_id
from napari_msunet.config import MeasureJob
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.objects.instances import ClassLook, Objects, objects_of, window_of
from napari_msunet.objects.polygons import LabelShape, walk_polygons
from napari_msunet.objects.table import measure_polygons

PLACE_COLUMNS = (
    "centroid_y_px",
    "centroid_x_px",
    "box_y_px",
    "box_x_px",
    "box_height_px",
    "box_width_px",
)
"""Columns in level-0 pixels of the slide."""

DAMAGED = "damaged: not measured"
"""The row for damaged parts in the table of classes; they are no part of the measured area."""


def object_columns(store: LabelStore) -> tuple[str, ...]:
    """The columns of the objects of a store, in µm, or in pixels of the slide where its µm are not known."""
    if store.mpp is None:
        return ("id", "class", "area_px2", "perimeter_px", *PLACE_COLUMNS)
    return ("id", "class", "area_um2", "perimeter_um", "centroid_y_um", "centroid_x_um", *PLACE_COLUMNS)


def area_unit(store: LabelStore) -> str:
    """The unit of areas in names of columns."""
    return "px2" if store.mpp is None else "um2"


def measure_events(job: MeasureJob) -> Iterator[Event]:
    """Measure a label store, in bounded memory.

    An object is a set of pixels of one class that are connected by their sides (4-connectivity), whichever windows it
    was predicted or read in. With `job.instances`, or in a store of numbers of objects, it is an instance
    (`objects_of`). With a region (`y, x, height, width` in the store's level-0 pixels), it is the part inside.
    `job.out` gets one row per object: id (the same as in an exported GeoJSON), class, area in µm², perimeter in µm (see
    `napari_msunet.objects.table.perimeters`), centroid in µm and in level-0 pixels of the slide, bounding box in
    level-0 pixels. ``<stem>.classes.csv`` beside it gets one row per class: area in µm², share of the measured area
    (0..1), number of objects. The result's values hold the same class table under "classes", the measured area as
    "area_um2", and the number of all "objects". Where the store has no size in µm, areas are in pixels of the slide,
    under "area_px2", perimeters likewise, and there are no centroids in µm.

    Raises
    ------
    StoreError
        If the store has no such instances, the region lies outside of it, or chunks in it are damaged. With
        `job.damaged` "skip" their pixels are no part of the measured area: the result says how much that is
        ("damaged_um2") and where ("damaged"), and the table of classes has a row of it.
    OutputError
        If the files cannot be written; nothing is left then.
    """
    csv_name(job.out, "measurements are")
    store = open_labels(job.labels)
    window = window_of(store, job.region)
    objects = objects_of(store, job.instances, window, job.damaged)
    yield from (Message(level="warning", text=text) for text in objects.left_out)
    lost = sum(w.height * w.width for w in objects.lost_in(window))
    if store.kind == "annotation":
        objects.looks.pop(ANNOTATED_BACKGROUND, None)
    pixel, unit = prod(store.spacing), area_unit(store)
    table = _ClassTable(objects.looks, (window.height * window.width - lost) * pixel, f"area_{unit}")
    classes_path = job.out.with_name(f"{job.out.stem}.classes.csv")
    started = time.monotonic()
    with output_aside(classes_path) as classes_file, output_aside(job.out) as objects_file:
        with objects_file.open("w", newline="", encoding="utf8") as file:
            append_rows(file, [object_columns(store)], "\r\n")
            for step in walk_polygons(objects.image.read, window):
                shapes = [shape for shape in step.shapes if objects.kind(shape.value) in objects.looks]
                append_rows(file, _rows(shapes, objects, store, table), "\r\n")
                yield progress(step.done, step.total, "windows", started)
        classes_file.write_bytes(_classes_text(table.rows(), table.column, lost * pixel).encode())
    values = {"classes": table.rows(), table.column: table.total, "objects": sum(table.objects.values())}
    if lost:
        values |= {f"damaged_{unit}": lost * pixel, "damaged": _boxes(objects.lost_in(window))}
    yield Result(values=values, files={"objects": str(job.out), "classes": str(classes_path)})


class _ClassTable:
    """The sums of each class."""

    def __init__(self, looks: dict[int, ClassLook], total: float, column: str) -> None:
        self._looks, self.column = looks, column
        self.total = total
        self.area = dict.fromkeys(looks, 0.0)
        self.objects = dict.fromkeys(looks, 0)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "class": look.name,
                self.column: self.area[value],
                "share": self.area[value] / self.total if self.total else 0.0,
                "objects": self.objects[value],
            }
            for value, look in self._looks.items()
        ]


def _rows(shapes: list[LabelShape], objects: Objects, store: LabelStore, table: _ClassTable) -> Iterator[list[Any]]:
    """The rows of some objects, whose sums are added to the table."""
    if not shapes:
        return
    found = measure_polygons([shape.polygon for shape in shapes], store.spacing)
    pixel = np.array(store.pixel)
    centre_um = np.zeros((len(shapes), 0)) if store.mpp is None else found.centroid * np.array(store.mpp)
    centre_px, box_px = found.centroid * pixel, found.box * np.concatenate([pixel, pixel])
    for i, shape in enumerate(shapes):
        kind = objects.kind(shape.value)
        table.area[kind] += float(found.area[i])
        table.objects[kind] += 1
        look = objects.looks[kind]
        numbers = [found.area[i], found.perimeter[i], *centre_um[i], *centre_px[i], *box_px[i]]
        yield [object_id(store.path.name, look, shape), look.name, *(f"{v:.10g}" for v in numbers)]


def _boxes(windows: list[Window]) -> list[list[int]]:
    """Windows as lists of y, x, height, width."""
    return [[w.y, w.x, w.height, w.width] for w in windows]


def _classes_text(rows: list[dict[str, Any]], column: str, lost: float) -> str:
    shown = [{**row, column: f"{row[column]:.10g}", "share": f"{row['share']:.10g}"} for row in rows]
    if lost:
        shown.append({"class": DAMAGED, column: f"{lost:.10g}"})
    return table_text(shown, ("class", column, "share", "objects"), "\r\n")
