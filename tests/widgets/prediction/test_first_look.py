"""The first look at a large view: in its place at every zoom, below the labels, and gone where tiles are finished."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_msunet.events import FirstLook, RegionDone
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.prediction.live import FirstLookLayer

SHAPE = (6000, 9000)


@pytest.fixture
def store(tmp_path):
    found = LabelStore.create(tmp_path / "labels.ome.zarr", shape=SHAPE, mpp=0.5, classes=("gland", "gap"))
    yield found
    found.close()


@pytest.fixture
def shown(store):
    viewer = ViewerModel()
    slide_layer = viewer.add_image(np.zeros((*SHAPE, 3), np.uint8), rgb=True, scale=(0.5, 0.5), units=("um", "um"))
    run = store.create_run("one", {}, ("gland", "gap"), {"labels": "uint8"})
    labels_layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), scale=(0.5, 0.5), units=("um", "um"))
    return FirstLookLayer(viewer), (store, slide_layer, labels_layer), run


def look_at(y, x, rows, columns, value):
    return FirstLook.of("one", Window(y, x, 4 * rows, 4 * columns), np.full((rows, columns), value, np.uint8))


def test_looks_are_in_place_at_every_level_until_tiles_are_finished(shown):
    layer, given, _ = shown
    layer.add(look_at(0, 0, 512, 512, 1), *given)
    layer.add(look_at(2048, 4096, 300, 500, 2), *given)
    data = layer.layer.data
    assert [level.shape for level in data] == [(1500, 2250), (750, 1125), (375, 563)]
    for level, array in enumerate(data):
        values = np.asarray(array)
        expected = np.zeros(data[0].shape, np.uint8)
        expected[:512, :512] = 1
        expected[512:812, 1024:1524] = 2
        assert np.array_equal(values, expected[:: 1 << level, :: 1 << level])
    layer.finished(RegionDone(run="one", y=0, x=0, height=1024, width=2048))
    assert np.asarray(data[0])[:512, :512].mean() == 0.5  # the lower half is left
    layer.drop()
    assert not layer.there


def test_it_lies_below_the_labels_and_leaves_the_selection(shown):
    layer, given, _ = shown
    viewer, labels_layer = layer.viewer, given[2]
    viewer.layers.selection.active = labels_layer
    layer.add(look_at(0, 0, 8, 8, 1), *given)
    assert list(viewer.layers).index(layer.layer) == list(viewer.layers).index(labels_layer) - 1
    assert viewer.layers.selection.active is labels_layer
    assert np.allclose(layer.layer.scale, np.array(labels_layer.scale) * 4)
    viewer.layers.remove(layer.layer)
    layer.add(look_at(64, 64, 8, 8, 1), *given)
    assert not layer.there, "who takes it away does not get it again in this prediction"


def test_what_was_finished_before_is_not_covered(shown):
    layer, given, run = shown
    with run.writing():
        window = Window(0, 0, 512, 512)
        run.write(window, {"labels": np.zeros(window.shape, np.uint8)})
        run.finish(0, window)
    layer.add(look_at(0, 0, 256, 256, 1), *given)
    values = np.asarray(layer.layer.data[0])
    assert not values[:128, :128].any()
    assert values[128:256, :256].all()
