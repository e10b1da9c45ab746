"""A review of a truth as CSV."""

from __future__ import annotations

import csv
import io
from math import isnan
from pathlib import Path

from napari_msunet.errors import OutputError
from napari_msunet.labels.files import output_errors, replace_file
from napari_msunet.labels.store import LabelStore
from napari_msunet.labels.truth.suspects import ConfusionMatrix, TruthPlace, TruthReview, area_unit

COLUMNS = (
    "rank", "truth", "model", "loss", "confidence", "area_{}", "pixels",
    "y", "x", "height", "width", "first_y", "first_x", "centre_y_um", "centre_x_um",
)  # fmt: skip
"""`y, x, height, width` and the first pixel are level-0 pixels of the slide; areas µm², or such pixels where that is
unknown."""


def write_suspects(review: TruthReview, path: str | Path, truth: LabelStore) -> Path:
    """Write the suspects as CSV, a row for each, the likeliest error first.

    Parameters
    ----------
    review : TruthReview
    path : path
        Ends in .csv; replaced if it is there.
    truth : LabelStore
        The truth that was reviewed.

    Raises
    ------
    OutputError
        If the name does not end in .csv, or the disk refuses.
    """
    rows: list[list[object]] = [[name.format(area_unit(truth)) for name in COLUMNS]]
    rows += [[rank, *_row(place, truth)] for rank, place in enumerate(review.suspects, 1)]
    return _save(path, rows)


def write_confusion(confusion: ConfusionMatrix, path: str | Path) -> Path:
    """Write a confusion matrix as CSV: a row for each pair of classes; errors as `write_suspects`."""
    rows: list[list[object]] = [["truth", "model", "pixels", f"area_{confusion.unit}", "share_of_truth", "places"]]
    shares = confusion.shares
    for row, true in enumerate(confusion.names):
        for column, said in enumerate(confusion.names):
            count = int(confusion.pixels[row, column])
            area, share = f"{count * confusion.pixel_area:.10g}", f"{shares[row, column]:.6g}"
            rows.append([true, said, count, area, share, len(confusion.places.get((row, column), ()))])
    return _save(path, rows)


def _row(place: TruthPlace, truth: LabelStore) -> list[object]:
    w, pixel, mpp = place.window, truth.pixel, truth.mpp
    slide = (w.y * pixel[0], w.x * pixel[1], w.height * pixel[0], w.width * pixel[1])
    first = (place.first[0] * pixel[0], place.first[1] * pixel[1])
    middle = (w.y + w.height / 2, w.x + w.width / 2)
    centre = ("", "") if mpp is None else tuple(f"{c * m:.10g}" for c, m in zip(middle, mpp, strict=True))
    sure = "" if isnan(place.confidence) else f"{place.confidence:.4f}"
    area = f"{place.area:.10g}"
    numbers = [f"{v:.10g}" for v in (*slide, *first)]
    return [place.truth, place.model, f"{place.loss:.4f}", sure, area, place.pixels, *numbers, *centre]


def _save(path: str | Path, rows: list[list[object]]) -> Path:
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise OutputError(f"{path} does not end in .csv; the review is written as CSV, so choose such a name.")
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.getvalue().encode())
    return path
