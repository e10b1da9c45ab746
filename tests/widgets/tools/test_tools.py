"""The tools in a real window, by real mouse and keys: one stroke, one step of undo, one notification where it fails."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from scipy import ndimage
from widgets import mouse

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.paint import add_labels
from napari_msunet.widgets.slide_layers import add_slide
from napari_msunet.widgets.tools import ToolPanel, Tools

SIDE = 1300
WHOLE = Window(0, 0, SIDE, SIDE)
MPP = 0.5


def content(dtype="uint8"):
    """A disc with a hole, two discs beside one another, a dumbbell, a speck: all of one class."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), dtype)
    for number, (cy, cx, r) in enumerate(
        [(400, 400, 80), (400, 700, 60), (400, 840, 60), (700, 400, 70), (700, 500, 70)]
    ):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = 1 if dtype == "uint8" else max(1, min(number + 1, 4))
    labels[390:410, 390:410] = 0
    labels[600:606, 800:806] = 1 if dtype == "uint8" else 5
    return labels


@pytest.fixture(params=["uint8"])
def scene(request, make_napari_viewer, tmp_path):
    """A viewer with a slide of which the labels are what is violet, and the tools on the labels."""
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1000, 750)
    labels = content(request.param)
    image = np.where((labels > 0)[..., None], (140, 60, 160), (235, 200, 220)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "s.png")
    path = ms.build_pyramid(tmp_path / "s.png", tmp_path / "s.ome.zarr", mpp=MPP)
    slide_layer = add_slide(viewer, path)
    slide = slide_of(slide_layer)
    classes = ("a", "b") if request.param == "uint8" else ()
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=classes, slide=slide, dtype=request.param)
    store.write(WHOLE, labels)
    layer = add_labels(viewer, store, slide_layer)
    tools = Tools(viewer, lambda _: slide)
    tools.attach(layer)
    mouse.look_at(viewer, (550 * MPP, 600 * MPP), 1.0)
    yield viewer, layer, tools
    tools.close()
    viewer.layers.clear()
    store.close()
    slide.close()


@pytest.fixture
def told():
    from napari.utils.notifications import notification_manager

    found = []
    notification_manager.notification_ready.connect(found.append)
    yield found
    notification_manager.notification_ready.disconnect(found.append)


def at(*pixel):
    """The place in the world of a pixel."""
    return tuple(p * MPP for p in pixel)


def idle(tools):
    for _ in range(400):
        QTest.qWait(5)
        if not tools.busy:
            mouse.settle()
            return
    raise AssertionError("the tool is still busy")


def use(scene, name, *pixels):
    """Choose a tool, draw over these pixels; what the labels were and are. One stroke, that undo takes back."""
    viewer, layer, tools = scene
    before = layer.store.read(WHOLE)
    strokes = []
    layer.events.stroke.connect(lambda event: strokes.append(event.number))
    tools.choose(name)
    mouse.drag(viewer, [at(*p) for p in pixels])
    idle(tools)
    after = layer.store.read(WHOLE)
    assert len([n for n in strokes if n]) == 1
    assert not tools.sketch.points
    layer.undo()
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)
    layer.redo()
    np.testing.assert_array_equal(layer.store.read(WHOLE), after)
    return before, after


def count(labels, value=1):
    return ndimage.label(labels == value)[1]


def test_delete_shows_it_at_once(scene):
    _viewer, layer, _tools = scene
    before, after = use(scene, "delete", (400, 700))
    changed = before != after
    assert changed.sum() == (before[340:461, 640:761] > 0).sum()
    assert after[400, 700] == 0
    level, area = layer._shown()
    finest = Window(area.y << level, area.x << level, area.height << level, area.width << level)
    np.testing.assert_array_equal(layer._slice.image.raw, layer.store.read(finest, level))


def test_change_class_of_one_and_of_all_in_a_lasso(scene):
    _, layer, _ = scene
    layer.selected_label = 2
    before, after = use(scene, "change_class", (400, 330))
    assert (after == 2).sum() == (before[300:500, 300:500] > 0).sum()
    before, after = use(scene, "change_class_inside", (320, 630), (320, 920), (480, 920), (480, 630))
    assert after[400, 700] == after[400, 840] == 2
    assert after[700, 450] == 1


