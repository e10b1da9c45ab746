"""The Train step: checks, training by mouse, curves, stopping in three ways, going on, closing in the middle."""

import os
import time

import psutil
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLabel, QPushButton
from widgets.dock.making import LONG, annotated_dock, make_slide, settle, train

from napari_msunet.widgets import resolve

pytest.importorskip("pyqtgraph")


@pytest.fixture
def ready(dock, tmp_path, qtbot):
    """A dock that can train, its Train step open."""
    annotated_dock(dock, make_slide(tmp_path))
    dock.state.set_train_options(
        type(dock.state.train_options).model_validate(
            {**dict(dock.state.train_options), "size": 64, "batch_size": 4, "epochs": 3, "steps": 6}
        )
    )
    dock.show_step("train")
    settle()
    return dock


def click(qtbot, button):
    assert button.isEnabled()
    assert button.isVisible()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def choose(step, number):
    """What choosing from the Cancel button's menu does."""
    step.box.menu.actions()[number].trigger()


@pytest.mark.slow
def test_training_by_mouse_then_going_on(ready, qtbot, messages):
    step = ready.steps["train"]
    qtbot.waitUntil(lambda: bool(step.findings), timeout=20_000)
    said = " ".join(finding.text for finding in step.findings)
    assert "Every class has annotated pixels" in said
    assert "needs about" in said
    # Before the first training, the time is measured by a few steps; what is below does not move as it comes.
    assert "How long it takes" not in step.checks.text()
    below = step.live.mapTo(ready, QPoint())
    qtbot.waitUntil(lambda: step.estimate.text().startswith("Takes at most"), timeout=LONG)
    assert "3 epochs of 6 steps" in step.estimate.text()
    assert not ready.state.running
    assert step.live.mapTo(ready, QPoint()) == below
    click(qtbot, step.start)
    assert ready.state.running == {"train"}
    settle()
    assert not step.start.isEnabled()
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.4)
    assert ready.state.model_path is not None
    assert ready.state.model_path.is_file()
    assert step.curves.history.epochs == 3
    for output in ("fused", "scale 1", "scale 1/2"):
        x, y = step.curves.lines["loss", "train", output].getData()
        assert list(x) == [1, 2, 3]
        assert (y > 0).all()
    assert len(step.curves.history.steps["loss"]) == 18  # of 6 steps in each epoch
    assert list(step.curves.lines["loss", "train", "mean of scales"].getData()[0]) == [1, 2, 3]
    assert "Not scored" in step.scores.text()
    assert step.crossval.isVisibleTo(step)
    assert not [m for m in messages if m.severity.value == "error"]
    # With a measured rate, the time is known now.
    qtbot.waitUntil(lambda: any("Takes at most" in f.text for f in step.findings), timeout=20_000)
    click(qtbot, step.go_on)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.4)
    assert step.curves.history.epochs == 6
    assert list(step.curves.lines["loss", "train", "fused"].getData()[0]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kept"), [(0, True), (1, True), (2, False)])
def test_stopping_keeps_what_was_chosen(ready, qtbot, number, kept):
    step = ready.steps["train"]
    job = ready.train(epochs=1000).job
    qtbot.waitUntil(lambda: step.curves.history.epochs >= 1, timeout=LONG)
    choose(step, number)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=20_000)
    assert (job.out / "model.safetensors").is_file() == kept
    assert (ready.state.model_path is not None) == kept
    settle()
    assert step.go_on.isEnabled() == kept
    assert ("ready to predict" if kept else "thrown away") in step.box.status.text()


def test_a_second_job_waits_for_the_first(ready, qtbot):
    from napari_msunet.errors import MsunetError

    step = ready.steps["train"]

    def places():
        """Where the buttons are that can be clicked now."""
        return {b.text(): b.mapTo(ready, QPoint()) for b in ready.findChildren(QPushButton) if b.isVisible()}

    # Nothing moves by itself: neither as the check's text comes, nor with longer advice, nor as Train is pressed.
    before, header = places(), ready.sections["slide"].header.mapTo(ready, QPoint())
    assert step.checks.text() in ("", "Checking your data…")
    qtbot.waitUntil(lambda: "Every class" in step.checks.text(), timeout=20_000)
    settle(0.3)
    assert places() == before
    top = step.start.mapTo(ready, QPoint())
    click(qtbot, step.start)
    settle(0.3)
    assert step.start.mapTo(ready, QPoint()) == top
    ready.show_step("model")
    ready.advice.setText("A sentence as long as any that the advice has, about what is missing before one can go on.")
    settle(0.1)
    qtbot.waitUntil(lambda: ready.sections["train"].summary.text() != "", timeout=LONG)  # alive though it is folded
    assert ready.sections["slide"].header.mapTo(ready, QPoint()) == header
    with pytest.raises(MsunetError, match="Train is under way"):
        ready.train()
    choose(ready.steps["train"], 2)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)


