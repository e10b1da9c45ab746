"""Objects as a Qt table: columns of numbers behind it, so that 100,000 rows sort and filter at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor, QPixmap

from napari_msunet.annotation.objects import FoundObject
from napari_msunet.labels import LabelStore
from napari_msunet.labels.objects import ObjectTable
from napari_msunet.widgets.objects.words import kind_name

if TYPE_CHECKING:
    from qtpy.QtCore import QObject

Role = Qt.ItemDataRole
_SLACK = 64
"""Pixels by which a box found on a coarse level may be off."""


@dataclass(frozen=True)
class Filter:
    """What is shown: `text` in the class's name or the object's number, one `kind`, an area from `low` to `high`."""

    text: str = ""
    kind: int | None = None
    low: float = 0.0
    high: float = float("inf")


class ObjectModel(QAbstractTableModel):
    """The rows of an `ObjectTable`, filtered and sorted.

    Attributes
    ----------
    table : ObjectTable
    order : (n,) int
        Which row of `table` each row shows.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.table = ObjectTable.empty()
        self.order = np.zeros(0, np.int64)
        self.filter = Filter()
        self._names: dict[int, str] = {}
        self._colours: dict[int, QPixmap] = {}
        self._columns: list[tuple[str, npt.NDArray[np.number]]] = []
        self._sorted = (1, Qt.SortOrder.DescendingOrder)

    # ------------------------------------------------------------------------------------------------------- contents

    def show(self, table: ObjectTable, store: LabelStore) -> None:
        """Show other objects, filtered and sorted as before."""
        self.beginResetModel()
        self.table = table
        kinds = range(1, len(store.classes) + 1) if not store.info.instances else np.unique(table.kind).tolist()
        self._names = {int(kind): kind_name(store, int(kind)) for kind in kinds}
        self._colours = {n: _swatch(colour) for n, colour in enumerate(store.colours, 1)}
        known = store.mpp is not None
        mpp = np.asarray(store.mpp or (1.0, 1.0))
        place = table.centroid * mpp
        area, length = ("µm²", "µm") if known else ("px", "px")
        self._columns = [
            ("Object" if store.info.instances else "Class", table.kind),
            (f"Area {area}", table.area),
            (f"Perimeter {length}", table.perimeter),
            ("Roundness", table.roundness),
            (f"y {length}", place[:, 0]),
            (f"x {length}", place[:, 1]),
        ]
        self._arrange()
        self.endResetModel()

    def set_filter(self, wanted: Filter) -> None:
        """Show only what passes."""
        if wanted != self.filter:
            self.beginResetModel()
            self.filter = wanted
            self._arrange()
            self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; equal rows stay in the order of the labels."""
        self.beginResetModel()
        self._sorted = (column, order)
        self._arrange()
        self.endResetModel()

    def _arrange(self) -> None:
        rows = np.flatnonzero(self._passing())
        if self._columns:
            values = self._columns[min(self._sorted[0], len(self._columns) - 1)][1][rows]
            descending = self._sorted[1] == Qt.SortOrder.DescendingOrder
            rows = rows[np.argsort(-values if descending else values, kind="stable")]
        self.order = rows

    def _passing(self) -> npt.NDArray[np.bool_]:
        table, wanted = self.table, self.filter
        passing = (table.area >= wanted.low) & (table.area <= wanted.high)
        if wanted.kind is not None:
            passing &= table.kind == wanted.kind
        text = wanted.text.strip().lower()
        if text:
            passing &= np.isin(table.kind, [kind for kind, name in self._names.items() if text in name.lower()])
        found: npt.NDArray[np.bool_] = passing
        return found

    def column(self, number: int) -> npt.NDArray[np.number]:
        """The values of a column, of the rows that are shown."""
        return self._columns[number][1][self.order] if self._columns else np.zeros(0)

    def names(self, kinds: npt.NDArray[np.number]) -> list[str]:
        """What values of the labels stand for."""
        return [self._names.get(int(kind), str(kind)) for kind in kinds]

    def row_of(self, first: tuple[int, int]) -> int | None:
        """The row that shows the object of this first pixel; None if it is not shown."""
        index = self.table.at(first)
        found = np.flatnonzero(self.order == index) if index is not None else ()
        return int(found[0]) if len(found) else None

    def first_near(self, found: FoundObject) -> tuple[int, int] | None:
        """The first pixel of a large object that was not measured exactly: its value, the tightest box around it."""
        table = self.table
        x0, y0, x1, y1 = found.polygon.bounds
        start, stop = table.box[:, :2], table.box[:, :2] + table.box[:, 2:]
        around = (start <= (y0 + _SLACK, x0 + _SLACK)).all(1) & (stop >= (y1 - _SLACK, x1 - _SLACK)).all(1)
        own = np.flatnonzero(around & (table.kind == found.kind))
        if not len(own):
            return None
        off = np.abs(table.box[own] - (y0, x0, y1 - y0, x1 - x0)).max(1)
        first: tuple[int, int] = tuple(table.first[own[off.argmin()]].tolist())
        return first

    # ------------------------------------------------------------------------------------------------- asked for by Qt

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else max(6, len(self._columns))

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> str | None:
        if role != Role.DisplayRole:
            return None
        if orientation == Qt.Orientation.Vertical:
            return str(section + 1)
        return self._columns[section][0] if section < len(self._columns) else ""

    def data(self, index: QModelIndex, role: int = Role.DisplayRole) -> str | QPixmap | int | None:
        if not index.isValid() or index.row() >= len(self.order):
            return None
        row, column = int(self.order[index.row()]), index.column()
        if role == Role.DisplayRole:
            value = self._columns[column][1][row]
            if column == 0:
                return self._names.get(int(value), str(value))
            return f"{value:.2f}" if column == 3 else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        if role == Role.DecorationRole and column == 0:
            return self._colours.get(int(self.table.kind[row]))
        if role == Role.TextAlignmentRole and column > 0:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None


def _swatch(colour: tuple[int, int, int]) -> QPixmap:
    picture = QPixmap(10, 10)
    picture.fill(QColor(*colour))
    return picture