def test_merge_and_split(scene):
    before, after = use(scene, "merge", (400, 700), (400, 770), (400, 840))
    assert count(after) == count(before) - 1
    before, after = use(scene, "split", (300, 770), (500, 770))
    assert count(after) == count(before) + 1


def test_separating_a_dumbbell(scene):
    before, after = use(scene, "watershed", (700, 400))
    assert count(after) == count(before) + 1
    cut = np.argwhere(before != after)
    assert abs(cut[:, 1].mean() - 450) < 8


def test_growing_and_shrinking_by_um(scene):
    _, layer, tools = scene
    tools.set_amount("outline", 3.0)
    for name, change in (("grow", 6), ("shrink", -6)):
        _, after = use(scene, name, (400, 700))
        assert abs(np.sqrt((after[320:480, 620:778] > 0).sum() / np.pi) - (60 + change)) < 0.7
        layer.undo()


def test_holes_smoothing_new_and_largest(scene):
    before, after = use(scene, "fill_holes", (400, 340))
    assert (before != after).sum() == 20 * 20
    before, after = use(scene, "new_object", (600, 900), (600, 960), (660, 960), (660, 900))
    assert count(after) == count(before) + 1
    before, after = use(scene, "keep_largest", (550, 250), (550, 870), (850, 870), (850, 250))
    assert after[603, 803] == 0
    assert after[700, 400] == 1
    scene[1].store.write(Window(395, 760, 4, 10), 1)
    before, after = use(scene, "smooth", (400, 700))
    assert after[397, 767] == 0


def test_the_image_wand_takes_what_looks_alike(scene):
    _, layer, _tools = scene
    truth = content() > 0
    layer.store.write(WHOLE, 0)
    layer.refresh()
    layer.selected_label = 2
    _, after = use(scene, "image_wand", (400, 700))
    disc = truth[330:470, 630:770]
    found = after[330:470, 630:770] == 2
    assert (found & disc).sum() / (found | disc).sum() > 0.97
    assert (after == 2).sum() == found.sum()


def test_a_wand_takes_more_while_the_mouse_goes_sideways(scene):
    viewer, layer, tools = scene
    layer.selected_label = 2
    tools.choose("image_wand")
    mouse.press(viewer, at(400, 700))
    idle(tools)
    first, narrow = tools.sketch.marked, tools.amounts["Tolerance"]
    assert first is not None  # it shows what it will do, and nothing is written
    before = layer.store.read(WHOLE)
    mouse.move(viewer, at(400, 900))
    idle(tools)
    assert tools.amounts["Tolerance"] > narrow + 0.2
    assert tools.sketch.marked.height > first.height
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)
    QTest.keyClick(mouse.canvas(viewer), Qt.Key.Key_Escape)
    mouse.release(viewer, at(400, 900))
    idle(tools)
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)


def test_escape_cancels_a_line_and_then_puts_the_tool_away(scene):
    viewer, layer, tools = scene
    before = layer.store.read(WHOLE)
    tools.choose("split")
    mouse.press(viewer, at(300, 700))
    mouse.move(viewer, at(500, 700))
    assert len(tools.sketch.points) >= 2
    QTest.keyClick(mouse.canvas(viewer), Qt.Key.Key_Escape)
    assert not tools.sketch.points
    mouse.release(viewer, at(500, 700))
    idle(tools)
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)
    assert tools.tool is not None
    QTest.keyClick(mouse.canvas(viewer), Qt.Key.Key_Escape)
    assert tools.tool is None
    assert not tools.sketch.isVisible()


def test_where_it_cannot_work_one_notification_says_why(scene, told):
    viewer, layer, tools = scene
    before = layer.store.read(WHOLE)
    for name, pixels, sentence in (
        ("delete", [(550, 600)], "no object under the mouse"),
        ("split", [(550, 600), (560, 640)], "touches no object"),
        ("merge", [(400, 690), (400, 710)], "fewer than two"),
        ("probability_wand", [(400, 700)], "kept no probabilities"),
        ("snap", [(350, 650), (350, 750), (450, 750)], "kept no probabilities"),
    ):
        told.clear()
        tools.choose(name)
        mouse.drag(viewer, [at(*p) for p in pixels])
        idle(tools)
        assert [sentence in str(n.message) for n in told] == [True], name
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)