def test_a_mistake_that_the_core_finds_is_a_quiet_sentence(ready, qtbot, messages):
    record = ready.state.active
    step = ready.steps["train"]
    job = resolve.train_job(ready.state)
    step._begin(job.model_copy(update={"border": 40}), type(step.curves.history)())
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    found = [m for m in messages if "border" in m.message]
    assert len(found) == 1
    assert found[0].severity.value == "warning"  # a sentence, without a traceback
    assert record.annotation.exists()


def test_closing_in_the_middle_leaves_no_process_and_can_go_on(ready, qtbot):
    step = ready.steps["train"]
    job = ready.train(epochs=1000).job
    qtbot.waitUntil(lambda: (job.out / "last.ckpt").is_file(), timeout=LONG)
    pid = ready.jobs.client.pid
    assert psutil.pid_exists(pid)
    ready.shut_down()
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert step.last_run() == job.out
    assert os.path.exists(job.out / "model.safetensors")

    again = type(ready)(ready.viewer)  # another day: the slide's project says it, and offers to go on
    again.show_step("train")
    ready.viewer.window.add_dock_widget(again, name="again")
    settle()
    assert again.advice.text().startswith("A training was interrupted: press Continue")
    assert f"training of {job.out.name} was interrupted after" in again.steps["train"].interrupted.text()
    click(qtbot, again.steps["train"].go_on)
    assert again.steps["train"].box.job.out == job.out
    assert again.steps["train"].box.job.resume
    assert resolve.interrupted(again.state) is None
    again.steps["train"].box.cancel("none")
    again.shut_down()


def test_copy_as_python_is_the_job(ready):
    text = ready.as_python("train")
    namespace = {}
    exec(text.replace("result = ms.train(job, on_event=print)", ""), namespace)
    job = namespace["job"]
    assert job.model == ready.state.model
    assert job.sources == resolve.sources(ready.state)
    assert job.epochs == 3


@pytest.mark.slow
def test_windows_are_shown_before_training(ready, qtbot, messages):
    step = ready.steps["train"]
    with qtbot.waitSignal(step.windows.shown, timeout=LONG):
        click(qtbot, step.windows)
        assert not step.windows.isEnabled()
    dialog = step.windows.dialog
    assert dialog.isVisible()
    picture = dialog.findChild(QLabel).pixmap()
    assert picture.width() > 200
    dialog.close()
    settle(0.3)
    assert step.windows.isEnabled()
    assert step.windows.dialog is None
    assert ready.state.model_path is None
    assert not [m for m in messages if m.severity.value == "error"]


@pytest.mark.slow
def test_the_model_is_scored_on_test_images(ready, trained, qtbot, messages):
    step = ready.steps["train"]
    assert not step.test.isVisible()
    ready.load_model(trained[1])
    ready.state.slides[0].role = "test"
    ready.show_step("train")
    step.refresh()
    settle()
    with qtbot.waitSignal(step.test.shown, timeout=LONG):
        click(qtbot, step.test)
    table, *pictures = step.test.dialog.findChildren(QLabel)
    assert "fused" in table.text()
    assert "scale 1/2" in table.text()
    assert len(pictures) == 2
    assert all(p.pixmap().width() > 200 for p in pictures)
    step.test.dialog.close()
    settle(0.3)
    assert step.test.isEnabled()
    assert not [m for m in messages if m.severity.value == "error"]


@pytest.mark.slow
def test_predicting_and_exporting_beside_a_training(ready, qtbot, tmp_path):
    (tmp_path / "before").mkdir()
    model = train(make_slide(tmp_path / "before"), tmp_path / "before")
    training = ready.train(epochs=1000)
    qtbot.waitUntil(lambda: ready.steps["train"].curves.history.epochs >= 1, timeout=LONG)
    ready.state.use_model(model)
    ready.show_step("predict")
    settle()
    assert ready.steps["predict"].slide.isEnabled()
    ready.predict("slide").wait(LONG / 1000)
    ready.export(tmp_path / "labels.geojson").wait(LONG / 1000)
    assert (tmp_path / "labels.geojson").is_file()
    assert training.state == "running"
    assert ready.state.running == {"train"}
    training.cancel("none")
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
