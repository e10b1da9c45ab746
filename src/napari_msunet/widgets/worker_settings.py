"""The dialog that edits, tries and saves where jobs run: the worker's command, and the names of folders there."""

from __future__ import annotations

import os
import shlex
from threading import Thread

from pydantic import ValidationError
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.config import explain
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.jobs.client import WorkerClient
from napari_msunet.jobs.paths import PathMap
from napari_msunet.jobs.settings import WORKER_VARIABLE, Settings, default_worker, load_settings, save_settings

ABOUT = (
    "Training and prediction run in a process of their own. Its command can start it on another machine: "
    "<b>ssh gpu-box napari-msunet worker</b>. Both machines must see the files; where they call a folder by different "
    "names, say so below."
)


class WorkerSettings(QDialog):
    """Edits, tries and saves where jobs run.

    Signals
    -------
    saved (Settings)
        Emitted after the file was written.
    """

    saved = Signal(object)
    _answered = Signal(object, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Where jobs run")
        self.setMinimumWidth(520)
        self._before = load_settings()
        self._client: WorkerClient | None = None
        self.command = QLineEdit()
        self.command.setPlaceholderText("empty: this computer")
        self.command.setAccessibleName("Command of the worker")
        self.folders = QTableWidget(0, 2)
        self.folders.setHorizontalHeaderLabels(["Folder on this computer", "The same folder there"])
        self.folders.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.folders.verticalHeader().setVisible(False)
        self.folders.setMinimumHeight(120)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setTextFormat(Qt.TextFormat.PlainText)
        self.attempt = QPushButton("Try it")
        self.attempt.setToolTip("Starts such a worker, asks what its machine has, and ends it.")
        self.attempt.clicked.connect(self._try)
        self._answered.connect(self._answer)
        self._lay_out()
        self._show(self._before)
        self.finished.connect(self._stop_trying)

    def _lay_out(self) -> None:
        about = QLabel(ABOUT)
        about.setWordWrap(True)
        add, remove = QPushButton("Add a folder"), QPushButton("Remove")
        add.clicked.connect(lambda: self._add("", ""))
        remove.clicked.connect(self._remove)
        row = QHBoxLayout()
        row.addWidget(add)
        row.addWidget(remove)
        row.addStretch(1)
        row.addWidget(self.attempt)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Save | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self._save)
        buttons.rejected.connect(self.reject)
        self.save_button = buttons.button(QDialogButtonBox.StandardButton.Save)
        column = QVBoxLayout(self)
        for widget in (about, QLabel("Command"), self.command, self.folders):
            column.addWidget(widget)
        column.addLayout(row)
        column.addWidget(self.note)
        column.addWidget(buttons)

    def _show(self, settings: Settings) -> None:
        self.command.setText("" if settings.worker is None else shlex.join(settings.worker))
        for here, there in settings.path_map:
            self._add(here, there)
        if os.environ.get(WORKER_VARIABLE, "").strip():
            self.command.setEnabled(False)
            self.note.setText(
                f"The command comes from the environment variable {WORKER_VARIABLE}; unset it to edit it."
            )

    def _add(self, here: str, there: str) -> None:
        row = self.folders.rowCount()
        self.folders.insertRow(row)
        for column, text in enumerate((here, there)):
            self.folders.setItem(row, column, QTableWidgetItem(text))
        if not here:
            self.folders.setCurrentCell(row, 0)
            self.folders.editItem(self.folders.item(row, 0))

    def _remove(self) -> None:
        if self.folders.currentRow() >= 0:
            self.folders.removeRow(self.folders.currentRow())

    def value(self) -> Settings:
        """The settings in the fields.

        Raises
        ------
        MsunetError
            If a value cannot be used.
        """
        self.folders.setCurrentItem(None)  # ends the editing of a cell, so that its text counts
        rows = [[self.folders.item(row, c).text().strip() for c in (0, 1)] for row in range(self.folders.rowCount())]
        text = self.command.text().strip()
        given = {"worker": text or None, "path_map": [tuple(row) for row in rows if any(row)]}
        try:
            return Settings.model_validate(self._before.model_dump() | given)
        except ValidationError as error:
            raise explain(error, "The setting of the worker") from error

    def _save(self) -> None:
        try:
            settings = self.value()
            save_settings(settings)
        except MsunetError as error:
            self.note.setText(str(error))
            return
        self.saved.emit(settings)
        self.accept()

    # ---------------------------------------------------------------------------------------------------------- trying

    def _try(self) -> None:
        """Start a worker with the settings in the fields, and ask what its machine has."""
        try:
            settings = self.value()
        except MsunetError as error:
            self.note.setText(str(error))
            return
        self._stop_trying()
        self.attempt.setEnabled(False)
        self.note.setText("Starting a worker ...")
        client = self._client = WorkerClient(settings.worker or default_worker(), PathMap(settings.path_map))
        found: list[Result] = []

        def told(outcome: str, text: str | None, details: str | None) -> None:
            del details
            good = outcome == "done" and bool(found)
            said = f"It works: {found[0].values.get('gpu', '')}" if good else text or "The worker did not answer."
            try:
                self._answered.emit(said, good)
            except RuntimeError:  # the dialog is gone
                return

        client.inspect({"machine": True}, lambda e: found.append(e) if isinstance(e, Result) else None, told)

    def _answer(self, text: str, good: bool) -> None:
        self.note.setText(text)
        self.attempt.setEnabled(True)
        self._stop_trying()

    def _stop_trying(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            Thread(target=client.close, name="msunet-try", daemon=True).start()
