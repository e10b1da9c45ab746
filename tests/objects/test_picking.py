"""Finding an object in a store, numbers for new ones, and the wands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_msunet import objects
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore

SHAPE = (1500, 1700)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Snakes over many chunks, and what is in the store."""
    rng = np.random.default_rng(3)
    field = ndimage.zoom(rng.normal(size=(16, 18)), 100, order=1)[: SHAPE[0], : SHAPE[1]]
    labels = ((np.abs(field) < 0.12) + 2 * (field > 0.9)).astype(np.uint8)
    store = LabelStore.create(tmp_path_factory.mktemp("s") / "l.ome.zarr", SHAPE, classes=("a", "b"))
    store.write(Window(0, 0, *SHAPE), labels)
    yield store, labels
    store.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))
def test_it_is_the_connected_component(scene, y, x):
    store, labels = scene
    if labels[y, x] == 0:
        with pytest.raises(objects.NothingHereError, match="no object under the mouse"):
            objects.object_at(store, (y + 0.5, x + 0.5))
        return
    window, mask = objects.object_at(store, (y + 0.5, x + 0.5))
    parts, _ = ndimage.label(labels == labels[y, x])
    expected = parts == parts[y, x]
    found = np.zeros(SHAPE, bool)
    found[window.slices()] = mask
    np.testing.assert_array_equal(found, expected)
    assert mask[0].any()
    assert mask[-1].any()
    assert mask[:, 0].any()
    assert mask[:, -1].any()


def test_a_large_object_stops_at_the_limit_and_reads_no_more(tmp_path, monkeypatch):
    store = LabelStore.create(tmp_path / "l.ome.zarr", (20_000, 20_000), classes=("a",))
    store.write(Window(0, 0, 20_000, 20_000), 1)
    read, seen = store.read, []
    monkeypatch.setattr(store, "read", lambda window: seen.append(window) or read(window))
    with pytest.raises(objects.ObjectTooLargeError, match=r"larger than 1,000 x 1,000 pixels, so nothing was changed"):
        objects.object_at(store, (9000, 9000), limit=1000)
    assert sum(w.height * w.width for w in seen) < 4 * 2000**2
    store.close()


def test_outside_there_is_nothing(scene):
    with pytest.raises(objects.NothingHereError):
        objects.object_at(scene[0], (-5, 10))


def test_new_numbers_are_new(tmp_path, monkeypatch):
    store = LabelStore.create(tmp_path / "n.ome.zarr", (3000, 2500), dtype="uint32")
    store.write(Window(2900, 2400, 5, 5), 4711)
    assert objects.new_numbers(store, 3) == [4712, 4713, 4714]
    monkeypatch.setattr("napari_msunet.objects.edits.SCANNED", 1000)
    drawn = objects.new_numbers(store, 50)
    assert len(set(drawn)) == 50
    assert min(drawn) >= 2**31
    store.write(Window(0, 0, 2, 2), max(drawn))
    store.close()


def picture(contrast):
    """Two grounds with a border at column 60, noise, a speck inside."""
    rng = np.random.default_rng(0)
    image = np.full((100, 120, 3), 100.0)
    image[:, 60:] += contrast
    image[40:42, 20:22] += contrast
    return (image + rng.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_image_wand_finds_the_edge_in_any_dtype(dtype):
    image = picture(80).astype(dtype) * (dtype(257) if dtype == np.uint16 else dtype(1))
    labels = np.zeros((100, 120), np.uint8)
    edit = objects.image_wand(labels, image, (50, 30), 0.2, 2)
    wanted = np.zeros(labels.shape, bool)
    wanted[:, :60] = True
    assert (edit.mask != wanted).mean() < 0.01  # the speck is filled
    everything = objects.image_wand(labels, image, (50, 30), 1.5, 2)
    assert everything.mask.all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(0, 119), st.floats(0.02, 0.5), st.floats(0.01, 0.3))
def test_more_tolerance_takes_more_and_always_the_seed(y, x, tolerance, more):
    cost = objects.wand_cost(picture(60), (y, x))
    few, many = (objects.wand_area(cost, (y, x), t) for t in (tolerance, tolerance + more))
    assert few[y, x]
    assert ndimage.label(few)[1] == 1
    assert many.sum() >= 0.99 * few.sum()


def test_the_probability_wand_and_snap():
    p = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (50, 1))
    planes = np.stack([1 - p, p * 0.7, p * 0.3])
    labels = np.zeros(p.shape, np.uint8)
    edit = objects.probability_wand(labels, planes, (25, 100), 0.35)
    np.testing.assert_array_equal(edit.values, np.where(p >= 0.5, 1, 0))
    labels[:, 40:] = 1
    lasso = np.zeros(p.shape, bool)
    lasso[10:40] = True
    edit = objects.snap(labels, planes, lasso, 1, 0.56)
    expected = labels.copy()
    expected[10:40] = np.where(p >= 0.8, 1, np.where(labels == 1, np.where(p * 0.3 > 1 - p, 2, 0), 0))[10:40]
    np.testing.assert_array_equal(edit.values, expected)
    assert (edit.values == 2).any()
    with pytest.raises(StoreError, match="not background"):
        objects.snap(labels, planes, lasso, 0)
    with pytest.raises(StoreError, match="classes 0 to 2; got 7"):
        objects.snap(labels, planes, lasso, 7)
    with pytest.raises(StoreError, match="Probabilities must be"):
        objects.snap(labels, planes[:, 1:], lasso, 1)
    with pytest.raises(StoreError, match="not in the window"):
        objects.probability_wand(labels, planes, (60, 3), 0.3)
