"""Labelled images from elsewhere as training data, and the role of each source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError
from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_msunet.config import FolderSource, ImageSet, PublishedSource, Role, ShapesSource, TableSource, explain
from napari_msunet.config.base import OptionField, fields_of
from napari_msunet.config.sources import SETS
from napari_msunet.constants import OUTLINE_ENDINGS
from napari_msunet.errors import MsunetError
from napari_msunet.slide.pixel_size import PIXELS
from napari_msunet.widgets.dock.fields import ChoiceField, NumberField, TextField
from napari_msunet.widgets.forms import Form, editor_for
from napari_msunet.widgets.state import State

# ----------------------------------------------------------------------------------------------------------------------
# Forms of labelled images from elsewhere: folders, tables, outlines of another program, public data sets.

TABLES = "Tables (*.csv *.tsv *.txt)"
SHAPES = f"Outlines ({' '.join(f'*{ending}' for ending in OUTLINE_ENDINGS)});;All files (*)"


def dropped(event: QDropEvent) -> Path | None:
    """The one file or folder that is dragged or dropped; None for anything else."""
    urls = event.mimeData().urls()
    return Path(urls[0].toLocalFile()) if len(urls) == 1 and urls[0].isLocalFile() else None


class PathField(QWidget):
    """A path with a button that asks for it, or on which a file is dropped; empty means None. `files` filters the
    files; without it, a folder is asked for."""

    valueChanged = Signal(object)

    def __init__(self, title: str, files: str | None = None) -> None:
        super().__init__()
        self._title, self._files = title, files
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
        self.line.setAcceptDrops(False)  # it would insert the address, file://...
        self.setAcceptDrops(True)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped(event) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = dropped(event)
        if path is not None:
            self.setValue(path)
            self.valueChanged.emit(self.value())
            event.acceptProposedAction()

    def value(self) -> Path | None:
        return Path(self.line.text().strip()) if self.line.text().strip() else None

    def setValue(self, value: Path | None) -> None:
        self.line.setText("" if value is None or value == Path() else str(value))

    def _ask(self) -> None:
        start = self.line.text() or str(Path.home())
        if self._files is None:
            chosen = QFileDialog.getExistingDirectory(self, self._title, start)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._title, start, self._files)
        if chosen:
            self.line.setText(chosen)
            self.valueChanged.emit(self.value())


class MppField(QWidget):
    """µm per pixel, "px" for images that are used in their own pixels, or None for the size in the files."""

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.number = NumberField(0, 1000, 0.05, 4, "µm")
        self.number.setSpecialValueText("from the files")
        self.pixels = QCheckBox("pixels")
        self.pixels.setToolTip(
            "The images have no size in µm, or it is not to count: they are used in their own pixels."
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.number, 1)
        row.addWidget(self.pixels)
        self.setFocusProxy(self.number)
        self._pair: tuple[float, float] | None = None
        self.pixels.toggled.connect(self.number.setDisabled)
        self.pixels.toggled.connect(lambda *_: self.valueChanged.emit(self.value()))
        self.number.valueChanged.connect(lambda *_: self.valueChanged.emit(self.value()))

    def value(self) -> float | tuple[float, float] | str | None:
        if self.pixels.isChecked():
            return PIXELS
        number = self.number.value()
        if self._pair is not None and abs(self._pair[0] - number) < 1e-9:
            return self._pair
        return number if number > 0 else None

    def setValue(self, value: float | tuple[float, float] | str | None) -> None:
        self._pair = value if isinstance(value, tuple) else None
        self.pixels.setChecked(value == PIXELS)
        self.number.setValue(0 if value == PIXELS or not value else value[0] if isinstance(value, tuple) else value)


class ValuesField(TextField):
    """The meaning of values or names: a word, or pairs such as ``1=gland, 2=stroma``; `number` is the type before
    "="."""

    def __init__(self, placeholder: str, number: type = int) -> None:
        super().__init__(placeholder)
        self._number = number
        self._usual = placeholder

    def value(self) -> str | dict[int, str] | dict[str, str]:
        text = self.text().strip()
        if "=" not in text:
            return text or self._usual
        try:
            pairs = [part.split("=") for part in text.replace(";", ",").split(",") if part.strip()]
            if self._number is int and any(set("#/") & set(key) for key, _ in pairs):  # colours
                return {key.strip(): label.strip() for key, label in pairs}
            return {self._number(k.strip()): v.strip() for k, v in pairs}
        except ValueError:
            numbers = "classes, instances, or 1=gland, 2=stroma, or #ff0000=gland"
            example = numbers if self._number is int else "classes, or Tumour=tumour"
            raise MsunetError(f"{text!r} does not say what the values mean; write {example}.") from None

    def setValue(self, value: str | dict[int, str] | dict[str, str]) -> None:
        self.setText(", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value)


class SourceForm(Form):
    """Edits a source; `what` is its name in sentences."""

    what = "This source"

    def __init__(self, value: ImageSet, editors: dict[str, QWidget]) -> None:
        super().__init__(value, {"mpp": MppField(), **editors}, folded="More: what the numbers of the images mean")

    def _options(self) -> Iterable[OptionField]:
        own = type(self._value).__annotations__  # its own options come before those of all sources
        return sorted(super()._options(), key=lambda one: one.name not in own or one.name == "group")

    def finished(self) -> ImageSet:
        """The source in the fields; `MsunetError` where something is missing."""
        try:
            source: ImageSet = self._read()
        except ValidationError as error:
            raise explain(error, self.what) from error
        self._check(source)
        return source

    def _check(self, source: ImageSet) -> None:
        """`MsunetError` where files are missing."""


class FolderForm(SourceForm):
    """Edits a `FolderSource`."""

    what = "This folder"

    def __init__(self, value: FolderSource | None = None) -> None:
        editors = {
            "images": PathField("Folder of images"),
            "masks": PathField("Folder of masks"),
            "mask_suffix": TextField("none", ""),
            "values": ValuesField("classes"),
            "table": PathField("Table of the images", TABLES),
        }
        super().__init__(value or FolderSource(images=Path(), masks=Path()), editors)

    def _check(self, source: FolderSource) -> None:
        for folder, what in ((source.images, "images"), (source.masks, "masks")):
            _needed(folder, f"a folder of {what}", Path.is_dir)


class TableForm(SourceForm):
    """Edits a `TableSource`."""

    what = "This table"

    def __init__(self, value: TableSource | None = None) -> None:
        editors = {"table": PathField("Table of images and masks", TABLES), "values": ValuesField("classes")}
        super().__init__(value or TableSource(table=Path()), editors)

    def _check(self, source: TableSource) -> None:
        _needed(source.table, "a table", Path.is_file)


class ShapesForm(SourceForm):
    """Edits a `ShapesSource`."""

    what = "This slide with outlines"

    def __init__(self, value: ShapesSource | None = None) -> None:
        editors = {
            "slide": PathField("The slide", "Slides (*)"),
            "shapes": PathField("The outlines", SHAPES),
            "values": ValuesField("classes", str),
        }
        super().__init__(value or ShapesSource(slide=Path(), shapes=Path()), editors)

    def _check(self, source: ShapesSource) -> None:
        _needed(source.slide, "a slide", Path.exists)
        _needed(source.shapes, "a file of outlines", Path.is_file)


class PublishedForm(SourceForm):
    """Edits a `PublishedSource`."""

    what = "This data set"

    def __init__(self, value: PublishedSource | None = None) -> None:
        editors = {
            "folder": PathField("Folder of the data set"),
            "part": TextField("all", ""),
            "values": ValuesField("classes", str),
        }
        super().__init__(value or PublishedSource(folder=Path()), editors)

    def _check(self, source: PublishedSource) -> None:
        _needed(source.folder, "the folder of the set", Path.is_dir)
        if source.set == "auto":
            from napari_msunet.data.published.reading import recognised

            recognised(source.folder)


def _needed(path: Path, what: str, there: Callable[[Path], bool]) -> None:
    if path == Path() or not there(path):
        raise MsunetError(f"Give {what} that exists{'' if path == Path() else f', not {path}'}.")


FORMS: dict[str, tuple[str, type[SourceForm]]] = {
    "folder": ("Folders of images and masks", FolderForm),
    "table": ("Table of images and masks", TableForm),
    "shapes": ("Slide with outlines of another program", ShapesForm),
    "published": ("Public data set as published", PublishedForm),
}
"""Title and form of each kind of source."""


def name_of(source: ImageSet) -> tuple[str, str]:
    """The name of a source in a list, and its paths in full."""
    if isinstance(source, FolderSource):
        return f"{source.images.parent.name}/{source.images.name}", f"{source.images}\n{source.masks}"
    if isinstance(source, TableSource):
        return f"{source.table.name} (table)", str(source.table)
    if isinstance(source, ShapesSource):
        return f"{source.slide.name} (outlines)", f"{source.slide}\n{source.shapes}"
    return f"{source.folder.name} (public set)", f"{source.folder}\n{SETS[source.set]}"


# ----------------------------------------------------------------------------------------------------------------------
# The dialog that edits one source, and the list of all.

_ROLE = next(one for one in fields_of(FolderSource) if one.name == "role")


class SourceDialog(QDialog):
    """Asks for labelled images from elsewhere; `source` is the result."""

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
    """The list of all sources with their roles: annotated slides, and labelled images from elsewhere."""

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
            "Folders or a table of images and masks, outlines of another program on a slide, or a public set."
        )
        self.add.clicked.connect(lambda *_: self._ask())
        column.addWidget(self.add)

    def refresh(self) -> None:
        """Show the present sources."""
        slides = [record for record in self.state.slides if record.annotation and record.role != "none"]
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
