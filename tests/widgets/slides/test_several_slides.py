"""Several slides in the dock: their pictures, roles and states; predicting all of them."""

import shutil

import numpy as np
import pytest
from qtpy.QtCore import Qt
from widgets.dock.making import LONG, click, idle, settle, truth

from napari_msunet.geometry import Window
from napari_msunet.labels import open_labels
from napari_msunet.widgets import resolve
from napari_msunet.widgets.slides.slide_list import small_picture


@pytest.fixture
def two(ready, trained, tmp_path):
    """A dock with two slides and a model."""
    other = tmp_path / "other.ome.zarr"
    shutil.copytree(trained[0], other)
    # other pixels, or it would be the same slide
    import zarr

    level = zarr.open_group(other, mode="r+")["0"]
    level[:4, :4] = 7
    ready.open_slide(other)
    ready.show_step("slide")
    settle(0.2)
    return ready


def texts(dock) -> list[str]:
    entries = dock.steps["slide"].list
    return [entries.item(n).text() for n in range(entries.count())]


def test_a_slide_has_a_picture_a_state_and_a_role(two, qtbot, monkeypatch):
    entries = two.steps["slide"].list
    qtbot.waitUntil(lambda: all(not entries.item(n).icon().isNull() for n in range(2)), timeout=LONG)
    assert texts(two) == ["blobs.ome.zarr\n0.5 µm/px  ·  new", "other.ome.zarr\n0.5 µm/px  ·  new"]
    place = entries.visualItemRect(entries.item(0)).center()
    monkeypatch.setattr(entries.menu, "popup", lambda _: None)
    entries.customContextMenuRequested.emit(place)
    (left_out,) = [action for action in entries.menu.actions() if action.text().startswith("Left out")]
    left_out.trigger()
    settle(0.2)
    assert texts(two)[0].endswith("left out")

    two.start_annotating(("blob",))
    record = two.state.active
    layer = two.layers.annotation(record)
    values = np.where(truth(700), 1, 255).astype(np.uint8)
    layer.store.write(Window(20, 10, 60, 600), values[20:80, 10:610])
    layer.events.stroke(region=two_region(layer), number=1)
    qtbot.waitUntil(lambda: record.counted and record.annotated, timeout=LONG)
    settle(0.2)
    assert texts(two)[1].endswith("annotated")
    assert [s.slide for s in resolve.sources(two.state)] == [record.path]
    two.state.set_role(record, "none")
    with pytest.raises(Exception, match="All slides are left out"):
        resolve.train_job(two.state, record.path.with_name("run"))
    two.save_project()
    assert [slide.role for slide in two.state.project.note.slides] == ["none", "none"]


def two_region(layer):
    from napari_msunet.geometry import Region

    return Region(0, 0, *layer.store.shape)


def test_small_pictures_show_the_slide(trained):
    picture = small_picture(trained[0])
    assert picture.shape[2] == 3
    assert max(picture.shape) <= 100
    assert 60 < picture.mean() < 250


@pytest.mark.slow
def test_all_slides_are_predicted_by_one_click(two, qtbot, messages, viewer):
    two.show_step("predict")
    settle(0.2)
    step = two.steps["predict"]
    step.where.choose("all")
    settle(0.2)
    shown = [layer.name for layer in viewer.layers if layer.visible]
    click(qtbot, step.every)
    qtbot.waitUntil(lambda: not two.state.running and not step.many.busy, timeout=LONG)
    settle(0.3)
    assert "2 of 2 slides are predicted" in step.box.status.text()
    for record in two.state.slides:
        labels = open_labels(record.labels)
        found = labels.read(Window(0, 0, *labels.shape))
        assert (found == truth(700)[::2, ::2]).mean() > 0.8
    assert two.state.predicted == {record.labels for record in two.state.slides}
    assert set(shown) <= {layer.name for layer in viewer.layers if layer.visible}  # only the active slide is shown
    two.show_step("slide")
    settle(0.2)
    assert all("predicted" in text for text in texts(two))
    entries = two.steps["slide"].list
    qtbot.mouseClick(
        entries.viewport(), Qt.MouseButton.LeftButton, pos=entries.visualItemRect(entries.item(0)).center()
    )
    settle(0.3)
    assert two.state.active is two.state.slides[0]
    assert not [m for m in messages if m.severity.value in ("error", "warning")]
    two.show_step("predict")
    click(qtbot, step.every)  # a second time: nothing is left to compute
    idle(qtbot, two)
    settle(0.3)
    assert "2 of 2" in step.box.status.text()
