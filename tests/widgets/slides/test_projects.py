"""Projects in the dock, by mouse in a real window: made, left, opened again with everything, found, refused."""

import json
import shutil

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog
from widgets.dock.making import click, make_slide, settle
from widgets.mouse import look_at

from napari_msunet.app.project import Project
from napari_msunet.geometry import Window
from napari_msunet.widgets.dock.dock import MultiScaleUNet
from napari_msunet.widgets.napari_internals import camera


def drop(widget, path):
    """A folder that is let go over a widget."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    at = QPointF(widget.rect().center())
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(widget, QDragEnterEvent(at.toPoint(), Qt.DropAction.CopyAction, data, buttons, keys))
    QApplication.sendEvent(widget, QDropEvent(at, Qt.DropAction.CopyAction, data, buttons, keys))


def warnings(messages):
    return [m.message for m in messages if m.severity.value in ("warning", "error")]


def test_a_project_is_left_and_opened_again_with_everything(dock, qtbot, tmp_path, monkeypatch, messages):
    step, box = dock.steps["slide"], dock.steps["slide"].project
    assert not box.recent
    assert not step.about.isVisible()
    folder = tmp_path / "work" / "case.msunet"
    folder.parent.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(folder.with_suffix("")), ""))
    click(qtbot, box.new)
    assert dock.state.project.folder == folder
    slide = dock.open_slide(make_slide(tmp_path)) and dock.state.active.path
    layer = dock.start_annotating(("blob", "rest"))
    layer.store.write(Window(20, 20, 30, 40), 2)
    dock.show_step("annotate")
    look_at(dock.viewer, (60.0, 80.0), 3.5)
    before = camera(dock.viewer).center[-2:], camera(dock.viewer).zoom
    second = Project.open(folder)
    with pytest.raises(ValueError, match=r"^The project case is open already, by .*close it there first\.$"):
        second.hold()

    # another project instead: nothing of the first stays in the window, and all of it on the disk
    dock.show_step("slide")
    other = tmp_path / "other.msunet"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(other), ""))
    click(qtbot, box.new)
    dock.show_step("annotate")
    assert (dock.state.project.folder, dock.state.slides, len(dock.viewer.layers)) == (other, [], 0)
    assert dock.state.classes == ("class 1",)

    # inside a project there is no other one: neither by New nor by Save in the wrong folder
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(folder / "case"), ""))
    dock.show_step("slide")
    click(qtbot, box.new)
    assert "inside the project" in warnings(messages)[-1]
    assert not (folder / "case.msunet").exists()
    assert dock.state.project.folder == other

    # Open, even of a folder inside
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: str(folder / "annotations"))
    click(qtbot, box.open)
    settle(0.2)
    assert dock.state.project.folder == folder
    assert [r.path for r in dock.state.slides] == [slide]
    assert dock.state.classes == ("blob", "rest")
    again = dock.layers.annotation(dock.state.active)
    assert (np.asarray(again.store.levels[0])[20:50, 20:60] == 2).all()
    assert dock.layers.slide(dock.state.active) is not None
    assert camera(dock.viewer).zoom == pytest.approx(before[1], rel=1e-3)
    assert camera(dock.viewer).center[-2:] == pytest.approx(before[0], abs=0.5)


def test_what_was_open_last_is_offered_and_a_folder_can_be_dropped(viewer, qtbot, tmp_path, messages):
    first = MultiScaleUNet(viewer)
    first.open_project(tmp_path / "case.msunet")
    first.open_slide(make_slide(tmp_path))
    first.start_annotating(("blob",))
    first.show_step("model")
    first.shut_down()
    viewer.layers.clear()

    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock, name="Multi-scale U-Net", area="right")
    settle(0.2)
    (recent,) = dock.steps["slide"].project.recent
    assert recent.text().startswith("case")
    click(qtbot, recent)
    settle(0.2)
    assert dock.sections["model"].is_open
    assert dock.layers.annotation(dock.state.active) is not None
    for widget in (viewer.window._qt_viewer, dock):
        dock.open_project(tmp_path / "b.msunet")
        assert len(viewer.layers) == 0
        drop(widget, tmp_path / "case.msunet")
        settle(0.1)
        assert dock.state.project.name == "case"
        assert len(viewer.layers) == 2
    dock.open_project(tmp_path / "b.msunet")
    (shown,) = viewer.open(str(tmp_path / "case.msunet"), plugin="napari-msunet") or [None]  # File > Open Folder
    assert (shown, dock.state.classes) == (None, ("blob",))
    assert not warnings(messages)
    dock.shut_down()


def test_a_slide_that_is_gone_is_asked_for_and_loses_nothing(dock, qtbot, tmp_path, monkeypatch, messages):
    project = Project.create(tmp_path / "case.msunet")
    dock.open_project(project.folder)
    slide = make_slide(tmp_path)
    dock.open_slide(slide)
    layer = dock.start_annotating(("blob",))
    layer.store.write(Window(20, 20, 30, 40), 1)
    dock.open_project(tmp_path / "b.msunet")
    moved = shutil.move(slide, tmp_path / "moved.ome.zarr")
    dock.open_project(project.folder)
    dock.refresh()
    settle(0.1)
    assert "say where it is now" in warnings(messages)[-1]
    dock.save_project()
    assert len(json.loads((project.folder / "project.json").read_text())["slides"]) == 1
    entries = dock.steps["slide"].list
    assert "not found" in entries.item(0).text()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(moved / "zarr.json"), ""))
    qtbot.mouseClick(
        entries.viewport(), Qt.MouseButton.LeftButton, pos=entries.visualItemRect(entries.item(0)).center() - QPoint()
    )
    settle(0.2)
    assert dock.state.active.path == moved
    assert (np.asarray(dock.layers.annotation(dock.state.active).store.levels[0])[20:50, 20:60] == 1).all()
    assert not dock.state.lost
