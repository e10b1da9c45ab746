"""A classical method in the dock: chosen by mouse, used without training, and its labels on the slide."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication
from widgets.dock.making import LONG, click, idle, make_slide, settle, truth

from napari_msunet.geometry import Window
from napari_msunet.widgets import resolve
from napari_msunet.widgets.state import PRESETS, State

CLASSICAL = next(n for n, preset in enumerate(PRESETS) if preset.name == "Classical")


@pytest.fixture
def step(dock, tmp_path, qtbot):
    """The Model step with the classical preset chosen by mouse."""
    dock.open_slide(make_slide(tmp_path))
    dock.show_step("model")
    settle()
    step = dock.steps["model"]
    button = step.presets.button(CLASSICAL)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton, pos=QPoint(8, button.height() // 2))
    settle()
    return step


@pytest.mark.slow
def test_k_means_by_mouse_is_a_first_annotation(dock, step, qtbot):
    assert step.presets.checkedId() == CLASSICAL
    assert step.classical.isVisible()
    method = step.classical.editors["method"]
    method.setFocus()
    qtbot.keyClick(method, Qt.Key.Key_End)  # the last choice
    settle()
    assert dock.state.model.branch.method == "kmeans"
    assert step.classical.editors["parts"].isEnabled()
    assert not step.classical.editors["threshold"].isEnabled()
    step.classical.editors["look"].setValue("colour")
    step.classical.editors["parts"].setValue(2)
    settle()
    assert step.presets.checkedId() == CLASSICAL
    click(qtbot, step.untrained)
    qtbot.waitUntil(lambda: dock.state.model_path is not None, timeout=LONG)
    assert dock.state.model_path.parent.name == "models"
    qtbot.mouseClick(dock.sections["model"].copy, Qt.MouseButton.LeftButton)
    text = QApplication.clipboard().text()
    assert "ms.ClassicalConfig(" in text
    assert "ms.save_model(" in text
    dock.show_step("predict")
    settle()
    click(qtbot, dock.steps["predict"].slide)
    idle(qtbot, dock)
    layer = dock.layers.of_store(dock.state.active.labels)
    found = layer.store.read(Window(0, 0, *layer.store.shape))
    assert (found == truth()[: found.shape[0], : found.shape[1]]).mean() > 0.97
    assert layer.can_be_painted()
    y, x = np.argwhere(found == 1)[0]
    layer.store.write(Window(int(y), int(x), 1, 1), np.zeros((1, 1), np.uint8))  # and it can be corrected
    assert layer.store.read(Window(int(y), int(x), 1, 1))[0, 0] == 0


def test_what_does_not_fit_is_said_and_what_needs_training_waits(dock, step):
    step.classical.editors["look"].setValue("channel4")
    settle()
    assert "no channel 4" in step.classical.problem.text()
    assert dock.state.model.branch.look == "density"
    step.classical.editors["look"].setValue("haematoxylin")
    settle()
    assert not step.classical.problem.isVisible()
    assert dock.state.model.branch.look == "haematoxylin"
    step.classical.editors["fit"].setValue("training")
    settle()
    assert not step.untrained.isEnabled()
    assert resolve.wanted_model(dock.state).branch.fit == "training"


def test_more_classes_make_more_parts():
    state = State()
    state.set_model(PRESETS[CLASSICAL].make(("a",), 0.5))
    assert state.model.branch.method == "otsu"
    state.set_classes(("a", "b", "c"))
    assert (state.model.branch.method, state.model.branch.parts) == ("kmeans", 4)
    assert PRESETS[CLASSICAL].fits(state.model)
    assert not PRESETS[0].fits(state.model)
