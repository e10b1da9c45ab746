"""The answer while one paints, by mouse in a real window."""

import shutil

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from widgets.dock.making import click, settle, truth
from widgets.mouse import drag, look_at

from napari_msunet.config import FitHeadJob
from napari_msunet.events import Answered
from napari_msunet.geometry import Grid, Window
from napari_msunet.models import load_model
from napari_msunet.widgets.answering.answer_layer import AnswerMap

SIDE = 700
LONG = 40_000
LINES = {1: ((40, 25), (40, 55)), 255: ((40, 85), (40, 130))}
"""Two strokes in level-0 pixels, one on a blob and one beside it."""


@pytest.fixture
def annotate(ready, qtbot):
    """The Annotate step of a dock that knows a model, ready to paint."""
    ready.show_step("annotate")
    step = ready.steps["annotate"]
    step.add_class("blob") if "blob" not in ready.state.classes else None
    ready.state.set_classes(("blob",))
    click(qtbot, step.start)
    return step


def paint(step, value: int) -> None:
    layer = step.layers.annotation(step.state.active)
    layer.selected_label, layer.mode, layer.brush_size = value, "paint", 8
    drag(step.viewer, [np.array(place) * 0.5 for place in LINES[value]])  # µm per level-0 pixel


def shown(step) -> np.ndarray:
    """The answer in view."""
    answers = step.answering.answer.answers
    assert answers is not None
    return answers.read(0, Window(0, 0, *answers.shape))


def idle(step, qtbot) -> None:
    answering = step.answering
    settle(0.3)
    qtbot.waitUntil(
        lambda: answering._handle is None and not answering._background.busy and not answering._moved.isActive(),
        timeout=LONG,
    )
    settle(0.1)


def test_strokes_are_answered_kept_and_trained_from(ready, annotate, qtbot, viewer):
    look_at(viewer, (175, 175), 1.4)
    assert not annotate.answering.keep.isVisible()
    annotate.answering.use_model(True)
    qtbot.mouseClick(annotate.answering.switch, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    idle(annotate, qtbot)
    assert "Paint a second class" in annotate.answering.says.text()
    assert not annotate.answering.keep.isEnabled()
    paint(annotate, 1)
    paint(annotate, 255)
    qtbot.waitUntil(lambda: annotate.answering.answer.there, timeout=LONG)
    idle(annotate, qtbot)
    right = (shown(annotate) == truth(SIDE)[::2, ::2]).mean()
    assert right > 0.85
    names = [layer.name for layer in viewer.layers]
    assert names.index("Answer") == names.index(f"Annotation {ready.state.active.name}") - 1
    layer = annotate.layers.annotation(ready.state.active)
    assert viewer.layers.selection.active is layer

    layer.undo()
    idle(annotate, qtbot)
    assert not annotate.answering.answer.there
    layer.redo()
    qtbot.waitUntil(lambda: annotate.answering.answer.there, timeout=LONG)
    idle(annotate, qtbot)
    assert (shown(annotate) == truth(SIDE)[::2, ::2]).mean() == pytest.approx(right, abs=0.02)

    assert "FitHeadJob" in annotate.as_python()
    click(qtbot, annotate.answering.train)
    qtbot.waitUntil(lambda: ready.state.model_path.parent.name == "models", timeout=LONG)
    kept = load_model(ready.state.model_path)
    assert (kept.config.classes, kept.config.fusion) == (("blob",), "concat")
    assert ready.sections["train"].is_open
    assert ready.steps["train"].going_on.tick.isChecked()
    job = ready.steps["train"]._job(ready.state.project_folder() / "runs" / "x")
    assert job.start == ready.state.model_path
    assert job.model.fusion == "concat"
    idle(annotate, qtbot)
    assert annotate.answering.answer.there

    annotate.answering.set_on(False)
    assert not annotate.answering.answer.there


def test_without_a_model_colour_and_edges_answer(ready, annotate, qtbot, viewer):
    ready.state.use_model(None)
    look_at(viewer, (175, 175), 1.4)
    annotate.answering.set_on(True)
    paint(annotate, 1)
    paint(annotate, 255)
    qtbot.waitUntil(lambda: annotate.answering.answer.there, timeout=LONG)
    idle(annotate, qtbot)
    assert (shown(annotate) == truth(SIDE)).mean() > 0.8
    assert not annotate.answering.train.isEnabled()
    click(qtbot, annotate.answering.keep)
    qtbot.waitUntil(lambda: ready.state.model_path is not None, timeout=LONG)
    assert load_model(ready.state.model_path).config.branches[0].kind == "filters"
    assert "it predicts from now on" in annotate.answering.says.text()
    assert ready.steps["predict"].missing() is None


def test_a_slide_that_goes_while_answering_is_one_sentence(ready, annotate, qtbot, viewer):
    annotate.answering.set_on(True)
    paint(annotate, 1)
    paint(annotate, 255)
    qtbot.waitUntil(lambda: annotate.answering.answer.there, timeout=LONG)
    idle(annotate, qtbot)
    away = ready.state.active.path.with_name("away")
    shutil.move(ready.state.active.path, away)
    paint(annotate, 1)
    idle(annotate, qtbot)
    assert "blobs.ome.zarr" in annotate.answering.says.text()
    assert (annotate.layers.annotation(ready.state.active).store.read(Window(0, 0, SIDE, SIDE)) > 0).any()
    shutil.move(away, ready.state.active.path)
    paint(annotate, 255)
    idle(annotate, qtbot)
    assert "Answered" in annotate.answering.says.text()


def test_what_is_missing_is_said(dock, trained, tmp_path, qtbot):
    slide = tmp_path / "blobs.ome.zarr"
    shutil.copytree(trained[0], slide)
    answering = dock.steps["annotate"].answering
    answering.use_model(True)
    answering.set_on(True)
    assert answering.says.text() == "Choose a slide: a file, or an image layer that is open."
    dock.open_slide(slide)
    assert "Start annotating" in answering.says.text()
    dock.start_annotating(("blob",))
    settle(0.2)
    assert "Load a model in the Model step or train one" in answering.says.text()
    dock.load_model(trained[1])
    assert answering.record is dock.state.active
    job = answering.job(tmp_path / "kept.safetensors")
    assert isinstance(job, FitHeadJob)
    assert job.model == trained[1]
    answering.use_model(False)
    assert answering.job(tmp_path / "kept.safetensors").model is None
    assert "press Train in the Train step" in answering.train.toolTip()


def test_tiles_replace_older_ones_at_every_level():
    grid = Grid((3000, 3000), (2.0, 2.0))
    answers = AnswerMap(grid.shape, grid.pixel)
    rng = np.random.default_rng(0)
    whole = np.zeros(grid.shape, np.uint8)
    for y, x in ((0, 0), (512, 512), (0, 0), (1024, 1024)):
        window = Window(y, x, 512, 512).intersection(grid.whole)
        whole[window.slices()] = rng.integers(1, 4, window.shape)
        answers.add(Answered.of(grid, window, whole[window.slices()]))
    for number, level in enumerate(answers.levels):
        assert np.array_equal(np.asarray(level), whole[:: 2**number, :: 2**number])
        assert np.array_equal(level[100:300, 90:310], whole[:: 2**number, :: 2**number][100:300, 90:310])
