"""The project in the Slide step: its name, New…, Open…, and the projects that were open last."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget
from superqt import QElidingLabel

from napari_msunet.app.project import ENDING, recent_projects
from napari_msunet.widgets.state import State

_SHOWN = 4
"""Recent projects that the empty dock offers."""


class ProjectBox(QWidget):
    """Names the project, and asks for another one.

    Parameters
    ----------
    state : State

    Attributes
    ----------
    new_wanted, open_wanted : Signal(Path)
        The folder of a project to make, or to open.
    """

    new_wanted = Signal(object)
    open_wanted = Signal(object)

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self.folder = QElidingLabel()
        self.folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.folder.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.new = QPushButton("New…")
        self.new.setToolTip(
            "Chooses a folder for annotations, models and predictions. Without it, one is made beside the first slide "
            "when it is needed. The folder can be moved as a whole."
        )
        self.new.clicked.connect(lambda *_: self._ask_new())
        self.open = QPushButton("Open…")
        self.open.setToolTip("Opens the project of another day: its folder, which ends in .msunet. Or drop it here.")
        self.open.clicked.connect(lambda *_: self._ask_open())
        row = QHBoxLayout()
        row.addWidget(QLabel("Project"))
        row.addWidget(self.folder, 1)
        row.addWidget(self.new)
        row.addWidget(self.open)
        self.recent_title = QLabel("Recent projects")
        self.recent_title.setObjectName("note")
        self.recent: list[QPushButton] = []
        self._places = QVBoxLayout()
        self._places.setSpacing(2)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        column.addWidget(self.recent_title)
        column.addLayout(self._places)
        self._offered: list[Path] | None = None

    def refresh(self) -> None:
        """Show the project, and where nothing is open, those of other days."""
        folder = self.state.project_folder()
        known = self.state.project is not None or bool(self.state.slides)
        self.folder.setText(folder.name if known else "none yet")
        self.folder.setToolTip(
            str(folder) if self.state.project else f"{folder} (made when it is needed)" if known else ""
        )
        self._offer([] if known else recent_projects()[:_SHOWN])

    def _offer(self, folders: list[Path]) -> None:
        if folders == self._offered:
            return
        self._offered = folders
        for button in self.recent:
            button.hide()
            button.deleteLater()
        self.recent = [self._button(folder) for folder in folders]
        self.recent_title.setVisible(bool(folders))

    def _button(self, folder: Path) -> QPushButton:
        button = QPushButton()
        button.setObjectName("recent")
        button.setText(f"{folder.name.removesuffix(ENDING)}   ({folder.parent.name})")
        button.setToolTip(f"Opens {folder}.")
        button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        button.clicked.connect(lambda *_: self.open_wanted.emit(folder))
        self._places.addWidget(button)
        return button

    def _ask_new(self) -> None:
        suggested = self.state.project_folder()
        if self.state.project is not None:
            suggested = suggested.with_name(f"new{ENDING}")
        chosen, _ = QFileDialog.getSaveFileName(
            self,
            "New project",
            str(suggested),
            f"Projects (*{ENDING})",
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if chosen:
            self.new_wanted.emit(Path(chosen if chosen.endswith(ENDING) else f"{chosen}{ENDING}"))

    def _ask_open(self) -> None:
        chosen = QFileDialog.getExistingDirectory(
            self, "Open a project: its folder NAME.msunet", str(self.state.project_folder().parent)
        )
        if chosen:
            self.open_wanted.emit(Path(chosen))
