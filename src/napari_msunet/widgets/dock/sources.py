"""Training data besides painting, and what each source is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QGridLayout,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_msunet.config import FolderSource, ImageSet, Role
from napari_msunet.config.option import fields_of
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.fields import ChoiceField
from napari_msunet.widgets.dock.source_forms import FORMS, SourceForm, name_of
from napari_msunet.widgets.forms import editor_for
from napari_msunet.widgets.state import State

if TYPE_CHECKING:
    from pathlib import Path

_ROLE = next(one for one in fields_of(FolderSource) if one.name == "role")


class SourceDialog(QDialog):
    """Asks for labelled images from elsewhere; `source` is what was given."""

    def __init__(self, parent: QWidget, value: ImageSet | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Labelled images from elsewhere")
        self.setMinimumWidth(480)
        self.source: ImageSet | None = None
        self.kind = ChoiceField({kind: title for kind, (title, _) in FORMS.items()})
        self.kind.setAccessibleName("What it is")
        self.forms: dict[str, SourceForm] = {}
        self.pages = QStackedWidget()
        for kind, (_, form) in FORMS.items():
            given = value if value is not None and value.kind == kind else None
            self.forms[kind] = form(given)  # type: ignore[arg-type]
            self.pages.addWidget(self.forms[kind])
        self.kind.valueChanged.connect(lambda kind: self.pages.setCurrentWidget(self.forms[kind]))
        self.kind.setValue("folder" if value is None else value.kind)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.reject)
        top = QFormLayout()
        top.addRow("What it is", self.kind)
        column = QVBoxLayout(self)
        column.addLayout(top)
        column.addWidget(self.pages)
        column.addWidget(self.buttons)

    def _accept(self) -> None:
        form = self.forms[self.kind.value()]
        try:
            self.source = form.finished()
        except MsunetError as error:
            form.problem.setText(str(error))
            form.problem.show()
            return
        self.accept()


class SourcesBox(QWidget):
    """Every source with what it is for: annotated slides, and labelled images from elsewhere."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self._shown: list[tuple[Path, Role] | ImageSet] | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.grid = QGridLayout()
        self.grid.setColumnStretch(0, 1)
        column.addLayout(self.grid)
        self.add = QPushButton("Add labelled images…")
        self.add.setToolTip(
            "Folders or a table of images and masks, shapes of QuPath, ASAP or ImageScope on a slide, or a public set."
        )
        self.add.clicked.connect(lambda *_: self._ask())
        column.addWidget(self.add)

    def refresh(self) -> None:
        """Show the sources as they are now."""
        slides = [record for record in self.state.slides if record.annotation]
        shown = [(r.path, r.role) for r in slides] + list(self.state.sets)
        if shown == self._shown:
            return
        self._shown = shown
        while (item := self.grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        for row, record in enumerate(slides):
            self._row(row, f"{record.name} (slide)", str(record.path), record.role).valueChanged.connect(
                lambda role, r=record: self.state.set_role(r, role)
            )
        for number, source in enumerate(self.state.sets):
            role = self._row(len(slides) + number, *name_of(source), source.role, number)
            role.valueChanged.connect(lambda value, n=number: self._change(n, value))

    def _row(self, row: int, text: str, tip: str, role: Role, number: int | None = None) -> ChoiceField:
        label = QElidingLabel(text)
        label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        label.setToolTip(tip)
        choice: ChoiceField = editor_for(_ROLE)
        choice.setValue(role)
        choice.setToolTip(_ROLE.help)
        choice.setMinimumContentsLength(7)
        self.grid.addWidget(label, row, 0)
        self.grid.addWidget(choice, row, 1)
        if number is not None:
            for column, sign, what, method in (
                (2, "…", "Change this source.", lambda: self._ask(number)),
                (3, "×", "Take this source out; its files stay.", lambda: self._remove(number)),
            ):
                button = QToolButton()
                button.setText(sign)
                button.setToolTip(what)
                button.setMinimumSize(QSize(24, 22))
                button.clicked.connect(lambda *_, m=method: m())
                self.grid.addWidget(button, row, column)
        return choice

    def _ask(self, number: int | None = None) -> None:
        known = None if number is None else self.state.sets[number]
        dialog = SourceDialog(self, known)
        if dialog.exec() and dialog.source is not None:
            found = [dialog.source if other is known else other for other in self.state.sets]
            self.state.set_sets(found if known is not None else [*found, dialog.source])

    def _change(self, number: int, role: Role) -> None:
        found = list(self.state.sets)
        found[number] = found[number].model_copy(update={"role": role})
        self.state.set_sets(found)

    def _remove(self, number: int) -> None:
        self.state.set_sets([f for n, f in enumerate(self.state.sets) if n != number])
