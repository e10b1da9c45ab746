"""The Review step in a real window: places by mouse and keys, accepting, skipping, objects under the mouse."""

import csv

import numpy as np
import pytest
from qtpy.QtCore import Qt
from review.making import add_run, hot
from widgets.dock.making import click, idle, make_slide, settle, truth
from widgets.mouse import NONE, canvas, look_at, move

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.review import state
from napari_msunet.review.queue import Candidate
from napari_msunet.widgets.state import changed

SIDE = 1024
SIZE = 128
HOT = {(3, 2): 0.8, (6, 5): 0.6, (0, 7): 0.4}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A slide whose labels are some windows large."""
    return make_slide(tmp_path_factory.mktemp("large"), SIDE)


def labels_of(slide, folder):
    """Labels with a prediction that kept its disagreement."""
    with ms.open_slide(slide) as opened:
        store = ms.LabelStore.create(folder / "labels.ome.zarr", classes=("blob",), slide=opened)
    values = {"labels": truth(SIDE).astype(np.uint8), "disagreement": hot(store.shape, HOT, SIZE)}
    add_run(store, "r", values)
    return store


@pytest.fixture
def step(dock, large, tmp_path, qtbot):
    store = labels_of(large, tmp_path)
    dock.open_slide(large)
    dock.state.active.labels = store.path
    dock.state.emit("results")
    dock.show_step("review")
    settle()
    found = dock.steps["review"]
    found.size.setValue(SIZE)
    return found


def find(step, qtbot, first=True):
    click(qtbot, step.find)
    qtbot.waitUntil(lambda: bool(step.queue.places), timeout=10_000)
    settle()
    if first:
        click(qtbot, step.queue.buttons["review.next"])


def press(step, qtbot, key):
    canvas(step.viewer).setFocus()
    qtbot.keyClick(canvas(step.viewer), key)
    settle(0.05)


def at(row, column):
    return Window(row * SIZE, column * SIZE, SIZE, SIZE)


def test_places_by_key_and_the_camera_goes_there(dock, step, qtbot, viewer):
    find(step, qtbot, first=False)
    assert [p.window for p in step.queue.places[:3]] == [at(3, 2), at(6, 5), at(0, 7)]
    layer = step._layer
    at_first = viewer.scene.camera.center
    assert "Next shows the first" in step.queue.now.text()
    before = step.queue.places
    dock.state.emit("results")  # another job has ended: the places are ranked again, and the camera stays
    qtbot.waitUntil(lambda: step.queue.places is not before, timeout=10_000)
    listed = step.queue.list
    row = listed.visualItemRect(listed.item(1)).center()
    qtbot.mouseClick(listed.viewport(), Qt.MouseButton.LeftButton, pos=row)
    assert viewer.scene.camera.center == at_first
    qtbot.keyClick(listed, Qt.Key.Key_Period)  # keys work in the list too
    steps = [(None, 0), (Qt.Key.Key_Period, 1), (Qt.Key.Key_Period, 2), (Qt.Key.Key_Comma, 1), ("double", 1)]
    for key, index in steps:
        if key == "double":
            qtbot.mouseDClick(listed.viewport(), Qt.MouseButton.LeftButton, pos=row)
        elif key is not None:
            press(step, qtbot, key)
        place = step.queue.places[index]
        assert step.queue.current is place
        assert f"Place {index + 1} of" in step.queue.now.text()
        centre = layer.world_to_data(viewer.scene.camera.center[-2:])
        np.testing.assert_allclose(centre, np.array(place.centre) - 0.5, atol=0.01)
        on_screen = SIZE * layer.scale[0] * viewer.scene.camera.zoom / min(viewer.canvas.size[-2:])
        assert on_screen == pytest.approx(0.55, abs=0.01)
        assert step._outline.shown
    dock.show_step("correct")
    settle()
    assert not step._outline.shown
    press(step, qtbot, Qt.Key.Key_Period)
    assert step.queue.index == 1


def test_the_advice_is_to_go_on_until_nothing_is_left(dock, step, qtbot):
    def advice():
        settle(0.05)
        return dock.advice.text()

    assert "review" not in advice()
    step.show_candidates([Candidate(at(n, n), 1.0, "a reason", "suspects") for n in range(2)], "suspects")
    assert "2 places are left" in advice()
    dock.show_step("export")
    assert "2 places are left" in advice()
    assert dock.go.text() == "Review ›"
    click(qtbot, dock.go)
    press(step, qtbot, Qt.Key.Key_Period)
    press(step, qtbot, Qt.Key.Key_Slash)
    assert "1 place is left" in advice()
    press(step, qtbot, Qt.Key.Key_Y)
    assert "review" not in advice()


def test_accepting_by_key_is_one_undoable_step(step, qtbot):
    find(step, qtbot)
    store = step._layer.store
    before = store.read(Window(0, 0, *store.shape))
    press(step, qtbot, Qt.Key.Key_Y)
    qtbot.waitUntil(lambda: step.found.reviewed == 1, timeout=10_000)
    assert step.queue.index == 1
    assert "Reviewed 1 of 64 windows" in step.progress.text()
    edited = store.read_edited(Window(0, 0, *store.shape))
    assert edited[at(3, 2).slices()].all()
    assert edited.sum() == SIZE * SIZE
    np.testing.assert_array_equal(store.read(Window(0, 0, *store.shape)), before)
    step._layer.undo()
    qtbot.waitUntil(lambda: step.found.reviewed == 0, timeout=10_000)
    assert not store.read_edited(Window(0, 0, *store.shape)).any()


def test_skipping_and_offering_again(step, qtbot):
    find(step, qtbot)
    press(step, qtbot, Qt.Key.Key_Slash)
    qtbot.waitUntil(lambda: step.found.skipped == 1, timeout=10_000)
    assert step.queue.decided == {at(3, 2): "skipped"}
    step.find_places()
    qtbot.waitUntil(lambda: step.queue.places[0].window == at(6, 5), timeout=10_000)
    settle()
    click(qtbot, step.again)
    qtbot.waitUntil(lambda: step.queue.places[0].window == at(3, 2), timeout=10_000)


def test_a_new_prediction_ranks_again_and_what_was_accepted_stays(step, qtbot, dock):
    find(step, qtbot)
    press(step, qtbot, Qt.Key.Key_Y)
    qtbot.waitUntil(lambda: step.found.reviewed == 1, timeout=10_000)
    store = step._layer.store
    scores = hot(store.shape, {(3, 2): 0.9, (7, 7): 0.7}, SIZE)
    add_run(store, "s", {"labels": np.zeros(store.shape, np.uint8), "disagreement": scores})
    dock.state.emit("results")
    qtbot.waitUntil(lambda: step.queue.places[0].window == at(7, 7), timeout=10_000)
    np.testing.assert_array_equal(store.read(at(3, 2)), truth(SIDE)[at(3, 2).slices()])


def test_rankings_that_nothing_was_kept_for_cannot_be_chosen(step, qtbot):
    model = step.by.model()
    qtbot.waitUntil(lambda: step._layer is None or not model.item(1).isEnabled(), timeout=5000)
    find(step, qtbot)
    qtbot.waitUntil(lambda: not model.item(1).isEnabled(), timeout=5000)
    assert model.item(0).isEnabled()
    assert "tick Uncertainty in Predict first" in model.item(1).text()
    step.by.setCurrentIndex(2)
    step.find_places()
    qtbot.waitUntil(lambda: step.queue.source == "distance", timeout=10_000)


def test_places_that_others_found(step, qtbot):
    places = [Candidate(at(1, 1), 3.5, "the truth may be wrong here", "suspects")]
    step.show_candidates(places, "suspects")
    click(qtbot, step.queue.buttons["review.next"])
    settle()
    assert "the truth may be wrong here" in step.queue.now.text()
    press(step, qtbot, Qt.Key.Key_Y)
    qtbot.waitUntil(lambda: len(state.load_state(step._layer.store).accepted) == 1, timeout=10_000)
    assert step.queue.decided == {at(1, 1): "accepted"}


def test_what_cannot_be_kept_is_said_and_open_again(step, qtbot, messages):
    find(step, qtbot)
    (step._layer.store.path / state.FILE).write_text("{")
    press(step, qtbot, Qt.Key.Key_Y)
    qtbot.waitUntil(lambda: any("review.json is damaged" in str(m.message) for m in messages), timeout=10_000)
    assert step.queue.decided == {}
    assert step.state.to_review == (step._layer.store.path, len(step.queue.places))


def test_the_object_under_the_mouse(step, qtbot, viewer):
    find(step, qtbot)
    layer = step._layer
    y, x = np.argwhere(truth(SIDE) & (np.hypot(*(np.indices((SIDE, SIDE)) - 500)) < 80))[200]
    look_at(viewer, layer.data_to_world((y, x)), 2)
    move(viewer, layer.data_to_world((y, x)), NONE)
    qtbot.waitUntil(lambda: "Under the mouse: blob: " in step.object.text(), timeout=5000)
    assert "µm², outline" in step.object.text()
    y, x = np.argwhere(~truth(SIDE) & (np.hypot(*(np.indices((SIDE, SIDE)) - 500)) < 80))[200]
    move(viewer, layer.data_to_world((y, x)), NONE)
    qtbot.waitUntil(lambda: "Point at an object" in step.object.text(), timeout=5000)


def test_csv_and_python(step, qtbot, tmp_path):
    find(step, qtbot)
    step.save(tmp_path / "places.csv")
    rows = list(csv.DictReader((tmp_path / "places.csv").read_text(encoding="utf8").splitlines()))
    assert len(rows) == len(step.queue.places)
    code = step.as_python().replace('"review.csv"', repr(str(tmp_path / "again.csv")))
    exec(compile(code, "copied", "exec"), {})
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "places.csv").read_text()


def test_without_labels_it_says_what_is_missing(dock, large):
    dock.open_slide(large)
    dock.show_step("review")
    settle()
    assert "Predict first" in dock.steps["review"].needed.text()
    assert not dock.steps["review"].find.isEnabled()


@pytest.mark.slow
def test_a_real_prediction(ready, qtbot):
    options = ready.state.predict_options
    ready.state.set_predict_options(changed(options, outputs=("labels", "disagreement", "entropy")))
    ready.predict("slide")
    idle(qtbot, ready)
    ready.show_step("review")
    settle()
    step = ready.steps["review"]
    step.size.setValue(64)
    find(step, qtbot)
    assert step.queue.source == "disagreement"
    scores = [p.score for p in step.queue.places]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[0] <= 1
    press(step, qtbot, Qt.Key.Key_Y)
    qtbot.waitUntil(lambda: step.found.reviewed >= 1, timeout=10_000)

    # another project and back: labels, maps, model, view, queue and step are as they were left
    names, at_last = [layer.name for layer in ready.viewer.layers], tuple(ready.viewer.scene.camera.center)
    open_places, model, folder = ready.state.to_review[1], ready.state.model_path, ready.state.project.folder
    ready.state.name_model(model, "mine")
    ready.open_project(folder.parent / "other.msunet")
    settle()
    assert (len(ready.viewer.layers), ready.state.model_path, step.queue.places) == (0, None, [])
    ready.open_project(folder)
    assert sorted(layer.name for layer in ready.viewer.layers) == sorted(names)
    assert ready.viewer.layers.selection.active is ready.layers.of_store(ready.state.active.labels)
    assert (ready.state.model_path, ready.state.model_names) == (model, {model: "mine"})
    assert ready.viewer.scene.camera.center == pytest.approx(at_last, abs=0.5)
    assert ready.sections["review"].is_open
    qtbot.waitUntil(lambda: len(step.queue.places) == open_places, timeout=10_000)
    assert step.size.value() == 64
    assert "Go on with the review" in ready.advice.text()
    assert ready.viewer.scene.camera.center == pytest.approx(at_last, abs=0.5)
