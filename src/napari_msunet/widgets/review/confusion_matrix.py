"""A confusion matrix as a small coloured grid, in which a click on a cell shows its places."""

from __future__ import annotations

from math import sqrt

from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QLabel, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_msunet.review import ConfusionMatrix
from napari_msunet.widgets.objects.table import area_text

AGREES, DIFFERS = (70, 150, 110), (205, 85, 60)
CELL = 62
"""Smallest width of a cell, in pixels."""


class MatrixView(QWidget):
    """The matrix: rows are the truth, columns the model's answers, and each cell shows its share of the row.

    Attributes
    ----------
    chosen : Signal(int, int)
        A cell with pixels was clicked: its row and column.
    confusion : ConfusionMatrix, optional
    """

    chosen = Signal(int, int)

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.confusion: ConfusionMatrix | None = None
        self._known = True
        self._ground = (40, 40, 40)
        self.title = QLabel("Rows: truth. Columns: model. Click a cell for its places.")
        self.title.setObjectName("note")
        self.title.setWordWrap(True)
        self.grid = QTableWidget()
        self.grid.setAccessibleName("Confusion matrix")
        self.grid.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.grid.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.grid.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.grid.horizontalHeader().setMinimumSectionSize(CELL)
        self.grid.verticalHeader().setDefaultSectionSize(26)
        self.grid.verticalHeader().setMaximumWidth(110)
        self.grid.setMinimumHeight(36)
        self.grid.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.grid.cellClicked.connect(self._clicked)
        self.grid.cellActivated.connect(self._clicked)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.title)
        column.addWidget(self.grid, 1)
        self.set_theme(theme)
        self.hide()

    def set_theme(self, theme: str) -> None:
        """Use the colours of a napari theme."""
        self._ground = get_theme(theme).background.as_rgb_tuple()[:3]
        if self.confusion is not None:
            self.show_matrix(self.confusion, self._known)

    def show_matrix(self, confusion: ConfusionMatrix | None, known: bool = True) -> None:
        """Show another matrix; `known`: areas are in µm², not in pixels."""
        self.confusion, self._known = confusion, known
        names = () if confusion is None else confusion.names
        self.grid.clear()
        self.grid.setRowCount(len(names))
        self.grid.setColumnCount(len(names))
        self.grid.setHorizontalHeaderLabels(names)
        self.grid.setVerticalHeaderLabels(names)
        self.setVisible(confusion is not None)
        if confusion is None:
            return
        for number, name in enumerate(names):
            self.grid.horizontalHeaderItem(number).setToolTip(f"The model says {name}")
            self.grid.verticalHeaderItem(number).setToolTip(f"The truth is {name}")
        for row in range(len(names)):
            for column in range(len(names)):
                self.grid.setItem(row, column, self._item(row, column))

    def _item(self, row: int, column: int) -> QTableWidgetItem:
        confusion = self.confusion
        count, share = int(confusion.pixels[row, column]), float(confusion.shares[row, column])
        item = QTableWidgetItem(share_text(share) if count else "")
        item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
        tint, strength = AGREES if row == column else DIFFERS, sqrt(share)
        mixed = (round(g + (t - g) * strength) for g, t in zip(self._ground, tint, strict=True))
        item.setBackground(QBrush(QColor(*mixed)))
        true, said = confusion.names[row], confusion.names[column]
        area = area_text(float(confusion.areas[row, column]), self._known)
        places = len(confusion.places.get((row, column), ()))
        item.setToolTip(
            f"Truth {true}, model {said}: {area}, {count:,} px, {share_text(share)} of all {true}; "
            + (f"click for its {places} largest places" if places else "no place larger than an edge")
        )
        return item

    def _clicked(self, row: int, column: int) -> None:
        if self.confusion is not None and self.confusion.pixels[row, column]:
            self.chosen.emit(row, column)


def share_text(share: float) -> str:
    """A share as text in percent."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent < 99.95 else "100 %"
