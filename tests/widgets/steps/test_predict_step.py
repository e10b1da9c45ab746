"""The Predict step: by mouse, the same labels as Python gives; edits stay; stopping, resuming, closing."""

import time

import numpy as np
import psutil
import pytest
from widgets.dock.making import LONG, click, idle, settle

import napari_msunet as ms
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window


@pytest.fixture
def step(ready):
    ready.show_step("predict")
    settle()
    return ready.steps["predict"]


def small_tiles(dock):
    options = dock.state.predict_options
    dock.state.set_predict_options(type(options).model_validate({**dict(options), "tile": 32}))


def labels_of(dock):
    return dock.layers.of_store(dock.state.active.labels)


def test_the_whole_slide_as_python_does_it(ready, step, qtbot, tmp_path, trained):
    click(qtbot, step.slide)
    idle(qtbot, ready)
    layer = labels_of(ready)
    expected = ms.predict(trained[0], trained[1], out=tmp_path / "python.ome.zarr")
    whole = Window(0, 0, *expected.shape)
    np.testing.assert_array_equal(layer.store.read(whole), expected.read(whole))
    assert len(np.unique(expected.read(whole))) == 2
    expected.close()
    assert ready.state.active.labels in ready.state.predicted
    assert "Done in" in step.box.status.text()
    assert layer.can_be_painted()
    np.testing.assert_allclose(layer.scale, (1.0, 1.0))


@pytest.mark.slow
def test_an_edit_stays_when_it_is_predicted_again(ready, step, qtbot):
    small_tiles(ready)
    ready.predict("slide")
    idle(qtbot, ready)
    layer = labels_of(ready)
    before = layer.store.read(Window(0, 0, *layer.store.shape))
    mine = 1 - before[100:140, 100:140]
    layer.store.write(Window(100, 100, 40, 40), mine)
    layer.store.create_run("other", {}, ("blob",), {"labels": "uint8"})
    ready.predict(ms.Region(0, 0, 500, 500))
    idle(qtbot, ready)
    after = layer.store.read(Window(0, 0, *layer.store.shape))
    np.testing.assert_array_equal(after[100:140, 100:140], mine)
    before[100:140, 100:140] = mine
    np.testing.assert_array_equal(after, before)


def test_what_is_in_view_and_no_more(ready, step, qtbot, viewer):
    viewer.scene.camera.zoom *= 4
    viewer.scene.camera.center = (0, 80, 80)
    settle()
    click(qtbot, step.view)
    idle(qtbot, ready)
    (run,) = labels_of(ready).store.runs
    y, x, height, width = run.description["settings"]["window"]
    assert 0 < height * width < 0.5 * 350 * 350
    assert all(w.intersection(Window(y, x, height, width)) == w for w in run.done.values())


@pytest.mark.slow
def test_labels_fill_in_then_cancel_then_resume(ready, step, qtbot):
    small_tiles(ready)
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: bool(step.merging._runs), timeout=LONG)
    click(qtbot, step.box.stop)
    idle(qtbot, ready)
    store = labels_of(ready).store
    (run,) = store.runs
    done = dict(run.done)
    assert 0 < len(done) < 121
    assert not run.complete
    for window in list(done.values())[:5]:
        np.testing.assert_array_equal(store.read(window), run.read(window))
    click(qtbot, step.go_on.button)
    idle(qtbot, ready)
    (run,) = store.runs
    assert run.complete
    assert list(run.done.items())[: len(done)] == list(done.items())
    whole = Window(0, 0, *store.shape)
    np.testing.assert_array_equal(store.read(whole), run.read(whole))
    assert not step.go_on.button.isVisible()


def test_closing_in_the_middle_loses_no_tile(ready, step, qtbot):
    small_tiles(ready)
    ready.predict("slide")
    qtbot.waitUntil(lambda: bool(step.merging._runs), timeout=LONG)
    pid, path = ready.jobs.client.pid, ready.state.active.labels
    ready.shut_down()
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    (run,) = ms.open_labels(path).runs
    assert run.done


@pytest.mark.slow
def test_each_scale_and_the_weights_as_layers(ready, step, qtbot, viewer):
    click(qtbot, step.why.scales)
    idle(qtbot, ready)
    assert {"blob (scale 1)", "blob (scale 1/2)"} <= {layer.name for layer in viewer.layers}
    click(qtbot, step.why.weights)
    idle(qtbot, ready)
    weights = [layer for layer in viewer.layers if layer.name.startswith("weight of")]
    assert len(weights) == 2
    np.testing.assert_allclose(sum(np.asarray(layer.data) for layer in weights), 1, atol=2e-3)
    assert sum(layer.visible for layer in viewer.layers if "map" in layer.metadata.get("napari_msunet", {})) == 1
    assert step.why.bars.isVisible()
    assert sum(step.why.bars.values) == pytest.approx(1, abs=1e-2)


def test_what_is_missing_is_said(dock, qtbot):
    with pytest.raises(MsunetError, match="slide"):
        dock.predict("slide")
    dock.show_step("predict")
    settle()
    step = dock.steps["predict"]
    assert not step.slide.isEnabled()
    assert step.needed.isVisible()


@pytest.mark.slow
def test_a_removed_slide_layer_and_a_removed_labels_layer(ready, step, qtbot, viewer):
    ready.predict("slide")
    idle(qtbot, ready)
    viewer.layers.remove(labels_of(ready))
    ready.predict("slide")
    idle(qtbot, ready)
    assert labels_of(ready) is not None


def test_copy_as_python(ready, step):
    namespace = {}
    exec(ready.as_python("predict").split("for event")[0], namespace)
    assert namespace["job"].slide == ready.state.active.path
    assert namespace["job"].model == ready.state.model_path
