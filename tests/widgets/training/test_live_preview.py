"""The preview of a training on the slide, by mouse in a real window."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from widgets.dock.making import LONG, annotated_dock, click, make_slide, settle, truth
from widgets.mouse import look_at

from napari_msunet.geometry import Window
from napari_msunet.widgets.training.live_preview import NAME, Allowance

pytest.importorskip("pyqtgraph")


@pytest.fixture
def trains(dock, tmp_path, qtbot):
    """The Train step of a dock that can train."""
    annotated_dock(dock, make_slide(tmp_path))
    dock.state.set_train_options(
        type(dock.state.train_options).model_validate(
            {**dict(dock.state.train_options), "size": 64, "batch_size": 4, "epochs": 4, "steps": 8}
        )
    )
    dock.show_step("train")
    settle()
    return dock.steps["train"]


def shown(step) -> np.ndarray:
    """What the preview shows of the whole slide."""
    answers = step.live.preview.answers
    assert answers is not None
    return answers.read(0, Window(0, 0, *answers.shape))


def test_the_time_of_a_preview_is_a_tenth_of_that_of_the_training():
    clock = [0.0]
    allowance = Allowance(lambda: clock[0], share=0.1)
    assert allowance.wait(1) == pytest.approx(10)
    clock[0] = 10
    assert allowance.wait(1) == 0
    assert allowance.wait(2) == pytest.approx(10)
    allowance.spend(0.5, whole=True)
    assert allowance.left == pytest.approx(0.5)
    assert allowance.wait(1) == 0
    allowance.spend(0.5, whole=False)
    assert allowance.wait(2) == pytest.approx(10)
    clock[0] = 20
    assert allowance.wait(2) == 0


@pytest.mark.slow
def test_a_training_is_seen_on_the_slide_while_it_runs_and_after_it(dock, trains, qtbot, viewer, messages):
    step, live = trains, trains.live
    look_at(viewer, (112, 112), 7)
    names = []
    viewer.layers.events.inserted.connect(lambda event: names.append((event.value.name, step.box.running)))
    click(qtbot, step.start)
    live.allowance._began -= 1000  # a training of seconds has no tenth to give
    qtbot.waitUntil(lambda: live.preview.there, timeout=LONG)
    assert "On the slide: the best model so far, of epoch" in live.says.text() or not step.box.running
    qtbot.waitUntil(lambda: not step.state.running, timeout=LONG)
    qtbot.waitUntil(lambda: live.says.text() == "On the slide: the trained model.", timeout=LONG)
    settle(0.2)
    assert [name for name, _ in names].count(NAME) == 1  # one layer from the first preview to the last
    layers = [layer.name for layer in viewer.layers]
    assert layers.index(NAME) == layers.index(f"Annotation {step.state.active.name}") - 1
    assert viewer.layers.selection.active is step.layers.annotation(step.state.active)
    y, x = (slice(90, 130),) * 2  # in view
    right = (shown(step)[y, x] == truth()[::2, ::2][y, x]).mean()
    assert right > 0.8
    assert not [m for m in messages if m.severity.value == "error"]

    # Another part of the slide is labelled as it comes into view.
    assert not shown(step)[:40].any()
    look_at(viewer, (112, 112), 2)
    qtbot.waitUntil(lambda: shown(step)[:40].any() and live._handle is None, timeout=LONG)
    assert (shown(step) == truth()[::2, ::2]).mean() > 0.8

    # The switch takes it away, and brings it back; deleting the layer is the switch.
    qtbot.mouseClick(live.switch, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    assert not live.preview.there
    qtbot.mouseClick(live.switch, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    qtbot.waitUntil(lambda: live.preview.there, timeout=LONG)
    same = shown(step).copy()
    viewer.layers.remove(live.preview.layer)
    assert not live.on

    # The labels are those of a prediction, which takes the place of the preview.
    live.set_on(True)
    qtbot.waitUntil(lambda: live.preview.there, timeout=LONG)
    dock.predict("slide").wait(LONG / 1000)
    assert not live.preview.there
    labels = step.layers.of_store(step.state.active.labels).store
    assert (labels.read(Window(0, 0, *same.shape)) == same).all()

    # After a retraining the advice is to predict again, and then to see what changed.
    dock.show_step("train")
    settle()
    click(qtbot, step.start)
    qtbot.waitUntil(lambda: not step.state.running, timeout=LONG)
    settle(0.2)
    assert dock.advice.text().startswith("The model has learned from your work: predict again")
    dock.predict("slide").wait(LONG / 1000)
    settle(0.2)
    assert "Show what changed since the last prediction" in dock.advice.text()
    difference = dock.steps["predict"].difference
    dock.show_step("predict")
    qtbot.waitUntil(difference.isVisible, timeout=LONG)
    difference.tick.setChecked(True)
    settle(0.2)
    assert "what changed" not in dock.advice.text()
