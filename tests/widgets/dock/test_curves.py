"""The live curves."""

import time

import pytest
from qtpy.QtCore import Qt

from napari_msunet.config.training import watched_metric
from napari_msunet.constants import MEAN_COLOUR, output_colour
from napari_msunet.events import Metric, StepMetrics
from napari_msunet.training.progress import TrainingHistory
from napari_msunet.widgets.dock.training_views import Curves

OUTPUTS = ("fused", "scale 1", "scale 1/2")


def fill(curves, epochs):
    for epoch in range(1, epochs + 1):
        for output in OUTPUTS:
            for split in ("train", "validation"):
                for name in ("loss", "iou", "recall"):
                    value = 1 / epoch if name == "loss" else 1 - abs(epoch - 7) / 100
                    curves.add(Metric(epoch=epoch, name=name, split=split, output=output, value=value))


@pytest.fixture
def curves(qtbot):
    made = Curves("dark")
    qtbot.addWidget(made)
    made.restart(OUTPUTS, TrainingHistory())
    made.resize(340, 320)
    made.show()
    return made


def test_a_line_for_each_number_and_the_best_epoch_marked(curves, qtbot):
    fill(curves, 12)
    qtbot.waitUntil(lambda: curves.lines["score", "validation", "fused"].getData()[0] is not None, timeout=2000)
    assert len(curves.lines) == 16  # with the mean of both scales
    x, y = curves.lines["loss", "train", "scale 1/2"].getData()
    assert list(x) == list(range(1, 13))
    assert y[3] == 0.25
    for name in ("loss", "score"):
        assert curves.best[name].isVisible()
        assert curves.best[name].value() == 7
    assert "epoch&nbsp;7" in curves.legend.text()


def test_training_is_dashed_validation_solid_in_the_outputs_colours(curves):
    for (_, split, output), line in curves.lines.items():
        pen = line.opts["pen"]
        assert (pen.style() == Qt.PenStyle.DashLine) == (split == "train")
        mean = output == "mean of scales"
        assert pen.color().name() == (MEAN_COLOUR if mean else output_colour(OUTPUTS.index(output), dark=True)).lower()
    curves.set_theme("light")
    assert curves.lines["loss", "train", "fused"].opts["pen"].color().name() == "#000000"


def test_another_model_gets_other_lines(curves):
    fill(curves, 3)
    curves.restart(("fused", "scale 1"), TrainingHistory())
    assert len(curves.lines) == 8
    assert len(curves.plots["loss"].getPlotItem().listDataItems()) == 5  # with that of the steps


def test_an_epoch_costs_the_window_little(curves):
    fill(curves, 300)
    curves.redraw()
    began = time.perf_counter()
    curves.redraw()
    assert time.perf_counter() - began < 0.05


def test_any_number_can_be_chosen(curves):
    fill(curves, 4)
    curves.add(Metric(epoch=4, name="memory_mb", split="train", value=321.0))
    curves.redraw()
    curves.choice.setValue("recall")
    x, _ = curves.lines["score", "train", "scale 1"].getData()
    assert list(x) == [1, 2, 3, 4]
    assert "Recall" in curves.plots["score"].getPlotItem().titleLabel.text
    curves.choice.setValue("accuracy")
    assert curves.lines["score", "train", "scale 1"].getData()[0] is None
    curves.choice.setValue("memory_mb")
    assert list(curves.lines["score", "train", "fused"].getData()[1]) == [321.0]


def test_the_steps_and_the_loss_that_ends_it(curves):
    assert not curves.threshold.isVisible()
    curves.restart(OUTPUTS, TrainingHistory(), threshold=0.2)
    assert curves.threshold.isVisible()
    assert curves.threshold.value() == 0.2
    for epoch in (1, 2, 2):  # the second is done again after a resume
        curves.add(StepMetrics(epoch=epoch, name="loss", values=[1.0, None, 0.5, 0.25]))
    curves.redraw()
    x, y = curves.steps["loss"].getData()
    assert list(x) == [0.25, 0.75, 1.0, 1.25, 1.75, 2.0]
    assert list(y) == [1.0, 0.5, 0.25] * 2


def test_what_decides_marks_the_best_epoch(curves):
    history = TrainingHistory(decides=watched_metric("loss scale 1"))
    curves.restart(OUTPUTS, history)
    fill(curves, 12)
    assert history.best_epoch == 12
