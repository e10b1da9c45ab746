"""The live curves."""

import time

import pytest
from qtpy.QtCore import Qt

from napari_msunet.constants import output_colour
from napari_msunet.events import Metric
from napari_msunet.training.progress import TrainingHistory
from napari_msunet.widgets.dock.training_views import Curves

OUTPUTS = ("fused", "scale 1", "scale 1/2")


def fill(curves, epochs):
    for epoch in range(1, epochs + 1):
        for output in OUTPUTS:
            for split in ("train", "validation"):
                for name in ("loss", "iou"):
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
    qtbot.waitUntil(lambda: curves.lines["iou", "validation", "fused"].getData()[0] is not None, timeout=2000)
    assert len(curves.lines) == 12
    x, y = curves.lines["loss", "train", "scale 1/2"].getData()
    assert list(x) == list(range(1, 13))
    assert y[3] == 0.25
    for name in ("loss", "iou"):
        assert curves.best[name].isVisible()
        assert curves.best[name].value() == 7
    assert "epoch&nbsp;7" in curves.legend.text()


def test_training_is_dashed_validation_solid_in_the_outputs_colours(curves):
    for (_, split, output), line in curves.lines.items():
        pen = line.opts["pen"]
        assert (pen.style() == Qt.PenStyle.DashLine) == (split == "train")
        assert pen.color().name() == output_colour(OUTPUTS.index(output), dark=True).lower()
    curves.set_theme("light")
    assert curves.lines["loss", "train", "fused"].opts["pen"].color().name() == "#000000"


def test_another_model_gets_other_lines(curves):
    fill(curves, 3)
    curves.restart(("fused", "scale 1"), TrainingHistory())
    assert len(curves.lines) == 8
    assert len(curves.plots["loss"].getPlotItem().listDataItems()) == 4


def test_an_epoch_costs_the_window_little(curves):
    fill(curves, 300)
    curves.redraw()
    began = time.perf_counter()
    curves.redraw()
    assert time.perf_counter() - began < 0.05
