"""The measuring job, which writes tables of objects, classes, regions and hotspots, and a density map."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet._io import output_aside
from napari_msunet.annotation.export import feature, ignored_feature, object_id
from napari_msunet.annotation.measure_spool import MeasuredBatch, Spool
from napari_msunet.annotation.measure_sums import (
    SQUARE_MILLIMETRE,
    ClassSums,
    RegionTable,
    class_numbers,
    read_regions,
    slide_tissue,
    tissue_area,
    window_box,
)
from napari_msunet.annotation.measure_tables import (
    Columns,
    GeoJsonTable,
    TableWriter,
    table_beside,
    table_ending,
    table_writer,
    write_csv_metadata,
)
from napari_msunet.annotation.provenance import provenance
from napari_msunet.config import MeasureJob
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.objects.density import density_map, hotspots, neighbours, smallest_disc
from napari_msunet.objects.instances import Objects, objects_of, window_of
from napari_msunet.objects.polygons import LabelShape, walk_polygons
from napari_msunet.objects.stain import StainPlanes, grades, means, stain_planes
from napari_msunet.objects.table import eccentricities, measure_polygons, solidities
from napari_msunet.slide import Slide, open_slide

PLACE_COLUMNS = (
    "centroid_y_px",
    "centroid_x_px",
    "box_y_px",
    "box_x_px",
    "box_height_px",
    "box_width_px",
)
"""Columns in level-0 pixels of the slide."""

SHAPE_COLUMNS = ("eccentricity", "solidity")

DAMAGED = "damaged: not measured"
"""The row for damaged parts in the table of classes; they are no part of the measured area."""


def object_columns(store: LabelStore) -> tuple[str, ...]:
    """The columns of the objects of a store, in µm, or in pixels of the slide where its µm are not known."""
    if store.mpp is None:
        return ("id", "class", "area_px2", "perimeter_px", *PLACE_COLUMNS, *SHAPE_COLUMNS)
    own = ("area_um2", "perimeter_um", "centroid_y_um", "centroid_x_um")
    return ("id", "class", *own, *PLACE_COLUMNS, *SHAPE_COLUMNS)


def area_unit(store: LabelStore) -> str:
    """The unit of areas in names of columns."""
    return "px2" if store.mpp is None else "um2"


def measure_events(job: MeasureJob) -> Iterator[Event]:
    """Measure a label store. What is held at a time is a window, and about 150 bytes of each object.

    An object is a set of pixels of one class that are connected by their sides (4-connectivity), whichever windows it
    was predicted or read in. With `job.instances`, or in a store of numbers of objects, it is an instance
    (`objects_of`). With a region (`y, x, height, width` in the store's level-0 pixels), it is the part inside.

    `job.out` gets one row per object: id (the same as in an exported GeoJSON), class, area in µm², perimeter in µm (see
    `napari_msunet.objects.table.perimeters`), centroid in µm and in level-0 pixels of the slide, bounding box in
    level-0 pixels, eccentricity, solidity; with a stain its mean optical densities (`napari_msunet.objects.stain`), in
    the object and in a ring, and the grade of a positive object (0 to 3); the number of neighbours and the distance of
    the nearest. ``<stem>.classes.csv`` beside it gets one row per class: area in µm², share of the measured area
    (0..1), number of objects, objects per mm², and with a slide share of its tissue and objects per mm² of tissue, with
    DAB the numbers of positive objects and the H-score. ``<stem>.regions.csv`` has the same for each outline of
    `job.regions`, ``<stem>.hotspots.csv`` and ``<stem>.density.ome.tif`` show where objects are dense.

    The result's values hold the same class table under "classes", the measured area as "area_um2", and the number of
    all "objects"; with a density map "hotspots", and "density_pixel", the sides `y, x` of its pixels in level-0 pixels.
    Where the store has no size in µm, areas are in pixels of the slide, under "area_px2", perimeters
    likewise, and there are no centroids in µm and no densities.

    Raises
    ------
    StoreError
        If the store has no such instances, the region lies outside of it, or chunks in it are damaged. With
        `job.damaged` "skip" their pixels are no part of the measured area: the result says how much that is
        ("damaged_um2") and where ("damaged"), and the table of classes has a row of it.
    SlideError
        If a stain is asked for, and the slide is no bright-field image in colour.
    OutputError
        If the files cannot be written; nothing is left then.
    """
    ending = table_ending(job.out)
    store = open_labels(job.labels)
    window = window_of(store, job.region)
    objects = objects_of(store, job.instances, window, job.damaged)
    yield from (Message(level="warning", text=text) for text in objects.left_out)
    if store.kind == "annotation":
        objects.looks.pop(ANNOTATED_BACKGROUND, None)
    with ExitStack() as stack:
        work = _Measuring(job, store, window, objects, ending, _slide(job, store, stack))
        yield from work.messages()
        files, tables = work.open(stack)
        spool = stack.enter_context(Spool(files["objects"].with_name(files["objects"].name + ".rows")))
        started = time.monotonic()
        for step in walk_polygons(objects.image.read, window, planes=work.stains):
            batch = work.batch([shape for shape in step.shapes if objects.kind(shape.value) in objects.looks])
            if batch is not None:
                work.add(batch)
                spool.add(batch)
            yield progress(step.done, step.total, "windows", started)
        work.write(spool, tables)
        if job.density is not None:
            work.write_density(files["density"])
        if "metadata" in files:
            write_csv_metadata(files["metadata"], work.paths, work.origin)
    written = {name: str(path) for name, path in work.paths.items() if name != "metadata"}
    yield Result(values=work.values(), files=written)


def _slide(job: MeasureJob, store: LabelStore, stack: ExitStack) -> Slide | None:
    """The slide of a job, checked to be that of the labels."""
    if job.slide is None:
        if job.stain != "none":
            raise StoreError(f"The stain is measured on the slide of {store.path}: give it (slide=...).")
        if job.tissue is not None:
            raise StoreError(f"Shares of tissue need the slide of {store.path} too: give it (slide=...).")
        return None
    slide = stack.enter_context(open_slide(job.slide, job.slide_mpp, job.image_kind, job.value_range))
    store.check_slide(slide)
    return slide


class _Measuring:
    """A measurement: what is asked for, and the sums so far."""

    def __init__(
        self, job: MeasureJob, store: LabelStore, window: Window, objects: Objects, ending: str, slide: Slide | None
    ) -> None:
        self.job, self.store, self.window, self.objects, self.ending = job, store, window, objects, ending
        self.lost = sum(w.height * w.width for w in objects.lost_in(window))
        self.unit, self.pixel = area_unit(store), prod(store.spacing)
        self.total = (window.height * window.width - self.lost) * self.pixel
        self.tissue = None if slide is None else slide_tissue(slide, job.tissue)
        self.stains: StainPlanes | None = None
        if slide is not None and job.stain != "none":
            self.stains = stain_planes(slide, store, objects.image, job.stain, job.ring)
        self.sums = {value: ClassSums() for value in objects.looks}
        self.regions = None
        if job.regions is not None:
            self.regions = RegionTable(read_regions(job.regions, store), store, window, self.tissue)
        self.graded = job.stain == "haematoxylin-dab"
        self._places: list[npt.NDArray[np.float64]] = []
        self._kinds: list[npt.NDArray[np.int64]] = []
        self._grades: list[npt.NDArray[np.int64]] = []
        self._density_side = 0.0
        self.paths = self._paths()
        self.origin = provenance(store, job, job.instances)

    def messages(self) -> Iterator[Event]:
        """What a person should know first."""
        if self.regions is not None and self.regions.outside:
            yield Message(level="warning", text=f"{self.regions.outside} outlines of {self.job.regions} lie outside.")
        extent = [n * s for n, s in zip(self.store.shape, self.store.spacing, strict=True)]
        if self.job.density is not None and self.job.density < (least := smallest_disc(extent)):
            raise OutputError(
                f"Discs of {self.job.density:g} µm are too small for a density map of this slide; give at least "
                f"{least:.3g}."
            )

    def _paths(self) -> dict[str, Path]:
        out = self.job.out
        paths = {"objects": out, "classes": table_beside(out, "classes")}
        if self.ending == ".csv" and not self.job.header:
            paths["metadata"] = out.with_name(f"{out.name}-metadata.json")
        if self.job.regions is not None:
            paths["regions"] = table_beside(out, "regions")
        if self.job.density is not None:
            paths |= {
                "hotspots": table_beside(out, "hotspots"),
                "density": out.with_name(f"{out.stem}.density.ome.tif"),
            }
        return paths

    def open(self, stack: ExitStack) -> tuple[dict[str, Path], dict[str, TableWriter]]:
        """Temporary files, which get their names when all of them are written, and writers of the tables."""
        files = {name: stack.enter_context(output_aside(path)) for name, path in self.paths.items()}
        origin = self.origin if self.job.header or self.ending != ".csv" else None
        beside = ".parquet" if self.ending == ".parquet" else ".csv"
        tables = {
            name: table_writer(file, self.ending if name == "objects" else beside, origin, stack)
            for name, file in files.items()
            if name not in ("density", "metadata")
        }
        return files, tables

    # ------------------------------------------------------------------------------------------------------- measuring

    def batch(self, shapes: list[LabelShape]) -> MeasuredBatch | None:
        """The numbers of some objects."""
        if not shapes:
            return None
        store, pixel = self.store, np.array(self.store.pixel)
        polygons = np.array([shape.polygon for shape in shapes], object)
        found = measure_polygons(polygons, store.spacing)
        numbers = {f"area_{self.unit}": found.area, f"perimeter_{self.unit[:2]}": found.perimeter}
        if store.mpp is not None:
            numbers |= dict(zip(("centroid_y_um", "centroid_x_um"), (found.centroid * store.mpp).T, strict=True))
        places = np.concatenate([found.centroid * pixel, found.box * np.concatenate([pixel, pixel])], 1)
        numbers |= dict(zip(PLACE_COLUMNS, places.T, strict=True))
        numbers |= {"eccentricity": eccentricities(polygons, store.spacing), "solidity": solidities(polygons)}
        grade = np.zeros(len(shapes), np.int64)
        if self.stains is not None:
            stain = means(np.stack([shape.sums for shape in shapes]), self.stains.columns)
            numbers |= stain
            if self.graded:
                where = "ring_dab_od" if self.job.positive_by == "ring" else "dab_od"
                grade = grades(stain[where], self.job.thresholds)
        return MeasuredBatch(
            kind=np.array([self.objects.kind(shape.value) for shape in shapes], np.int64),
            first=shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(polygons), 0)),
            numbers=np.stack(list(numbers.values()), 1),
            names=tuple(numbers),
            centre=found.centroid * store.spacing,
            grade=grade,
            polygons=polygons,
            outlines=self.ending == ".geojson",
        )

    def add(self, batch: MeasuredBatch) -> None:
        """Add objects to the sums, and keep their places."""
        area = batch.numbers[:, 0]
        for kind in np.unique(batch.kind).tolist():
            own = batch.kind == kind
            self.sums[kind].add(area[own], batch.grade[own])
        if self.regions is not None:
            self.regions.add(batch, area)
        self._places.append(batch.centre)
        self._kinds.append(batch.kind.astype(np.uint8))
        self._grades.append(batch.grade.astype(np.uint8))

    # --------------------------------------------------------------------------------------------------------- writing

    def write(self, spool: Spool, tables: dict[str, TableWriter]) -> None:
        """Write the tables."""
        places = np.concatenate(self._places) if self._places else np.zeros((0, 2))
        near = neighbours(places, self.job.neighbours) if self.job.neighbours else None
        done = 0
        for batch in spool:
            part = slice(done, done + len(batch.kind))
            done = part.stop
            looks = [self.objects.looks[kind] for kind in batch.kind.tolist()]
            name = self.store.path.name
            columns: dict[str, Any] = {
                "id": [object_id(name, look, *at) for look, at in zip(looks, batch.first.tolist(), strict=True)],
                "class": [look.name for look in looks],
                **dict(zip(batch.names, batch.numbers.T, strict=True)),
            }
            if self.graded:
                columns["positive"] = batch.grade
            if near is not None:
                columns |= {"neighbours": near.count[part], f"nearest_{self.unit[:2]}": near.nearest[part]}
            if batch.outlines:
                columns["feature"] = [
                    feature(LabelShape(0, polygon), look, name, self.store.pixel, self.store.extent)
                    for polygon, look in zip(batch.polygons, looks, strict=True)
                ]
            tables["objects"].write(columns)
        if not done and self.ending != ".geojson":
            tables["objects"].write({name: [] for name in object_columns(self.store)})
        if isinstance(tables["objects"], GeoJsonTable):
            tables["objects"].add(ignored_feature(w, self.store.pixel) for w in self.objects.lost_in(self.window))
        tables["classes"].write(_as_columns([*self.rows(), *self._damaged_row()]))
        if self.regions is not None:
            looks_by_value = {value: look.name for value, look in self.objects.looks.items()}
            tables["regions"].write(_as_columns(self.regions.rows(looks_by_value, self.unit, self.graded)))
        if self.job.density is not None:
            tables["hotspots"].write(_as_columns(self.hotspot_rows))

    def rows(self) -> list[dict[str, Any]]:
        """The table of classes."""
        tissue = None if self.tissue is None else tissue_area(self.tissue, self.store, window_box(self.window))
        return [
            {
                "class": look.name,
                f"area_{self.unit}": self.sums[value].area,
                "share": self.sums[value].area / self.total if self.total else 0.0,
                "objects": self.sums[value].objects,
                **class_numbers(value, self.sums[value], self.total, tissue, self.store.mpp is not None, self.graded),
            }
            for value, look in self.objects.looks.items()
        ]

    def _damaged_row(self) -> list[dict[str, Any]]:
        return [{"class": DAMAGED, f"area_{self.unit}": self.lost * self.pixel}] if self.lost else []

    def values(self) -> dict[str, Any]:
        """The values of the result."""
        found: dict[str, Any] = {
            "classes": self.rows(),
            f"area_{self.unit}": self.total,
            "objects": sum(sums.objects for sums in self.sums.values()),
        }
        if self.job.density is not None:
            found["hotspots"] = self.hotspot_rows
            sizes = zip(self.store.pixel, self.store.spacing, strict=True)
            found["density_pixel"] = [self._density_side * pixel / size for pixel, size in sizes]
        if self.lost:
            places = [[w.y, w.x, w.height, w.width] for w in self.objects.lost_in(self.window)]
            found |= {f"damaged_{self.unit}": self.lost * self.pixel, "damaged": places}
        return found

    # ------------------------------------------------------------------------------------------------------- densities

    def _counted(self) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """The places of the objects that count for the density of each class, in µm."""
        empty = np.zeros(0, np.uint8)
        places = np.concatenate([np.zeros((0, 2)), *self._places])
        kinds, grade = np.concatenate([empty, *self._kinds]), np.concatenate([empty, *self._grades])
        for value, look in self.objects.looks.items():
            yield look.name, places[(kinds == value) & ((grade > 0) | (not self.graded))]

    @property
    def _extent(self) -> tuple[float, float]:
        height, width = (n * size for n, size in zip(self.store.shape, self.store.spacing, strict=True))
        return height, width

    @cached_property
    def hotspot_rows(self) -> list[dict[str, Any]]:
        """The table of hotspots."""
        assert self.job.density is not None
        unit, square = ("px", 1.0) if self.store.mpp is None else ("um", SQUARE_MILLIMETRE)
        scale = [pixel / size for pixel, size in zip(self.store.pixel, self.store.spacing, strict=True)]
        return [
            {
                "class": name,
                f"centre_y_{unit}": spot.y,
                f"centre_x_{unit}": spot.x,
                "centre_y_px": spot.y * scale[0],
                "centre_x_px": spot.x * scale[1],
                f"diameter_{unit}": self.job.density,
                "objects": spot.objects,
                "per_mm2" if square > 1 else "per_px2": spot.density * square,
            }
            for name, places in self._counted()
            for spot in hotspots(places, self._extent, self.job.density, self.job.hotspots)
        ]

    def write_density(self, file: Path) -> None:
        """Write the density map: a channel for each class, objects per mm² (per pixel² where there are no µm)."""
        import tifffile

        assert self.job.density is not None
        square = 1.0 if self.store.mpp is None else SQUARE_MILLIMETRE
        named = [(name, density_map(p, self._extent, self.job.density)) for name, p in self._counted()]
        self._density_side = named[0][1].spacing if named else self.job.density
        metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": [name for name, _ in named]}}
        if self.store.mpp is not None and named:
            metadata |= {"PhysicalSizeX": self._density_side, "PhysicalSizeY": self._density_side}
            metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
        values = np.stack([dense.values * np.float32(square) for _, dense in named])
        tifffile.imwrite(file, values, ome=True, compression="adobe_deflate", metadata=metadata)


def _as_columns(rows: list[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
