"""Training data besides painting: folders of images and masks, and what each source is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from qtpy.QtCore import QSize, Signal
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_msunet.config import FolderSource, Role, explain
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.fields import ChoiceField, NumberField, TextField
from napari_msunet.widgets.dock.forms import Form
from napari_msunet.widgets.dock.state import State

ROLES: dict[Role, str] = {"auto": "auto", "train": "train", "validate": "validate", "test": "test"}
ROLE_TIP = (
    "What it is for. Auto: split into training and validation by itself. Train: only learned from. Validate: only "
    "measures while training. Test: kept aside for the final score."
)


class PathField(QWidget):
    """A path with a button that asks for it; empty is None."""

    valueChanged = Signal(object)

    def __init__(self, title: str, kind: str = "folder") -> None:
        super().__init__()
        self._title, self._kind = title, kind
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.line = QLineEdit()
        self.line.editingFinished.connect(lambda: self.valueChanged.emit(self.value()))
        self.button = QPushButton("…")
        self.button.setFixedWidth(32)
        self.button.setToolTip(title)
        self.button.clicked.connect(self._ask)
        row.addWidget(self.line, 1)
        row.addWidget(self.button)

    def value(self) -> Path | None:
        return Path(self.line.text().strip()) if self.line.text().strip() else None

    def setValue(self, value: Path | None) -> None:
        self.line.setText("" if value is None or value == Path() else str(value))

    def _ask(self) -> None:
        start = self.line.text() or str(Path.home())
        if self._kind == "folder":
            chosen = QFileDialog.getExistingDirectory(self, self._title, start)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._title, start, "Tables (*.csv *.tsv *.txt)")
        if chosen:
            self.line.setText(chosen)
            self.valueChanged.emit(self.value())


class MppField(NumberField):
    """µm per pixel, or None."""

    def __init__(self) -> None:
        super().__init__(0, 1000, 0.05, 4, "µm")
        self.setSpecialValueText("from the files")
        self._pair: tuple[float, float] | None = None

    def value(self) -> Any:
        number = super().value()
        if self._pair is not None and abs(self._pair[0] - number) < 5e-5:
            return self._pair
        return round(number, 4) if number > 0 else None

    def setValue(self, value: Any) -> None:
        self._pair = value if isinstance(value, tuple) else None
        super().setValue(value[0] if isinstance(value, tuple) else value or 0)


class ValuesField(TextField):
    """What mask values mean: "classes", "instances" or pairs such as ``1=gland, 2=stroma``."""

    def value(self) -> Any:
        text = self.text().strip()
        if "=" not in text:
            return text or "classes"
        try:
            return {int(k): v.strip() for k, v in (part.split("=") for part in text.split(",") if part.strip())}
        except ValueError:
            raise MsunetError(
                f"{text!r} does not say what mask values mean; write classes, instances, or 1=gland, 2=stroma."
            ) from None

    def setValue(self, value: Any) -> None:
        self.setText(", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value)


class FolderForm(Form):
    """Edits a `FolderSource`."""

    def __init__(self, value: FolderSource | None = None) -> None:
        super().__init__(value or FolderSource(images=Path(), masks=Path()))
        self.add(
            "images", "Images", PathField("Folder of images"), "Folder of images: TIFF, PNG, JPEG or whole slides."
        )
        self.add("masks", "Masks", PathField("Folder of masks"), "Folder of masks, each named as its image.")
        self.add(
            "mask_suffix",
            "Mask suffix",
            TextField("none", ""),
            "What a mask's name has after its image's, such as _mask; then both may lie in one folder.",
        )
        self.add(
            "values",
            "Mask values",
            ValuesField("classes"),
            "classes: 1 is the first class, 2 the second. instances: every number is an object of the first class. "
            "Or say it: 1=gland, 2=stroma, 3=background.",
        )
        self.add(
            "mpp",
            "Pixel size",
            MppField(),
            "Size of a pixel in µm, where the files do not say it. A column mpp of the table says it for each image.",
        )
        self.add(
            "table",
            "Table",
            PathField("Table of the images", "file"),
            "CSV with a column name, and if wanted mpp and the column of the group.",
        )
        self.add(
            "group",
            "Group",
            TextField("each image by itself"),
            "What must stay together, such as the patient: a column of the table, or a pattern over the file name.",
        )
        self.add("role", "For", ChoiceField(ROLES), ROLE_TIP)
        self._show(self._value)

    def finished(self) -> FolderSource:
        """The source as it stands in the fields; `MsunetError` where something is missing."""
        try:
            source: FolderSource = self._read()
        except ValidationError as error:
            raise explain(error, "This folder") from error
        for folder, what in ((source.images, "images"), (source.masks, "masks")):
            if folder == Path() or not folder.is_dir():
                raise MsunetError(
                    f"Give a folder of {what} that exists{'' if folder == Path() else f', not {folder}'}."
                )
        return source


class FolderDialog(QDialog):
    """Asks for a folder of images and masks."""

    def __init__(self, parent: QWidget, value: FolderSource | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Folder of images and masks")
        self.setMinimumWidth(460)
        self.form = FolderForm(value)
        self.source: FolderSource | None = None
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addWidget(self.form)
        column.addWidget(self.buttons)

    def _accept(self) -> None:
        try:
            self.source = self.form.finished()
        except MsunetError as error:
            self.form.problem.setText(str(error))
            self.form.problem.show()
            return
        self.accept()


class SourcesBox(QWidget):
    """Every source with what it is for: annotated slides and folders."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self._shown: Any = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.grid = QGridLayout()
        self.grid.setColumnStretch(0, 1)
        column.addLayout(self.grid)
        self.add = QPushButton("Add a folder of images and masks…")
        self.add.setToolTip("Labelled images from elsewhere; several folders are possible.")
        self.add.clicked.connect(self._ask)
        column.addWidget(self.add)

    def refresh(self) -> None:
        """Show the sources as they are now."""
        slides = [record for record in self.state.slides if record.annotation]
        shown = [(r.path, r.role) for r in slides] + list(self.state.folders)
        if shown == self._shown:
            return
        self._shown = shown
        while (item := self.grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        for record in slides:
            self._row(f"{record.name} (slide)", str(record.path), record.role).valueChanged.connect(
                lambda role, r=record: self.state.set_role(r, role)
            )
        for number, folder in enumerate(self.state.folders):
            tip = f"{folder.images}\n{folder.masks}"
            role = self._row(f"{folder.images.parent.name}/{folder.images.name}", tip, folder.role, number)
            role.valueChanged.connect(lambda value, n=number: self._change(n, value))

    def _row(self, text: str, tip: str, role: Role, folder: int | None = None) -> ChoiceField:
        label = QElidingLabel(text)
        label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        label.setToolTip(tip)
        choice = ChoiceField(ROLES)
        choice.setValue(role)
        choice.setToolTip(ROLE_TIP)
        choice.setMinimumContentsLength(7)
        row = self.grid.rowCount()
        self.grid.addWidget(label, row, 0)
        self.grid.addWidget(choice, row, 1)
        if folder is not None:
            for column, sign, what, method in (
                (2, "…", "Change this folder.", lambda: self._ask(folder)),
                (3, "×", "Take this folder out; its files stay.", lambda: self._remove(folder)),
            ):
                button = QToolButton()
                button.setText(sign)
                button.setToolTip(what)
                button.setMinimumSize(QSize(24, 22))
                button.clicked.connect(lambda *_, m=method: m())
                self.grid.addWidget(button, row, column)
        return choice

    def _ask(self, number: int | bool | None = None) -> None:
        known = self.state.folders[number] if isinstance(number, int) and not isinstance(number, bool) else None
        dialog = FolderDialog(self, known)
        if dialog.exec() and dialog.source is not None:
            folders = [dialog.source if f is known else f for f in self.state.folders]
            self.state.set_folders(folders if known is not None else [*folders, dialog.source])

    def _change(self, number: int, role: Role) -> None:
        folders = list(self.state.folders)
        folders[number] = folders[number].model_copy(update={"role": role})
        self.state.set_folders(folders)

    def _remove(self, number: int) -> None:
        self.state.set_folders([f for n, f in enumerate(self.state.folders) if n != number])
