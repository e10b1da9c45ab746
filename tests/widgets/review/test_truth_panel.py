"""Truth under review in a real window: suspects by mouse and keys, keeping, taking, undoing, the matrix, the lasso."""

import csv

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication
from review.making import add_run
from widgets.dock.making import click, make_slide, settle, truth
from widgets.mouse import canvas, drag, look_at

import napari_msunet as ms
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.review import load_kept
from napari_msunet.widgets.review import label_issues

SIDE = 448
ERASED, INVENTED = Window(60, 200, 50, 50), Window(300, 20, 40, 60)
WHOLE = Window(0, 0, SIDE, SIDE)
CLEAN = np.where(truth(SIDE), 1, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("truth"), SIDE)


def wrong():
    """The annotation with two errors."""
    values = CLEAN.copy()
    values[ERASED.slices()] = np.where(values[ERASED.slices()] == 1, 255, 1)
    values[INVENTED.slices()] = np.where(values[INVENTED.slices()] == 1, 255, 1)
    return values


def prediction(folder, slide, outputs=("labels", "probabilities")):
    """What a good model says, at half the annotation's resolution."""
    with ms.open_slide(slide) as opened:
        store = ms.LabelStore.create(folder / "labels.ome.zarr", classes=("blob",), slide=opened, mpp=1.0)
    said = truth(SIDE)[::2, ::2]
    sure = np.where(np.indices(said.shape)[0] < 100, 0.95, 0.85)  # surer at the top
    planes = np.stack([np.where(said, 1 - sure, sure), np.where(said, sure, 1 - sure)]).astype(np.float32)
    arrays = {"labels": said.astype(np.uint8), "probabilities": planes}
    add_run(store, "r", {name: arrays[name] for name in outputs}, {"probabilities": "float32"})
    return store


@pytest.fixture
def annotated(dock, slide, tmp_path):
    """A slide with an annotation in the dock, the Review step open."""
    with ms.open_slide(slide) as opened:
        path = tmp_path / "annotation.ome.zarr"
        store = ms.LabelStore.create(path, classes=("blob",), kind="annotation", slide=opened)
    store.write(WHOLE, wrong())
    dock.open_slide(slide)
    dock.state.active.annotation = store.path
    dock.state.emit("slides")
    dock.show_step("review")
    settle()
    return dock


@pytest.fixture
def panel(annotated, slide, tmp_path, qtbot):
    annotated.state.active.labels = prediction(tmp_path, slide).path
    annotated.state.emit("results")
    settle()
    click(qtbot, annotated.steps["review"].check_truth)
    found = annotated.steps["review"].truth
    settle()
    return found


def find(panel, qtbot):
    qtbot.waitUntil(panel.find.isEnabled, timeout=5000)
    click(qtbot, panel.find)
    qtbot.waitUntil(lambda: panel.finding.review is not None and not panel.finding.busy, timeout=10_000)
    settle()


def press(panel, qtbot, key, modifier=Qt.KeyboardModifier.NoModifier):
    canvas(panel.viewer).setFocus()
    qtbot.keyClick(canvas(panel.viewer), key, modifier)
    settle(0.05)


def cell_at(panel, qtbot, row, column):
    grid = panel.matrix.grid
    middle = grid.visualItemRect(grid.item(row, column)).center()
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    settle(0.05)


