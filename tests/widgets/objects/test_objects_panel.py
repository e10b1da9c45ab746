"""The table of objects in a real window: linked with the view, filtered, sorted, changed, kept up to date."""

import csv
import time

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from widgets.mouse import click, look_at, settle

import napari_msunet as ms
from napari_msunet.geometry import Window
from napari_msunet.objects.table import ObjectTable
from napari_msunet.widgets.objects import ObjectsPanel
from napari_msunet.widgets.objects.table import Filter, ObjectModel
from napari_msunet.widgets.paint import PyramidLabels

SIDE = 1200
SQUARES = [(100, 100, 20, 1), (100, 400, 40, 2), (300, 100, 60, 1), (600, 700, 80, 2), (900, 300, 100, 1)]
"""y, x, side, class."""


@pytest.fixture
def viewer(make_napari_viewer):
    found = make_napari_viewer(show=True)
    found.window._qt_window.resize(1280, 800)
    return found


@pytest.fixture
def store(tmp_path):
    made = ms.LabelStore.create(tmp_path / "l.ome.zarr", shape=(SIDE, SIDE), mpp=0.5, classes=("gland", "vessel"))
    values = np.zeros((SIDE, SIDE), np.uint8)
    for y, x, side, kind in SQUARES:
        values[y : y + side, x : x + side] = kind
    made.write(Window(0, 0, SIDE, SIDE), values)
    yield made
    made.close()


@pytest.fixture
def panel(viewer, store, qtbot):
    layer = PyramidLabels(store)
    viewer.add_layer(layer)
    made = ObjectsPanel(viewer)
    viewer.window.add_dock_widget(made, name="Objects", area="bottom")
    made.set_layer(layer)
    qtbot.mouseClick(made.measure, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: made.measuring.measured, timeout=20_000)
    settle()
    yield made
    made.closing()


def cells(panel, column=1):
    model = panel.model
    return [model.data(model.index(row, column)) for row in range(model.rowCount())]


def click_row(panel, qtbot, row, modifier=Qt.KeyboardModifier.NoModifier):
    index = panel.model.index(row, 1)
    panel.view.scrollTo(index)
    place = panel.view.visualRect(index).center()
    qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, modifier, place)
    settle()


def test_areas_largest_first(panel):
    assert cells(panel) == ["2,500", "1,600", "900", "400", "100"]
    assert cells(panel, 0) == ["gland", "vessel", "gland", "vessel", "gland"]
    assert "5 objects" in panel.count.text()
    assert panel.model.headerData(1, Qt.Orientation.Horizontal) == "Area µm²"


