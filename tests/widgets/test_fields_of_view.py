"""Fields of view: their arithmetic, the squares at the cursor, the thumbnails, and their going away."""

import itertools
import time

import numpy as np
import pytest
from branch_networks import NETWORKS
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest

from napari_msunet.config import ClassicalConfig, ModelConfig, UNetConfig
from napari_msunet.errors import MissingMppError
from napari_msunet.geometry import Window
from napari_msunet.slide import slide_from_array
from napari_msunet.widgets.fields_of_view import FieldsOfView, as_colours, fields_at, receptive_reach, thumbnail
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.samples import slide_path
from napari_msunet.widgets.slide_layers import add_slide


def model(field="same", scales=(1.0, 0.5, 0.25), depth=3):
    return ModelConfig(classes=("a",), mpp=0.5, scales=scales, field=field, branch=UNetConfig(depth=depth, width=4))


ALL = {**NETWORKS, "classical": ClassicalConfig(), "smoothed": ClassicalConfig(smooth=1.5)}


@pytest.mark.parametrize("name", ALL)
def test_the_context_is_what_is_measured_on_the_network(name):
    from napari_msunet.models.networks import build_network
    from napari_msunet.models.receptive_field import measure_reach

    branch = ALL[name]
    measured = measure_reach(build_network(branch, 3), 3, branch.stride).aligned
    if branch.kind in ("unet", "classical"):
        assert receptive_reach(branch) == measured
    else:
        assert measured <= receptive_reach(branch) <= 1.5 * measured


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_it_grows_with_the_depth_as_measured(depth):
    from napari_msunet.models.networks import build_network
    from napari_msunet.models.receptive_field import measure_reach

    branch = UNetConfig(depth=depth, width=2)
    assert receptive_reach(branch) == measure_reach(build_network(branch, 3), 3, branch.stride).aligned


@pytest.mark.parametrize("field", ["same", "concentric"])
def test_windows_are_those_of_training(field):
    from napari_msunet.models.windows import input_windows

    slide = slide_from_array(np.zeros((4000, 4000, 3), np.uint8), mpp=0.25)
    config = model(field)
    target = Window(512, 1024, 256, 256)
    centre = slide.grid(config.mpp).region(target)
    place = centre.y + centre.height / 2, centre.x + centre.width / 2
    fields = fields_at(slide, config, place, 256)
    assert [f.window for f in fields] == input_windows(config, target)
    assert [f.name for f in fields] == ["scale 1", "scale 1/2", "scale 1/4"]
    assert [f.resolution.mpp for f in fields] == [0.5, 1.0, 2.0]
    sides = [f.region.height for f in fields]
    assert sides == ([512] * 3 if field == "same" else [512, 1024, 2048])
    assert all(a.context.height < b.context.height for a, b in itertools.pairwise(fields))


def test_thumbnails_are_what_the_branch_reads():
    image = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    slide = slide_from_array(image, mpp=0.5)
    fine, coarse, _ = fields_at(slide, model(), (450, 450), 256)
    np.testing.assert_array_equal(thumbnail(slide, fine), image[322:578, 322:578])
    means = image[322:578, 322:578].reshape(128, 2, 128, 2, 3).mean((1, 3))
    np.testing.assert_allclose(thumbnail(slide, coarse), means, atol=0.51)
    (huge,) = fields_at(slide, model(scales=(1.0,)), (450, 450), 2048)
    assert max(thumbnail(slide, huge).shape) <= 512
    edge = thumbnail(slide, fields_at(slide, model(), (0, 0), 256)[0])
    assert edge[0, 0].tolist() == [255, 255, 255]


def test_channels_that_are_no_colours_are_spread():
    pixels = np.zeros((10, 10, 2), np.uint16)
    pixels[..., 0] = np.arange(100).reshape(10, 10) + 1000
    shown = as_colours(pixels, colour=False)
    assert shown.shape == (10, 10, 3)
    assert (shown[0, 0, 0], shown[-1, -1, 0], shown[..., 2].max()) == (0, 255, 0)
    assert as_colours(pixels[..., :1], colour=False)[-1, -1].tolist() == [255, 255, 255]


def test_without_micrometres_there_are_no_fields():
    with pytest.raises(MissingMppError):
        fields_at(slide_from_array(np.zeros((64, 64, 3), np.uint8)), model(), (0, 0))


