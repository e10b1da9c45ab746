"""The table of objects as it is seen: its rows, what is selected, and selecting by the objects' names."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QItemSelectionModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_msunet.widgets.objects.model import ObjectModel


class ObjectTableView(QTableView):
    """Sortable rows of objects, several of which can be selected.

    Parameters
    ----------
    objects : ObjectModel
        The rows.
    """

    def __init__(self, objects: ObjectModel) -> None:
        super().__init__()
        self.objects = objects
        self.setModel(objects)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setSortingEnabled(True)
        self.sortByColumn(1, Qt.SortOrder.DescendingOrder)
        self.setWordWrap(False)
        self.verticalHeader().setDefaultSectionSize(22)
        self.verticalHeader().setHighlightSections(False)
        self.horizontalHeader().setHighlightSections(False)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setAccessibleName("Objects")
        self.setMinimumHeight(90)

    def selected_rows(self) -> list[int]:
        """The selected objects, as rows of the table of all objects."""
        ranges = self.selectionModel().selection()  # not its rows: 100,000 of them take a second to list
        picked = [np.arange(part.top(), part.bottom() + 1) for part in ranges]
        shown = np.unique(np.concatenate(picked)) if picked else np.zeros(0, np.int64)
        rows: list[int] = self.objects.order[shown[shown < len(self.objects.order)]].tolist()
        return rows

    def selected_firsts(self) -> list[tuple[int, int]]:
        """The names of the selected objects, of the first thousand: their first pixels."""
        return [tuple(self.objects.table.first[row].tolist()) for row in self.selected_rows()[:1000]]

    def select(self, firsts: list[tuple[int, int]], scroll: bool = False) -> None:
        """Select the objects of these first pixels, and no other; those that are not shown are left out."""
        self.clearSelection()
        for first in firsts:
            row = self.objects.row_of(first)
            if row is not None:
                index = self.objects.index(row, 0)
                flags = QItemSelectionModel.SelectionFlag
                self.selectionModel().select(index, flags.Select | flags.Rows)
                if scroll:
                    self.setCurrentIndex(index)
                    self.scrollTo(index, QAbstractItemView.ScrollHint.PositionAtCenter)
