"""The table of classes: colour, name, key, and how much is annotated."""

from __future__ import annotations

from dataclasses import dataclass

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QColorDialog, QHeaderView, QTableWidget, QTableWidgetItem

Colour = tuple[int, int, int]
KEYS = 9
"""Classes with a key of their own: 1 to 9; background has 0."""


@dataclass(frozen=True)
class Row:
    """A row: the `name` of a class, its `colour`, its annotated pixels, and whether name and colour are fixed."""

    name: str
    colour: Colour
    pixels: int
    fixed: bool = False


class ClassTable(QTableWidget):
    """Shows classes and edits them.

    Attributes
    ----------
    picked : Signal(int)
        A row was chosen to paint with.
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
        self._rows: list[Row] = []
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

    def show_rows(self, rows: list[Row], current: int) -> None:
        """Show these rows and mark the one that is painted with; -1: none."""
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

    def _fill(self, number: int, row: Row) -> None:
        key = "0" if row.fixed else str(number + 1) if number < KEYS else ""
        pixels = f"{row.pixels:,}".replace(",", " ") if row.pixels else "none yet"
        for column, text in enumerate(("", row.name, key, pixels)):
            item = QTableWidgetItem(text)
            flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
            if column == self.NAME and not row.fixed:
                flags |= Qt.ItemFlag.ItemIsEditable
            item.setFlags(flags)
            if column == self.COLOUR:
                item.setIcon(swatch(row.colour))
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
            name, self._rows = self._rows[number].name, []  # shown anew, also if the new name is refused
            self.renamed.emit(number, text or name)


def swatch(colour: Colour) -> QIcon:
    """A square of a colour."""
    picture = QPixmap(18, 18)
    picture.fill(QColor(*colour))
    return QIcon(picture)
