"""Painting where napari lacks what painting on a pyramid needs: a plain layer over what is in view.

This file also runs with an older napari (`make test-napari-old`); with a newer one the lack is made.
"""

from __future__ import annotations

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from widgets import mouse

from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.widgets import napari_internals
from napari_msunet.widgets.paint import add_labels

SHAPE = (9000, 8000)
WHOLE = Window(0, 0, *SHAPE)


@pytest.fixture
def store(tmp_path):
    store = LabelStore.create(tmp_path / "a.ome.zarr", SHAPE, 0.5, ("gland", "tumour"))
    store.write(Window(4000, 3000, 800, 800), 2)
    yield store
    store.close()


@pytest.fixture
def layers(make_napari_viewer, store, monkeypatch):
    """A viewer, the labels, and the layer that is painted on."""
    if napari_internals.missing() is None:
        monkeypatch.setattr(napari_internals, "NEEDED", ("_no_such_method",))
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1000, 700)
    start = len(notification_manager.records)
    pyramid = add_labels(viewer, store)
    said = [str(record.message) for record in notification_manager.records[start:]]
    assert len(said) == 1
    assert "(paint here)" in said[0]
    yield viewer, pyramid, pyramid.region
    viewer.layers.clear()


def look(layers, centre, zoom):
    viewer, _, region = layers
    mouse.look_at(viewer, centre, zoom)
    region.follow()
    mouse.settle()


def test_strokes_of_the_mouse_go_into_the_store(layers, store):
    viewer, pyramid, region = layers
    assert pyramid.painted_in is region
    assert not pyramid.can_be_painted()
    look(layers, (2200.0, 1700.0), 0.5)
    assert max(region.data.shape) <= 4096
    viewer.layers.selection.active = region
    region.mode, region.brush_size, region.selected_label = "paint", 100, 1
    told = []
    pyramid.events.stroke.connect(lambda event: told.append(event.number))
    before = store.read(WHOLE)
    mouse.drag(viewer, [(2200.0, 1650.0), (2200.0, 1750.0), (2240.0, 1790.0)])
    pyramid.wait()
    after = store.read(WHOLE)
    assert after[4400, 3300] == after[4400, 3500] == 1
    assert after[4100, 3100] == 2
    np.testing.assert_array_equal(region.data, after[region.window.slices()])
    assert not store.read_edited(Window(0, 0, 4000, 8000)).any()
    assert len(told) == 1
    region.undo()
    np.testing.assert_array_equal(store.read(WHOLE), before)
    np.testing.assert_array_equal(region.data, before[region.window.slices()])
    region.redo()
    np.testing.assert_array_equal(store.read(WHOLE), after)
    picture = viewer.screenshot(canvas_only=True, flash=False)
    assert picture[picture.shape[0] // 2, picture.shape[1] // 2, :3].any()


def test_erase_fill_and_polygon(layers, store):
    _, _, region = layers
    look(layers, (2200.0, 1700.0), 0.2)
    y, x = region.window.y, region.window.x
    region.brush_size = 51
    region.paint((4400 - y, 3400 - x), 0)
    region.fill((4010 - y, 3010 - x), 1)
    expected = np.zeros(SHAPE, np.uint8)
    expected[4000:4800, 3000:3800] = 1
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    expected[(rows - 4400) ** 2 + (columns - 3400) ** 2 <= 25.5**2] = 0
    np.testing.assert_array_equal(store.read(WHOLE), expected)
    region.paint_polygon([[4900 - y, 3000 - x], [4900 - y, 3100 - x], [5000 - y, 3100 - x]], 2)
    assert store.read(Window(4950, 3090, 1, 1))[0, 0] == 2
    path = store.path
    store.close()
    with open_labels(path) as again:
        assert again.read(Window(4950, 3090, 1, 1))[0, 0] == 2


def test_it_follows_the_view_and_changes_from_elsewhere(layers, store):
    _, pyramid, region = layers
    look(layers, (500.0, 500.0), 2.0)
    first = region.window
    assert first.intersection(Window(1000, 1000, 1, 1)) == Window(1000, 1000, 1, 1)
    look(layers, (4200.0, 3800.0), 2.0)
    second = region.window
    assert second.intersection(Window(8400, 7600, 1, 1)) == Window(8400, 7600, 1, 1)
    np.testing.assert_allclose(region.data_to_world((0, 0)), pyramid.data_to_world((second.y, second.x)), atol=1e-6)
    store.write(Window(8400, 7600, 10, 10), 1)
    pyramid.refresh_window(Window(8400, 7600, 10, 10))
    assert region.data[8405 - second.y, 7605 - second.x] == 1


def test_values_that_are_no_class_are_taken_back(layers, store):
    _, _, region = layers
    start = len(notification_manager.records)
    region.paint((10, 10), 9)
    assert not (np.asarray(region.data) == 9).any()
    assert "9 is no class" in str(notification_manager.records[start].message)
    assert not store.read_edited(Window(0, 0, 3000, 3000)).any()


def test_it_goes_with_the_labels(layers):
    viewer, pyramid, region = layers
    mouse.settle()
    viewer.layers.remove(pyramid)
    mouse.settle()
    assert region not in viewer.layers
