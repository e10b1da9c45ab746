"""Where a prediction is computed: by mouse, in the tissue, in classes of other labels; and its plan."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from widgets import mouse
from widgets.dock.making import LONG, click, idle, settle

import napari_msunet as ms
from napari_msunet import config
from napari_msunet.app.project import Project
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.inference.predict import describe_plan
from napari_msunet.labels import tissue_labels
from napari_msunet.widgets.dock.project_sync import recall
from napari_msunet.widgets.placement import to_world
from napari_msunet.widgets.prediction.plan import plan_words, work_words
from napari_msunet.widgets.prediction.where import area
from napari_msunet.widgets.state import State, changed


@pytest.fixture
def step(ready):
    ready.show_step("predict")
    settle()
    return ready.steps["predict"]


def planned(qtbot, step):
    """Wait for the plan of what is chosen now."""
    settle(0.1)
    qtbot.waitUntil(lambda: step.plan._wanted is None or step.plan._wanted == step.plan._asked, timeout=LONG)
    qtbot.waitUntil(lambda: step.plan._handle is None, timeout=LONG)
    return step.plan.text()


def tick(qtbot, box):
    """A click on the box itself: its row is wider than what can be hit."""
    qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))


def whole(dock):
    store = dock.layers.of_store(dock.state.active.labels).store
    return store.read(Window(0, 0, *store.shape))


def some_tissue(dock, tmp_path):
    """The left half of the slide as its tissue, found and corrected."""
    record = dock.state.active
    mask = np.zeros((700, 700), bool)
    mask[:, :350] = True
    with ms.open_slide(record.path) as slide:
        store = tissue_labels(slide, tmp_path / "tissue.ome.zarr", ms.tissue_mask(slide))
        store.write(Window(0, 0, *store.shape), np.zeros(store.shape, np.uint8))
        height, width = store.shape
        store.write(Window(0, 0, height, width // 2), np.ones((height, width // 2), np.uint8))
    record.tissue = store.path
    dock.steps["slide"].tissue.show_layer(record)
    dock.state.emit("slides")
    return store


def test_regions_drawn_by_mouse_are_predicted_and_nothing_else(ready, step, qtbot, viewer, trained, tmp_path):
    step.where.choose("drawn")
    settle(0.2)
    assert step.slide.text() == "Predict the drawn regions"
    assert "Draw on the slide" in step.where.words.text()
    layer = ready.layers.slide(ready.state.active)
    corners = to_world(viewer, layer, [(100, 100), (100, 400), (300, 250)])
    for corner in corners:
        mouse.click(viewer, corner)
    mouse.double_click(viewer, corners[-1])
    qtbot.waitUntil(lambda: step.where.words.text().startswith("1 region"), timeout=LONG)
    click(qtbot, step.where.rectangle)
    mouse.drag(viewer, to_world(viewer, layer, [(400, 450), (500, 500), (600, 650)]))
    qtbot.waitUntil(lambda: step.where.words.text().startswith("2 regions"), timeout=LONG)
    where = step.where.value(ready.state.active)
    triangle, rectangle = (np.array(ring) for ring in where.polygons)
    near = 3 / viewer.scene.camera.zoom / layer.scale[0]
    for corner in [(100, 100), (100, 400), (300, 250)]:
        assert np.abs(triangle - corner).max(1).min() < near
    np.testing.assert_allclose([rectangle.min(0), rectangle.max(0)], [(400, 450), (600, 650)], atol=near)
    assert step.where.words.text() == f"2 regions, {area(where.polygons, (0.5, 0.5)):.3g} mm²."
    click(qtbot, step.slide)
    idle(qtbot, ready)
    with ms.predict(trained[0], trained[1], tmp_path / "python.ome.zarr", where=where) as expected:
        np.testing.assert_array_equal(whole(ready), expected.read(Window(0, 0, *expected.shape)))
    assert whole(ready)[210:290, 240:310].any()
    assert not whole(ready)[:40].any()
    assert "config.Drawn(" in ready.as_python("predict")

    viewer.layers.remove(step.where.regions.find(ready.state.active.path))  # another day
    ready.save_project()  # what closing the dock does
    again = State()
    assert recall(again, Project.open(ready.state.project.folder)) == []
    assert again.active.regions == where.polygons
    step.where.choose("all")
    step.where.choose("drawn")
    assert step.where.words.text().startswith("2 regions")
    np.testing.assert_allclose(
        np.concatenate(step.where.value(ready.state.active).polygons), np.concatenate(where.polygons), atol=0.02
    )


@pytest.mark.slow
def test_only_the_tissue_as_it_was_corrected(ready, step, qtbot, tmp_path):
    some_tissue(ready, tmp_path)
    step.where.choose("tissue")
    settle(0.2)
    assert "as it is corrected" in step.where.words.text()
    job = step.job(draft=True)
    assert job.where == config.InClasses(labels=ready.state.active.tissue, classes=("tissue",))
    text = planned(qtbot, step)
    assert text.startswith("1 tile, ")
    assert "pixels go through the network for each that is kept" in step.plan.toolTip()
    before = dict(step.plan.values)
    store = ready.layers.of_store(ready.state.active.tissue).store
    cut = int(300 / store.pixel[0])
    store.write(Window(0, 0, store.shape[0], cut), np.zeros((store.shape[0], cut), np.uint8))
    step.refresh()
    planned(qtbot, step)
    assert step.plan.values["useful_pixels"] < before["useful_pixels"]  # what was corrected counts at once
    click(qtbot, step.slide)
    idle(qtbot, ready)
    labels = whole(ready)
    first, last = (
        cut * store.pixel[0] / 2,
        store.shape[1] // 2 * store.pixel[0] / 2,
    )  # the model's pixels are twice the slide's
    assert labels[:, int(first) + 1 : int(last)].any()
    assert not labels[:, : int(first)].any()
    assert not labels[:, int(last) + 1 :].any()


@pytest.mark.slow
def test_classes_of_other_labels(ready, step, qtbot, tmp_path):
    step.where.choose("classes")
    settle()
    with pytest.raises(MsunetError, match="No other labels"):
        ready.predict("slide")
    assert "No other labels" in step.where.words.text()
    layer = ready.start_annotating(("left", "right"))
    values = np.ones(layer.store.shape, np.uint8)
    values[:, values.shape[1] // 2 :] = 2
    layer.store.write(Window(0, 0, *layer.store.shape), values)
    some_tissue(ready, tmp_path)
    ready.show_step("predict")
    settle(0.2)
    names = [step.where.stores.itemText(n) for n in range(step.where.stores.count())]
    assert names == ["Annotation blobs", "Tissue blobs"]
    assert list(step.where.ticks) == ["left", "right"]
    tick(qtbot, step.where.ticks["left"])
    assert step.where.value(ready.state.active).classes == ("right",)
    click(qtbot, step.slide)
    idle(qtbot, ready)
    assert not whole(ready)[:, :174].any()
    assert whole(ready)[:, 176:].any()
    step.refresh()
    names = [step.where.stores.itemText(n) for n in range(step.where.stores.count())]
    assert len(names) == 2  # the labels that a prediction fills do not say where
    tick(qtbot, step.where.ticks["right"])
    with pytest.raises(MsunetError, match="No class of Annotation blobs is ticked"):
        ready.predict("slide")


def test_the_plan_is_the_one_that_python_makes(ready, step, qtbot):
    assert planned(qtbot, step) == plan_words(describe_plan(step.job()))
    ready.state.set_predict_options(changed(ready.state.predict_options, tile=64, tta="flips"))
    more = planned(qtbot, step)
    assert step.plan.values["tiles"] == 36
    assert more.startswith("36 tiles, ")
    assert step.plan.values["network_pixels"] == describe_plan(step.job())["network_pixels"]


def test_what_cannot_be_planned_is_said_without_a_notification(ready, step, qtbot, messages):
    planned(qtbot, step)
    ready.state.set_predict_options(changed(ready.state.predict_options, device="cuda:7"))
    assert "cuda:7" in planned(qtbot, step)
    assert step.plan.objectName() == "problem"
    assert not messages
    step.where.choose("drawn")
    settle()
    assert "No region is drawn yet" in step.plan.text()
    assert step.plan.objectName() == "note"


def test_a_plan_in_words():
    values = {"tiles": 1234, "useful_pixels": 100, "network_pixels": 145, "memory_gb": 1.96, "seconds": 330.0}
    assert plan_words(values) == "1\N{THIN SPACE}234 tiles, about 2.0 GB, about 6 min."
    assert work_words(values).startswith("1.45 pixels go through the network")
    assert plan_words({**values, "tiles": 0}).startswith("Nothing to predict")
