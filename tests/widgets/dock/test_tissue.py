"""Finding tissue in the dock: a click, a layer, corrections that count, remembered in the project."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from widgets.dock.making import annotate, click, settle

import napari_msunet as ms
from napari_msunet.config.prediction import InClasses
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.widgets import resolve

CMU = Path(ms.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"


@pytest.fixture
def slide(tmp_path):
    return Path(shutil.copy(CMU, tmp_path / "cmu.svs"))


@pytest.fixture
def row(dock, slide, qtbot):
    """A dock with the real slide open, and its row for tissue."""
    dock.open_slide(slide)
    dock.show_step("slide")
    settle(0.3)
    return dock.steps["slide"].tissue


def find(row, qtbot):
    assert row.button.text() == "Find tissue"
    click(qtbot, row.button)
    qtbot.waitUntil(lambda: row.state.active.tissue is not None, timeout=20_000)
    qtbot.waitUntil(lambda: "%" in row.words.text(), timeout=5000)
    return row.state.active


def test_a_click_finds_the_tissue_and_shows_it(row, dock, viewer, qtbot, slide):
    before = viewer.layers.selection.active
    record = find(row, qtbot)
    layer = dock.layers.of_store(record.tissue)
    assert layer.name == "Tissue cmu"
    assert viewer.layers.selection.active is before
    assert record.tissue.is_relative_to(dock.state.project.folder / "tissue")
    with ms.open_slide(slide) as opened:
        expected = ms.tissue_mask(opened)
    np.testing.assert_array_equal(layer.store.read(Window(0, 0, *layer.store.shape)) == 1, expected.mask)
    assert row.words.text().startswith(f"{100 * expected.share:.0f} %")
    # It lies over the slide: both end at the same place.
    image = dock.layers.slide(record)
    ends = [np.asarray(one.extent.world)[1][-2:] for one in (layer, image)]
    np.testing.assert_allclose(*ends, atol=8.0)


def test_painting_corrects_it_and_training_follows(row, dock, viewer, qtbot):
    record = find(row, qtbot)
    assert row.button.text() == "Correct tissue"
    click(qtbot, row.button)
    layer = viewer.layers.selection.active
    assert layer is dock.layers.of_store(record.tissue)
    assert layer.mode == "paint"
    assert record.tissue_mask.on(layer.store.grid, Window(0, 0, 30, 30)).sum() < 900
    said = row.words.text()
    viewer.reset_view()
    settle(0.3)
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    layer.mode = "erase"
    layer.brush_size = 60
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
    qtbot.waitUntil(lambda: row.words.text() != said, timeout=5000)
    edited = layer.store.read_edited(Window(0, 0, *layer.store.shape))
    assert edited.any()
    mask = record.tissue_mask
    assert not mask.on(layer.store.grid, layer.store.grid.whole)[edited].any()
    store = dock.start_annotating(("blob",)).store
    annotate(store, 400)
    dock.state.set_counts(record, {1: 10, 255: 10}, 0)
    (source,) = resolve.sources(dock.state)
    assert source.within == InClasses(labels=record.tissue, classes=("tissue",))


def test_it_is_remembered_and_forgotten(row, dock, viewer, qtbot, slide):
    record = find(row, qtbot)
    path, project = record.tissue, dock.state.project.folder
    from napari_msunet.app.project import Project
    from napari_msunet.widgets.dock.project_sync import recall, remember
    from napari_msunet.widgets.state import State

    remember(dock.state)
    again = State()
    assert recall(again, Project.open(project)) == []
    assert again.slides[0].tissue == path
    click(qtbot, row.forget_button)
    assert record.tissue is None
    assert dock.layers.of_store(path) is None
    assert path.exists()
    settle()
    assert row.button.text() == "Find tissue"
    assert not row.forget_button.isVisible()


def test_the_python_makes_the_same(row, dock, qtbot, tmp_path):
    record = find(row, qtbot)
    code = dock.steps["slide"].as_python()
    assert "ms.tissue_labels(" in code
    made = tmp_path / "made.ome.zarr"
    names: dict = {}
    exec(code.replace(record.tissue.as_posix(), made.as_posix()), names)
    mine, theirs = ms.open_labels(record.tissue), ms.open_labels(made)
    whole = Window(0, 0, *mine.shape)
    np.testing.assert_array_equal(mine.read(whole), theirs.read(whole))


def test_the_window_does_not_wait(row, dock, qtbot, tmp_path):
    """No turn of the event loop takes long while a large slide is looked at."""
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((2000, 2000, 1)) < 0.4, (200, 120, 170), (244, 243, 244)).astype(np.uint8)
    big = ms.build_pyramid(pixels, tmp_path / "big.ome.zarr", mpp=8.0)
    dock.open_slide(big)
    settle(0.5)
    gaps, last = [], time.perf_counter()
    row.find()
    while row._running is not None:
        qtbot.wait(1)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    assert dock.state.active.tissue is not None
    assert len(gaps) > 5
    # the last turn adds the layer, which is napari's own work
    assert np.percentile(gaps, 90) < 0.05


def test_what_is_missing_is_said(dock, viewer, messages, tmp_path):
    row = dock.steps["slide"].tissue
    settle()
    assert not row.button.isEnabled()
    with pytest.raises(MsunetError, match="Open a slide first"):
        row.find()
    dock.open_slide(ms.build_pyramid(np.zeros((300, 300, 3), np.uint8), tmp_path / "u.ome.zarr", mpp=None))
    settle()
    assert not row.button.isEnabled()
    assert "pixel size" in row.button.toolTip()
    with pytest.raises(MsunetError, match="pixel size first"):
        row.find()
