"""The table of classes: colour, name, key, and how much is annotated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon
from qtpy.QtWidgets import QAbstractItemView, QColorDialog, QHeaderView, QTableWidget, QTableWidgetItem

from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.errors import MsunetError
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.metadata import check_new_classes
from napari_msunet.widgets.dock.annotation_counts import erase
from napari_msunet.widgets.forms import swatch
from napari_msunet.widgets.layers import Layers
from napari_msunet.widgets.state import SlideRecord, State

if TYPE_CHECKING:
    from napari_msunet.widgets.paint import PyramidLabels
# ----------------------------------------------------------------------------------------------------------------------
# Adding, renaming, removing and colouring classes, in the dock and in all annotations at once.


class ClassEdits:
    """Changes the classes of the state, of the annotations' stores, and of the layers that show them.

    Parameters
    ----------
    state : State
    layers : Layers
    """

    def __init__(self, state: State, layers: Layers) -> None:
        self.state, self.layers = state, layers

    def add(self, name: str | None = None) -> str:
        """Add a class, and give its name; None: a placeholder name, which can be changed."""
        number = len(self.state.classes) + 1
        while name is None or name in self.state.classes:
            if name is not None:
                raise MsunetError(f"There is a class {name} already; give another name.")
            name = f"class {number}" if f"class {number}" not in self.state.classes else None
            number += 1
        check_new_classes([name])
        self.state.set_classes((*self.state.classes, name))
        for layer in self._open():
            layer.store.add_classes([name])
            layer.refresh_classes()
        return name

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, in all annotations; `MsunetError` if there is one of that name."""
        if old not in self.state.classes:
            raise MsunetError(f"There is no class {old}; there are {', '.join(self.state.classes)}.")
        if new in self.state.classes:
            raise MsunetError(f"The name {new} is taken; give another one.")
        check_new_classes([new])
        for store in self._stores():
            if old in store.classes:
                taken = {new: f"{new} (removed)"}  # the name belongs to a class that was removed and has no pixels
                store.rename_classes([new if n == old else taken.get(n, n) for n in store.classes])
        self.state.set_classes(tuple(new if name == old else name for name in self.state.classes))
        self._refresh_layers()

    def remove(self, name: str) -> None:
        """Remove a class and erase its pixels; an undo in the annotation layer brings the pixels back."""
        if name not in self.state.classes:
            raise MsunetError(f"There is no class {name}; there are {', '.join(self.state.classes)}.")
        if len(self.state.classes) == 1:
            raise MsunetError("One class must stay; rename it instead.")
        for record in [r for r in self.state.slides if r.annotation is not None and r.annotation.exists()]:
            self._erase(record, name)
        values = {n: [r.counts.get(v, 0) for r in self.state.slides] for v, n in enumerate(self.state.classes, 1)}
        remaining = tuple(n for n in self.state.classes if n != name)
        for number, record in enumerate(self.state.slides):
            kept = {v: values[n][number] for v, n in enumerate(remaining, 1) if values[n][number]}
            background = record.counts.get(ANNOTATED_BACKGROUND)
            record.counts = kept | ({ANNOTATED_BACKGROUND: background} if background else {})
        self.state.set_classes(remaining)
        self._refresh_layers()

    def _erase(self, record: SlideRecord, name: str) -> None:
        store = open_labels(record.annotation)
        if name not in store.classes:
            return
        counts = record.annotation_counter()
        if counts is None:
            return
        if counts.outdated:
            counts.scan()
        layer = self.layers.annotation(record)
        for region in erase(store, counts, store.classes.index(name) + 1):
            counts.update(region)
            if layer is not None:
                layer.refresh_window(region)

    def set_colour(self, name: str, colour: tuple[int, int, int]) -> None:
        """Show a class in another colour (red, green, blue; 0 to 255)."""
        for store in self._stores():
            if name in store.classes:
                place = store.classes.index(name)
                tints = [colour if n == place else tint for n, tint in enumerate(store.colours)]
                store.rename_classes(colours=tints)
        self._refresh_layers()
        self.state.emit("classes")

    def _open(self) -> list[PyramidLabels]:
        found = (self.layers.annotation(record) for record in self.state.slides)
        return [layer for layer in found if layer is not None]

    def _stores(self) -> Iterable[LabelStore]:
        return [open_labels(r.annotation) for r in self.state.slides if r.annotation and r.annotation.exists()]

    def _refresh_layers(self) -> None:
        for layer in self._open():
            layer.refresh_classes()


