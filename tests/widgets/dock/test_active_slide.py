"""The active slide is the one that is seen, and a stroke goes to what is seen: by mouse, in a real window."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from widgets.dock.making import make_slide
from widgets.mouse import drag, look_at, settle

from napari_msunet.geometry import Window
from napari_msunet.widgets.napari_internals import camera

LONG = 60_000


@pytest.fixture
def two(dock, tmp_path):
    """Two slides of one size, which lie on top of each other, both with an annotation."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = make_slide(tmp_path / name, 300).rename(tmp_path / f"{name}.ome.zarr")
        dock.open_slide(path)
        dock.start_annotating(("blob",))
    dock.show_step("slide")
    settle()
    return dock


def choose(dock, row):
    """Click on a row of the dock's list of slides."""
    dock.show_step("slide")
    dock.refresh()
    settle()
    listed = dock.step("slide").list
    QTest.mouseClick(listed.viewport(), Qt.MouseButton.LeftButton, pos=listed.visualItemRect(listed.item(row)).center())
    settle()
    QApplication.processEvents()


def seen(dock):
    return [layer.name for layer in dock.viewer.layers if layer.visible]


def test_the_slide_that_is_chosen_is_the_one_that_is_seen(two):
    a, b = two.state.slides
    assert two.state.active is b
    assert seen(two) == ["b", "Annotation b"]
    choose(two, 0)
    assert two.state.active is a
    assert seen(two) == ["a", "Annotation a"]
    choose(two, 1)
    assert seen(two) == ["b", "Annotation b"]


def test_a_stroke_goes_to_what_is_seen(two):
    a, b = two.state.slides
    of = {r: two.layers.annotation(r) for r in (a, b)}
    assert two.viewer.layers.selection.active is of[b]
    for row, record in ((0, a), (1, b), (0, a)):
        choose(two, row)
        chosen = two.viewer.layers.selection.active
        assert chosen is of[record]
        assert str(chosen.mode) == "paint"
        before = {r: np.asarray(of[r].store.read_edited(Window(0, 0, 300, 300))).sum() for r in (a, b)}
        middle = np.array(of[record].data_to_world((100 + 40 * row, 150)))[-2:]
        look_at(two.viewer, tuple(middle), camera(two.viewer).zoom)
        drag(two.viewer, [middle, middle + 5 * of[record].scale[-1]])
        of[record].wait()
        after = {r: np.asarray(of[r].store.read_edited(Window(0, 0, 300, 300))).sum() for r in (a, b)}
        other = b if record is a else a
        assert after[other] == before[other]
        assert after[record] > before[record] or row == 0


def test_the_view_goes_with_the_slide(two):
    camera(two.viewer).zoom = 7.5
    camera(two.viewer).center = (0, 11.0, 12.0)
    choose(two, 0)
    assert camera(two.viewer).zoom != 7.5
    choose(two, 1)
    assert camera(two.viewer).zoom == 7.5
    assert tuple(camera(two.viewer).center)[-2:] == (11.0, 12.0)


def test_what_a_person_hid_stays_hidden(two):
    two.layers.annotation(two.state.slides[1]).visible = False
    choose(two, 0)
    choose(two, 1)
    assert seen(two) == ["b"]


def test_choosing_a_layer_of_another_slide_makes_it_the_active_one(two):
    a, _ = two.state.slides
    two.viewer.layers.selection.active = two.layers.slide(a)
    settle()
    assert two.state.active is a
    assert seen(two) == ["a", "Annotation a"]


def test_a_layer_that_comes_for_another_slide_does_not_cover_what_is_seen(two):
    """As the labels of a prediction that ends while somebody works on another slide."""
    from napari_msunet.labels import LabelStore
    from napari_msunet.slide import open_slide

    a, b = two.state.slides
    with open_slide(a.path) as slide:
        a.labels = LabelStore.create(two.state.make_project().labels_path("a"), classes=("blob",), slide=slide).path
    layer = two.layers.need_labels(a)
    settle()
    QApplication.processEvents()
    assert two.state.active is b
    assert not layer.visible
    assert two.shown.owner(two.viewer.layers.selection.active) is b
    choose(two, 0)
    assert layer.visible


def test_a_rectangle_that_is_waited_for_goes_with_its_slide(two):
    step = two.step("predict")
    step._drawn_on = two.state.active
    step.drawing.start(two.layers.slide(two.state.active))
    assert step.drawing.active
    choose(two, 0)
    assert not step.drawing.active


def test_a_slide_with_several_channels_comes_back_as_it_was(dock, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "c.ome.tif", np.zeros((5, 64, 64), np.uint16), ome=True, metadata={"axes": "CYX"})
    dock.open_slide(tmp_path / "c.ome.tif", 0.5)
    first = seen(dock)
    assert len(first) == 4
    dock.open_slide(make_slide(tmp_path, 300))
    assert len(seen(dock)) == 1
    choose(dock, 0)
    assert seen(dock) == first
