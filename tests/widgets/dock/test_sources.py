"""Labelled images from elsewhere, added in a window by mouse and keyboard."""

import json

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QDialogButtonBox
from widgets.dock.making import settle

import napari_msunet as ms
from napari_msunet.app.project import ProjectNote
from napari_msunet.config import AutoModel, FolderSource, PublishedSource, ShapesSource, TableSource
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.training_data import FORMS, SourceDialog
from napari_msunet.widgets.state import PRESETS

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def box(dock, tmp_path):
    """The list of sources, in a folder with two images and their masks."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(2):
            values = rng.integers(0, 255, (64, 64, 3)) if name == "images" else rng.integers(0, 2, (64, 64))
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "all.csv").write_text("images,masks\nimages/0.png,masks/0.png\nimages/1.png,masks/1.png\n")
    dock.show_step("annotate")
    step = dock.steps["annotate"]
    step.more.button.setChecked(True)
    return step.sources


def answer(qtbot, kind: str, texts: dict[str, str], sentences: list[str]) -> None:
    """Fill in the dialog that comes up, as a person; press Cancel where OK is answered with a sentence."""

    def fill() -> None:
        dialog = QApplication.activeModalWidget()
        assert isinstance(dialog, SourceDialog)
        qtbot.keyClicks(dialog.kind, FORMS[kind][0][:12])
        form = dialog.forms[kind]
        assert form.isVisible()
        for name, text in texts.items():
            editor = form.editors[name]
            line = getattr(editor, "line", editor)
            line.setFocus()
            line.selectAll()
            qtbot.keyClicks(line, text)
        qtbot.mouseClick(dialog.buttons.button(QDialogButtonBox.StandardButton.Ok), LEFT)
        if dialog.isVisible():
            sentences.append(form.problem.text())
            qtbot.mouseClick(dialog.buttons.button(QDialogButtonBox.StandardButton.Cancel), LEFT)

    QTimer.singleShot(200, fill)


def add(qtbot, box, kind: str, **texts: str) -> list[str]:
    sentences: list[str] = []
    answer(qtbot, kind, texts, sentences)
    box._ask()
    return sentences


def test_every_kind_by_mouse(dock, box, qtbot, tmp_path):
    assert add(qtbot, box, "folder", images=f"{tmp_path}/images", masks=f"{tmp_path}/masks") == []
    assert add(qtbot, box, "table", table=f"{tmp_path}/all.csv", group="patient") == []
    (tmp_path / "outlines.geojson").write_text("[]")
    assert add(qtbot, box, "shapes", slide=f"{tmp_path}/images/0.png", shapes=f"{tmp_path}/outlines.geojson") == []
    for folder in ("train_data", "test"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    wrong = add(qtbot, box, "published", folder=f"{tmp_path}/set")
    assert "looks like none of the sets" in wrong[0]
    wrong = add(qtbot, box, "table", table=f"{tmp_path}/none.csv")
    assert wrong == [f"Give a table that exists, not {tmp_path}/none.csv."]
    folder, table, shapes = dock.state.sets
    assert folder == FolderSource(images=tmp_path / "images", masks=tmp_path / "masks")
    assert table == TableSource(table=tmp_path / "all.csv", group="patient")
    assert shapes == ShapesSource(slide=tmp_path / "images" / "0.png", shapes=tmp_path / "outlines.geojson")
    texts = [box.grid.itemAtPosition(row, 0).widget().text() for row in range(3)]
    assert texts[1:] == ["all.csv (table)", "0.png (outlines)"]
    qtbot.mouseClick(box.grid.itemAtPosition(2, 3).widget(), LEFT)
    box.refresh()
    box.grid.itemAtPosition(1, 1).widget().setValue("test")
    assert [source.role for source in dock.state.sets] == ["auto", "test"]


def test_a_real_public_set(dock, box, qtbot, shared_data, tmp_path):
    assert add(qtbot, box, "published", folder=str(shared_data / "monuseg-train"), values="instances") == []
    (source,) = dock.state.sets
    assert source == PublishedSource(folder=shared_data / "monuseg-train", values="instances")
    dock.state.set_classes(("nucleus",))
    items = ms.data.load_sources(
        resolve.sources(dock.state), dock.state.model.model_copy(update={"classes": ("nucleus",)})
    )
    assert items


def test_a_project_of_before_keeps_its_folders():
    old = {"folders": [{"kind": "folder", "images": "a", "masks": "b", "role": "test"}]}
    note = ProjectNote.model_validate_json(json.dumps(old))
    assert note.sets == (FolderSource(images="a", masks="b", role="test"),)
    sets = (TableSource(table="t.csv"), PublishedSource(folder="f"))
    again = ProjectNote.model_validate_json(ProjectNote(sets=sets).model_dump_json())
    assert again.sets == sets


def test_usual_resolutions_are_a_click_away(dock, qtbot):
    dock.show_step("model")
    step = dock.steps["model"]
    step.presets.button(0).click()  # what is chosen from the images has no resolution to set
    chip = next(b for b in step.findChildren(type(step.form.scales.add)) if b.text() == "Glands 2.5")
    settle()
    dock._scroll.ensureWidgetVisible(chip)
    qtbot.waitUntil(lambda: chip.visibleRegion().boundingRect().width() > 0)
    qtbot.mouseClick(chip, LEFT)
    assert dock.state.model.mpp == 2.5
    assert step.form.value().mpp == 2.5


def test_the_model_is_automatic_until_one_is_chosen(dock, qtbot):
    dock.show_step("model")
    step = dock.steps["model"]
    automatic = step.presets.button(len(PRESETS))
    assert automatic.isChecked()
    assert not step.form.isVisibleTo(step)
    assert isinstance(resolve.wanted_model(dock.state), AutoModel)
    for number, preset in enumerate(PRESETS):
        step.presets.button(number).click()
        assert preset.fits(resolve.wanted_model(dock.state))
        assert step.form.isVisibleTo(step)
    automatic.click()
    assert isinstance(resolve.wanted_model(dock.state), AutoModel)
    assert step.summary() == "to train: automatic"
