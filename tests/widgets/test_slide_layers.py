"""Slides as napari layers and layers as slides: places, laziness, foreign layers, files that vanish."""

import shutil
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel

from napari_msunet.errors import SlideError
from napari_msunet.slide import build_pyramid, open_slide
from napari_msunet.widgets.layer_slides import as_slide_file, is_slide, slide_of, slide_path
from napari_msunet.widgets.placement import over, placed, to_level0, to_world, visible_region
from napari_msunet.widgets.samples import slide_path as sample_path
from napari_msunet.widgets.slide_layers import add_slide, set_mpp, slide_layers
from napari_msunet.widgets.slide_levels import Overview, SlideLevel


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def model():
    """A viewer without a window."""
    return ViewerModel()


@pytest.fixture
def messages(monkeypatch):
    """What napari tells the user."""
    from napari.utils.notifications import notification_manager

    found = []
    notification_manager.notification_ready.connect(found.append)
    monkeypatch.setenv("NAPARI_CATCH_ERRORS", "1")
    yield found
    notification_manager.notification_ready.disconnect(found.append)


def texture(height, width, channels=3, seed=0):
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def test_a_slide_is_a_lazy_pyramid_in_micrometres(model, monkeypatch):
    reads = []
    original = SlideLevel._read
    monkeypatch.setattr(
        SlideLevel, "_read", lambda self, window: reads.append((self, window)) or original(self, window)
    )
    layer = add_slide(model, sample_path())
    slide = slide_of(layer)
    assert layer.multiscale
    assert layer.rgb
    np.testing.assert_allclose(layer.scale, slide.mpp)
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
    assert layer.axis_labels == ("y", "x")
    assert layer.contrast_limits == [0, 255]
    assert slide_path(layer) == sample_path()
    assert layer.metadata["napari_msunet"] == {"path": str(sample_path()), "mpp": slide.mpp}
    whole = [window for level, window in reads if window.shape == level.shape[:2] and level is layer.data[0]]
    assert not whole, "the finest level was read whole"


def test_what_is_drawn_is_what_the_slide_reads(model, qtbot):
    layer = add_slide(model, sample_path())
    slide = slide_of(layer)
    np.testing.assert_array_equal(
        layer.data[0][100:163, 200:331], slide.read_window(slide.grid(), window(100, 200, 63, 131))
    )
    np.testing.assert_array_equal(layer.data[0][5, 7], layer.data[0][5:6, 7:8][0, 0])
    np.testing.assert_array_equal(layer.data[0][20:10:-2, ..., 1], layer.data[0][12:21, :, 1][::-1][::2][:5])
    assert layer.data[0][0:0].shape == (0, *layer.data[0].shape[1:])
    halved = (
        np.asarray(slide.read_window(slide.grid(), window(0, 0, 200, 200)), float)
        .reshape(100, 2, 100, 2, 3)
        .mean((1, 3))
    )
    np.testing.assert_allclose(layer.data[1][:100, :100], halved, atol=0.51)


def window(y, x, height, width):
    from napari_msunet.geometry import Window

    return Window(y, x, height, width)


def test_channels_become_layers_with_limits_of_their_own(model, tmp_path):
    values = np.zeros((300, 200, 2), np.uint16)
    values[..., 0] = np.linspace(100, 900, 200)
    values[..., 1] = 7
    path = build_pyramid(values, tmp_path / "two.ome.zarr", mpp=0.25)
    add_slide(model, path)
    first, second = model.layers
    assert [layer.ndim for layer in model.layers] == [2, 2]
    assert first.contrast_limits[0] == pytest.approx(100, abs=5)
    assert first.contrast_limits[1] == pytest.approx(900, abs=5)
    assert second.contrast_limits == [7, 8]
    assert slide_of(first) is slide_of(second)
    np.testing.assert_array_equal(first.data[0][3:5, 6:9], values[3:5, 6:9, 0])


