"""What changed since the last prediction: the tick by mouse, the layer over the slide, the words."""

import numpy as np
import pytest
from widgets.dock.making import click, settle

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.review.differences import last_difference
from napari_msunet.widgets.prediction.difference import NAME, change_words, lost_colour


def add_prediction(store: LabelStore, key: str, values: np.ndarray) -> None:
    """A finished run, shown by the store, as a prediction makes it."""
    whole = Window(0, 0, *store.shape)
    run = store.create_run(key, {"settings": {"models": [key]}}, store.classes, {"labels": "uint8"})
    with run.writing():
        run.write(whole, {"labels": values})
        run.finish(0, whole)
        run.complete_run()
    store.merge(run)


@pytest.fixture
def predicted(ready):
    """A dock whose slide has one prediction, the Predict step open."""
    record = ready.state.active
    path = ready.state.make_project().labels_path(record.name)
    store = LabelStore.create(path, shape=record.shape, mpp=0.5, classes=("blob",), colours=("#00aa00",))
    values = np.zeros(store.shape, np.uint8)
    values[100:300, 100:300] = 1
    add_prediction(store, "one", values)
    record.labels = path
    ready.state.emit("results")
    ready.show_step("predict")
    settle(0.3)
    return ready


def test_the_tick_shows_what_changed(predicted, qtbot, viewer):
    row = predicted.steps["predict"].difference
    settle(0.5)
    assert not row.isVisible()  # one prediction: nothing to compare
    store = open_labels(predicted.state.active.labels)
    values = np.zeros(store.shape, np.uint8)
    values[100:300, 200:500] = 1
    add_prediction(store, "two", values)
    predicted.state.emit("results")
    qtbot.waitUntil(row.isVisible, timeout=10_000)
    selected = viewer.layers.selection.active
    click(qtbot, row.tick)
    layer = viewer.layers[NAME]
    qtbot.waitUntil(lambda: "more" in row.words.text(), timeout=10_000)
    assert "blob: " in row.words.text()
    assert "10,000 µm²" in row.words.text()  # 200 x 200 px of 0.25 µm² more
    assert "5,000 µm²" in row.words.text()
    shown = (layer.data[0] if layer.multiscale else layer.data)[:, :]
    assert (shown[150, 150], shown[150, 250], shown[150, 450]) == (2, 0, 1)
    assert np.allclose(layer.scale, viewer.layers[0].scale)
    assert viewer.layers.selection.active is selected
    assert not layer.editable
    place = layer.data_to_world((150, 450))
    assert "now blob" in str(layer.get_status(place, view_direction=None, dims_displayed=[0, 1], world=True))
    click(qtbot, row.tick)
    assert NAME not in viewer.layers
    assert not row.words.isVisible()


def test_it_follows_the_next_prediction_and_the_user(predicted, qtbot, viewer):
    row = predicted.steps["predict"].difference
    store = open_labels(predicted.state.active.labels)
    values = np.zeros(store.shape, np.uint8)
    add_prediction(store, "two", values)
    predicted.state.emit("results")
    qtbot.waitUntil(row.isVisible, timeout=10_000)
    row.tick.setChecked(True)
    first = viewer.layers[NAME]
    add_prediction(store, "three", values + 1)
    predicted.state.emit("results")
    qtbot.waitUntil(lambda: row.layer is not None and row.layer is not first, timeout=10_000)
    assert (row.layer.data[0] if row.layer.multiscale else row.layer.data)[0, 0] == 1
    viewer.layers.remove(row.layer)
    assert not row.tick.isChecked()


def test_words_and_colours(tmp_path):
    store = LabelStore.create(tmp_path / "a.ome.zarr", shape=(64, 64), mpp=0.5, classes=("blob",))
    for key in ("one", "two"):
        add_prediction(store, key, np.zeros((64, 64), np.uint8))
    changes = last_difference(store).changes()
    assert change_words(changes, {}) == "Nothing changed."
    store.close()
    assert lost_colour((255, 0, 0)) == (0, 1, 1, 1)
    assert lost_colour((250, 250, 250)) == (0, 0, 0, 1)
