"""The whole way in a real window, by mouse and keyboard: from opening a slide to exporting the corrected labels."""

import json

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QFileDialog
from widgets.dock.making import LONG, MODEL, make_slide, settle, truth
from widgets.mouse import canvas, drag, look_at

from napari_msunet.labels import open_labels
from napari_msunet.widgets.state import changed

pytestmark = pytest.mark.slow

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def dock(make_napari_viewer):
    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1280, 800)
    made = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(made, name="Multi-scale U-Net", area="right")
    yield made
    made.shut_down()


def click(qtbot, button) -> None:
    """Click a button that a person could click now."""
    settle()
    assert button.isVisible(), button.text()
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, LEFT)


def strokes(dock, layer, value: int, qtbot) -> None:
    """Paint strokes of a class over blobs, or of background between them, where the truth says so."""
    canvas(dock.viewer).setFocus()
    qtbot.keyClick(canvas(dock.viewer), Qt.Key.Key_1 if value == 1 else Qt.Key.Key_0)
    assert layer.selected_label == (1 if value == 1 else 255)
    layer.brush_size = 12
    inside = truth() == (value == 1)
    for y in range(24, 430, 45):
        columns = np.flatnonzero(inside[y, 20:430]) + 20
        if len(columns):
            runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
            longest = max(runs, key=len)
            places = [
                layer.data_to_world((y, x)) for x in (longest[0] + 6, longest[len(longest) // 2], longest[-1] - 6)
            ]
            drag(dock.viewer, places)


@pytest.mark.slow
def test_from_a_slide_to_exported_labels(dock, qtbot, tmp_path, monkeypatch):
    slide = make_slide(tmp_path)
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *a, **k: ([str(slide)], ""))
    click(qtbot, dock.steps["slide"].choose)
    qtbot.waitUntil(lambda: dock.state.active is not None)
    layer = dock.layers.slide(dock.state.active)
    assert layer.multiscale or layer.data.shape[:2] == (448, 448)

    click(qtbot, dock.go)  # Annotate
    click(qtbot, dock.steps["annotate"].start)
    painted = dock.layers.annotation(dock.state.active)
    look_at(dock.viewer, painted.data_to_world((224, 224)), 2.2)
    strokes(dock, painted, 1, qtbot)
    strokes(dock, painted, 255, qtbot)
    qtbot.waitUntil(lambda: dock.state.count(1) > 300 and dock.state.count(255) > 300, timeout=5000)
    values = np.asarray(painted.store.levels[0])
    assert (values == 1)[truth()].sum() > (values == 1)[~truth()].sum()

    qtbot.waitUntil(lambda: dock.go.isVisible() and "Train" in dock.go.text(), timeout=5000)
    click(qtbot, dock.go)  # Train: the model would be chosen from the slide, were that not too large for a test
    dock.set_model(MODEL.model_copy(update={"classes": dock.state.classes}))
    options = {"size": 64, "batch_size": 4, "epochs": 12, "steps": 12}
    dock.state.set_train_options(changed(dock.state.train_options, **options))
    click(qtbot, dock.steps["train"].start)
    qtbot.waitUntil(lambda: not dock.state.running and dock.state.model_path is not None, timeout=LONG)

    qtbot.waitUntil(lambda: dock.go.isVisible() and "Predict" in dock.go.text(), timeout=5000)
    click(qtbot, dock.go)
    click(qtbot, dock.steps["predict"].slide)
    qtbot.waitUntil(lambda: bool(dock.state.predicted), timeout=LONG)
    store = open_labels(dock.state.active.labels)
    machine = store.levels[0].compute()
    found = machine > 0
    expected = truth()[1::2, 1::2][: found.shape[0], : found.shape[1]]
    dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert dice > 0.7, f"a network of a dozen epochs finds the blobs: Dice {dice:.2f}"

    click(qtbot, dock.go)  # Correct
    click(qtbot, dock.steps["correct"].brush)
    labels = dock.viewer.layers.selection.active
    assert labels.store is store
    canvas(dock.viewer).setFocus()
    qtbot.keyClick(canvas(dock.viewer), Qt.Key.Key_1)
    labels.brush_size = 20
    drag(dock.viewer, [labels.data_to_world(p) for p in ((100, 60), (100, 110), (100, 160))])
    corrected = store.levels[0].compute()
    assert (corrected[100, 60:160] == 1).all()
    assert store.edited[100, 60:160].compute().all()
    click(qtbot, dock.steps["correct"].undo)
    qtbot.waitUntil(lambda: (store.levels[0].compute() == machine).all(), timeout=5000)
    click(qtbot, dock.steps["correct"].redo)
    qtbot.waitUntil(lambda: (store.levels[0].compute() == corrected).all(), timeout=5000)

    qtbot.waitUntil(lambda: dock.go.isVisible() and "Export" in dock.go.text(), timeout=5000)
    click(qtbot, dock.go)
    target = tmp_path / "blobs.geojson"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    click(qtbot, dock.steps["export"].write)
    qtbot.waitUntil(target.is_file, timeout=LONG)
    features = json.loads(target.read_text())["features"]
    assert features
    assert {f["properties"]["classification"]["name"] for f in features} == set(dock.state.classes)
    qtbot.waitUntil(lambda: not dock.state.running, timeout=5000)
    qtbot.waitUntil(lambda: dock.advice.text().startswith("Done"), timeout=5000)

    click(qtbot, dock.sections["export"].copy)
    assert "ms.export" in QApplication.clipboard().text() or "run(" in QApplication.clipboard().text()
