"""The Correct step: brush, classes, undo, counts, retraining."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from widgets.dock.making import LONG, click, idle, settle

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.widgets.state import one_scale


@pytest.fixture
def step(ready, qtbot):
    """Predicted, the Correct step open."""
    ready.predict("slide")
    idle(qtbot, ready)
    ready.show_step("correct")
    settle()
    return ready.steps["correct"]


def test_correcting_by_mouse(ready, step, qtbot, viewer):
    click(qtbot, step.brush)
    layer = viewer.layers.selection.active
    assert layer is ready.layers.of_store(ready.state.active.labels)
    assert layer.mode == "paint"
    before = layer.store.read(Window(0, 0, *layer.store.shape))
    wanted = 1 - int(before[175, 175])
    click(qtbot, step.buttons[wanted])
    assert layer.selected_label == wanted
    assert step.buttons[wanted].isChecked()
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    qtbot.waitUntil(lambda: bool(step.pixels), timeout=5000)
    edited = int(layer.store.read_edited(Window(0, 0, *layer.store.shape)).sum())
    assert step.pixels == edited > 0
    settle()
    assert f"{edited:,} pixels are corrected, 1 stroke" in step.count.text()
    click(qtbot, step.undo)
    qtbot.waitUntil(lambda: step.pixels == 0, timeout=5000)
    np.testing.assert_array_equal(layer.store.read(Window(0, 0, *layer.store.shape)), before)
    click(qtbot, step.redo)
    qtbot.waitUntil(lambda: step.pixels == edited, timeout=5000)


def test_keys_choose_classes(ready, step, qtbot, viewer):
    layer = step.start()
    canvas = viewer.window._qt_viewer.canvas.native
    for key, label in ((Qt.Key.Key_1, 1), (Qt.Key.Key_0, 0), (Qt.Key.Key_7, 0)):  # there is no class 7
        qtbot.keyClick(canvas, key)
        settle(0.05)
        assert layer.selected_label == label


def test_retraining_learns_from_edited_pixels_only(ready, step, qtbot):
    with pytest.raises(MsunetError, match="Nothing is corrected"):
        step.train_on_corrections()
    layer = step.start()
    layer.store.write(Window(20, 20, 120, 120), 0)
    layer.store.write(Window(160, 160, 120, 120), 1)
    layer.events.stroke(region=None, number=1)
    qtbot.waitUntil(lambda: step.pixels == 2 * 120 * 120, timeout=5000)
    settle()
    options = ready.state.train_options
    small = {"size": 64, "batch_size": 2, "epochs": 1, "steps": 2}
    ready.state.set_train_options(type(options).model_validate({**dict(options), **small}))
    ready.set_model(one_scale(("blob",), 1.0))
    ready.state.set_classes(("blob",))
    click(qtbot, step.retrain)
    job = ready.steps["train"].box.job
    (source,) = [s for s in job.sources if getattr(s, "edited_only", False)]
    assert source.labels == ready.state.active.labels
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    assert ready.state.model_path == job.out / "model.safetensors"


def test_without_labels_it_says_what_is_missing(ready):
    ready.show_step("correct")
    settle()
    step = ready.steps["correct"]
    assert "Predict first" in step.needed.text()
    assert not step.brush.isEnabled()
    with pytest.raises(MsunetError, match="Predict first"):
        step.start()