def test_suspects_by_mouse_and_keys_and_the_camera_goes_there(panel, qtbot, viewer):
    assert not panel.lack.isVisible()
    find(panel, qtbot)
    places = panel.model.places
    assert len(places) >= 2
    assert "suspects; the model agrees with" in panel.heading.text()
    assert panel.current == places[0]  # the surest comes first
    assert places[0].loss == pytest.approx(-np.log(0.05), rel=0.2)
    assert all(not p.window.intersection(ERASED).empty or not p.window.intersection(INVENTED).empty for p in places)
    layer = panel.truth_layer()

    def centred(place):
        here = layer.world_to_data(viewer.scene.camera.center[-2:])
        middle = np.array(place.window.shape) / 2 + (place.window.y, place.window.x) - 0.5
        return np.allclose(here, middle, atol=0.6)

    assert centred(places[0])
    qtbot.waitUntil(lambda: panel.outline.shown, timeout=5000)
    press(panel, qtbot, Qt.Key.Key_N)
    assert panel.index == 1
    assert centred(places[1])
    press(panel, qtbot, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    assert panel.index == 0
    row = panel.table.visualRect(panel.model.index(1, 3)).center()
    qtbot.mouseClick(panel.table.viewport(), Qt.MouseButton.LeftButton, pos=row)
    assert panel.index == 1
    qtbot.keyClick(panel.table, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)  # keys work in the table, too
    assert panel.index == 0
    click(qtbot, panel.buttons["truth.next"])
    assert panel.index == 1
    np.testing.assert_array_equal(layer.store.read(WHOLE), wrong())  # looking changes nothing


def test_a_change_of_class_is_taken_or_kept_in_all_places_above_a_confidence(panel, qtbot):
    find(panel, qtbot)
    row, layer = panel.transitions, panel.truth_layer()
    texts = [row.choice.itemText(n) for n in range(row.choice.count())]
    suspects = list(panel.finding.review.suspects)
    assert texts[0] == f"All changes, {len(suspects)} places"
    added = sum(p.model == "blob" for p in suspects)
    assert any(text.startswith(f"background → blob, {added} place") for text in texts)
    row.choice.setCurrentIndex(row.choice.findData("background → blob"))
    row.choice.activated.emit(row.choice.currentIndex())
    assert {(p.truth, p.model) for p in panel.model.places} == {("background", "blob")}
    row.slider.setValue(90)  # only the upper part of the slide is that sure
    assert row.sure.text() == "sure at least 90 %"
    sure = list(panel.model.places)
    assert sure == [p for p in suspects if p.model == "blob" and p.confidence >= 0.9]
    assert 0 < len(sure) < len(suspects)
    before = layer.store.read(WHOLE).copy()
    click(qtbot, row.take)
    qtbot.waitUntil(lambda: (layer.store.read(WHOLE) != before).any(), timeout=5000)
    settle(0.1)
    assert all(panel.model.states[place] == "changed" for place in sure)
    assert not row.take.isEnabled()
    now = layer.store.read(WHOLE)
    assert set(np.unique(now[now != before])) == {1}
    layer.undo()  # all of it is one step
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)
    qtbot.waitUntil(lambda: not panel.model.states, timeout=5000)
    click(qtbot, row.keep)
    settle(0.2)
    qtbot.waitUntil(lambda: len(load_kept(layer.store).kept) == len(sure), timeout=5000)
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)


def test_sorting_by_a_column_keeps_the_place(panel, qtbot):
    find(panel, qtbot)
    ranked, place = list(panel.model.places), panel.current
    header = panel.table.horizontalHeader()
    area = QPoint(header.sectionPosition(5) + 10, header.height() // 2)
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=area)
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=area)
    sizes = [p.pixels for p in panel.model.places]
    assert sizes in (sorted(sizes), sorted(sizes, reverse=True))
    assert sizes[0] != sizes[-1]
    assert panel.current == place
    assert panel.table.currentIndex().row() == panel.index
    shown = [panel.model.data(panel.model.index(n, 0)) for n in range(len(ranked))]
    assert shown == [str(ranked.index(p) + 1) for p in panel.model.places]


def test_taking_the_answer_by_key_is_one_step_of_undo(panel, qtbot):
    find(panel, qtbot)
    layer, place = panel.truth_layer(), panel.current
    press(panel, qtbot, Qt.Key.Key_A)
    qtbot.waitUntil(lambda: (layer.store.read(WHOLE) != wrong()).any(), timeout=5000)
    changed = layer.store.read(WHOLE) != wrong()
    assert changed.sum() == place.pixels
    assert {place.truth, place.model} == {"blob", "background"}
    assert (layer.store.read(WHOLE)[changed] == (1 if place.model == "blob" else 255)).all()
    assert panel.model.states == {place: "changed"}
    assert panel.index == 1
    settle(0.6)
    assert panel.model.states == {place: "changed"}
    layer.undo()
    qtbot.waitUntil(lambda: not panel.model.states, timeout=5000)
    np.testing.assert_array_equal(layer.store.read(WHOLE), wrong())
    layer.redo()
    qtbot.waitUntil(lambda: panel.model.states == {place: "changed"}, timeout=5000)


def test_kept_truth_is_noted_on_disk_and_offered_no_more(panel, qtbot):
    find(panel, qtbot)
    place, count = panel.current, len(panel.model.places)
    press(panel, qtbot, Qt.Key.Key_T)
    store = panel.finding.pair.store
    qtbot.waitUntil(lambda: len(load_kept(store).kept) == 1, timeout=5000)
    assert panel.model.states == {place: "kept"}
    assert panel.model.data(panel.model.index(0, 0)) == "1 ✓"
    find(panel, qtbot)
    assert place not in panel.model.places
    assert len(panel.model.places) == count - 1
    assert "1 kept" in panel.heading.text()
    np.testing.assert_array_equal(store.read(WHOLE), wrong())
    click(qtbot, panel.again)
    qtbot.waitUntil(lambda: len(panel.model.places) == count, timeout=10_000)


def test_cells_of_the_matrix_lead_to_their_places(panel, qtbot):
    find(panel, qtbot)
    confusion = panel.finding.review.confusion
    assert panel.matrix.grid.item(1, 0).text() == f"{100 * confusion.shares[1, 0]:.1f} %"
    cell_at(panel, qtbot, 1, 0)
    assert panel.model.places == confusion.places[1, 0]
    assert panel.current.truth == "blob"
    assert "Truth blob, the model says background" in panel.heading.text()
    cell_at(panel, qtbot, 0, 0)
    assert not panel.buttons["truth.take"].isEnabled()  # they agree
    press(panel, qtbot, Qt.Key.Key_A)
    np.testing.assert_array_equal(panel.finding.pair.store.read(WHOLE), wrong())
    click(qtbot, panel.all)
    assert panel.model.places == panel.finding.review.suspects


