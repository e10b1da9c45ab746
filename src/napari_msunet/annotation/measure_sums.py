"""Sums of each class: in all that is measured, and in outlines, by exact areas and by the objects' centroids."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import shapely

from napari_msunet.annotation.formats import read_shape_file
from napari_msunet.annotation.measure_spool import MeasuredBatch
from napari_msunet.config import InClasses
from napari_msunet.errors import ShapeFileError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.area import where_mask
from napari_msunet.labels.levels import tiles
from napari_msunet.names import printable
from napari_msunet.objects.stain import HIGH_POSITIVE, h_score
from napari_msunet.slide import Slide
from napari_msunet.slide.placed import PlacedMask

SQUARE_MILLIMETRE = 1e6
_TILE = 4096


@dataclass
class ClassSums:
    """The sums of a class, in the whole or in a region.

    Attributes
    ----------
    area : float
        µm² (pixels² of the slide where its µm are not known).
    grades : list of int
        Objects that are negative, weakly, moderately and strongly positive; all are negative without DAB.
    """

    area: float = 0.0
    grades: list[int] = field(default_factory=lambda: [0] * (HIGH_POSITIVE + 1))

    @property
    def objects(self) -> int:
        """Number of objects."""
        return sum(self.grades)

    def add(self, area: npt.NDArray[Any], grade: npt.NDArray[np.int64]) -> None:
        """Add areas, and objects by their grade."""
        self.area += float(np.sum(area))
        counts = np.bincount(grade, minlength=HIGH_POSITIVE + 1)
        self.grades = [a + int(b) for a, b in zip(self.grades, counts, strict=True)]


def class_numbers(
    value: int, sums: ClassSums, area: float, tissue: TissueArea | None, known: bool, graded: bool
) -> dict[str, Any]:
    """Densities, shares of tissue, and positive objects, of a class in an area.

    Parameters
    ----------
    value : int
        Its label.
    sums : ClassSums
    area : float
        µm².
    tissue : TissueArea, optional
        What of the class lies on it counts for its share, which is at most 1.
    known : bool
        Whether the size in µm is known.
    graded : bool
        Whether positive objects are counted.
    """
    row: dict[str, Any] = {}
    if known:
        row["per_mm2"] = sums.objects * SQUARE_MILLIMETRE / area if area else None
    if tissue is not None:
        row["share_of_tissue"] = tissue.by_value.get(value, 0.0) / tissue.total if tissue.total else None
        if known:
            row["per_mm2_of_tissue"] = sums.objects * SQUARE_MILLIMETRE / tissue.total if tissue.total else None
    if graded:
        positive = sum(sums.grades[1:])
        row |= {"negative": sums.grades[0], "weak": sums.grades[1], "moderate": sums.grades[2]}
        row |= {"strong": sums.grades[3], "positive": positive}
        row["positive_share"] = positive / sums.objects if sums.objects else None
        row["h_score"] = h_score(sums.grades)
    return row


@dataclass(frozen=True)
class NamedRegion:
    """An outline: its name, and its polygon ``x, y`` in pixels of the store."""

    name: str
    polygon: Any


def read_regions(path: Path, store: LabelStore) -> list[NamedRegion]:
    """The areas in a file of outlines, which are in level-0 pixels of the slide, holes cut out.

    Raises
    ------
    ShapeFileError
        If the file cannot be read, or has no area in it.
    """
    found = [shape for shape in read_shape_file(path, store.info.slide).shapes if shape.areal]
    holes = [shape for shape in found if shape.hole]
    regions = []
    for shape in found:
        if shape.hole:
            continue
        geometry = shape.geometry
        for hole in holes:
            if hole.layer == shape.layer:
                geometry = shapely.difference(geometry, hole.geometry)
        scaled = shapely.transform(geometry, lambda xy: xy / np.array([store.pixel[1], store.pixel[0]]))
        regions.append(NamedRegion(shape.name or f"outline {shape.number}", scaled))
    if not regions:
        raise ShapeFileError(f"{printable(path)} has no outline of an area; give a file with polygons.")
    return regions


def window_box(window: Window) -> Any:
    """A window as a polygon ``x, y``."""
    return shapely.box(window.x, window.y, window.stop[1], window.stop[0])


def slide_tissue(slide: Slide, corrected: Path | None) -> PlacedMask:
    """The tissue of a slide: as it was corrected in a label store, else as it is found."""
    where: Any = "tissue" if corrected is None else InClasses(labels=corrected)
    return cast("PlacedMask", where_mask(slide, where))


@dataclass(frozen=True)
class TissueArea:
    """The tissue of an area, in the unit of the store's areas.

    Attributes
    ----------
    total : float
    by_value : dict of float
        How much of it has each label.
    """

    total: float
    by_value: dict[int, float]


def tissue_area(tissue: PlacedMask, store: LabelStore, polygon: Any) -> TissueArea:
    """The tissue in a polygon ``x, y`` (pixels of the store), and the labels on it.

    The pixels of the tissue mask count whose centre lies inside; they are some 8 µm large. Each has the label at its
    centre, in the coarsest level of the labels that is no coarser than the mask.
    """
    grid = tissue.grid
    step = np.array(grid.pixel) / store.pixel  # pixels of the store along one of the mask
    level = int(np.clip(np.floor(np.log2(max(1.0, step.min()))), 0, len(store.levels) - 1))
    x0, y0, x1, y1 = polygon.bounds
    first = np.maximum(np.floor([y0, x0] / step).astype(int), 0)
    last = np.minimum(np.ceil([y1, x1] / step).astype(int), grid.shape)
    total, by_value = 0, np.zeros(256, np.int64)
    for tile in tiles(Window.between(tuple(first.tolist()), tuple(last.tolist())), _TILE):
        rows, columns = np.nonzero(tissue.read(tile))
        y, x = (rows + tile.y + 0.5) * step[0], (columns + tile.x + 0.5) * step[1]
        inside = shapely.contains_xy(polygon, x, y)
        total += int(inside.sum())
        if inside.any():
            by_value += np.bincount(_labels_at(store.levels[level], y[inside], x[inside], 2**level), minlength=256)
    pixel = float(prod(step)) * prod(store.spacing)
    return TissueArea(
        total * pixel, {value: int(by_value[value]) * pixel for value in np.flatnonzero(by_value).tolist()}
    )


def _labels_at(values: Any, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], factor: int) -> npt.NDArray[Any]:
    """The labels at places (level-0 pixels of the store) of a level that is coarser by a factor."""
    at = [np.clip(v // factor, 0, n - 1).astype(int) for v, n in zip((y, x), values.shape, strict=True)]
    low = [int(v.min()) for v in at]
    part = np.asarray(values[low[0] : int(at[0].max()) + 1, low[1] : int(at[1].max()) + 1])
    found: npt.NDArray[Any] = part[at[0] - low[0], at[1] - low[1]]
    return found


class RegionTable:
    """Sums of each class in each region.

    Parameters
    ----------
    regions : list of NamedRegion
    store : LabelStore
    window : Window
        What is measured; only the parts of regions in it count.
    tissue : PlacedMask, optional
    """

    def __init__(
        self, regions: list[NamedRegion], store: LabelStore, window: Window, tissue: PlacedMask | None
    ) -> None:
        box = window_box(window)
        cut = [NamedRegion(r.name, shapely.intersection(shapely.make_valid(r.polygon), box)) for r in regions]
        self.regions = [region for region in cut if region.polygon.area]
        self.outside = len(cut) - len(self.regions)
        self._store, self._known, self._pixel = store, store.mpp is not None, prod(store.spacing)
        self._tissue = [None if tissue is None else tissue_area(tissue, store, r.polygon) for r in self.regions]
        self._sums: dict[tuple[int, int], Any] = {}
        for region in self.regions:
            shapely.prepare(region.polygon)

    def add(self, batch: MeasuredBatch, area: npt.NDArray[np.float64]) -> None:
        """Add objects; those that cross an outline count with the part of their area that is inside."""
        centres = batch.centre / np.array(self._store.spacing)
        for number, region in enumerate(self.regions):
            near = np.flatnonzero(shapely.intersects(region.polygon, batch.polygons))
            if not len(near):
                continue
            inside = area[near].copy()
            crossing = np.flatnonzero(~shapely.contains_properly(region.polygon, batch.polygons[near]))
            parts = shapely.intersection(region.polygon, batch.polygons[near[crossing]])
            inside[crossing] = shapely.area(parts) * self._pixel
            here = shapely.contains_xy(region.polygon, centres[near, 1], centres[near, 0])
            for kind in np.unique(batch.kind[near]).tolist():
                own = batch.kind[near] == kind
                sums = self._sums.setdefault((number, kind), ClassSums())
                sums.add(inside[own], batch.grade[near[own & here]])

    def rows(self, names: dict[int, str], unit: str, graded: bool) -> list[dict[str, Any]]:
        """The table: a row for each region and class."""
        rows = []
        for number, region in enumerate(self.regions):
            area = float(region.polygon.area) * self._pixel
            for value, name in names.items():
                sums = self._sums.get((number, value), ClassSums())
                row = {"region": number + 1, "name": region.name, f"region_area_{unit}": area, "class": name}
                row |= {f"area_{unit}": sums.area, "share": sums.area / area, "objects": sums.objects}
                rows.append(row | class_numbers(value, sums, area, self._tissue[number], self._known, graded))
        return rows
