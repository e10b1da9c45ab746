"""The panel of label issues: likely annotation errors in a table, the confusion matrix, and the buttons to decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.errors import MsunetError
from napari_msunet.review import TruthPlace, TruthReview
from napari_msunet.widgets import keys
from napari_msunet.widgets.dock import section
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import button_of
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.navigation import Outline, go_to
from napari_msunet.widgets.review import label_issues
from napari_msunet.widgets.review.confusion_matrix import MatrixView, share_text
from napari_msunet.widgets.review.label_issues import (
    NOT_COMPARED,
    Decisions,
    TruthChoice,
    TruthReviewer,
    layer_of_truth,
)
from napari_msunet.widgets.review.label_issues_table import PlaceModel
from napari_msunet.widgets.review.lasso import Lasso
from napari_msunet.widgets.review.transitions import TransitionRow
from napari_msunet.widgets.state import changed

if TYPE_CHECKING:
    from qtpy.QtGui import QHideEvent, QKeyEvent, QShowEvent
    from shapely import Polygon

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import State
for _name, _key, _text in (
    ("truth.next", "N", "Next suspect of the truth"),
    ("truth.previous", "Shift+N", "Previous suspect of the truth"),
    ("truth.keep", "T", "Keep the truth here"),
    ("truth.take", "A", "Take the model's answer here"),
):
    keys.register(_name, _key, _text, "Truth", "viewer")

BUTTONS = {
    "truth.previous": ("‹ Previous", "Goes back to the place before."),
    "truth.next": ("Next ›", "Goes on, and decides nothing."),
    "truth.keep": ("Keep the truth", "The truth is right here: this place is not offered again."),
    "truth.take": (
        "Take the model's answer here",
        "Writes the model's answer into the truth inside the outline, as one step of undo (Ctrl+Z).",
    ),
}
SIDE = 210
"""Width of the column of buttons."""

_KEYS = {
    (Qt.Key.Key_N, Qt.KeyboardModifier.NoModifier): "truth.next",
    (Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier): "truth.previous",
    (Qt.Key.Key_T, Qt.KeyboardModifier.NoModifier): "truth.keep",
    (Qt.Key.Key_A, Qt.KeyboardModifier.NoModifier): "truth.take",
}
_OUTLINE = (1.0, 0.45, 0.3)
_LEAST = 96
"""Fewest pixels of the truth that are shown around a small place."""


class PlaceTable(QTableView):
    """A table in which the panel's keys work as they do over the slide, instead of searching for a letter.

    Attributes
    ----------
    pressed : Signal(str)
        The name of the key's line in the table of keys.
    """

    pressed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.horizontalHeader().setHighlightSections(False)
        self.setAccessibleName("Suspects of the truth, the likeliest error first")
        self.setMinimumHeight(56)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        name = _KEYS.get((Qt.Key(event.key()), event.modifiers()))
        if name is None:
            super().keyPressEvent(event)
        else:
            self.pressed.emit(name)


class TruthPanel(QWidget):
    """Shows suspects one after the other; at each, a person keeps the truth or takes the model's answer.

    Parameters
    ----------
    state : State
    layers : Layers

    Attributes
    ----------
    finding : TruthReviewer
        The comparison and its result.
    model : PlaceModel
        The table's rows: suspects, or the places of one cell of the matrix.
    index : int
        The row of the place that is shown; -1: none.
    """

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__()
        self.state, self.layers = state, layers
        self.viewer = layers.viewer
        self.model = PlaceModel(self)
        self.finding = TruthReviewer(self)
        self.outline = Outline(self.viewer, _OUTLINE)
        self.lasso = Lasso(self.viewer, self)
        self.index = -1
        self.cell: tuple[int, int] | None = None
        self.decisions = Decisions(self.finding, self.model, self)
        self.actions = {"truth.previous": self.previous, "truth.next": self.next}
        self.actions |= {"truth.keep": self.keep, "truth.take": self.take}
        self._build()
        self._connect()
        self._restyle()
        self.follow()

    def _build(self) -> None:
        """Make the widgets and lay them out."""
        self.choice = TruthChoice()
        self.find = button_of(
            "Find suspects", "Compares every annotated pixel with the model's answer, in the background."
        )
        self.find.setObjectName("primary")
        self.heading = QLabel()
        self.heading.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(4)
        self.lack = QLabel()
        self.lack.setObjectName("problem")
        self.lack.setWordWrap(True)
        self.set_up = button_of("Predict with probabilities ›", "Ticks that probabilities are kept, and opens Predict.")
        self.all = button_of("All suspects", "Shows the suspects again, instead of one cell's places.")
        self.again = button_of("Offer kept again", "Offers the places again where you kept the truth.")
        self.draw = button_of(
            "Take it in a lasso", "Draw around an area: there the truth takes the model's answer, as one step of undo."
        )
        self.save = button_of("Save CSV…", "Writes the suspects, and beside them the confusion matrix.")
        self.copy = button_of("Copy as Python", "Copies the lines of Python that do this without the dock.")
        self.buttons = {name: button_of(text, keys.hint(tip, name)) for name, (text, tip) in BUTTONS.items()}
        self.table = PlaceTable()
        self.table.setModel(self.model)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionsClickable(True)
        header.setSortIndicatorShown(True)
        header.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        self.matrix = MatrixView(self.viewer.theme)
        self.transitions = TransitionRow()
        self._arrange()

    def _arrange(self) -> None:
        top = QHBoxLayout()
        top.addWidget(QLabel("Truth:"))
        top.addWidget(self.choice)
        top.addWidget(self.find)
        top.addWidget(self.heading, 1)
        for button in (self.all, self.again, self.save, self.copy):
            top.addWidget(button)
        missing = QHBoxLayout()
        missing.addWidget(self.lack, 1)
        missing.addWidget(self.set_up)
        side = self.side = QWidget()
        side.setFixedWidth(SIDE)
        decide = QGridLayout(side)
        decide.setContentsMargins(0, 0, 0, 0)
        decide.setSpacing(3)
        for number, button in enumerate((*self.buttons.values(), self.draw)):
            row, column = (0, number) if number < 2 else (number - 1, 0)
            decide.addWidget(button, row, column, 1, 1 if number < 2 else 2)
        decide.setRowStretch(4, 1)
        middle = QHBoxLayout()
        middle.addWidget(self.table, 3)
        middle.addWidget(side)
        middle.addWidget(self.matrix, 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 8, 4)
        column.setSpacing(3)
        column.addLayout(top)
        column.addWidget(self.bar)
        column.addLayout(missing)
        column.addWidget(self.transitions)
        column.addLayout(middle, 1)

    def _connect(self) -> None:
        self.choice.activated.connect(lambda *_: self._look())
        self.find.clicked.connect(show_errors(lambda *_: self.finding.stop() if self.finding.busy else self.start()))
        self.set_up.clicked.connect(show_errors(lambda *_: self.predict_with_probabilities()))
        self.all.clicked.connect(lambda *_: self.show_suspects())
        self.again.clicked.connect(show_errors(lambda *_: self.decisions.offer_kept()))
        self.draw.clicked.connect(
            show_errors(lambda *_: self.lasso.stop() if self.lasso.active else self.start_lasso())
        )
        self.save.clicked.connect(show_errors(lambda *_: self._save_clicked()))
        self.copy.clicked.connect(show_errors(lambda *_: self._copy()))
        for name, button in self.buttons.items():
            button.clicked.connect(show_errors(lambda *_, act=self.actions[name]: act()))
        self.table.selectionModel().currentRowChanged.connect(lambda now, _: show_errors(self._row_chosen)(now.row()))
        self.table.doubleClicked.connect(lambda at: show_errors(self.go)(at.row()))
        self.table.horizontalHeader().sortIndicatorChanged.connect(self._sort)
        self.table.pressed.connect(show_errors(lambda name: self.actions[name]()))
        self.transitions.changed.connect(self._filter)
        self.transitions.take_wanted.connect(show_errors(lambda: self.take_all()))
        self.transitions.keep_wanted.connect(show_errors(lambda: self.keep_all()))
        self.matrix.chosen.connect(show_errors(self.show_cell))
        self.lasso.drawn.connect(show_errors(lambda corners: self.decisions.take_in(corners, self.truth_layer())))
        self.lasso.ended.connect(self._enable)
        self.decisions.changed.connect(self._enable)
        self.finding.changed.connect(self._show)
        self.finding.found.connect(self._found)
        self.finding.progressed.connect(self._progress)
        self.state.changed.connect(self._changed)
        self.viewer.events.theme.connect(self._restyle)

    def _restyle(self, event: object = None) -> None:
        self.setStyleSheet(section.stylesheet(self.viewer.theme))
        self.matrix.set_theme(self.viewer.theme)

    # --------------------------------------------------------------------------------------------- which truth is asked

    def _changed(self, what: str) -> None:
        if what in ("slides", "counts", "results", "project"):
            self.follow()
        if what == "results":
            self.finding.outdated("Predicted again since: find suspects again.")

    def follow(self) -> None:
        """Offer the truths of the active slide."""
        self.choice.offer(self.state.active)
        self._look()

    def _look(self) -> None:
        record, path = self.state.active, self.choice.currentData()
        if record is None:
            self.finding.forget(label_issues.NO_SLIDE)
        elif path is None:
            self.finding.forget(label_issues.NO_TRUTH)
        else:
            labels = record.labels if record.labels is not None and record.labels.exists() else None
            self.finding.look_at(path, labels)

    def predict_with_probabilities(self) -> None:
        """Let the Predict step keep probabilities, and show it."""
        options = self.state.predict_options
        outputs = tuple(dict.fromkeys((*options.outputs, "probabilities")))
        self.state.set_predict_options(changed(options, outputs=outputs))
        self.state.wanted.emit("predict")
        show_info("The next prediction keeps probabilities: press Predict, then come back to the truth.")

    def truth_layer(self) -> PyramidLabels:
        """The layer of the truth that is reviewed; it is opened where it is not in the viewer."""
        wanted, pair = self.finding.wanted, self.finding.pair
        layer = layer_of_truth(self.layers, None if wanted is None else wanted.truth)
        if pair is not None:  # the layer may have been removed, and its store closed
            pair.store = layer.store
            self.decisions.watch(layer)
        return layer

    # -------------------------------------------------------------------------------------------------------- finding

    def start(self) -> None:
        """Find the suspects; returns at once, and they are shown when they are found."""
        if self.finding.wanted is None or not (self.finding.possible or not self.finding.lack):
            raise MsunetError(self.finding.lack or label_issues.NO_TRUTH)
        self.truth_layer()  # opened at the person's request, not later when the result comes
        self.bar.setRange(0, 0)
        self.finding.start()

    def _progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)

    def _found(self) -> None:
        self.model.states.clear()
        self.decisions.watch(self.truth_layer())
        review, pair = self.finding.review, self.finding.pair
        self.matrix.show_matrix(review.confusion if review.pixels else None, pair.store.mpp is not None)
        self.show_suspects()
        if review.suspects and self.isVisible():
            self.go(0)

    def _show(self) -> None:
        """Show what is missing and what is running."""
        found = self.finding
        if found.review is None and self.model.places:
            self.model.show([], None)
            self.matrix.show_matrix(None)
            self.index, self.cell = -1, None
            self.outline.hide()
        self.lack.setText(found.stale or found.lack)
        self.lack.setVisible(bool(found.stale or found.lack))
        self.set_up.setVisible(
            found.lack in (label_issues.NO_PREDICTION, label_issues.NO_PROBABILITIES) and not found.stale
        )
        self.bar.setVisible(found.busy)
        self.find.setText("Stop" if found.busy else "Find suspects")
        self.find.setEnabled(found.wanted is not None and (found.possible or not found.lack))
        self.heading.setText(heading(found.review, self.cell))
        self.again.setVisible(found.review is not None and found.review.kept > 0)
        self._enable()

    def _enable(self) -> None:
        place, places = self.current, self.model.places
        self.side.setVisible(self.finding.review is not None)
        self.all.setVisible(self.cell is not None)
        self.buttons["truth.previous"].setEnabled(self.index > 0)
        self.buttons["truth.next"].setEnabled(self.index + 1 < len(places))
        layer = self.decisions.layer
        writable = layer is not None and layer.can_be_stored()
        free = place is not None and writable and place.truth != place.model
        self.buttons["truth.keep"].setEnabled(free and self.model.states.get(place) != "kept")
        self.buttons["truth.take"].setEnabled(free and self.model.states.get(place) != "changed")
        self.draw.setEnabled(self.finding.pair is not None and writable)
        self.transitions.setVisible(self.finding.review is not None and self.cell is None)
        undecided = bool(self.undecided)
        self.transitions.take.setEnabled(writable and undecided)
        self.transitions.keep.setEnabled(writable and undecided)
        self.draw.setText("Cancel the lasso" if self.lasso.active else "Take it in a lasso")
        for button in (self.save, self.copy):
            button.setEnabled(self.finding.review is not None)

    # ------------------------------------------------------------------------------------------------- table and matrix

    def show_suspects(self) -> None:
        """Show all suspects in the table."""
        self._show_places(None)

    def show_cell(self, row: int, column: int) -> None:
        """Show the places of one cell of the matrix in the table, the largest first."""
        self._show_places((row, column))
        if self.model.places:
            self.go(0)

    def _show_places(self, cell: tuple[int, int] | None) -> None:
        review, pair = self.finding.review, self.finding.pair
        if review is None or pair is None:
            raise MsunetError(NOT_COMPARED)
        self.cell, self.index = cell, -1
        places = review.suspects if cell is None else review.confusion.places.get(cell, [])
        if cell is None:
            self.transitions.offer(places)
            places = self.transitions.chosen(places)
        header = self.table.horizontalHeader()
        self.model.show(places, pair.store)
        self.model.sort(header.sortIndicatorSection(), header.sortIndicatorOrder())
        self.outline.hide()
        self._show()

    def _filter(self) -> None:
        """Show the suspects that are chosen by their classes and confidence."""
        if self.finding.review is not None and self.cell is None:
            self._show_places(None)

    @property
    def undecided(self) -> list[TruthPlace]:
        """The places of the table that nobody has decided."""
        return [p for p in self.model.places if p.truth != p.model and p not in self.model.states]

    @property
    def current(self) -> TruthPlace | None:
        """The place that is shown."""
        return self.model.places[self.index] if 0 <= self.index < len(self.model.places) else None

    def _sort(self, column: int, order: Qt.SortOrder) -> None:
        """Sort the rows; the place that is shown stays the same."""
        place, self.index = self.current, -1
        self.model.sort(column, order)
        if place is not None:
            self.index = self.model.places.index(place)
            self.table.selectRow(self.index)
        self._enable()

    def _row_chosen(self, row: int) -> None:
        """Outline the place of a row; the camera stays until a double click, Next or Previous."""
        if row >= 0 and row != self.index:
            self.index = row
            self._enable()
            layer, place = self.truth_layer(), self.model.places[row]
            self.decisions.outline(place, lambda polygon: self._outlined(layer, place, polygon))

    def go(self, index: int) -> None:
        """Show a place of the table: the camera moves to it, and its outline is drawn."""
        if not 0 <= index < len(self.model.places):
            raise MsunetError(f"The table has {len(self.model.places)} places; there is no place {index + 1}.")
        self.index = index
        self.table.selectRow(index)
        self._enable()
        layer, place = self.truth_layer(), self.model.places[index]
        layer.visible = True
        hide_maps(self.viewer)
        go_to(self.viewer, layer, place.window.padded(max(0, _LEAST - max(place.window.shape)) // 2), share=0.4)
        self.decisions.outline(place, lambda polygon: self._outlined(layer, place, polygon))

    def _outlined(self, layer: PyramidLabels, place: TruthPlace, polygon: Polygon | None) -> None:
        if place is not self.current or not self.isVisible():
            return
        if polygon is None:  # the place has changed since: its window is shown instead
            self.outline.show_window(layer, place.window)
        else:
            self.outline.show_polygon(layer, polygon)

    def next(self) -> None:
        """Go to the next place."""
        if self.index + 1 < len(self.model.places):
            self.go(self.index + 1)

    def previous(self) -> None:
        """Go to the previous place."""
        if self.index > 0:
            self.go(self.index - 1)

    # ---------------------------------------------------------------------------------------------------- what to do

    def _open_place(self) -> TruthPlace:
        if self.current is None:
            raise MsunetError("No place is shown: find suspects, and choose one in the table.")
        if self.current.truth == self.current.model:
            raise MsunetError("Truth and model say the same here; there is nothing to decide.")
        return self.current

    def keep(self) -> None:
        """Note that the truth is right in this place, and go to the next; returns at once."""
        self.decisions.keep(self._open_place())
        self._go_on()

    def take(self) -> None:
        """Write the model's answer into the truth in this place, as one step of undo, and go to the next; returns at
        once."""
        self.decisions.take(self._open_place(), self.truth_layer())
        self._go_on()

    def take_all(self) -> None:
        """Write the model's answer into the truth in all places of the table that are not decided, as one step of
        undo; returns at once."""
        places = self._some_undecided()
        self.decisions.take_all(places, self.truth_layer())
        self._enable()

    def keep_all(self) -> None:
        """Note that the truth is right in all places of the table that are not decided; returns at once."""
        for place in self._some_undecided():
            self.decisions.keep(place)
        self._enable()

    def _some_undecided(self) -> list[TruthPlace]:
        if not self.undecided:
            raise MsunetError("There is no undecided place in the table: find suspects, or choose other changes.")
        return self.undecided

    def start_lasso(self) -> None:
        """Wait for a lasso in which the truth takes the model's answer."""
        if self.finding.pair is None:
            raise MsunetError(NOT_COMPARED)
        hint = "Draw around what takes the model's answer. Only annotated pixels change. Esc ends."
        self.lasso.start(self.truth_layer(), hint)
        self._enable()

    def _go_on(self) -> None:
        """Go to the next undecided place."""
        rest = range(self.index + 1, len(self.model.places))
        following = next((n for n in rest if self.model.places[n] not in self.model.states), None)
        if following is None:
            self._enable()
        else:
            self.go(following)

    # ------------------------------------------------------------------------------------------------------------ CSV

    def _save_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the suspects", "suspects.csv", "CSV (*.csv)")
        if path:
            self.save_csv(Path(path))

    def save_csv(self, path: Path) -> None:
        """Write the suspects, and beside them the confusion matrix, as CSV."""
        show_info(self.finding.save_csv(path))

    def _copy(self) -> None:
        QApplication.clipboard().setText(self.as_python())
        show_info("Copied: the lines of Python that do this without the dock.")

    def as_python(self) -> str:
        """The lines that repeat the review, write its files, and take the model's answer at one place."""
        return self.finding.as_python()

    # -------------------------------------------------------------------------------------------- showing and closing

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        for name, action in self.actions.items():
            keys.bind(self.viewer, name, action)
        if self.current is not None:
            show_errors(self.go)(self.index)

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        for name in self.actions:
            keys.release(self.viewer, name)
        self.lasso.stop()
        self.outline.hide()

    def closing(self) -> None:
        """Release the viewer and threads."""
        self.state.changed.disconnect(self._changed)
        self.viewer.events.theme.disconnect(self._restyle)
        self.lasso.close()
        self.outline.close()
        self.decisions.close()
        self.finding.close()


def heading(review: TruthReview | None, cell: tuple[int, int] | None) -> str:
    """The heading of the table."""
    if review is None:
        return "Where does the model contradict the truth? Nothing changes unless you say so."
    names = review.confusion.names
    if cell is not None:
        count = len(review.confusion.places.get(cell, ()))
        said = "agrees" if cell[0] == cell[1] else f"says {names[cell[1]]}"
        places = "no place is larger than an edge" if not count else f"the {count} largest places"
        return f"Truth {names[cell[0]]}, the model {said}: {places}."
    if not review.pixels:
        missing = "The model was not run where there is truth: predict these places."
        return missing if review.unpredicted else "Nothing is annotated or accepted there yet, so nothing was compared."
    agreed = share_text(float(review.confusion.pixels.trace()) / review.pixels)
    parts = [f"{len(review.suspects):,} suspects; the model agrees with {agreed} of the truth."]
    if review.kept:
        parts.append(f"{review.kept} kept.")
    if review.unpredicted:
        parts.append(f"{review.unpredicted:,} px of truth were not predicted.")
    if review.ignored:
        parts.append(f"The model does not know {', '.join(review.ignored)}.")
    return " ".join(parts)
