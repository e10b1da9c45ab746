"""The Export step: files by mouse, what they hold, and where they are."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from qtpy.QtWidgets import QFileDialog
from widgets.dock.making import LONG, click, idle, settle

from napari_msunet.geometry import Window

pytestmark = pytest.mark.slow


@pytest.fixture
def step(ready, qtbot):
    """Predicted, the Export step open."""
    ready.predict("slide")
    idle(qtbot, ready)
    ready.show_step("export")
    settle()
    return ready.steps["export"]


@pytest.fixture
def chosen(monkeypatch):
    """What the file dialog gives; it cannot be driven by mouse without a window manager."""
    answer = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(answer[0]) if answer else "", ""))
    return answer


def export(step, qtbot, chosen, path, button=None):
    chosen[:] = [path]
    ending = "." + path.name.split(".", 1)[1]
    if button is None:
        step.format.setCurrentIndex(step.format.findData(ending))
    click(qtbot, button or step.write)
    qtbot.waitUntil(lambda: step.last == path, timeout=LONG)
    settle()


def test_every_format_by_mouse(ready, step, qtbot, chosen, tmp_path, messages):
    store = ready.layers.of_store(ready.state.active.labels).store
    store.write(Window(10, 10, 30, 30), 1)  # not yet in the chunks: must be in the files all the same
    labels = store.read(Window(0, 0, *store.shape))
    export(step, qtbot, chosen, tmp_path / "l.geojson")
    features = json.loads((tmp_path / "l.geojson").read_text())["features"]
    assert features
    assert f"{len(features):,} objects" in step.written.text()
    assert str(tmp_path) in step.written.text()
    export(step, qtbot, chosen, tmp_path / "l.ome.tif")
    export(step, qtbot, chosen, tmp_path / "l.ome.zarr")
    import tifffile
    import zarr

    np.testing.assert_array_equal(tifffile.imread(tmp_path / "l.ome.tif"), labels)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "l.ome.zarr", mode="r")["0"][:], labels)
    export(step, qtbot, chosen, tmp_path / "l.png")
    # the same numbers in the dock, by one click
    box = step.numbers
    click(qtbot, box.measure)
    qtbot.waitUntil(lambda: box.measuring.measured and box.tissue is not None, timeout=LONG)
    settle()
    mpp = store.mpp[0] * store.mpp[1]
    assert float(box.table.item(0, 1).text()) == pytest.approx((labels == 1).sum() * mpp / 1e6, rel=1e-3)
    assert int(box.table.item(0, 3).text().replace(",", "")) == len(features)
    assert 0 < float(box.table.item(0, 2).text().split()[0]) <= 100
    assert box.histogram.curves
    box.smallest.setValue(float(np.median(box.measuring.table.area)) + 0.01)
    assert 0 < int(box.table.item(0, 3).text().replace(",", "")) < len(features)
    store_layer = ready.layers.of_store(ready.state.active.labels)
    store_layer.paint((5, 5), 1)
    click(qtbot, box.objects)
    assert ready.steps["review"].panel.isVisible()
    store_layer.undo()
    seen = np.asarray(Image.open(tmp_path / "l.png"))
    assert 0 < seen.size <= labels.size
    export(step, qtbot, chosen, tmp_path / "l.csv", step.measure_button)
    with (tmp_path / "l.csv").open() as file:
        assert len(list(csv.DictReader(line for line in file if line[0] != "#"))) == len(features)
    export(step, qtbot, chosen, tmp_path / "m.safetensors", step.model_button)
    assert (tmp_path / "m.safetensors").read_bytes() == ready.state.model_path.read_bytes()
    assert tmp_path / "l.geojson" in ready.state.exported
    assert not [m for m in messages if m.severity.value == "error"]


def test_choosing_nothing_does_nothing(step, qtbot, chosen):
    click(qtbot, step.write)
    assert step.last is None
    assert not step.state.running


def test_a_place_that_cannot_be_written_is_told(ready, step, qtbot, chosen, tmp_path, messages):
    (tmp_path / "file").write_text("")
    chosen[:] = [tmp_path / "file" / "l.geojson"]
    step.format.setCurrentIndex(0)
    click(qtbot, step.write)
    qtbot.waitUntil(lambda: any("is a file, not a folder" in m.message for m in messages), timeout=LONG)
    settle()
    assert step.write.isEnabled()


def test_copy_as_python_repeats_it(ready, step, qtbot, chosen, tmp_path):
    export(step, qtbot, chosen, tmp_path / "l.geojson")
    first = (tmp_path / "l.geojson").read_bytes()
    (tmp_path / "l.geojson").unlink()
    exec(ready.as_python("export").replace("on_event=print", "on_event=None"), {})
    assert (tmp_path / "l.geojson").read_bytes() == first


def test_what_is_damaged_is_left_out_only_when_told_to(ready, step, qtbot, chosen, tmp_path, messages):
    labels = ready.state.active.labels
    ready.layers.of_store(labels).store.flush()
    chunk = next(labels.glob("0/c/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:-20])
    chosen[:] = [tmp_path / "l.csv"]
    click(qtbot, step.measure_button)
    qtbot.waitUntil(step.box.without.isVisible, timeout=LONG)
    assert not (tmp_path / "l.csv").exists()
    assert 'the button "Go on without what is damaged"' in step.box.status.text()
    assert "damaged" in messages[-1].message
    click(qtbot, step.box.without)
    qtbot.waitUntil(lambda: step.last == tmp_path / "l.csv", timeout=LONG)
    settle()
    assert not step.box.without.isVisible()


def test_positive_cells_follow_the_sliders(ready, step, qtbot, chosen, tmp_path, messages):
    step.measured.button.setChecked(True)
    step.options.setValue(step.options.value().model_copy(update={"thresholds": (0.01, 0.4, 0.6)}))
    step.options.editors["stain"].setValue("haematoxylin-dab")
    step.options.editors["density"].setValue(200.0)
    assert ready.state.measure_options.stain == "haematoxylin-dab"
    export(step, qtbot, chosen, tmp_path / "cells.csv", step.measure_button)
    box = step.positive
    qtbot.waitUntil(box.isVisible, timeout=LONG)
    settle()
    with (tmp_path / "cells.csv").open() as file:
        found = [float(row["dab_od"]) for row in csv.DictReader(line for line in file if line[0] != "#")]
    assert len(box.density) == len(found)
    for value in (0.02, 0.05, 0.3):
        box.sliders[0].setValue(round(value * 100))
        assert box.thresholds[0] == pytest.approx(value)
        assert box.thresholds[0] <= box.thresholds[1] <= box.thresholds[2]
        count = sum(density >= value for density in found)
        assert box.table.item(0, 1).text().startswith(f"{count:,} (")
    box.show_points.setChecked(True)
    assert len(ready.viewer.layers["positive cells"].data) == len(found)
    qtbot.waitUntil(lambda: ready.state.measure_options.thresholds == box.thresholds, timeout=LONG)
    assert 'stain="haematoxylin-dab"' in ready.as_python("export")
    click(qtbot, step.density_button)
    qtbot.waitUntil(lambda: "hotspots" in ready.viewer.layers, timeout=LONG)
    assert any(layer.name.startswith("density of") for layer in ready.viewer.layers)
    box.show_points.setChecked(False)
    assert "positive cells" not in ready.viewer.layers
    assert not [m for m in messages if m.severity.value == "error"]
