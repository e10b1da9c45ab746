"""The sliders of thresholds: driven by mouse, the same labels as Python gives, edits stay, nothing waits."""

import math

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QStyle, QStyleOptionSlider
from widgets.dock.making import LONG, click, idle, settle

from napari_msunet.config import PostprocessJob
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess import decide, threshold_array
from napari_msunet.widgets.prediction.threshold_layer import NAME

pytestmark = pytest.mark.slow


def keep_probabilities(dock, dtype="float16"):
    options = dock.state.predict_options
    values = {**dict(options), "outputs": ("labels", "probabilities"), "probability_dtype": dtype}
    dock.state.set_predict_options(type(options).model_validate(values))


def drag(qtbot, slider, value: int) -> None:
    """Take the slider's handle with the mouse and pull it to a value."""
    slider.window().raise_()
    option = QStyleOptionSlider()
    slider.initStyleOption(option)
    style = slider.style()
    handle = style.subControlRect(QStyle.ComplexControl.CC_Slider, option, QStyle.SubControl.SC_SliderHandle, slider)
    room = slider.width() - handle.width()
    share = (value - slider.minimum()) / (slider.maximum() - slider.minimum())
    start = handle.center()
    stop = QPoint(round(share * room) + handle.width() // 2, start.y())
    qtbot.mousePress(slider, Qt.MouseButton.LeftButton, pos=start)
    for step in range(1, 9):
        qtbot.mouseMove(slider, start + (stop - start) * step / 8)
        settle(0.02)
    qtbot.mouseRelease(slider, Qt.MouseButton.LeftButton, pos=stop)


def preview_of(viewer):
    return next((layer for layer in viewer.layers if layer.name == NAME), None)


@pytest.fixture
def panel(ready, qtbot):
    """The panel, open, after a prediction that kept its probabilities."""
    keep_probabilities(ready, "uint8")
    ready.show_step("predict")
    ready.predict("slide")
    idle(qtbot, ready)
    found = ready.steps["predict"].thresholds
    qtbot.waitUntil(lambda: found.kept is not None, timeout=LONG)
    ready.steps["predict"].form.setVisible(False)  # so that all of the panel is in view
    found.button.setChecked(True)
    settle(0.3)
    return found


def rested(qtbot, panel):
    qtbot.waitUntil(lambda: not panel._working and not panel._counting.busy, timeout=LONG)
    settle(0.05)


def test_without_probabilities_it_says_what_to_do(ready, qtbot):
    ready.show_step("predict")
    ready.predict("slide")
    idle(qtbot, ready)
    panel = ready.steps["predict"].thresholds
    panel.button.setChecked(True)
    settle(0.3)
    assert panel.kept is None
    assert 'tick "Probabilities" above' in panel.why.text()
    assert not panel.apply.isEnabled()
    with pytest.raises(MsunetError, match="kept no probabilities"):
        panel.job()


def test_slide_look_apply(ready, panel, qtbot, viewer):
    (row,) = panel.sliders.rows
    layer = ready.layers.of_store(ready.state.active.labels)
    store, run = layer.store, panel.kept.run
    mine = Window(20, 30, 40, 50)
    store.write(mine, np.full(mine.shape, 1, np.uint8))
    whole = Window(0, 0, *store.shape)
    before = store.read(whole)
    drag(qtbot, row.slider, 70)
    rested(qtbot, panel)
    assert row.threshold == row.slider.value() / 100
    assert abs(row.threshold - 0.7) < 0.1
    shown = preview_of(viewer)
    probabilities = run.read(whole, output="probabilities").astype(np.float32)
    expected = decide(probabilities, threshold_array({"blob": row.threshold}, run.classes))
    machine = expected.copy()
    expected[mine.slices()] = 1
    assert (expected != before).any()
    np.testing.assert_array_equal(shown.data, expected[panel._in_view.window.slices()])
    assert not layer.visible
    np.testing.assert_array_equal(store.read(whole), before)
    area = (machine == 1).sum() * store.mpp[0] * store.mpp[1]
    assert "whole prediction" in panel.sliders.of.text()
    assert row.area.text() == (f"{area / 1e6:,.3g} mm²" if area >= 1e5 else f"{area:,.0f} µm²")
    click(qtbot, panel.apply)
    idle(qtbot, ready)
    np.testing.assert_array_equal(store.read(whole), expected)
    assert preview_of(viewer) is None
    assert layer.visible
    assert math.isnan(panel.sliders.rows[0].threshold)
    assert panel.kept.run.key == run.key, "the network's run is still the one that is changed"


def test_smoothing_and_panning_and_putting_back(ready, panel, qtbot, viewer):
    drag(qtbot, panel.sliders.smoothing, 16)
    rested(qtbot, panel)
    assert "in view" in panel.sliders.of.text()
    first = preview_of(viewer)
    size = first.data.shape
    area = panel.sliders.rows[0].area.text()
    assert area
    viewer.scene.camera.zoom *= 3
    qtbot.waitUntil(lambda: preview_of(viewer).data.shape != size, timeout=LONG)
    rested(qtbot, panel)
    assert panel.sliders.rows[0].area.text() != area
    job = panel.job()
    assert isinstance(job, PostprocessJob)
    assert job.postprocess.smoothing == pytest.approx(panel.sliders.smoothing.value() / 4 * 1.0)
    click(qtbot, panel.back)
    assert preview_of(viewer) is None
    assert not panel.apply.isEnabled()
    assert panel.sliders.smoothing.value() == 0


def test_instances_as_a_layer(ready, panel, qtbot, viewer):
    click(qtbot, panel.parted)
    click(qtbot, panel.apply)
    idle(qtbot, ready)
    (layer,) = [one for one in viewer.layers if one.name.startswith("Instances")]
    store = ready.layers.of_store(ready.state.active.labels).store
    shown = np.asarray(layer.data)
    np.testing.assert_array_equal(shown > 0, store.read(Window(0, 0, *store.shape)) > 0)
    assert shown.max() > 3
    np.testing.assert_allclose(layer.scale, (1.0, 1.0))
    assert not layer.editable
    assert panel.kept is not None


def test_the_latest_position_is_what_is_shown(ready, panel, qtbot, viewer):
    (row,) = panel.sliders.rows
    for value in (*range(20, 90), 33):
        row.slider.setValue(value)
    rested(qtbot, panel)
    run = panel.kept.run
    probabilities = run.read(Window(0, 0, *run.info.shape), output="probabilities").astype(np.float32)
    expected = decide(probabilities, threshold_array({"blob": 0.33}, run.classes))
    np.testing.assert_array_equal(preview_of(viewer).data, expected[panel._in_view.window.slices()])
    viewer.layers.remove(preview_of(viewer))
    row.slider.setValue(40)
    rested(qtbot, panel)
    assert preview_of(viewer) is not None