def test_without_micrometres_it_is_in_pixels_until_they_are_given(model, tmp_path):
    path = build_pyramid(texture(64, 80), tmp_path / "plain.ome.zarr")
    layer = add_slide(model, path)
    assert [str(unit) for unit in layer.units] == ["pixel"] * 2
    assert slide_of(layer).mpp is None
    set_mpp(model, layer, 0.5)
    assert slide_of(layer).mpp == (0.5, 0.5)
    np.testing.assert_allclose(layer.scale, 0.5)
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
    with pytest.raises(SlideError, match="above zero"):
        set_mpp(model, layer, 0)


@pytest.mark.parametrize(
    "place",
    [{}, {"scale": (0.25, 0.25)}, {"scale": (0.5, 0.7), "translate": (30, -20)}, {"rotate": 90, "scale": (2, 2)}],
)
def test_what_is_in_view_is_exact(viewer, qtbot, place):
    layer = viewer.add_image(texture(500, 400), **place)
    viewer.reset_view()
    viewer.scene.camera.zoom *= 4
    qtbot.wait(50)
    canvas = viewer.window._qt_viewer.canvas
    corners = canvas._viewbox_corners_in_world
    places = np.array([layer.world_to_data(c) for c in [(y, x) for y in corners[:, 0] for x in corners[:, 1]]]) + 0.5
    low, high = np.clip(places.min(0), 0, (500, 400)), np.clip(places.max(0), 0, (500, 400))
    region = visible_region(viewer, layer)
    np.testing.assert_allclose((region.y, region.x), low, atol=1e-3)
    np.testing.assert_allclose(region.stop, high, atol=1e-3)
    assert region.height < 200


def test_all_of_a_slide_and_nothing_of_it_in_view(viewer, qtbot):
    layer = add_slide(viewer, sample_path())
    viewer.reset_view()
    region = visible_region(viewer, layer)
    assert (region.y, region.x, region.height, region.width) == (0, 0, 2967, 2220)
    viewer.scene.camera.center = (1e6, 1e6)
    with pytest.raises(SlideError, match="Nothing of"):
        visible_region(viewer, layer)


def test_places_go_to_the_world_and_back(model):
    layer = model.add_image(texture(50, 40), scale=(0.5, 0.25), translate=(3, 4), rotate=30)
    world = to_world(model, layer, [(10, 20)])[0]
    assert to_level0(model, layer, world) == pytest.approx((10, 20))
    corner = to_world(model, model.add_image(texture(50, 40)), [(0, 0)])[0]
    np.testing.assert_allclose(corner, -0.5)


def test_units_that_differ_are_converted(model):
    layer = model.add_image(texture(50, 40), scale=(0.5, 0.5), units=("micrometer",) * 2)
    model.add_image(texture(50, 40), scale=(500, 500), units=("nanometer",) * 2)
    world = to_world(model, layer, [(20.5, 10.5)])[0]
    unit = 1000 if str(model.layers.units[-1]) == "nanometer" else 1
    np.testing.assert_allclose(world, np.array([10, 5]) * unit)
    assert to_level0(model, layer, world) == pytest.approx((20.5, 10.5))


@pytest.mark.parametrize("pixel", [(1.0, 1.0), (2.0, 4.0), (0.5, 0.5)])
def test_what_is_placed_over_a_slide_covers_the_same_ground(model, pixel):
    layer = model.add_image(texture(64, 48), scale=(0.5, 0.25), translate=(7, 9))
    above = model.add_image(texture(8, 8), **{**over(layer, pixel, (16, 8)), "units": None, "axis_labels": None})
    edges = np.array([[0, 0], [8, 8]])
    np.testing.assert_allclose(
        to_world(model, above, edges), to_world(model, layer, edges * pixel + (16, 8)), atol=1e-9
    )
    turned = model.add_image(texture(64, 48), rotate=20, shear=[0.1])
    above = model.add_image(texture(8, 8), **{**over(turned, pixel), "units": None, "axis_labels": None})
    np.testing.assert_allclose(to_world(model, above, edges), to_world(model, turned, edges * pixel), atol=1e-9)


