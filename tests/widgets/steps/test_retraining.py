"""Going on from the last model by mouse, and what the frozen test images say about it."""

import pytest
from widgets.dock.making import LONG, click, settle

from napari_msunet.events import Result
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore
from napari_msunet.widgets.dock.retraining import ModelComparisonBox
from napari_msunet.widgets.state import one_scale


@pytest.fixture
def corrected(ready):
    """A dock with a model, and labels that were corrected in two places."""
    record = ready.state.active
    path = ready.state.make_project().labels_path(record.name)
    store = LabelStore.create(path, shape=record.shape, mpp=0.5, classes=("blob",))
    store.write(Window(20, 20, 120, 120), 0)
    store.write(Window(160, 160, 120, 120), 1)
    store.flush()
    record.labels, record.edited = path, 2 * 120 * 120
    ready.state.set_classes(("blob",))
    options = ready.state.train_options
    small = {"size": 64, "batch_size": 2, "epochs": 1, "steps": 2}
    ready.state.set_train_options(type(options).model_validate({**dict(options), **small}))
    ready.show_step("correct")
    settle(0.5)
    return ready


def test_retrain_on_corrections_goes_on_from_the_model(corrected, qtbot, trained):
    step = corrected.steps["train"]
    assert not step.going_on.tick.isChecked()
    assert corrected.state.model_path == trained[1]
    click(qtbot, corrected.steps["correct"].retrain)
    job = step.box.job
    assert job.start == job.replaces == trained[1]
    assert job.replay == 0.5
    assert job.model.scales == (1.0, 0.5)  # of the last run, as nobody chose another
    edited = [s for s in job.sources if getattr(s, "edited_only", False)]
    assert [s.labels for s in edited] == [corrected.state.active.labels]
    assert len(job.sources) == 2  # and what the model learned from before
    settle(0.2)
    assert step.going_on.tick.isChecked()
    assert step.going_on.isVisible()
    assert "start=" in step.as_python()
    assert "retraining_job(" in corrected.steps["correct"].as_python()
    qtbot.waitUntil(lambda: not corrected.state.running, timeout=LONG)
    assert corrected.state.model_path == job.out / "model.safetensors"


def test_the_tick_decides_and_says_why_not(corrected, qtbot):
    step = corrected.steps["train"]
    corrected.state.active.corrections = True
    corrected.state.emit("sources")
    corrected.show_step("train")
    settle(0.3)
    row = step.going_on
    assert row.tick.isChecked()  # by itself, where corrections count
    click(qtbot, row.tick)
    settle(0.2)
    job = row.job(corrected.state.project_folder() / "x")
    assert job.start is None
    assert job.replaces is not None
    click(qtbot, row.tick)
    assert row.job(corrected.state.project_folder() / "x").start is not None
    corrected.set_model(one_scale(corrected.state.classes, 1.0))
    settle(0.2)
    assert not row.tick.isEnabled()
    assert "begins with random weights" in row.why.text()
    assert row.why.isVisible()
    assert row.job(corrected.state.project_folder() / "x").start is None


def test_the_verdict_keeps_the_old_model_until_somebody_says_otherwise(qtbot, tmp_path):
    verdict = ModelComparisonBox()
    qtbot.addWidget(verdict)
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    guard = {"keep": "old", "old_model": str(old), "text": "The new model is worse."}
    assert verdict.judge(Result(values={"guard": guard}), new) == old
    verdict.show()
    assert verdict.text.text() == "The new model is worse."
    wanted = []
    verdict.use_wanted.connect(wanted.append)
    click(qtbot, verdict.use)
    assert wanted == [new]
    assert not verdict.use.isVisible()
    better = guard | {"keep": "new", "text": "The new model is better."}
    assert verdict.judge(Result(values={"guard": better}), new) == new
    assert not verdict.use.isVisible()
    assert verdict.judge(Result(values={}), new) == new
    assert not verdict.isVisible()