def test_a_row_leads_to_its_object(panel, qtbot, viewer):
    before = viewer.scene.camera.center
    click_row(panel, qtbot, 1)
    assert viewer.scene.camera.center == before
    place = panel.view.visualRect(panel.model.index(1, 1)).center()
    qtbot.mouseDClick(panel.view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    y, x, side, _ = SQUARES[3]
    centre = panel.layer.world_to_data(viewer.scene.camera.center[-2:])
    np.testing.assert_allclose(centre, (y + side / 2 - 0.5, x + side / 2 - 0.5), atol=1)
    qtbot.waitUntil(lambda: panel.outline.shown, timeout=5000)


def test_an_object_in_the_view_selects_its_row_but_not_while_painting(panel, qtbot, viewer):
    viewer.layers.selection.active = panel.layer
    panel.layer.mode = "pan_zoom"
    y, x, side, _ = SQUARES[2]
    place = panel.layer.data_to_world((y + side / 2, x + side / 2))
    look_at(viewer, place, 2)
    camera = viewer.scene.camera.center
    click(viewer, place)
    qtbot.waitUntil(lambda: panel.selected_firsts() == [(y, x)], timeout=5000)
    assert viewer.scene.camera.center == camera
    assert panel.outline.shown
    click(viewer, panel.layer.data_to_world((y - 30, x - 30)))
    qtbot.waitUntil(lambda: panel.selected_firsts() == [], timeout=5000)
    panel.layer.mode = "paint"
    click(viewer, place)
    QTest.qWait(300)
    assert panel.selected_firsts() == []


def test_filter_and_sort(panel, qtbot):
    QTest.keyClicks(panel.filter.text, "vess")
    assert cells(panel) == ["1,600", "400"]
    panel.filter.text.clear()
    panel.filter.kind.setCurrentIndex(1)
    assert cells(panel) == ["2,500", "900", "100"]
    QTest.keyClicks(panel.filter.low, "200")
    QTest.keyClicks(panel.filter.high, "1000")
    assert cells(panel) == ["900"]
    assert "1 of 5 objects" in panel.count.text()
    assert list(panel.histogram.curves) == [1]
    for field in (panel.filter.low, panel.filter.high):
        field.clear()
    panel.filter.kind.setCurrentIndex(0)
    assert sorted(panel.histogram.curves) == [1, 2]
    header = panel.view.horizontalHeader()
    place = header.sectionViewportPosition(1) + 20
    at = header.viewport().rect().center()
    at.setX(place)
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert cells(panel) == ["100", "400", "900", "1,600", "2,500"]


def test_deleting_and_changing_class_are_one_step_each(panel, qtbot, store):
    before = store.read(Window(0, 0, SIDE, SIDE))
    click_row(panel, qtbot, 0)
    click_row(panel, qtbot, 2, Qt.KeyboardModifier.ControlModifier)
    qtbot.mouseClick(panel.delete, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: cells(panel) == ["1,600", "400", "100"], timeout=10_000)
    assert (store.read(Window(0, 0, SIDE, SIDE)) > 0).sum() == 4 * (1600 + 400 + 100)
    panel.layer.undo()
    qtbot.waitUntil(lambda: len(cells(panel)) == 5, timeout=10_000)
    np.testing.assert_array_equal(store.read(Window(0, 0, SIDE, SIDE)), before)
    click_row(panel, qtbot, 0)
    panel.classes.actions()[1].trigger()
    qtbot.waitUntil(lambda: cells(panel, 0).count("vessel") == 3, timeout=10_000)
    y, x, side, _ = SQUARES[4]
    assert (store.read(Window(y, x, side, side)) == 2).all()
    panel.layer.undo()
    qtbot.waitUntil(lambda: cells(panel, 0).count("vessel") == 2, timeout=10_000)


def test_painting_keeps_the_table_up_to_date(panel, qtbot):
    panel.layer.selected_label = 1
    panel.layer.brush_size = 10
    panel.layer.paint((110, 120), 1)  # at the side of the smallest
    qtbot.waitUntil(lambda: float(panel.model.table.area.min()) > 100, timeout=10_000)
    assert len(cells(panel)) == 5
    assert panel.stale.text() == ""
    panel.layer.events.stroke(region=None, number=3)
    settle()
    assert "Changed since" in panel.stale.text()


def test_csv_has_the_rows_that_are_shown(panel, qtbot, tmp_path):
    panel.filter.kind.setCurrentIndex(2)
    panel.save_csv(tmp_path / "o.csv")
    qtbot.waitUntil((tmp_path / "o.csv").exists, timeout=10_000)
    rows = list(csv.DictReader((tmp_path / "o.csv").read_text(encoding="utf8").splitlines()))
    assert [row["Class"] for row in rows] == ["vessel", "vessel"]
    assert [float(row["Area µm²"]) for row in rows] == [1600, 400]


def test_a_hundred_thousand_rows(store, qapp):
    rng = np.random.default_rng(0)
    count = 100_000
    area, place = rng.lognormal(3, 1, count), rng.integers(0, SIDE, (count, 2))
    box = np.concatenate([place, np.ones((count, 2))], 1).astype(float)
    table = ObjectTable(rng.integers(1, 3, count), area, np.sqrt(area) * 4, place.astype(float), box, place)
    model = ObjectModel()
    steps = {
        "show": lambda: model.show(table, store),
        "sort": lambda: model.sort(2, Qt.SortOrder.AscendingOrder),
        "filter": lambda: model.set_filter(Filter("gland", None, 5, 100)),
    }
    for name, act in steps.items():
        started = time.process_time()
        act()
        assert time.process_time() - started < 0.1, name
    assert (np.diff(model.column(2)) >= 0).all()
    assert model.column(1).min() >= 5
    assert set(model.column(0).tolist()) == {1}
