"""The dock in a real napari window, by mouse and keyboard: from a slide to an annotation and a model."""

from __future__ import annotations

import shutil
import sys
from types import ModuleType

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox, QPushButton

import napari_msunet as ms
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.dock import MultiScaleUNet
from napari_msunet.widgets.samples import slide_path
from napari_msunet.widgets.state import PRESETS, STEPS
from napari_msunet.widgets.steps.step import Step
from napari_msunet.widgets.worker_settings import WorkerSettings

LEFT = Qt.MouseButton.LeftButton
NONE = Qt.MouseButton.NoButton


@pytest.fixture
def slide(tmp_path):
    return shutil.copy(slide_path(), tmp_path / "slide.svs")


@pytest.fixture
def dock(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock, name="Multi-scale U-Net", area="right")
    qtbot.waitExposed(dock)
    yield dock
    dock.shut_down()


def canvas(dock):
    return dock.viewer.window._qt_viewer.canvas.native


def drag(qtbot, dock, start, stop):
    """Press, move and release on the canvas; places from its centre."""
    native = canvas(dock)
    middle = native.rect().center()
    places = [middle + QPoint(*p) for p in (start, ((start[0] + stop[0]) // 2, (start[1] + stop[1]) // 2), stop)]
    qtbot.mouseMove(native, places[0])
    qtbot.mousePress(native, LEFT, pos=places[0])
    for place in places[1:]:  # QTest moves the mouse without the button that is held
        at = QPointF(place)
        move = QMouseEvent(
            QEvent.Type.MouseMove, at, QPointF(native.mapToGlobal(place)), NONE, LEFT, Qt.KeyboardModifier.NoModifier
        )
        QApplication.sendEvent(native, move)
        qtbot.wait(40)  # napari joins moves that come at once
    qtbot.mouseRelease(native, LEFT, pos=places[-1])


def annotating(dock, qtbot, slide):
    dock.open_slide(slide)
    dock.show_step("annotate")
    qtbot.mouseClick(dock.steps["annotate"].start, LEFT)
    return dock.layers.annotation(dock.state.active)


def test_it_leads_from_the_slide_to_the_model(dock, qtbot, slide, monkeypatch):
    assert dock.sections["slide"].is_open
    assert dock.advice.text().startswith("Choose a slide")
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *a, **k: ([str(slide)], ""))
    qtbot.mouseClick(dock.steps["slide"].choose, LEFT)
    qtbot.waitUntil(lambda: "Start annotating" in dock.advice.text())
    assert dock.steps["slide"].mpp.value() == pytest.approx(0.499, abs=1e-3)

    qtbot.mouseClick(dock.go, LEFT)
    step = dock.steps["annotate"]
    assert dock.sections["annotate"].is_open
    assert not dock.sections["slide"].is_open
    qtbot.mouseClick(step.start, LEFT)
    layer = dock.layers.annotation(dock.state.active)
    assert dock.viewer.layers.selection.active is layer
    assert layer.mode == "paint"
    assert layer.store.path.parent.parent == slide.with_suffix(".msunet").resolve()

    canvas(dock).setFocus()
    drag(qtbot, dock, (-40, 0), (40, 0))
    qtbot.waitUntil(lambda: dock.state.count(1) > 0)
    qtbot.keyClick(canvas(dock), Qt.Key.Key_0)
    assert layer.selected_label == ANNOTATED_BACKGROUND
    drag(qtbot, dock, (-40, 60), (40, 60))
    qtbot.waitUntil(lambda: dock.state.count(ANNOTATED_BACKGROUND) > 0)
    values = np.asarray(layer.store.levels[0])
    for value in (1, ANNOTATED_BACKGROUND):
        assert dock.state.count(value) == (values == value).sum()
    qtbot.waitUntil(lambda: dock.go.text().startswith("Train"))
    layer.undo()
    qtbot.waitUntil(lambda: dock.state.count(ANNOTATED_BACKGROUND) == 0)
    assert "background has none yet" in resolve.advice(dock.state)


def test_where_jobs_run_is_one_click(dock, qtbot):
    (button,) = [b for b in dock.findChildren(QPushButton) if b.accessibleName() == "Where jobs run"]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    (dialog,) = dock.findChildren(WorkerSettings)
    assert dialog.isVisible()
    dialog.reject()


def test_keys_choose_classes_only_on_the_annotation(dock, qtbot, slide):
    layer = annotating(dock, qtbot, slide)
    step = dock.steps["annotate"]
    qtbot.mouseClick(step.add, LEFT)
    assert dock.state.classes == ("class 1", "class 2")
    canvas(dock).setFocus()
    qtbot.keyClick(canvas(dock), Qt.Key.Key_2)
    assert layer.selected_label == 2
    assert layer.mode == "paint"  # napari's own 1..7 would have changed the tool
    qtbot.keyClick(canvas(dock), Qt.Key.Key_9)
    assert layer.selected_label == 2
    layer.mode = "erase"
    qtbot.keyClick(step.table, Qt.Key.Key_1)  # the table would have searched for a class of this name
    assert (layer.selected_label, layer.mode) == (1, "erase")
    qtbot.keyClick(canvas(dock), Qt.Key.Key_2)
    assert (layer.selected_label, layer.mode) == (2, "erase")
    plain = dock.viewer.add_labels(np.zeros((20, 20), np.uint8))
    qtbot.keyClick(canvas(dock), Qt.Key.Key_1)
    assert plain.mode == "erase"
    assert layer.selected_label == 2


def test_classes_are_named_coloured_and_removed_in_the_table(dock, qtbot, slide, monkeypatch):
    layer = annotating(dock, qtbot, slide)
    step = dock.steps["annotate"]
    step.table.item(0, step.table.NAME).setText("nucleus")
    assert layer.store.classes == ("nucleus",)
    dock.refresh()
    step.add_class("stroma")
    step.set_colour("stroma", (1, 2, 3))
    assert layer.store.colours[1] == (1, 2, 3)
    layer.paint((1500, 1000), 2)
    layer.paint((1600, 1000), 1)
    qtbot.waitUntil(lambda: dock.state.count(1) > 0 and dock.state.count(2) > 0)
    dock.refresh()
    box = step.table.visualItemRect(step.table.item(0, step.table.NAME))
    qtbot.mouseClick(step.table.viewport(), LEFT, pos=box.center())
    assert layer.selected_label == 1
    monkeypatch.setattr(QMessageBox, "question", lambda *a, **k: QMessageBox.StandardButton.Yes)
    qtbot.mouseClick(step.remove, LEFT)
    assert dock.state.classes == ("stroma",)
    assert not (np.asarray(layer.store.levels[0]) == 1).any()
    qtbot.waitUntil(lambda: dock.state.count(1) > 0)  # stroma is the first row now
    with pytest.raises(MsunetError, match="is taken"):
        step.add_class("other") and step.rename_class("other", "stroma")


def test_a_drawn_rectangle_is_fully_annotated(dock, qtbot, slide):
    layer = annotating(dock, qtbot, slide)
    qtbot.mouseClick(dock.steps["annotate"].marking.rectangle, LEFT)
    qtbot.wait(300)  # the view settles beside the new layer's controls
    drag(qtbot, dock, (-60, -60), (60, 40))
    qtbot.waitUntil(lambda: len(layer.store.fully_annotated) == 1)
    corners = layer.store.fully_annotated[0]
    assert np.ptp(corners, axis=0).min() > 50
    qtbot.waitUntil(lambda: dock.viewer.layers.selection.active is layer)
    shapes = dock.steps["annotate"].marking.layer()
    shapes.selected_data = {0}
    shapes.remove_selected()
    qtbot.waitUntil(lambda: layer.store.fully_annotated == [])


def test_presets_and_a_model_file(dock, qtbot, slide, tmp_path):
    dock.open_slide(slide)
    dock.show_step("model")
    step = dock.steps["model"]
    button = step.presets.button(0)
    qtbot.mouseClick(button, LEFT, pos=QPoint(8, button.height() // 2))
    assert PRESETS[0].fits(dock.state.model)
    assert dock.state.model.mpp == pytest.approx(0.499)
    step.form.scales.setValue((1.0, 0.25))
    assert dock.state.model.scales == (1.0, 0.25)
    dock.refresh()
    assert step.presets.checkedId() == -1
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of ours")
    with pytest.raises(MsunetError, match="is no model of napari-msunet"):
        dock.load_model(tmp_path / "bad.safetensors")


def test_a_model_that_was_saved_is_known_without_torch(dock, tmp_path):
    from napari_msunet.models import build_model, save_model

    config = dock.state.model
    path = save_model(build_model(config), tmp_path / "m.safetensors")
    assert dock.steps["model"].load_model(path) == config
    assert resolve.missing(dock.state, "predict").startswith("Choose a slide")


def test_what_is_to_be_trained_and_what_predicts_are_told_apart(dock, qtbot, slide, tmp_path):
    from napari_msunet.models import build_model, save_model

    dock.open_slide(slide)
    own = PRESETS[0].make(("blob",), 2.0)
    dock.load_model(save_model(build_model(own), tmp_path / "other.safetensors"))
    assert dock.state.model.mpp == pytest.approx(0.499)
    dock.show_step("predict")
    assert dock.steps["model"].summary() == "to train: automatic"
    assert dock.steps["predict"].model_line.text() == "Predicts with <b>other</b> (blob; 2 µm/px; scales 1)"
    dock.show_step("model")
    chosen = dock.steps["model"].chosen
    assert dock.steps["model"].loaded.text().startswith("other.safetensors in")
    assert chosen.name.text() == "other"
    chosen.name.selectAll()
    chosen.name.setFocus()
    qtbot.keyClicks(chosen.name, "my blobs")  # digits and letters stay in a field of text
    qtbot.keyClick(chosen.name, Qt.Key.Key_Return)
    dock.show_step("predict")
    assert dock.steps["predict"].model_line.text().startswith("Predicts with <b>my blobs</b>")


def test_copied_lines_run_as_they_are(dock, qtbot, slide):
    dock.open_slide(slide)
    for name in ("slide", "annotate", "model"):
        dock.show_step(name)
        qtbot.mouseClick(dock.sections[name].copy, LEFT)
        text = QApplication.clipboard().text()
        names: dict = {}
        exec(text, names)
        if name == "annotate":
            assert names["labels"].kind == "annotation"
            names["labels"].close()
        if name == "model":
            assert names["config"] == resolve.wanted_model(dock.state)


def test_layers_may_be_renamed_and_removed(dock, qtbot, slide):
    layer = annotating(dock, qtbot, slide)
    layer.paint((1500, 1000), 1)
    layer.name = "anything"
    dock.layers.slide(dock.state.active).name = "something"
    path = layer.store.path
    dock.viewer.layers.clear()
    dock.refresh()
    again = dock.start_annotating()
    assert again is not layer
    assert again.store.path == path
    assert dock.layers.slide(dock.state.active) is not None
    qtbot.waitUntil(lambda: dock.state.count(1) > 0)


def test_any_image_layer_is_a_slide(dock, qtbot):
    dock.viewer.add_image(np.full((64, 80), 7, np.uint8), scale=(0.5, 0.5), units="micrometer", name="mine")
    qtbot.wait(50)
    assert dock.steps["slide"].list.item(0).text().startswith("mine")


def test_a_layer_without_a_file_becomes_a_slide(dock, qtbot, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    dock.open_project(tmp_path / "p.msunet")
    dock.viewer.add_image(image, name="mine", scale=(0.5, 0.5), units="micrometer")
    dock.show_step("slide")
    entries = dock.steps["slide"].list
    qtbot.waitUntil(lambda: entries.count() == 1)
    place = entries.visualItemRect(entries.item(0)).center()
    qtbot.mouseClick(entries.viewport(), LEFT, pos=place)
    qtbot.waitUntil(lambda: dock.state.active is not None, timeout=20_000)
    record = dock.state.active
    assert record.path.parent.parent == (tmp_path / "p.msunet").resolve()
    assert record.mpp == pytest.approx((0.5, 0.5))
    with ms.open_slide(record.path) as slide:
        assert (slide.levels[0].compute() == image).all()
    layer = dock.start_annotating(("x",))
    layer.paint((100, 100), 1)
    qtbot.waitUntil(lambda: dock.state.count(1) > 0)


def test_the_project_goes_on_another_day(dock, qtbot, slide, make_napari_viewer):
    layer = annotating(dock, qtbot, slide)
    dock.steps["annotate"].rename_class("class 1", "nucleus")
    layer.paint((1500, 1000), 1)
    dock.shut_down()
    second = MultiScaleUNet(dock.viewer)  # another dock on the same slide takes it up
    qtbot.addWidget(second)
    assert second.state.classes == ("nucleus",)
    assert second.state.active.annotation == layer.store.path
    second.steps["annotate"].refresh()
    qtbot.waitUntil(lambda: second.state.count(1) > 0)
    second.shut_down()


def test_closing_the_window_shuts_everything_down(make_napari_viewer, qtbot, slide):
    viewer = make_napari_viewer(show=True)
    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock)
    layer = annotating(dock, qtbot, slide)
    layer.paint((1500, 1000), 1)
    path = layer.store.path
    viewer.close()
    assert dock.closed
    dock.refresh()
    assert (np.asarray(open_labels(path).levels[0]) == 1).any()


def test_a_slide_that_vanished_is_said(dock, slide):
    dock.open_slide(slide)
    slide.unlink()
    with pytest.raises(MsunetError):
        dock.start_annotating()
    dock.refresh()
    assert "gone" in dock.steps["slide"].list.item(0).text()


def test_nothing_is_wider_than_the_dock(dock, qtbot, slide):
    annotating(dock, qtbot, slide)
    for name, section in dock.sections.items():
        dock.show_step(name)
        assert section.step.minimumSizeHint().width() <= dock._scroll.viewport().width(), name


def test_the_plugins_menu_opens_it(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-msunet", "Multi-scale U-Net")
    assert list(dock.steps) == ["slide", "annotate", "model", "train", "predict", "correct", "review", "export"]
    viewer.close()
    assert dock.closed


def test_a_new_step_is_a_file_and_a_line(make_napari_viewer, monkeypatch, tmp_path):
    class NotesStep(Step):
        name, title, purpose = "notes", "Notes", "What else is to be said."

        def __init__(self, state, jobs, layers):
            super().__init__(state, jobs, layers)
            self.shown = 0

        def refresh(self):
            self.shown += 1

        def as_python(self):
            return "# nothing"

    module = ModuleType("napari_msunet.widgets.steps.notes")
    module.NotesStep = NotesStep
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for room in ("state", "resolve", "dock.dock"):
        monkeypatch.setattr(f"napari_msunet.widgets.{room}.STEPS", (*STEPS, "notes"))
    dock = MultiScaleUNet(make_napari_viewer())
    assert dock.sections["notes"].header.accessibleName() == "Notes"
    dock.show_step("notes")
    assert dock.steps["notes"].shown
    assert dock.steps["notes"].missing()
    assert resolve.next_step(dock.state) == "slide"  # nothing waits for it
    dock.shut_down()
