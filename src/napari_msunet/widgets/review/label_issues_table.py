"""The places of label issues as a Qt model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from operator import attrgetter
from typing import TYPE_CHECKING

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QPixmap

from napari_msunet.labels import LabelStore
from napari_msunet.labels.metadata import BACKGROUND_COLOUR
from napari_msunet.review import TruthPlace
from napari_msunet.widgets.forms import swatch
from napari_msunet.widgets.objects.table import area_text

if TYPE_CHECKING:
    from qtpy.QtCore import QObject
Role = Qt.ItemDataRole

HEADERS = ("#", "Truth", "Model says", "Loss", "Sure", "Area")
TIPS = (
    "Rank, the likeliest error first. ✓: you kept the truth. →: it was changed.",
    "What the truth says there.",
    "What the model says there.",
    "Mean cross-entropy of the model on the truth: 0.7 is a coin toss, over 3 the model is sure that it is wrong.",
    "Mean probability that the model gives its own answer.",
    "How large the region is.",
)
MARKS = {"kept": "✓", "changed": "→"}


class PlaceModel(QAbstractTableModel):
    """Rows of `TruthPlace`, ranked in the order in which they were given, which can be sorted by any column.

    Attributes
    ----------
    places : list of TruthPlace
        The places in the order of the rows.
    states : dict
        "kept" or "changed", by place.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.places: list[TruthPlace] = []
        self.states: dict[TruthPlace, str] = {}
        self._ranks: dict[TruthPlace, int] = {}
        self._colours: dict[str, QPixmap] = {}
        self._known = True

    def show(self, places: Sequence[TruthPlace], store: LabelStore | None) -> None:
        """Show other places of this truth."""
        self.beginResetModel()
        self.places = list(places)
        self._ranks = {place: rank for rank, place in enumerate(places, 1)}
        if store is not None:
            self._known = store.mpp is not None
            self._colours = {name: swatch(tint) for name, tint in zip(store.classes, store.colours, strict=True)}
            self._colours["background"] = swatch(BACKGROUND_COLOUR)
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; equal rows stay in the order of their rank."""
        ways: tuple[Callable[[TruthPlace], str | float], ...] = (
            lambda place: 0,
            attrgetter("truth"),
            attrgetter("model"),
            attrgetter("loss"),
            attrgetter("confidence"),
            attrgetter("pixels"),
        )
        self.beginResetModel()
        self.places.sort(key=self._ranks.__getitem__)
        descending = order == Qt.SortOrder.DescendingOrder
        if column == 0 and descending:
            self.places.reverse()
        self.places.sort(key=ways[column], reverse=descending)
        self.endResetModel()

    def mark(self, place: TruthPlace, state: str | None) -> None:
        """Set the state of a place; None: it is undecided."""
        if state is None:
            self.states.pop(place, None)
        else:
            self.states[place] = state
        if place in self.places:
            index = self.index(self.places.index(place), 0)
            self.dataChanged.emit(index, index)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.places)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(HEADERS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> str | None:
        if orientation == Qt.Orientation.Horizontal and role == Role.DisplayRole:
            return HEADERS[section]
        if orientation == Qt.Orientation.Horizontal and role == Role.ToolTipRole:
            return TIPS[section]
        return None

    def data(self, index: QModelIndex, role: int = Role.DisplayRole) -> str | QPixmap | int | None:
        if not index.isValid() or index.row() >= len(self.places):
            return None
        place, column = self.places[index.row()], index.column()
        if role == Role.DisplayRole:
            mark = MARKS.get(self.states.get(place, ""), "")
            sure = "" if isnan(place.confidence) else f"{100 * place.confidence:.0f} %"
            texts = (f"{self._ranks[place]} {mark}".strip(), place.truth, place.model, f"{place.loss:.2f}", sure)
            return texts[column] if column < len(texts) else area_text(place.area, self._known)
        if role == Role.DecorationRole and column in (1, 2):
            return self._colours.get(place.truth if column == 1 else place.model)
        if role == Role.TextAlignmentRole and column > 2:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None
