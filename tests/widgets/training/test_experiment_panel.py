"""Experiments and the study of context in the Train step, by mouse: start, watch, stop, continue, use, copy."""

import json
import os
import shutil
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton
from widgets.dock.making import LONG, settle

import napari_msunet as ms
from napari_msunet.config import ContextJob
from napari_msunet.errors import MsunetError

pytest.importorskip("pyqtgraph")
pytestmark = pytest.mark.slow

NUCLEI = Path(ms.__file__).parent / "demo_data" / "nuclei" / "train"


@pytest.fixture
def ready(dock, tmp_path, qtbot):
    """A dock with real images of nuclei and its Train step open."""
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / kind).mkdir()
        for file in sorted((NUCLEI / kind).glob(f"*.{ending}"))[:6]:
            shutil.copy(file, tmp_path / kind)
    source = ms.FolderSource(images=tmp_path / "images", masks=tmp_path / "masks", values="instances", mpp=0.5)
    dock.state.set_classes(("nucleus",))
    dock.state.set_sets([source])
    dock.state.set_train_options(
        type(dock.state.train_options).model_validate({**dict(dock.state.train_options), "size": 64, "batch_size": 4})
    )
    dock.show_step("train")
    settle()
    return dock


def click(qtbot, button):
    settle(0.05)
    assert button.isVisible()
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def keep_picture(widget, name):
    """A picture of a widget, where a person wants to look at it."""
    if folder := os.environ.get("MSUNET_TEST_PICTURES"):
        settle(0.3)
        widget.grab().save(os.path.join(folder, f"{name}.png"))


def unfold(qtbot, fold, panel, **options):
    click(qtbot, fold.button)
    for name, value in options.items():
        panel.form.editors[name].setValue(value)
    settle()


def test_an_experiment_by_mouse(ready, qtbot, messages):
    step = ready.steps["train"]
    panel = step.experiment
    unfold(qtbot, step.comparing, panel, folds=2, seconds=0.5)
    panel.field.setCurrentText("Learning rate")
    qtbot.keyClicks(panel.values, "0.002, 0.01")
    lines = step.as_python()
    assert "ms.experiment(job, on_event=print)" in lines
    keep_picture(ready.window(), "experiment-before")
    click(qtbot, panel.start)
    settle()
    assert ready.state.running == {"train"}
    assert list(panel.table.variants) == ["Learning rate 0.002", "Learning rate 0.01"]
    qtbot.waitUntil(lambda: panel.table.variants["Learning rate 0.002"]["trials"] >= 1, timeout=LONG)
    keep_picture(ready.window(), "experiment-running")
    click(qtbot, panel.box.stop)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    click(qtbot, panel.go_on)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    assert [row["trials"] for row in panel.table.variants.values()] == [2, 2]
    keep_picture(panel, "experiment-done")
    panel.table.selectRow(1)
    click(qtbot, panel.use)
    assert ready.state.train_options.optimiser.learning_rate == 0.01
    assert ready.state.train_options.size == 64
    assert ready.state.model_chosen
    assert "Learning rate 0.01: press Train" in panel.box.status.text()
    names: dict = {}
    exec(lines.replace("result = ms.experiment(job, on_event=print)", ""), {"ms": ms}, names)
    assert names["job"].variants == panel._job.variants
    assert not [m for m in messages if m.severity.value == "error"]


def test_an_experiment_from_a_file(ready, qtbot, tmp_path, monkeypatch):
    panel = ready.steps["train"].experiment
    training = ready.steps["train"]._job(tmp_path / "unused").model_dump(mode="json")
    training["sources"][0] |= {"images": "DATA/images", "masks": "DATA/masks"}
    values = {"job": "experiment", "training": training, "variants": {"a": {}, "b": {"batch_size": 2}}, "seconds": 900}
    values |= {"out": "unused", "folds": 2, "short": {"seconds": 0.4, "only_folds": [1]}}
    file = tmp_path / "one.json"
    file.write_text(json.dumps(values))
    dialog = "napari_msunet.widgets.training.experiment_panel.QFileDialog"
    monkeypatch.setattr(f"{dialog}.getOpenFileName", lambda *_: (str(file), ""))
    monkeypatch.setattr(f"{dialog}.getExistingDirectory", lambda *_: str(tmp_path))
    click(qtbot, ready.steps["train"].comparing.button)
    click(qtbot, panel.short)
    click(qtbot, panel.from_file)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    assert [row["trials"] for row in panel.table.variants.values()] == [1, 1]
    assert (panel._job.out / "report.md").is_file()
    assert panel._job.out.is_relative_to(ready.state.project.folder)
    ready.state.set_classes(("something",))
    with pytest.raises(MsunetError, match="This variant learns nucleus, but the classes here are something"):
        panel.use_chosen()


def test_values_that_cannot_be_compared_are_one_sentence(ready):
    panel = ready.steps["train"].experiment
    for field, values, sentence in (
        ("Window", "128", "one value"),
        ("Window", "128, 5", "size cannot be 5"),
        ("optimiser.learning_rat", "1, 2", "did you mean optimiser.learning_rate"),
        ("out", "a, b", "same in all trials"),
    ):
        panel.field.setCurrentText(field)
        panel.values.setText(values)
        with pytest.raises(MsunetError, match=sentence):
            panel.compare()
    assert not ready.state.running


def test_the_study_of_context_by_mouse(ready, qtbot, messages):
    step = ready.steps["train"]
    panel = step.context
    unfold(qtbot, step.asking, panel, folds=2, seconds=0.4, resolutions=(1.0,))
    lines = step.as_python()
    assert "ms.context_study(job, on_event=print)" in lines
    keep_picture(ready.window(), "context-before")
    click(qtbot, panel.start)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    assert "ontext" in panel.answer.text()
    assert len(panel.table.variants) == 3
    keep_picture(panel, "context-done")
    click(qtbot, panel.use)
    values = panel._result.values
    advised = values["several" if values["answer"] == "yes" else "one"][-1]
    assert (len(ready.state.model.scales) > 1) == advised.startswith("scales")
    assert f"{advised}: press Train" in panel.box.status.text()
    from napari_msunet import config

    names: dict = {}
    exec(
        lines.replace("result = ms.context_study(job, on_event=print)", "").replace("import napari_msunet as ms", ""),
        {"ms": ms, "config": config},
        names,
    )
    assert isinstance(names["job"], ContextJob)
    assert names["job"].seconds == 0.4
    assert not [m for m in messages if m.severity.value == "error"]


def test_one_model_of_all_folds_by_mouse(ready, qtbot, tmp_path, messages):
    step = ready.steps["train"]
    job = step._job(tmp_path / "run").model_copy(update={"epochs": 1, "steps": 2, "time_limit": None})
    step.crossval.ask(job, lambda: None)
    qtbot.waitUntil(lambda: step.crossval.dialog is not None, timeout=LONG)
    settle(0.3)
    keep_picture(step.crossval.dialog, "folds")
    button = step.crossval.dialog.findChild(QPushButton)
    click(qtbot, button)
    qtbot.waitUntil(lambda: ready.state.model_path is not None, timeout=60_000)
    assert ready.state.model_path.is_relative_to(ready.state.project.folder)
    assert len(ms.load_model(ready.state.model_path).members) == 3
    step.crossval.dialog.close()
    settle()
    assert not [m for m in messages if m.severity.value == "error"]
