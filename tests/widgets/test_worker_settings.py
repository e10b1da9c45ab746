"""Where jobs run, edited by mouse and keyboard: saved, tried, and said when it cannot be used."""

import json
import sys
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton

from napari_msunet.jobs import settings
from napari_msunet.jobs.settings import WORKER_VARIABLE, Settings, load_settings, save_settings
from napari_msunet.widgets.worker_settings import WorkerSettings

LONG = 60_000


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(settings.platformdirs, "user_config_path", lambda *names, **more: tmp_path / "config")
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    return tmp_path / "config"


def opened(qtbot) -> WorkerSettings:
    dialog = WorkerSettings()
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitExposed(dialog)
    return dialog


def press(qtbot, dialog: WorkerSettings, text: str) -> None:
    (button,) = [b for b in dialog.findChildren(QPushButton) if b.text().replace("&", "") == text]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_what_is_typed_is_saved_and_shown_again(qapp, qtbot, folder):
    save_settings(Settings.model_validate({"theme": "dark"}))
    dialog = opened(qtbot)
    saved = []
    dialog.saved.connect(saved.append)
    qtbot.keyClicks(dialog.command, "ssh gpu-box napari-msunet worker")
    press(qtbot, dialog, "Add a folder")
    qtbot.keyClicks(dialog.folders.focusWidget() or dialog.folders, "/data/slides")
    dialog.folders.item(0, 1).setText("/mnt/slides")
    press(qtbot, dialog, "Add a folder")  # one that stays empty is none
    press(qtbot, dialog, "Save")
    assert not dialog.isVisible()
    kept = json.loads((folder / "settings.json").read_text())
    assert kept["worker"] == ["ssh", "gpu-box", "napari-msunet", "worker"]
    assert kept["path_map"] == [["/data/slides", "/mnt/slides"]]
    assert kept["theme"] == "dark"
    assert saved == [load_settings()]
    again = opened(qtbot)
    assert again.value() == load_settings()
    again.folders.setCurrentCell(0, 0)
    press(qtbot, again, "Remove")
    again.command.clear()
    press(qtbot, again, "Save")
    assert load_settings().worker is None
    assert load_settings().path_map == ()


def test_what_cannot_be_used_is_said_and_not_saved(qapp, qtbot, folder):
    dialog = opened(qtbot)
    dialog._add("slides", "/mnt")
    press(qtbot, dialog, "Save")
    assert dialog.isVisible()
    assert "'slides' in the path map is no whole path" in dialog.note.text()
    dialog.folders.removeRow(0)
    dialog.command.setText("ssh 'gpu-box")
    press(qtbot, dialog, "Save")
    assert "cannot be split into words" in dialog.note.text()
    assert not (folder / "settings.json").exists()


def test_cancel_changes_nothing(qapp, qtbot, folder):
    dialog = opened(qtbot)
    dialog.command.setText("ssh x")
    press(qtbot, dialog, "Cancel")
    assert not dialog.isVisible()
    assert not (folder / "settings.json").exists()


def test_the_environment_is_stronger(qapp, qtbot, monkeypatch):
    monkeypatch.setenv(WORKER_VARIABLE, "ssh far napari-msunet worker")
    dialog = opened(qtbot)
    assert not dialog.command.isEnabled()
    assert WORKER_VARIABLE in dialog.note.text()


def test_trying_says_what_the_machine_has_or_why_not(qapp, qtbot):
    dialog = opened(qtbot)
    press(qtbot, dialog, "Try it")
    assert not dialog.attempt.isEnabled()
    qtbot.waitUntil(dialog.attempt.isEnabled, timeout=LONG)
    assert dialog.note.text().startswith("It works: ")
    dialog.command.setText(f"{sys.executable} -c 'raise SystemExit(\"no GPU box today\")'")
    press(qtbot, dialog, "Try it")
    qtbot.waitUntil(dialog.attempt.isEnabled, timeout=LONG)
    assert "no GPU box today" in dialog.note.text()
    assert dialog.isVisible()