# ----------------------------------------------------------------------------------------------------------------------
# The table of classes.

Colour = tuple[int, int, int]
KEYS = 9
"""Classes with a key of their own: 1 to 9; background has 0."""


@dataclass(frozen=True)
class ClassTableRow:
    """A row of the table: `name` and `colour` of a class, its annotated pixels, and whether name and colour are
    fixed."""

    name: str
    colour: Colour
    pixels: int
    fixed: bool = False


class ClassTable(QTableWidget):
    """Shows classes and edits them.

    Attributes
    ----------
    picked : Signal(int)
        A person chose the class of this row to paint with.
    renamed : Signal(int, str)
        Row and its new name.
    recoloured : Signal(int, object)
        Row and its new colour.
    """

    picked = Signal(int)
    renamed = Signal(int, str)
    recoloured = Signal(int, object)
    COLOUR, NAME, KEY, PIXELS = range(4)

    def __init__(self) -> None:
        super().__init__(0, 4)
        self._rows: list[ClassTableRow] = []
        self.setHorizontalHeaderLabels(["", "Class", "Key", "Pixels"])
        tips = (
            "Click a colour to choose another.",
            "Double-click a name to change it.",
            "Press it to paint this class.",
        )
        for column, tip in enumerate((*tips, "Annotated pixels at the slide's own resolution, of all slides.")):
            self.horizontalHeaderItem(column).setToolTip(tip)
        header = self.horizontalHeader()
        header.setSectionResizeMode(self.NAME, QHeaderView.ResizeMode.Stretch)
        for column, width in ((self.COLOUR, 30), (self.KEY, 40), (self.PIXELS, 84)):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            self.setColumnWidth(column, width)
        header.setMinimumSectionSize(20)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(26)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setShowGrid(False)
        self.setIconSize(QSize(18, 18))
        self.setAccessibleName("Classes")
        self.cellClicked.connect(self._clicked)
        self.currentCellChanged.connect(lambda row, *_: row >= 0 and self.picked.emit(row))
        self.itemChanged.connect(self._edited)

    def show_rows(self, rows: list[ClassTableRow], current: int) -> None:
        """Show these rows and mark that of the class to paint with; -1: none."""
        if self.state() == QAbstractItemView.State.EditingState:
            return
        self.blockSignals(True)
        if rows != self._rows:
            self._rows = list(rows)
            self.setRowCount(len(rows))
            for number, row in enumerate(rows):
                self._fill(number, row)
            shown = min(len(rows), 8)
            self.setFixedHeight(self.horizontalHeader().sizeHint().height() + 26 * shown + 4)
        if current != self.currentRow():
            self.setCurrentCell(current, self.NAME) if current >= 0 else self.clearSelection()
        self.blockSignals(False)

    def _fill(self, number: int, row: ClassTableRow) -> None:
        key = "0" if row.fixed else str(number + 1) if number < KEYS else ""
        pixels = f"{row.pixels:,}".replace(",", " ") if row.pixels else "none yet"
        for column, text in enumerate(("", row.name, key, pixels)):
            item = QTableWidgetItem(text)
            flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
            if column == self.NAME and not row.fixed:
                flags |= Qt.ItemFlag.ItemIsEditable
            item.setFlags(flags)
            if column == self.COLOUR:
                item.setIcon(QIcon(swatch(row.colour, 18)))
                item.setToolTip("" if row.fixed else "Click to choose another colour.")
            if column == self.KEY:
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
            if column == self.PIXELS:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(number, column, item)

    def _clicked(self, row: int, column: int) -> None:
        if column == self.COLOUR and not self._rows[row].fixed:
            chosen = QColorDialog.getColor(QColor(*self._rows[row].colour), self, f"Colour of {self._rows[row].name}")
            if chosen.isValid():
                self.recoloured.emit(row, (chosen.red(), chosen.green(), chosen.blue()))
        else:
            self.picked.emit(row)

    def _edited(self, item: QTableWidgetItem) -> None:
        number, text = item.row(), item.text().strip()
        if item.column() == self.NAME and text != self._rows[number].name:
            # emptied, so that the rows are shown again even if the new name is refused
            name, self._rows = self._rows[number].name, []
            self.renamed.emit(number, text or name)
