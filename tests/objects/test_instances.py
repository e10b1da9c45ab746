"""Instances measured and exported: of a store of numbers, and of a run, with classes as corrected."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from annotation.conftest import blobs

from napari_msunet.annotation import export_events, measure_events
from napari_msunet.config import ExportJob, MeasureJob
from napari_msunet.errors import OutputError, StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects.instances import objects_of

Make = Callable[..., LabelStore]

NUMBERS = np.zeros((60, 80), np.uint32)
NUMBERS[5:15, 5:15] = 1
NUMBERS[5:15, 15:25] = 2  # touches 1
NUMBERS[30:50, 30:60] = 3
NUMBERS[52:56, 2:6] = 4
CLASSES = np.where(NUMBERS == 3, 2, NUMBERS > 0).astype(np.uint8)
WHOLE = Window(0, 0, *CLASSES.shape)


def with_run(store: LabelStore, labels: np.ndarray, description: dict) -> LabelStore:
    """The store, showing a run with instances."""
    run = store.create_run("i", description, store.classes, {"labels": "uint8", "instances": "uint32"})
    with run.writing():
        run.write(WHOLE, {"labels": labels, "instances": NUMBERS})
        run.finish(0, WHOLE)
        run.complete_run()
    store.merge(run)
    return store


@pytest.fixture
def store(make_store: Make) -> LabelStore:
    return with_run(make_store(np.zeros_like(CLASSES), mpp=0.5), CLASSES, {})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def test_instances_of_a_run_with_their_classes(store: LabelStore, tmp_path: Path):
    pieces, each = tmp_path / "pieces.csv", tmp_path / "each.csv"
    list(measure_events(MeasureJob(labels=store.path, out=pieces)))
    assert len(rows(pieces)) == 3
    result = list(measure_events(MeasureJob(labels=store.path, out=each, instances="newest")))[-1]
    found = sorted((row["class"], float(row["area_um2"])) for row in rows(each))
    assert found == [("gland", 4.0), ("gland", 25.0), ("gland", 25.0), ("nucleus", 150.0)]
    assert len({row["id"] for row in rows(each)}) == 4
    assert result.values["objects"] == 4
    list(export_events(ExportJob(labels=store.path, out=tmp_path / "each.geojson", instances="i")))
    features = json.loads((tmp_path / "each.geojson").read_text())["features"]
    assert sorted(f["properties"]["classification"]["name"] for f in features) == ["gland"] * 3 + ["nucleus"]
    assert {f["id"] for f in features} == {row["id"] for row in rows(each)}


def test_a_correction_changes_the_class_and_takes_away(store: LabelStore, tmp_path: Path):
    store.write(Window(5, 5, 10, 8), np.full((10, 8), 2, np.uint8))  # most of 1
    store.write(Window(52, 2, 4, 4), np.zeros((4, 4), np.uint8))  # all of 4
    out = tmp_path / "each.csv"
    list(measure_events(MeasureJob(labels=store.path, out=out, instances="newest")))
    found = sorted((row["class"], float(row["area_um2"])) for row in rows(out))
    assert found == [("gland", 25.0), ("nucleus", 25.0), ("nucleus", 150.0)]


def test_a_boundary_class_does_not_vote(make_store: Make):
    labels = np.where(NUMBERS > 0, 2, 0).astype(np.uint8)
    labels[8:10, 8:10] = 1
    described = {"settings": {"postprocess": {"boundary": "nucleus"}}}
    made = with_run(make_store(np.zeros_like(CLASSES), mpp=0.5), labels, described)
    kind = objects_of(made, "newest", WHOLE).kind
    assert [kind(number) for number in (1, 2)] == [1, 0]


def test_a_store_of_numbers(make_store: Make, tmp_path: Path):
    numbers = blobs((50, 60)).astype(np.uint32) * 70_000
    made = make_store(numbers, "numbers", mpp=1.0, dtype="uint32", classes=("nucleus",))
    result = list(measure_events(MeasureJob(labels=made.path, out=tmp_path / "o.csv")))[-1]
    (row,) = result.values["classes"]
    assert row["class"] == "nucleus"
    assert row["area_um2"] == (numbers > 0).sum()
    list(export_events(ExportJob(labels=made.path, out=tmp_path / "o.geojson")))
    assert len(json.loads((tmp_path / "o.geojson").read_text())["features"]) == row["objects"] > 3
    with pytest.raises(StoreError, match="numbers of objects itself"):
        list(measure_events(MeasureJob(labels=made.path, out=tmp_path / "p.csv", instances="newest")))


def test_instances_as_images(store: LabelStore, tmp_path: Path):
    given = {"labels": store.path, "instances": "newest"}
    list(export_events(ExportJob(out=tmp_path / "i.ome.tif", **given)))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "i.ome.tif"), NUMBERS)
    list(export_events(ExportJob(out=tmp_path / "i.ome.zarr", **given)))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "i.ome.zarr" / "0", mode="r")[:], NUMBERS)
    with pytest.raises(OutputError, match="256 values"):
        list(export_events(ExportJob(out=tmp_path / "i.png", **given)))
