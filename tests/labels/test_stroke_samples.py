"""Samples of annotated pixels, stroke by stroke."""

import numpy as np
import pytest

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import MOST, PER_CHUNK, StrokeSamples


@pytest.fixture
def store(tmp_path):
    with LabelStore.create(
        tmp_path / "a.ome.zarr", shape=(1500, 1300), mpp=0.5, classes=("a", "b"), kind="annotation"
    ) as made:
        yield made


def paint(store, y, x, size, value):
    store.write(Window(y, x, size, size), np.full((size, size), value, np.uint8))
    return Region(y, x, size, size)


def test_samples_are_annotated_pixels_and_hold_every_class(store):
    paint(store, 500, 500, 40, 1)  # over four chunks
    paint(store, 1400, 1200, 5, 2)  # in the last, smaller chunk
    paint(store, 20, 20, 3, 255)
    samples = StrokeSamples(store)
    samples.scan()
    found = samples.of()
    there = store.read(Window(0, 0, 1500, 1300))[tuple(np.floor(found.places).astype(int).T)]
    assert (np.where(there == 255, 0, there) == found.values).all()
    assert {0: 9, 2: 25}.items() <= dict(zip(*np.unique(found.values, return_counts=True), strict=True)).items()
    assert len(np.unique(found.places, axis=0)) == len(found)


def test_strokes_one_by_one_give_the_samples_of_a_scan(store):
    samples = StrokeSamples(store)
    samples.scan()
    for region in (paint(store, 500, 500, 40, 1), paint(store, 510, 300, 60, 2), paint(store, 520, 480, 30, 0)):
        samples.update(region)
    region = store.undo()
    samples.update(region)
    fresh = StrokeSamples(store)
    fresh.scan()
    for one, other in zip(vars(samples.of()).values(), vars(fresh.of()).values(), strict=True):
        assert np.array_equal(one, other)
    assert {*samples.of().values.tolist()} == {1, 2}


def test_no_stroke_outweighs_the_others(store):
    paint(store, 0, 0, 512, 1)
    paint(store, 600, 600, 4, 1)
    samples = StrokeSamples(store)
    samples.scan()
    assert len(samples.of()) == PER_CHUNK + 16
    for row in range(3):
        paint(store, 512 * row, 0, 450, 1)
    samples.scan()
    found = samples.of()
    assert MOST * 0.9 < len(found) <= MOST
    assert (found.places[:, 0] > 600).sum() > MOST / 2
    assert len(samples.of(40)) <= 40


def test_a_marked_region_has_background_between_its_strokes(store):
    paint(store, 100, 100, 4, 1)
    store.mark_annotated([(90, 90), (90, 130), (130, 130), (130, 90)])
    samples = StrokeSamples(store)
    samples.scan()
    found = samples.of()
    assert (found.values == 1).sum() == 16
    assert (found.values == 0).sum() == PER_CHUNK
    assert ((found.places > 90) & (found.places < 130)).all()


def test_a_store_that_is_gone_is_one_sentence(store):
    import shutil

    samples = StrokeSamples(store)
    shutil.rmtree(store.path)
    with pytest.raises(StoreError, match="is gone"):
        samples.scan()
