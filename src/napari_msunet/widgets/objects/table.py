"""Objects as a Qt table: its rows and columns, filters, selection, areas in words, and its CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QItemSelectionModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QAbstractItemView, QComboBox, QHBoxLayout, QHeaderView, QLineEdit, QTableView, QWidget

from napari_msunet._io import csv_text, write_text
from napari_msunet.constants import ANNOTATED_BACKGROUND
from napari_msunet.labels import LabelStore
from napari_msunet.objects.table import FoundObject, ObjectTable
from napari_msunet.typed_numbers import read_number
from napari_msunet.widgets.forms import swatch

if TYPE_CHECKING:
    from qtpy.QtCore import QObject
# ----------------------------------------------------------------------------------------------------------------------
# Areas and lengths as people write them.

SQUARE_MILLIMETRE = 1e6
_LARGE = 1e5


def area_text(area: float, known: bool = True) -> str:
    """An area in µm², in mm² when it is large; in pixels where the µm per pixel are not known."""
    if not known:
        return f"{area:,.0f} px"
    if area >= _LARGE:
        return f"{area / SQUARE_MILLIMETRE:,.3g} mm²"
    return f"{area:,.0f} µm²" if area >= 10 else f"{area:.1f} µm²"


def length_text(length: float, known: bool = True) -> str:
    """A length in µm, in mm when it is long; in pixels where the µm per pixel are not known."""
    if not known:
        return f"{length:,.0f} px"
    return f"{length / 1000:,.3g} mm" if length >= 10_000 else f"{length:,.0f} µm"


def kind_name(store: LabelStore, kind: int) -> str:
    """The name of a value of a store."""
    if store.info.instances:
        return f"object {kind}"
    if kind == ANNOTATED_BACKGROUND and store.kind == "annotation":
        return "background"
    return store.classes[kind - 1] if 0 < kind <= len(store.classes) else f"class {kind}"


def object_text(store: LabelStore, found: FoundObject) -> str:
    """An object in one line."""
    known = store.mpp is not None
    area, length = area_text(found.area, known), length_text(found.perimeter, known)
    name, about = kind_name(store, found.kind), f"{found.about} " if found.about else ""
    if found.about == "more than":  # its outline is not known, because the search stopped inside it
        return f"{name}: more than {area}"
    return f"{name}: {about}{area}, outline {about}{length}"


# ----------------------------------------------------------------------------------------------------------------------
# The objects as a Qt model over columns of numbers, which sorts and filters 100,000 rows at once.

Role = Qt.ItemDataRole
_SLACK = 64
"""Pixels by which a box found on a coarse level may be off."""


@dataclass(frozen=True)
class Filter:
    """Which objects are shown: `text` in the class's name or the object's number, a `kind`, an area from `low` to
    `high`."""

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
        The row of `table` that each row shows.
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
        self._colours = {n: swatch(colour) for n, colour in enumerate(store.colours, 1)}
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
        """Show only the objects that pass the filter."""
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
        """The values of a column, for the rows that are shown."""
        return self._columns[number][1][self.order] if self._columns else np.zeros(0)

    def names(self, kinds: npt.NDArray[np.number]) -> list[str]:
        """The names of values of the labels."""
        return [self._names.get(int(kind), str(kind)) for kind in kinds]

    def row_of(self, first: tuple[int, int]) -> int | None:
        """The row that shows the object of this first pixel; None if it is not shown."""
        index = self.table.at(first)
        found = np.flatnonzero(self.order == index) if index is not None else ()
        return int(found[0]) if len(found) else None

    def first_near(self, found: FoundObject) -> tuple[int, int] | None:
        """The first pixel of the row that fits a large, inexactly measured object: same value, tightest box around
        it."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The view of the table, with the selection of objects by their first pixels.


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
        ranges = self.selectionModel().selection()  # not `selectedRows`, which takes a second for 100,000 rows
        picked = [np.arange(part.top(), part.bottom() + 1) for part in ranges]
        shown = np.unique(np.concatenate(picked)) if picked else np.zeros(0, np.int64)
        rows: list[int] = self.objects.order[shown[shown < len(self.objects.order)]].tolist()
        return rows

    def selected_firsts(self) -> list[tuple[int, int]]:
        """The first pixels of the first thousand selected objects, by which they are recognised."""
        return [tuple(self.objects.table.first[row].tolist()) for row in self.selected_rows()[:1000]]

    def select(self, firsts: list[tuple[int, int]], scroll: bool = False) -> None:
        """Select only the objects with these first pixels; objects that are not shown are left out."""
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


# ----------------------------------------------------------------------------------------------------------------------
# The row of fields that filters the table.

ALL = "All classes"
AREA_TIP = "Least and largest area that are shown, in the table's unit; empty: any."


class FilterRow(QWidget):
    """The editor of a `Filter`.

    Attributes
    ----------
    changed : Signal(Filter)
    """

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.text = QLineEdit()
        self.text.setPlaceholderText("Filter by class or number")
        self.text.setClearButtonEnabled(True)
        self.kind = QComboBox()
        self.kind.addItem(ALL)
        self.kind.setToolTip("Shows one class only.")
        self.low, self.high = QLineEdit(), QLineEdit()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.kind)
        for field, hint in ((self.low, "area from"), (self.high, "to")):
            field.setPlaceholderText(hint)
            field.setFixedWidth(74)
            field.setToolTip(AREA_TIP)
            field.textChanged.connect(lambda _: self._tell())
            row.addWidget(field)
        self.text.textChanged.connect(lambda _: self._tell())
        self.kind.currentIndexChanged.connect(lambda _: self._tell())

    def offer(self, names: Sequence[str]) -> bool:
        """Offer these classes, and return whether they differ from the ones before."""
        self.kind.setVisible(bool(names))
        if [self.kind.itemText(i) for i in range(1, self.kind.count())] == list(names):
            return False
        self.kind.blockSignals(True)
        self.kind.clear()
        self.kind.addItems([ALL, *names])
        self.kind.blockSignals(False)
        self._tell()
        return True

    def value(self) -> Filter:
        """The filter in the fields; a text that is no number counts as empty and is marked in its field."""
        low, high = (self._number(field) for field in (self.low, self.high))
        return Filter(
            text=self.text.text(),
            kind=self.kind.currentIndex() if self.kind.currentIndex() > 0 else None,
            low=0.0 if low is None else low,
            high=float("inf") if high is None else high,
        )

    def _number(self, field: QLineEdit) -> float | None:
        problem, number = "", None
        if field.text().strip():
            try:
                number = read_number(field.text(), point=field.locale().decimalPoint())
            except ValueError as error:
                problem = str(error)
        field.setToolTip(problem or AREA_TIP)
        if bool(problem) != (field.objectName() == "problem"):
            field.setObjectName("problem" if problem else "")
            field.setStyleSheet("color: #e07b39" if problem else "")
        return number

    def _tell(self) -> None:
        self.changed.emit(self.value())


# ----------------------------------------------------------------------------------------------------------------------
# The rows of the table as a CSV file.


def write_rows(path: Path, headers: list[str], columns: list[Sequence[str] | npt.NDArray[np.number]]) -> None:
    """Write columns of equal length as CSV; `OutputError` if the disk refuses.

    Parameters
    ----------
    path : Path
        The file, which is replaced if it exists.
    headers : list of str
        Names of the columns.
    columns : list of sequences
        The first column is text, the others are numbers.
    """
    rows = ([name, *(f"{v:.10g}" for v in rest)] for name, *rest in zip(*columns, strict=True))
    write_text(path, csv_text(rows, headers, "\r\n"))
