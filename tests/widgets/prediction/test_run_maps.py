"""The images of a run as layers: the same numbers, at every zoom, also while the run fills."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.placement import to_world
from napari_msunet.widgets.prediction.run_maps import RunMap, add_run_maps, map_of, redraw
from napari_msunet.widgets.samples import slide_path
from napari_msunet.widgets.slide_layers import add_slide

OUTPUTS = {"labels": "uint8", "disagreement": "uint8", "entropy": "uint8", "probabilities": "float16"}
SHAPE = (2300, 3100)


@pytest.fixture
def store(tmp_path):
    found = LabelStore.create(tmp_path / "labels.ome.zarr", shape=SHAPE, mpp=0.5, classes=("gland", "gap"))
    yield found
    found.close()


def values_of(window):
    """Numbers that tell every place from every other."""
    y, x = np.mgrid[window.y : window.stop[0], window.x : window.stop[1]]
    entropy = (0.2 + 0.5 * y / SHAPE[0]).astype(np.float32)
    gland = (0.1 + 0.8 * x / SHAPE[1]).astype(np.float32)
    return {
        "labels": np.ones(window.shape, np.uint8),
        "disagreement": entropy / 2,
        "entropy": entropy,
        "probabilities": np.stack([1 - gland - 0.05, gland, np.full_like(gland, 0.05)]),
    }


def fill(run, window):
    run.write(window, values_of(window))
    run.finish(window.y * 10_000 + window.x, window)


def test_each_output_is_a_layer(store):
    viewer = ViewerModel()
    run = store.create_run("one", {}, ("gland", "gap"), OUTPUTS)
    layers = add_run_maps(viewer, run)
    assert [layer.name.split(" labels")[0] for layer in layers] == [
        "Disagreement",
        "Uncertainty",
        "Probability of gland",
        "Probability of gap",
    ]
    assert [layer.visible for layer in layers] == [True, False, False, False]
    again = add_run_maps(viewer, run)
    assert list(viewer.layers) == again  # in place of those before
    plain = store.create_run("two", {}, ("gland", "gap"), {"labels": "uint8"})
    with pytest.raises(StoreError, match="labels only"):
        add_run_maps(viewer, plain)


@pytest.mark.parametrize("window", [Window(0, 0, 700, 900), Window(1203, 517, 1097, 2400)])
def test_every_zoom_shows_a_tile_as_soon_as_it_is_taken(store, window):
    run = store.create_run("one", {}, ("gland", "gap"), OUTPUTS)
    source = RunMap(run, "entropy")
    assert len(source.levels) > 2
    with run.writing():
        fill(run, window)
        before = np.asarray(source.levels[-1])
        source.take(window)
        for level, array in enumerate(source.levels):
            inner = Window.between(
                (-(-window.y >> level) + 1, -(-window.x >> level) + 1),
                ((window.stop[0] >> level) - 1, (window.stop[1] >> level) - 1),
            )
            y = (np.arange(inner.y, inner.stop[0]) + 0.5) * 2**level - 0.5
            expected = 0.2 + 0.5 * y / SHAPE[0]
            seen = np.asarray(array)[inner.slices()]
            np.testing.assert_allclose(seen, np.broadcast_to(expected[:, None], inner.shape), atol=6e-3)
            outside = np.asarray(array)
            outside[
                window.y >> level : (window.stop[0] >> level) + 2, window.x >> level : (window.stop[1] >> level) + 2
            ] = 0
            assert not outside.any()
    assert not before.any()


def test_a_complete_run_is_read_from_its_own_pyramid(store):
    run = store.create_run("one", {}, ("gland", "gap"), OUTPUTS)
    source = RunMap(run, "probabilities", 1)
    whole = Window(0, 0, *SHAPE)
    with run.writing():
        fill(run, whole)
        source.take(whole)
        filling = [np.asarray(level) for level in source.levels]
        run.complete_run()
    source.settle()
    for level, array in enumerate(source.levels):
        expected = np.asarray(run.levels("probabilities")[level][1])
        np.testing.assert_array_equal(np.asarray(array), expected.astype(np.float32))
        np.testing.assert_allclose(filling[level], expected, atol=4e-3)


def test_over_the_slide_and_drawn_again(tmp_path):
    viewer = ViewerModel()
    slide = add_slide(viewer, slide_path())
    slide.translate = (40.0, -7.0)
    from napari_msunet.slide import open_slide

    with open_slide(slide_path()) as opened:
        store = LabelStore.create(tmp_path / "labels.ome.zarr", mpp=0.998, classes=("gland", "gap"), slide=opened)
    run = store.create_run("one", {}, ("gland", "gap"), {"labels": "uint8", "entropy": "uint8"})
    (layer,) = add_run_maps(viewer, run, slide)
    pixel = np.array(run.info.pixel)
    corners = np.array([[0, 0], [300, 200]])
    np.testing.assert_allclose(to_world(viewer, layer, corners), to_world(viewer, slide, corners * pixel), atol=1e-6)
    window = Window(256, 128, 300, 260)
    values = {"labels": np.ones(window.shape, np.uint8), "entropy": np.full(window.shape, 0.6, np.float32)}
    with run.writing():
        run.write(window, values)
        run.finish(0, window)
        map_of(layer).take(window)
    place = tuple(layer.data_to_world((300, 200)))
    redraw(layer, whole=True)
    assert layer.get_value(place, world=True)[1] == pytest.approx(0.6, abs=4e-3)
    store.close()


def test_a_run_that_is_gone_is_drawn_as_nothing(store):
    import shutil

    run = store.create_run("one", {}, ("gland", "gap"), OUTPUTS)
    source = RunMap(run, "entropy")
    shutil.rmtree(run.path)
    assert not np.asarray(source.levels[0][:50, :50]).any()
