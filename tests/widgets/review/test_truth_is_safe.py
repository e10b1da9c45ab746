"""What a person said is true stays so, whichever step was open: by mouse, in a real window."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from widgets.dock.making import make_slide

from napari_msunet.app.project import Project
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import open_slide
from napari_msunet.widgets import resolve

LONG = 60_000


def click(widget):
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def open_step(dock, name):
    """Click on the heading of a step."""
    section = dock.sections[name]
    dock._scroll.ensureWidgetVisible(section.header)
    if not section.is_open:
        click(section.header)
    assert section.is_open


@pytest.fixture
def sent(dock, monkeypatch):
    """The jobs that the Train button sends, instead of a training."""
    found = []
    monkeypatch.setattr(dock.step("train").box, "start", lambda job, *_, **__: found.append(job))
    return found


def annotation_of(project, slide):
    return project.folder / "annotations" / slide.name


def annotated_project(tmp_path):
    """A project of another day: two slides with annotations, of which nothing was looked at today."""
    slides = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        slides.append(make_slide(tmp_path / name, 200).rename(tmp_path / f"{name}.ome.zarr"))
    project = Project.create(tmp_path / "p.msunet")
    for number, path in enumerate(slides):
        with (
            open_slide(path) as slide,
            LabelStore.create(annotation_of(project, path), classes=("blob",), kind="annotation", slide=slide) as store,
        ):
            store.write(Region(10, 10, 30, 30 + number), 1)
            store.write(Region(60, 60, 20, 20), 255)
    return project, slides


def remembered(dock_class, viewer, project, slides):
    """The project as a dock writes it."""
    made = dock_class(viewer)
    made.open_project(project.folder)
    for path in slides:
        made.open_slide(path)
        made.state.active.annotation = annotation_of(project, path).resolve()
    made.state.set_classes(("blob",))
    made.save_project()
    made.shut_down()
    viewer.layers.clear()


@pytest.fixture
def project(viewer, tmp_path):
    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    found, slides = annotated_project(tmp_path)
    remembered(MultiScaleUNet, viewer, found, slides)
    return found


def test_a_reopened_project_trains_with_its_annotations_though_nobody_looked(project, dock, sent, qtbot):
    dock.open_project(project.folder)
    open_step(dock, "train")
    button = dock.step("train").start
    qtbot.waitUntil(button.isEnabled, timeout=LONG)
    click(button)
    assert [s.labels.name for s in sent[0].sources] == ["a.ome.zarr", "b.ome.zarr"]
    assert not dock.step("annotate").isVisible()
    assert dock.state.count(1) == 30 * 30 + 30 * 31


def test_a_script_does_not_wait_for_the_counting(project, dock, sent):
    dock.open_project(project.folder)
    dock.train()
    assert len(sent[0].sources) == 2


def test_what_a_script_painted_counts_too(project, dock, sent):
    dock.open_project(project.folder)
    dock.state.count_annotations()
    record = dock.state.slides[0]
    open_labels(record.annotation).write(Region(100, 100, 50, 50), 1)
    dock.train()
    assert record.counts[1] == 30 * 30 + 50 * 50


def test_an_annotation_that_is_gone_is_said_and_nothing_trains_without_it(project, dock, sent, qtbot, messages):
    gone = project.folder / "annotations" / "a.ome.zarr"
    gone.rename(gone.with_name("elsewhere.ome.zarr"))
    dock.open_project(project.folder)
    assert any("annotation of a.ome.zarr cannot be opened" in m.message for m in messages)
    open_step(dock, "train")
    assert "annotation of a.ome.zarr cannot be opened" in dock.step("train").needed.text()
    click(dock.step("train").start)
    assert sent == []
    assert "annotations/a.ome.zarr" in (project.folder / "project.json").read_text()
    gone.with_name("elsewhere.ome.zarr").rename(gone)
    dock.train()
    assert len(sent[0].sources) == 2


def test_corrections_are_known_without_the_correct_step(project, dock, qtbot):
    dock.open_project(project.folder)
    record = dock.state.slides[0]
    with open_slide(record.path) as slide:
        store = LabelStore.create(project.labels_path(record.name), classes=("blob",), slide=slide)
    store.write(Region(0, 0, 10, 10), 1)
    record.labels = store.path
    dock.state.emit("slides")
    qtbot.waitUntil(lambda: record.edited == 100, timeout=LONG)
    assert resolve.done(dock.state, "correct")
    assert not dock.step("correct").isVisible()


def test_where_and_going_on_are_what_was_decided_not_what_was_shown(dock):
    dock.state.set_predict_options(dock.state.predict_options.model_copy(update={"where": "tissue"}))
    assert dock.step("predict").where.kind == "tissue"
    assert dock.step("train").going_on.on is False


@pytest.fixture
def reviewed(dock, tmp_path):
    """A slide of which only a corner was predicted, with a queue of places."""
    from review.making import add_run, hot

    path = make_slide(tmp_path, 700)
    dock.open_slide(path)
    record = dock.state.active
    with open_slide(path) as slide:
        store = LabelStore.create(dock.state.make_project().labels_path("a"), classes=("blob",), slide=slide)
    arrays = {"labels": np.ones(store.shape, np.uint8), "disagreement": hot(store.shape, {(0, 0): 0.9, (1, 1): 0.5})}
    add_run(store, "r", arrays, part=Window(0, 0, 470, 480))
    record.labels = store.path
    dock.state.emit("results")
    return dock, store


def test_accept_by_mouse_leaves_out_what_was_not_predicted_and_undo_takes_the_tick_back(reviewed, qtbot, messages):
    dock, store = reviewed
    open_step(dock, "review")
    step = dock.step("review")
    step.refresh()
    qtbot.waitUntil(step.find.isEnabled, timeout=LONG)
    click(step.find)
    qtbot.waitUntil(lambda: len(step.queue.places) > 0, timeout=LONG)
    assert {p.window for p in step.queue.places} == {Window(y, x, 256, 256) for y in (0, 256) for x in (0, 256)}
    row = next(n for n, p in enumerate(step.queue.places) if p.window == Window(256, 256, 256, 256))
    step.queue.go(row)
    qtbot.waitUntil(step.queue.buttons["review.accept"].isEnabled, timeout=LONG)
    click(step.queue.buttons["review.accept"])
    qtbot.waitUntil(lambda: bool(store.read_edited(Window(256, 256, 10, 10)).all()), timeout=LONG)
    qtbot.waitUntil(lambda: any("were not predicted" in m.message for m in messages), timeout=LONG)
    assert int(store.read_edited(Window(0, 0, *store.shape)).sum()) == (470 - 256) * (480 - 256)
    assert step.queue.list.item(row).text().startswith("✓")
    open_step(dock, "correct")
    click(dock.step("correct").undo)
    qtbot.waitUntil(lambda: not step.queue.list.item(row).text().startswith("✓"), timeout=LONG)
    click(dock.step("correct").redo)
    qtbot.waitUntil(lambda: step.queue.list.item(row).text().startswith("✓"), timeout=LONG)