@pytest.fixture
def shown(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    layer = add_slide(viewer, slide_path())
    fields = FieldsOfView(viewer, layer, model())
    yield fields
    fields.hide()


def canvas(fields):
    return fields.viewer.window._qt_viewer.canvas


def move_mouse(fields, x, y):
    QTest.mouseMove(canvas(fields).native, QPoint(x - 3, y))
    QTest.qWait(30)
    QTest.mouseMove(canvas(fields).native, QPoint(x, y))
    QTest.qWait(30)


def test_it_follows_the_mouse(shown, qtbot):
    assert shown.show()
    qtbot.wait(50)
    move_mouse(shown, 200, 150)
    world = canvas(shown)._map_canvas2world((200, 150), canvas(shown).view)
    expected = np.asarray(shown.layer.world_to_data(world)) + 0.5
    np.testing.assert_allclose(shown.place, expected, atol=1)
    before = shown.place
    move_mouse(shown, 300, 250)
    assert shown.place != before
    bright = shown._lines[1]
    corners = bright.pos[:8].reshape(-1, 2)
    field = shown.fields[0].region
    np.testing.assert_allclose(corners.min(0), (np.array([field.x, field.y]) - 0.5) * 0.499, rtol=1e-5)
    np.testing.assert_allclose(corners.max(0), (np.array(field.stop[::-1]) - 0.5) * 0.499, rtol=1e-5)


def test_the_squares_are_on_the_screen(shown, qtbot):
    def colours():
        return shown.viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)

    def pinks(picture):
        return ((picture[..., 0] > 240) & (abs(picture[..., 1] - 89) < 12) & (abs(picture[..., 2] - 217) < 12)).sum()

    before = pinks(colours())
    shown.show(dock=False)
    shown.set_model(model("concentric"))
    shown.move_to((1500, 1000))
    assert pinks(colours()) > before + 200
    shown.hide()
    assert pinks(colours()) == before


def test_thumbnails_show_each_scale(shown, qtbot):
    shown.show()
    shown.move_to((1500, 1000))
    panel = shown.panel
    qtbot.waitUntil(lambda: all(t.picture.pixmap().width() for t in panel.thumbnails), timeout=5000)
    assert [t.scale for t in panel.thumbnails] == ["scale 1", "scale 1/2", "scale 1/4"]
    assert "1 µm/px" in panel.thumbnails[1].title.text()
    qtbot.waitUntil(lambda: panel.thumbnails[2].detail.text() == "64 x 64 px, 128 µm", timeout=2000)
    shown.set_model(model(scales=(1.0, 0.5)), size=512)
    assert len(panel.thumbnails) == 2
    qtbot.waitUntil(lambda: panel.thumbnails[0].detail.text() == "512 x 512 px, 256 µm", timeout=5000)


def test_the_latest_place_wins_and_the_window_stays_free(shown, qtbot):
    shown.show()
    slowest = 0.0
    got = []
    shown._reader.ready.connect(got.append)
    for step in range(100):
        began = time.perf_counter()
        shown.move_to((1000 + step, 1000))
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.05
    slide = slide_of(shown.layer)
    last = as_colours(thumbnail(slide, shown.fields[0]), True)
    qtbot.waitUntil(lambda: bool(got) and np.array_equal(got[-1][0][1], last), timeout=5000)
    assert len(got) < 100


def test_it_goes_away_without_a_trace(shown, qtbot):
    viewer = shown.viewer
    scene = canvas(shown).view.scene
    children, callbacks = len(scene.children), len(viewer.mouse_move_callbacks)
    docks = len(viewer.window.dock_widgets)
    shown.toggle()
    reader = shown._reader
    assert len(scene.children) == children + 2
    shown.toggle()
    assert len(scene.children) == children
    assert len(viewer.mouse_move_callbacks) == callbacks
    assert len(viewer.window.dock_widgets) == docks
    qtbot.waitUntil(lambda: not reader.alive, timeout=5000)
    place = shown.place
    move_mouse(shown, 100, 100)
    assert shown.place == place
    assert shown.show(), "and comes again"


def test_it_ends_with_its_layer(shown, qtbot):
    shown.show()
    seen = []
    shown.visibleChanged.connect(seen.append)
    shown.viewer.layers.clear()
    assert seen == [False]
    assert not shown.visible


def test_closing_the_panel_ends_it(shown, qtbot):
    shown.show()
    shown._dock.destroyOnClose()
    qtbot.waitUntil(lambda: not shown.visible, timeout=2000)
    assert shown.show()


def test_a_slide_without_micrometres_is_told(make_napari_viewer):
    from napari.utils.notifications import notification_manager

    viewer = make_napari_viewer()
    layer = viewer.add_image(np.zeros((64, 64, 3), np.uint8))
    told = []
    notification_manager.notification_ready.connect(told.append)
    assert not FieldsOfView(viewer, layer, model()).show()
    notification_manager.notification_ready.disconnect(told.append)
    assert "µm per pixel" in told[0].message
