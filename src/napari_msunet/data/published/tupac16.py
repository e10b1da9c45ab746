"""TUPAC16: mitotic figures in breast cancer, as points (Veta et al. 2019).

``mitoses_image_data/01/01.tif`` and ``mitoses_ground_truth/01/01.csv`` with a row and a column for each figure; an
image without a table has none. 0.25 µm/px; a case is a group. What lies within `PublishedSource.radius` of a point is
mitosis.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from napari_msunet.config import PublishedSource
from napari_msunet.data.published.entry import Contents, Entry, Pixels, files_in, opened, place_of
from napari_msunet.errors import SourceError
from napari_msunet.slide import open_slide

CLASSES = {1: "mitosis"}
MPP = 0.25


def found(folder: Path) -> bool:
    """Whether there are tables of points in folders called after mitoses."""
    return any("mitos" in p.relative_to(folder).parts[0].lower() for p in folder.glob("*/*/*.csv"))


def contents(folder: Path, source: PublishedSource) -> Contents:
    """All images of cases; those without a table of points have no mitosis."""
    tables = {(p.parent.name, p.stem): p for p in files_in(folder, ".csv")}
    entries = []
    for image in files_in(folder, ".tif", ".tiff", ".png"):
        case = image.parent.name
        mpp = source.mpp or MPP
        across = 1.0 if mpp == "px" else mpp if isinstance(mpp, float | int) else mpp[0]
        entries.append(
            Entry(
                name=f"{case}_{image.stem}",
                place=place_of(image, folder),
                open=opened(image),
                mask=partial(_mask, image, tables.get((case, image.stem)), source.radius / across),
                mpp=MPP,
                group=f"case {case}",
                path=image,
            )
        )
    return Contents(CLASSES, entries)


def _mask(image: Path, table: Path | None, radius: float) -> Pixels:
    """Discs about the points of a table."""
    with open_slide(image) as slide:
        values = np.zeros(slide.shape[:2], np.uint8)
    for y, x in _points(table) if table is not None else []:
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        part = values[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
        part[(rows + top - y) ** 2 + (columns + left - x) ** 2 <= radius**2] = 1
    return values


def _points(table: Path) -> list[tuple[float, float]]:
    """Row and column of each point."""
    try:
        lines = [line.split(",") for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return [(float(line[0]), float(line[1])) for line in lines]
    except (OSError, ValueError, IndexError) as error:
        raise SourceError(f"{table} must have a row and a column on each line ({error}); unpack it again.") from error
