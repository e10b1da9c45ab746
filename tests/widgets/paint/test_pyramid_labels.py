"""A labels layer over a store, without a mouse: limits, what is refused, where it lies, how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from widgets import mouse

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.widgets import brush, napari_internals
from napari_msunet.widgets.paint import PyramidLabels, add_labels

SHAPE = (3000, 2500)
WHOLE = Window(0, 0, *SHAPE)


@pytest.fixture
def store(tmp_path):
    with LabelStore.create(tmp_path / "a.ome.zarr", SHAPE, 0.5, ("gland", "tumour")) as store:
        yield store


@pytest.fixture
def said():
    """The notifications since the test began."""
    start = len(notification_manager.records)
    return lambda: [str(record.message) for record in notification_manager.records[start:]]


def pixel(store, y, x):
    return int(store.read(Window(y, x, 1, 1))[0, 0])


def test_one_call_is_one_stroke_on_disk(store):
    layer = PyramidLabels(store)
    layer.brush_size = 21
    layer.paint((100, 200), 1)
    assert layer._slice.image.raw.any()
    theirs = Labels(np.zeros(SHAPE, np.uint8))
    theirs.brush_size = 21
    theirs.paint((100, 200), 1)
    np.testing.assert_array_equal(store.read(WHOLE), theirs.data)
    np.testing.assert_array_equal(store.read_edited(WHOLE), theirs.data > 0)
    with layer.block_history():
        for y in range(300, 2000, 40):
            layer.paint((y, y), 2)
    assert pixel(store, 980, 980) == 2
    layer.undo()
    np.testing.assert_array_equal(store.read(WHOLE), theirs.data)
    layer.undo()
    assert not store.read_edited(WHOLE).any()


def test_a_large_brush_and_a_stroke_over_many_blocks(store):
    layer = PyramidLabels(store)
    theirs = Labels(np.zeros(SHAPE, np.uint8))
    for each in (layer, theirs):
        each.brush_size = 2000
        with each.block_history():
            for at, label in (((0, 0), 1), ((2999, 2400), 2), ((1500, 1200), 1), ((-500, 5000), 2)):
                each.paint(at, label)
    np.testing.assert_array_equal(store.read(WHOLE), theirs.data)
    layer.undo()
    assert not store.read(WHOLE).any()


def test_large_polygons_are_as_napari_draws_them(store):
    corners = [[-40, 20], [2900, 300], [2000, 2600], [500, 1100]]
    theirs = Labels(np.zeros(SHAPE, np.uint8))
    theirs.paint_polygon(corners, 1)
    layer = PyramidLabels(store)
    layer.paint_polygon(corners, 1)
    assert (store.read(WHOLE) != theirs.data).sum() <= 50  # of 3.6 million: rounding where an edge leaves a piece
    layer.undo()
    assert not store.read(WHOLE).any()


def test_setting_pixels_by_index(store):
    layer = PyramidLabels(store)
    layer.data_setitem((np.array([5, 6, 7]), np.array([1, 2, 3])), [1, 2, 1])
    assert [pixel(store, 5 + i, 1 + i) for i in range(3)] == [1, 2, 1]
    assert store.read_edited(WHOLE).sum() == 3


def test_values_that_are_no_class_are_refused(store, said):
    layer = PyramidLabels(store)
    layer.selected_label = 7
    assert layer.selected_label == 1
    layer.paint((10, 10), 3)
    assert not store.read(WHOLE).any()
    assert [message.split(":")[0] for message in said()] == [
        "7 is no class of a.ome.zarr",
        "3 is no class of a.ome.zarr",
    ]


def test_annotations_have_a_background(tmp_path):
    with LabelStore.create(tmp_path / "b.ome.zarr", SHAPE, classes=("gland",), kind="annotation") as store:
        layer = PyramidLabels(store)
        layer.selected_label = 255
        layer.paint((10, 10), 255)
        assert pixel(store, 10, 10) == 255
        np.testing.assert_allclose(layer.get_color(255), (0.6, 0.6, 0.6, 1), atol=1e-6)
        layer.paint((10, 10), 0)
        assert pixel(store, 10, 10) == 0
        assert store.read_edited(Window(10, 10, 1, 1)).all()


def test_colours_and_names_follow_the_store(store):
    layer = PyramidLabels(store)
    np.testing.assert_allclose(layer.get_color(2)[:3], np.array(store.colours[1]) / 255, atol=1e-6)
    store.add_classes(["necrosis"])
    layer.refresh_window(WHOLE)
    np.testing.assert_allclose(layer.get_color(3)[:3], np.array(store.colours[2]) / 255, atol=1e-6)
    assert list(layer.features["class"]) == ["background", "gland", "tumour", "necrosis"]
    layer.paint((50, 50), 3)
    assert "necrosis" in layer.get_status((25, 25), world=True)["value"]


def test_a_fill_without_end_does_nothing(tmp_path, said, monkeypatch):
    monkeypatch.setattr(brush, "LARGEST_FILL", 1000)
    with LabelStore.create(tmp_path / "c.ome.zarr", SHAPE, classes=("gland",)) as store:
        layer = PyramidLabels(store)
        layer.fill((1500, 1200), 1)
        assert not store.read(WHOLE).any()
        assert "larger than 1000 x 1000" in said()[0]
        store.write(Region(700, 700, 800, 4), 1)
        store.write(Region(700, 1600, 800, 4), 1)
        store.write(Region(700, 700, 4, 904), 1)
        store.write(Region(1496, 700, 4, 904), 1)
        expected = Labels(store.read(WHOLE))
        expected.fill((1000, 1000), 1)
        layer.fill((1000, 1000), 1)
        np.testing.assert_array_equal(store.read(WHOLE), expected.data)
        layer.contiguous = False
        layer.fill((10, 10), 1)
        assert len(said()) == 2


def test_what_would_replace_a_store_is_refused(store, said):
    layer = PyramidLabels(store)
    with pytest.raises(StoreError, match="painted, not replaced"):
        layer.data = np.zeros(SHAPE, np.uint8)


def test_a_store_of_another_mpp_lies_on_its_slide(tmp_path):
    from napari_msunet.slide import slide_from_array

    slide = slide_from_array(np.zeros((400, 300, 3), np.uint8), mpp=0.5)
    with LabelStore.create(tmp_path / "d.ome.zarr", slide=slide, mpp=2.0, classes=("gland",)) as store:
        layer = PyramidLabels(store)
    np.testing.assert_allclose(layer.data_to_world((-0.5, -0.5)), (-0.25, -0.25))  # corners on corners
    np.testing.assert_allclose(layer.data_to_world((99.5, 74.5)), (199.75, 149.75))


def test_napari_without_what_it_needs_gives_a_layer_to_look_at(store, said, monkeypatch):
    monkeypatch.setattr(napari_internals, "NEEDED", ("_paint_region_with_mask", "_no_such_method"))
    layer = PyramidLabels(store)
    layer.paint((10, 10), 1)
    assert not layer.editable
    assert not store.read(WHOLE).any()
    assert "_no_such_method" in said()[0]


HOLDER = """
import sys
from napari_msunet.labels import open_labels
store = open_labels(sys.argv[1]); store.hold(); print("held", flush=True); sys.stdin.read()
"""


def test_a_store_that_another_process_holds_is_looked_at(store, said):
    store.write(Region(0, 0, 50, 50), 2)
    path = store.path
    store.close()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        layer = PyramidLabels(path)
        assert not layer.editable
        assert f"process {holder.pid}" in said()[0]
        layer.paint((100, 100), 1)
        layer.undo()
        assert pixel(layer.store, 10, 10) == 2
        assert pixel(layer.store, 100, 100) == 0
        layer.store.close()
    finally:
        holder.communicate()


def test_layers_on_the_same_store_show_each_other(make_napari_viewer, store):
    viewer = make_napari_viewer()
    first, second = add_labels(viewer, store), add_labels(viewer, store)
    first.brush_size = 400
    first.paint((1500, 1200), 1)
    assert first.thumbnail[..., 3].any()
    np.testing.assert_array_equal(first._slice.image.raw, second._slice.image.raw)
    assert second._slice.image.raw.any()
    second.undo()
    assert not first._slice.image.raw.any()
    viewer.layers.clear()


def test_a_merge_shows_and_keeps_edits_and_the_stroke_under_way(make_napari_viewer, store):
    viewer = make_napari_viewer()
    layer = add_labels(viewer, store)
    layer.brush_size = 200
    layer.paint((1000, 1000), 2)
    run = store.create_run("one", {}, store.classes, {"labels": "uint8"})
    with run.writing():
        run.write(WHOLE, {"labels": np.ones(SHAPE, np.uint8)})
        run.finish(0, WHOLE)
    with layer.block_history():
        layer.paint((2000, 2000), 2)
        store.merge(run)
        layer.refresh_window(WHOLE)
        _, area = layer._shown()
        np.testing.assert_array_equal(layer._slice.image.raw, layer.read_level(layer.data_level, area))
    assert pixel(store, 1000, 1000) == pixel(store, 2000, 2000) == 2
    assert pixel(store, 10, 10) == 1
    layer.undo()
    assert pixel(store, 2000, 2000) == 1  # what the machine says there now
    viewer.layers.clear()


def painting(viewer, store):
    """A viewer in the middle of a stroke."""
    layer = add_labels(viewer, store)
    layer.mode, layer.brush_size = "paint", 150
    mouse.look_at(viewer, (750, 600), 0.3)
    mouse.press(viewer, (750, 600))
    mouse.move(viewer, (800, 700))
    mouse.settle()  # (Mesa crashes when napari deletes a texture that was painted on and not drawn yet, on any layer)
    assert not store.read(WHOLE).any()
    return layer


@pytest.mark.parametrize("end", ["remove", "clear", "activate another"])
def test_a_stroke_cut_short_is_stored(make_napari_viewer, store, end):
    viewer = make_napari_viewer(show=True)
    other = viewer.add_image(np.zeros(SHAPE, np.uint8))
    layer = painting(viewer, store)
    if end == "remove":
        viewer.layers.remove(layer)
    elif end == "clear":
        viewer.layers.clear()
    else:
        viewer.layers.selection.active = other
    assert pixel(store, 1500, 1200) == pixel(store, 1600, 1400) == 1
    assert open_labels(store.path).undo() is not None
    assert not store.read(WHOLE).any()


CLOSED = """
import sys
import napari
from qtpy.QtCore import QTimer
sys.path.insert(0, sys.argv[2])
from widgets import mouse
from napari_msunet.geometry import Region
from napari_msunet.widgets.paint import PyramidLabels
viewer = napari.Viewer()
layer = viewer.add_layer(PyramidLabels(sys.argv[1]))
layer.mode, layer.brush_size = "paint", 150