def test_a_click_that_moves_pans_and_changes_nothing(scene):
    viewer, layer, tools = scene
    before, centre = layer.store.read(WHOLE), viewer.scene.camera.center
    tools.choose("delete")
    mouse.press(viewer, at(400, 700))
    mouse.send(viewer, mouse.QEvent.Type.MouseMove, at(450, 700), mouse.NONE, mouse.LEFT)
    QTest.qWait(50)
    mouse.release(viewer, at(450, 700))
    idle(tools)
    np.testing.assert_array_equal(layer.store.read(WHOLE), before)
    assert viewer.scene.camera.center != centre


def with_probabilities(store):
    """A run that finds the disc at 400, 700 with 0.9 inside and less around."""
    run = store.create_run("r", {}, store.classes, {"labels": "uint8", "probabilities": "float16"})
    y, x = np.mgrid[:SIDE, :SIDE]
    p = np.clip(0.9 - np.maximum(0, np.hypot(y - 400, x - 700) - 40) / 60, 0, 1).astype(np.float32)
    planes = np.stack([1 - p, p, 0 * p])
    with run.writing():
        run.write(WHOLE, {"labels": (p > 0.5).astype(np.uint8), "probabilities": planes})
        run.finish(0, WHOLE)
        run.complete_run()


def test_the_model_wand_and_snap_follow_the_probabilities(scene):
    _, layer, tools = scene
    with_probabilities(layer.store)
    layer.store.write(WHOLE, 0)
    layer.refresh()
    layer.selected_label = 1
    tools.set_amount("Less probable by", 0.3)
    _, after = use(scene, "probability_wand", (400, 700))
    assert abs(np.sqrt((after == 1).sum() / np.pi) - 58) < 1  # 0.9 - 0.3 is reached at 40 + 18
    tools.set_amount("From probability", 0.3)
    lasso = [(300, 600), (300, 800), (400, 800), (400, 600)]
    _, after = use(scene, "snap", *lasso)
    assert abs(400 - np.flatnonzero(after[:, 700])[0] - 76) <= 2  # 0.3 is reached at 40 + 36
    assert abs(np.flatnonzero(after[:, 700])[-1] - 400 - 58) <= 2  # below, outside the lasso, nothing changed


@pytest.mark.parametrize("scene", ["uint32"], indirect=True)
def test_numbers_of_objects(scene):
    _, _layer, tools = scene
    names = {tool.name for tool in tools.fitting()}
    assert "snap" not in names
    assert "split" in names
    _, after = use(scene, "split", (300, 700), (500, 700))
    numbers = np.unique(after[340:460, 641:760])
    assert set(numbers) == {0, 2, 6}
    _, after = use(scene, "merge", (400, 660), (400, 740))
    assert set(np.unique(after[340:460, 641:760])) == {0, int(after[400, 650])}
    _, after = use(scene, "new_object", (600, 900), (600, 960), (660, 960), (660, 900))
    assert after[620, 930] not in np.unique(content("uint32"))


def test_buttons_and_keys_choose_tools(scene, qtbot):
    viewer, layer, tools = scene
    panel = ToolPanel(tools)
    qtbot.addWidget(panel)
    panel.show()
    qtbot.mouseClick(panel.buttons["split"], Qt.MouseButton.LeftButton)
    assert tools.tool.name == "split"
    assert panel.buttons["split"].isChecked()
    assert "Key: K." in panel.buttons["split"].toolTip()
    canvas = mouse.canvas(viewer)
    qtbot.keyClick(canvas, Qt.Key.Key_G)
    assert tools.tool.name == "grow"
    assert panel.amount.value() == 2
    panel.amount.setValue(5)
    assert tools.amounts["outline"] == 5
    qtbot.keyClick(canvas, Qt.Key.Key_P)  # napari's brush puts the tool away
    assert tools.tool is None
    assert layer.mode == "paint"
    assert not panel.buttons["grow"].isChecked()