def test_the_answer_in_a_lasso(panel, qtbot, viewer):
    find(panel, qtbot)
    layer = panel.truth_layer()
    middle = np.array([INVENTED.y + INVENTED.height / 2, INVENTED.x + INVENTED.width / 2])
    look_at(viewer, layer.data_to_world(middle), 3)
    click(qtbot, panel.draw)
    assert panel.lasso.active
    corners = [middle + d for d in ((-26, -36), (-26, 36), (26, 36), (26, -36))]
    drag(viewer, [layer.data_to_world(c) for c in corners])
    qtbot.waitUntil(lambda: (layer.store.read(WHOLE) != wrong()).any(), timeout=5000)
    now = layer.store.read(WHOLE)
    assert (now != CLEAN)[INVENTED.slices()].mean() < 0.1
    np.testing.assert_array_equal(now[ERASED.slices()], wrong()[ERASED.slices()])
    assert not panel.lasso.active
    layer.undo()
    np.testing.assert_array_equal(layer.store.read(WHOLE), wrong())


def test_without_a_prediction_it_says_what_to_do(annotated, qtbot):
    click(qtbot, annotated.steps["review"].check_truth)
    panel = annotated.steps["review"].truth
    settle()
    assert panel.lack.isVisible()
    assert panel.lack.text() == label_issues.NO_PREDICTION
    assert not panel.find.isEnabled()
    with pytest.raises(MsunetError, match="no prediction"):
        panel.start()
    click(qtbot, panel.set_up)
    assert "probabilities" in annotated.state.predict_options.outputs
    assert annotated.sections["predict"].is_open


@pytest.mark.slow
def test_without_probabilities_it_says_so_and_ranks_by_size(annotated, slide, tmp_path, qtbot):
    annotated.state.active.labels = prediction(tmp_path, slide, ("labels",)).path
    annotated.state.emit("results")
    click(qtbot, annotated.steps["review"].check_truth)
    panel = annotated.steps["review"].truth
    qtbot.waitUntil(lambda: panel.lack.text() == label_issues.NO_PROBABILITIES, timeout=5000)
    assert panel.set_up.isVisible()
    find(panel, qtbot)
    sizes = [p.pixels for p in panel.model.places]
    assert sizes == sorted(sizes, reverse=True)


def test_csv_and_python(panel, qtbot, tmp_path, monkeypatch):
    find(panel, qtbot)
    panel.save_csv(tmp_path / "s.csv")
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text(encoding="utf8").splitlines()))
    assert len(rows) == len(panel.model.places)
    assert (tmp_path / "s confusion.csv").is_file()
    click(qtbot, panel.copy)
    folder = tmp_path / "again"
    folder.mkdir()
    monkeypatch.chdir(folder)
    exec(compile(QApplication.clipboard().text(), "copied", "exec"), {})
    assert (folder / "suspects.csv").read_text() == (tmp_path / "s.csv").read_text()
    np.testing.assert_array_equal(panel.finding.pair.store.read(WHOLE), wrong())


@pytest.mark.slow
def test_a_layer_that_was_removed_is_opened_again(panel, qtbot, viewer):
    find(panel, qtbot)
    place = panel.current
    viewer.layers.remove(panel.truth_layer())
    settle()
    press(panel, qtbot, Qt.Key.Key_A)
    store = panel.truth_layer().store
    qtbot.waitUntil(lambda: (store.read(WHOLE) != wrong()).sum() == place.pixels, timeout=5000)
    panel.truth_layer().undo()
    qtbot.waitUntil(lambda: not panel.model.states, timeout=5000)  # strokes of the new layer are followed
    np.testing.assert_array_equal(store.read(WHOLE), wrong())


def test_what_the_disk_refuses_is_said_and_open_again(panel, qtbot, messages):
    find(panel, qtbot)
    (panel.finding.pair.store.path / "truth_review.json").write_text("{")
    press(panel, qtbot, Qt.Key.Key_T)
    qtbot.waitUntil(lambda: any("truth_review.json" in str(m.message) for m in messages), timeout=5000)
    assert not panel.model.states


@pytest.mark.slow
def test_closed_and_opened_again(panel, annotated, qtbot, viewer):
    find(panel, qtbot)
    qtbot.waitUntil(lambda: panel.outline.shown, timeout=5000)
    viewer.window.remove_dock_widget(annotated.steps["review"].panels.truth_dock)
    settle()
    assert not panel.outline.shown
    before = panel.index
    press(panel, qtbot, Qt.Key.Key_N)
    assert panel.index == before
    click(qtbot, annotated.steps["review"].check_truth)
    settle()
    assert panel.isVisible()
    assert panel.mapTo(panel.window(), QPoint(0, 0)).y() < 800
