"""What the truth panel is made of, and what it says."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.labels.truth import TruthReview
from napari_msunet.widgets import keys
from napari_msunet.widgets.truth.matrix import MatrixView, share_text
from napari_msunet.widgets.truth.truths import TruthChoice

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


class PlaceTable(QTableView):
    """A table in which the panel's keys do what they do over the slide, instead of searching for a letter.

    Attributes
    ----------
    pressed : Signal(str)
        Name of a key's line in the table of keys.
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

    def keyPressEvent(self, event: Any) -> None:
        name = _KEYS.get((Qt.Key(event.key()), event.modifiers()))
        if name is None:
            super().keyPressEvent(event)
        else:
            self.pressed.emit(name)


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def build(panel: Any) -> None:
    """Make the panel's widgets and lay them out."""
    panel.choice = TruthChoice()
    panel.find = _button("Find suspects", "Compares every annotated pixel with the model's answer, in the background.")
    panel.find.setObjectName("primary")
    panel.heading = QLabel()
    panel.heading.setWordWrap(True)
    panel.bar = QProgressBar()
    panel.bar.setTextVisible(False)
    panel.bar.setMaximumHeight(4)
    panel.lack = QLabel()
    panel.lack.setObjectName("problem")
    panel.lack.setWordWrap(True)
    panel.set_up = _button("Predict with probabilities ›", "Ticks that probabilities are kept, and opens Predict.")
    panel.all = _button("All suspects", "Shows the suspects again, instead of one cell's places.")
    panel.again = _button("Offer kept again", "Offers the places again where you kept the truth.")
    panel.draw = _button(
        "Take it in a lasso", "Draw around an area: there the truth takes the model's answer, as one step of undo."
    )
    panel.save = _button("Save CSV…", "Writes the suspects, and beside them the confusion matrix.")
    panel.copy = _button("Copy as Python", "Copies the lines of Python that do this without the dock.")
    panel.buttons = {name: _button(text, keys.hint(tip, name)) for name, (text, tip) in BUTTONS.items()}
    panel.table = PlaceTable()
    panel.table.setModel(panel.model)
    header = panel.table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionsClickable(True)
    header.setSortIndicatorShown(True)
    header.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
    for column in (1, 2):
        header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
    panel.matrix = MatrixView(panel.viewer.theme)
    _arrange(panel)


def _arrange(panel: Any) -> None:
    top = QHBoxLayout()
    top.addWidget(QLabel("Truth:"))
    top.addWidget(panel.choice)
    top.addWidget(panel.find)
    top.addWidget(panel.heading, 1)
    for button in (panel.all, panel.again, panel.save, panel.copy):
        top.addWidget(button)
    missing = QHBoxLayout()
    missing.addWidget(panel.lack, 1)
    missing.addWidget(panel.set_up)
    side = panel.side = QWidget()
    side.setFixedWidth(SIDE)
    decide = QGridLayout(side)
    decide.setContentsMargins(0, 0, 0, 0)
    decide.setSpacing(3)
    for number, button in enumerate((*panel.buttons.values(), panel.draw)):
        row, column = (0, number) if number < 2 else (number - 1, 0)
        decide.addWidget(button, row, column, 1, 1 if number < 2 else 2)
    decide.setRowStretch(4, 1)
    middle = QHBoxLayout()
    middle.addWidget(panel.table, 3)
    middle.addWidget(side)
    middle.addWidget(panel.matrix, 2)
    column = QVBoxLayout(panel)
    column.setContentsMargins(8, 4, 8, 4)
    column.setSpacing(3)
    column.addLayout(top)
    column.addWidget(panel.bar)
    column.addLayout(missing)
    column.addLayout(middle, 1)


def heading(review: TruthReview | None, cell: tuple[int, int] | None) -> str:
    """What the table shows, in words."""
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