def test_without_a_layer_things_are_placed_by_micrometres():
    place = placed((0.5, 0.5), (4.0, 4.0), (8.0, 0.0))
    assert place["scale"] == (2.0, 2.0)
    assert place["translate"] == ((8 + 2 - 0.5) * 0.5, (0 + 2 - 0.5) * 0.5)
    assert placed(None)["units"] == ("pixel", "pixel")


FOREIGN = {
    "numpy colours": lambda: (texture(90, 70), {"rgb": True}),
    "numpy with alpha": lambda: (texture(90, 70, 4), {"rgb": True}),
    "numpy gray": lambda: (texture(90, 70, None), {}),
    "floats": lambda: (texture(90, 70, None) / 255.0, {}),
    "dask": lambda: (da.from_array(texture(90, 70), chunks=(32, 32, 3)), {"rgb": True}),
    "pyramid": lambda: ([texture(90, 70), texture(90, 70)[::2, ::2]], {"rgb": True, "multiscale": True}),
    "zarr": lambda: (zarr.array(texture(90, 70, None), chunks=(32, 32)), {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_any_image_layer_is_a_slide(model, kind):
    data, options = FOREIGN[kind]()
    layer = model.add_image(data, scale=(0.5, 0.5), units=("micrometer",) * 2, **options)
    slide = slide_of(layer)
    assert slide.shape == (90, 70, 3 if options.get("rgb") else 1)
    assert slide.mpp == (0.5, 0.5)
    assert slide_path(layer) is None
    assert slide_of(layer) is slide
    full = np.asarray(data[0] if isinstance(data, list) else data)[..., : 3 if options.get("rgb") else None]
    got = slide.read_window(slide.grid(), window(10, 20, 30, 40))
    np.testing.assert_array_equal(got.squeeze(), full[10:40, 20:60])


def test_units_are_never_guessed(model):
    assert slide_of(model.add_image(texture(90, 70))).mpp is None
    assert slide_of(model.add_image(texture(90, 70), scale=(0.5, 0.5))).mpp is None
    nano = model.add_image(texture(90, 70), scale=(500, 250), units=("nm", "nm"))
    assert slide_of(nano).mpp == pytest.approx((0.5, 0.25))


def test_of_a_stack_the_plane_that_is_shown(model):
    stack = np.stack([texture(40, 50, None, seed) for seed in range(4)])
    layer = model.add_image(stack)
    model.dims.set_point(0, 3)
    np.testing.assert_array_equal(
        slide_of(layer).read_window(slide_of(layer).grid(), window(0, 0, 40, 50))[..., 0], stack[3]
    )
    model.dims.set_point(0, 1)
    np.testing.assert_array_equal(
        slide_of(layer).read_window(slide_of(layer).grid(), window(0, 0, 40, 50))[..., 0], stack[1]
    )


def test_what_is_no_image_is_no_slide(model):
    assert slide_of(model.add_labels(np.zeros((9, 9), int))) is None
    assert slide_of(model.add_points([[1, 1]])) is None
    assert not is_slide(model.layers[0])


def test_a_file_another_plugin_opened_is_known(model, tmp_path):
    import tifffile

    path = tmp_path / "other.tif"
    tifffile.imwrite(path, texture(90, 70), photometric="rgb")
    (layer,) = model.open(path, plugin="napari")
    assert slide_path(layer) == path
    (cropped,) = model.open(path, plugin="napari")
    cropped.data = cropped.data[:50]
    assert slide_path(cropped) is None
    assert slide_of(cropped).shape[:2] == (50, 70)


def test_a_duplicated_layer_shows_the_same_slide(model):
    from napari.layers._layer_actions import _duplicate_layer

    layer = add_slide(model, sample_path())
    model.layers.selection = {layer}
    _duplicate_layer(model.layers)
    assert len(model.layers) == 2
    assert slide_of(model.layers[1]) is slide_of(layer)


def test_a_layer_without_a_file_is_written_as_one(viewer, qtbot, tmp_path):
    data = texture(1500, 1300)
    layer = viewer.add_image(data, name="my: image", scale=(0.5, 0.5), units=("micrometer",) * 2)
    (tmp_path / "my_image.ome.zarr").mkdir()
    worker = as_slide_file(layer, tmp_path)
    steps = []
    worker.progressed.connect(lambda done, total: steps.append((done, total)))
    with qtbot.waitSignal(worker.returned, timeout=20_000) as blocker:
        pass
    path = blocker.args[0]
    assert path == tmp_path / "my_image-2.ome.zarr"
    with open_slide(path) as slide:
        assert slide.mpp == (0.5, 0.5)
        np.testing.assert_array_equal(slide.read_window(slide.grid(), window(0, 0, 1500, 1300)), data)
    qtbot.waitUntil(lambda: slide_path(layer) == path)
    assert steps[-1][0] == steps[-1][1]
    again = as_slide_file(layer, tmp_path)
    with qtbot.waitSignal(again.returned, timeout=5000) as blocker:
        pass
    assert blocker.args[0] == path


def test_writing_can_be_cancelled(viewer, qtbot, tmp_path):
    big = da.random.default_rng(0).integers(0, 255, (6000, 6000), np.uint8, chunks=(512, 512))
    worker = as_slide_file(viewer.add_image(big, name="big", contrast_limits=(0, 255), visible=False), tmp_path)
    with qtbot.waitSignal(worker.progressed, timeout=20_000):
        pass
    with qtbot.waitSignal(worker.finished, timeout=20_000):
        worker.quit()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(viewer, qtbot, tmp_path, messages):
    (tmp_path / "file").write_text("")
    worker = as_slide_file(viewer.add_image(texture(90, 70)), tmp_path / "file")
    with qtbot.waitSignal(worker.errored, timeout=5000):
        pass
    qtbot.waitUntil(lambda: len(messages) == 1)
    assert "cannot be written" in messages[0].message


def test_a_slide_that_vanishes_is_told_once_and_comes_back(viewer, qtbot, tmp_path, messages, monkeypatch):
    monkeypatch.setattr("napari_msunet.widgets.slide_levels.RETRY_SECONDS", 0.0)
    path = tmp_path / "gone.ome.zarr"
    data = np.full((3000, 3000, 3), 77, np.uint8)
    build_pyramid(data, path, mpp=0.5)
    layer = add_slide(viewer, path)
    shutil.move(path, tmp_path / "elsewhere")
    viewer.scene.camera.zoom = 8
    for centre in (200, 700, 1200):
        viewer.scene.camera.center = (centre, centre)
        qtbot.wait(30)
    assert [m.message for m in messages if "no longer there" in m.message]
    assert len(messages) == 1
    assert layer.data[0][2900, 2900].tolist() == [255, 255, 255]
    shutil.move(tmp_path / "elsewhere", path)
    assert layer.data[0][2900, 2900].tolist() == [77, 77, 77]


def test_levels_that_a_file_lacks_are_made(viewer, qtbot, tmp_path):
    import tifffile

    path = tmp_path / "flat.tif"
    data = np.zeros((100, 33_000), np.uint8)
    data[:, 16_000:] = 200
    tifffile.imwrite(path, data, tile=(128, 128), compression="zlib", photometric="minisblack")
    layer = slide_layers(path)[0]
    assert max(layer.data[-1].shape) <= 2048
    made = [level for level in layer.data if isinstance(level, Overview)]
    assert [level.shape for level in made] == [(13, 4125), (7, 2063), (4, 1032)]
    viewer.add_layer(layer)
    qtbot.waitUntil(lambda: all(level.done for level in made), timeout=10_000)
    assert made[-1][2].tolist()[:-1] == [0] * 500 + [200] * 531
    qtbot.waitUntil(lambda: layer._slice.thumbnail.raw.max() == 200, timeout=5000)


def test_the_metadata_path_is_absolute(model, monkeypatch):
    monkeypatch.chdir(sample_path().parent)
    assert slide_path(add_slide(model, sample_path().name)) == sample_path()
    assert Path(model.layers[0].metadata["napari_msunet"]["path"]).is_absolute()
