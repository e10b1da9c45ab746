"""The search in the Train step, by mouse: start, watch the table fill, stop, go on, use the best, copy as Python."""

import os
import shutil
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from widgets.dock.making import LONG, settle

import napari_msunet as ms
from napari_msunet.config import TuneJob

pytest.importorskip("pyqtgraph")
pytestmark = pytest.mark.slow


NUCLEI = Path(ms.__file__).parent / "demo_data" / "nuclei" / "train"


@pytest.fixture
def ready(dock, tmp_path, qtbot):
    """A dock with real images of nuclei, its Train step open, the search unfolded, and short trials chosen."""
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / kind).mkdir()
        for file in sorted((NUCLEI / kind).glob(f"*.{ending}"))[:8]:
            shutil.copy(file, tmp_path / kind)
    source = ms.FolderSource(images=tmp_path / "images", masks=tmp_path / "masks", values="instances", mpp=0.5)
    dock.state.set_classes(("nucleus",))
    dock.state.set_sets([source])
    dock.state.set_train_options(
        type(dock.state.train_options).model_validate({**dict(dock.state.train_options), "size": 64, "batch_size": 4})
    )
    dock.show_step("train")
    step = dock.steps["train"]
    settle()
    click(qtbot, step.searching.button)
    editors = step.search.form.editors
    for name, value in {"sampler": "random", "trials": 3, "folds": 2, "seconds": 0.5, "pruner": "none"}.items():
        editors[name].setValue(value)
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


def test_a_search_by_mouse(ready, qtbot, messages):
    step = ready.steps["train"]
    panel = step.search
    assert isinstance(panel.form.value().trials, int)
    assert not panel.table.isVisible()
    keep_picture(ready.window(), "search-before")
    click(qtbot, panel.start)
    assert ready.state.running == {"train"}
    settle()
    assert not step.start.isEnabled()  # one training at a time
    qtbot.waitUntil(lambda: panel.table.rowCount() >= 1, timeout=LONG)
    assert panel.table.isVisible()
    keep_picture(panel, "search-running")
    click(qtbot, panel.box.stop)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    stopped = panel.table.rowCount()
    assert 1 <= stopped <= 3
    panel.form.editors["trials"].setValue(4)
    click(qtbot, panel.go_on)
    qtbot.waitUntil(lambda: not ready.state.running, timeout=LONG)
    settle(0.3)
    assert panel.table.rowCount() == 4
    scores = [row["dice"] for row in panel.table.trials if row["outcome"] == "scored"]
    assert scores == sorted(scores, reverse=True)
    best = panel.table.best
    assert best["dice"] == max(scores)
    keep_picture(panel, "search-done")

    click(qtbot, panel.use)
    chosen, options = ready.state.model, ready.state.train_options
    assert ",".join(f"{s:g}" for s in chosen.scales) == best["values"]["model.scales"]
    assert chosen.fusion == best["values"]["model.fusion"]
    assert chosen.branches[0].depth == best["values"]["model.branch.depth"]
    assert options.optimiser.learning_rate == pytest.approx(best["values"]["optimiser.learning_rate"])
    assert options.size == 64  # what was not searched stays
    assert "press Train" in panel.box.status.text()
    assert chosen.mpp is not None  # what was left open is as in the best trial
    job = step._job(ready.state.make_project().folder / "next")
    assert job.optimiser.learning_rate == options.optimiser.learning_rate

    click(qtbot, panel.pictures)
    qtbot.waitUntil(lambda: panel.dialog is not None, timeout=10_000)
    keep_picture(panel.dialog, "search-pictures")
    panel.dialog.close()
    settle()
    assert not [m for m in messages if m.severity.value == "error"]


def test_copy_as_python_is_the_search(ready):
    names: dict = {}
    lines = ready.steps["train"].as_python()
    assert "ms.tune(job, on_event=print)" in lines
    exec(lines.replace("result = ms.tune(job, on_event=print)", ""), {"ms": ms}, names)
    job = names["job"]
    assert isinstance(job, TuneJob)
    assert (job.sampler, job.trials, job.training.time_limit) == ("random", 3, 0.5)
    assert job.training.sources == ready.steps["train"]._job().sources
