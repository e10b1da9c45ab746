"""The measuring job: CSV files and the class table."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import label, regionprops

from napari_msunet.annotation import measure_events
from napari_msunet.config import MeasureJob
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.events import Progress, Result
from napari_msunet.labels import LabelStore
from napari_msunet.slide import slide_from_array

from .conftest import blobs

Make = Callable[..., LabelStore]


def measured(job: MeasureJob) -> Result:
    *others, result = measure_events(job)
    assert isinstance(others[-1], Progress)
    assert others[-1].done == others[-1].total
    assert isinstance(result, Result)
    return result


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_every_object_and_class(make_store: Make, tmp_path: Path):
    values = blobs((300, 410))
    slide = slide_from_array(np.zeros((600, 1640, 3), np.uint8), mpp=0.25)
    store = make_store(values, slide=slide, mpp=(0.5, 1.0))
    assert store.pixel == (2, 4)
    result = measured(MeasureJob(labels=store.path, out=tmp_path / "objects.csv"))

    expected = []
    for props in regionprops(label(values, connectivity=1, background=0)):
        name = store.classes[values[tuple(props.coords[0])] - 1]
        y, x = np.array(props.centroid) + 0.5
        y0, x0, y1, x1 = props.bbox
        expected.append(
            (name, props.area * 0.5, y * 0.5, x * 1.0, y * 2, x * 4, y0 * 2, x0 * 4, (y1 - y0) * 2, (x1 - x0) * 4)
        )
    columns = ["area_um2", *(f"centroid_{a}_{u}" for u in ("um", "px") for a in "yx")]
    columns += ["box_y_px", "box_x_px", "box_height_px", "box_width_px"]
    objects = rows(tmp_path / "objects.csv")
    got = [(row["class"], *(float(row[c]) for c in columns)) for row in objects]
    assert len(got) == len(expected) > 50
    for one, other in zip(sorted(got), sorted(expected), strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1:], other[1:], rtol=1e-8)
    assert len({row["id"] for row in objects}) == len(objects)

    for value, (name, row) in enumerate(zip(store.classes, rows(tmp_path / "objects.classes.csv"), strict=True), 1):
        count = (values == value).sum()
        own = [o for o in objects if o["class"] == name]
        assert row["class"] == name
        assert float(row["area_um2"]) == count * 0.5 == pytest.approx(sum(float(o["area_um2"]) for o in own))
        assert float(row["share"]) == pytest.approx(count / values.size)
        assert int(row["objects"]) == len(own)
        table = result.values["classes"][value - 1]
        assert (table["class"], table["objects"], table["area_um2"]) == (name, len(own), count * 0.5)
    assert result.files == {
        "objects": str(tmp_path / "objects.csv"),
        "classes": str(tmp_path / "objects.classes.csv"),
    }


def test_a_region_measures_what_is_inside(make_store: Make, tmp_path: Path):
    values = np.zeros((50, 60), np.uint8)
    values[10:30, 10:40] = 1
    store = make_store(values, mpp=1.0)
    result = measured(MeasureJob(labels=store.path, out=tmp_path / "o.csv", region=(20, 20, 100, 10)))
    gland, nucleus = result.values["classes"]
    assert gland == {"class": "gland", "area_um2": 100.0, "share": 100 / 300, "objects": 1, "per_mm2": 1e6 / 300}
    assert nucleus == {"class": "nucleus", "area_um2": 0.0, "share": 0.0, "objects": 0, "per_mm2": 0.0}
    (row,) = rows(tmp_path / "o.csv")
    assert (float(row["box_y_px"]), float(row["box_x_px"])) == (20, 20)


def test_annotated_background_is_no_object(make_store: Make, tmp_path: Path):
    values = np.zeros((20, 20), np.uint8)
    values[:10] = 255
    values[12:15, 3:6] = 2
    store = make_store(values, mpp=1.0, kind="annotation")
    result = measured(MeasureJob(labels=store.path, out=tmp_path / "o.csv"))
    assert [(row["class"], row["objects"]) for row in result.values["classes"]] == [("gland", 0), ("nucleus", 1)]


def test_without_micrometres_measures_are_in_pixels_and_say_so(make_store: Make, tmp_path: Path):
    values = np.zeros((30, 30), np.uint8)
    values[5:9, 6:16] = 1
    store = make_store(values, "without")
    result = measured(MeasureJob(labels=store.path, out=tmp_path / "o.csv"))
    assert (result.values["area_px2"], result.values["classes"][0]["area_px2"]) == (900, 40)
    (row,) = rows(tmp_path / "o.csv")
    assert not any("um" in name for name in row)
    assert (float(row["area_px2"]), float(row["centroid_y_px"]), float(row["box_width_px"])) == (40, 7, 10)
    assert "area_px2" in (tmp_path / "o.classes.csv").read_text(encoding="utf8")


def test_what_cannot_be_measured_is_said(make_store: Make, tmp_path: Path):
    values = blobs((30, 30))
    store = make_store(values, mpp=1.0)
    with pytest.raises(StoreError, match="outside"):
        list(measure_events(MeasureJob(labels=store.path, out=tmp_path / "o.csv", region=(40, 0, 5, 5))))
    with pytest.raises(OutputError, match=r"\.csv"):
        list(measure_events(MeasureJob(labels=store.path, out=tmp_path / "o.xlsx")))
    with pytest.raises(StoreError, match="no finished instances"):
        list(measure_events(MeasureJob(labels=store.path, out=tmp_path / "o.csv", instances="newest")))
    assert not list(tmp_path.glob("*.csv"))


def test_closing_leaves_nothing(make_store: Make, tmp_path: Path):
    store = make_store(blobs((30, 30)), mpp=1.0)
    events = measure_events(MeasureJob(labels=store.path, out=tmp_path / "new" / "o.csv"))
    next(events)
    assert list((tmp_path / "new").iterdir())
    events.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "new").exists()