def paint_and_close():
    mouse.look_at(viewer, (750, 600), 0.3)
    mouse.press(viewer, (750, 600))
    mouse.move(viewer, (800, 700))
    print(int(layer.store.read(Region(1500, 1200, 1, 1))[0, 0]), flush=True)
    viewer.window._qt_window.close()

QTimer.singleShot(500, paint_and_close)
napari.run()
"""


@pytest.mark.slow
def test_closing_napari_in_the_middle_of_a_stroke(store):
    path = store.path
    store.close()
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, str(path), tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "0"  # it was not stored while the mouse was down
    with open_labels(path) as again:
        assert pixel(again, 1500, 1200) == pixel(again, 1600, 1400) == 1
        again.undo()
        assert not again.read(WHOLE).any()


def test_a_disk_that_refuses_loses_nothing(store, said, monkeypatch):
    layer = PyramidLabels(store)
    with monkeypatch.context() as patch:
        patch.setattr(LabelStore, "write_parts", lambda *_: (_ for _ in ()).throw(StoreError("The disk is full.")))
        layer.paint((100, 100), 1)
    assert "The disk is full." in said()[0]
    assert pixel(store, 100, 100) == 0
    layer.paint((200, 200), 2)
    assert (pixel(store, 100, 100), pixel(store, 200, 200)) == (1, 2)


def test_a_hundred_thousand_pixels_a_side(make_napari_viewer, tmp_path):
    """Labels far above any texture's size: what is in view is drawn, at every level."""
    viewer = make_napari_viewer(show=True)
    with LabelStore.create(tmp_path / "big.ome.zarr", (100_000, 100_000), 0.25, ("gland",)) as store:
        layer = add_labels(viewer, store)
        layer.brush_size = 2000
        seen = set()
        for zoom in (0.02, 0.25, 4.0):
            mouse.look_at(viewer, (12_500, 12_500), zoom)
            layer.paint((50_000, 50_000), 1)
            mouse.settle()
            seen.add(layer.data_level)
            assert max(layer._slice.image.raw.shape) <= 4096
            picture = viewer.screenshot(canvas_only=True, flash=False)
            assert picture[picture.shape[0] // 2, picture.shape[1] // 2, :3].any()
            layer.undo()
        assert {0, 7} < seen
        layer.locked_data_level = 0
        assert layer.locked_data_level is None
        viewer.layers.clear()
