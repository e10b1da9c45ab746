"""The row of the label issues that chooses some of them: by what becomes of what, and by how sure the model is."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSlider, QWidget

from napari_msunet.review import TruthPlace, transitions
from napari_msunet.widgets.forms import button_of


def count_text(count: int) -> str:
    """A number of places in words."""
    return "1 place" if count == 1 else f"{count:,} places"


def change_text(truth: str, model: str) -> str:
    """What becomes of what."""
    return f"{truth} \u2192 {model}"


class TransitionRow(QWidget):
    """Chooses places by their classes and their confidence, and offers to decide all of them at once.

    Attributes
    ----------
    changed : Signal()
        Other places are chosen.
    take_wanted, keep_wanted : Signal()
        All chosen places are to take the model's answer, or to keep the truth.
    """

    changed = Signal()
    take_wanted = Signal()
    keep_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.choice = QComboBox()
        self.choice.setAccessibleName("Which class the model makes of which")
        self.choice.setToolTip("From the class of the truth to that of the model, the most frequent change first.")
        self.choice.activated.connect(lambda *_: self.changed.emit())
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 99)
        self.slider.setFixedWidth(110)
        self.slider.setAccessibleName("How sure the model is at least, in per cent")
        self.slider.setToolTip("Only places where the model is at least this sure of its own answer.")
        self.slider.valueChanged.connect(self._slid)
        self.sure = QLabel()
        self.sure.setFixedWidth(self.sure.fontMetrics().horizontalAdvance("sure at least 99 %") + 14)
        self.take = button_of(
            "Take all of these", "Writes the model's answer into the truth in all these places, as one step of undo."
        )
        self.keep = button_of("Keep the truth in all", "The truth is right in all these places: none is offered again.")
        self.take.clicked.connect(lambda *_: self.take_wanted.emit())
        self.keep.clicked.connect(lambda *_: self.keep_wanted.emit())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.choice, 1)
        for widget in (self.slider, self.sure, self.take, self.keep):
            row.addWidget(widget)
        self._slid(0)

    @property
    def least(self) -> float:
        """The smallest confidence, 0..1."""
        return self.slider.value() / 100

    def _slid(self, value: int) -> None:
        self.sure.setText(f"sure at least {value} %")
        self.changed.emit()

    def offer(self, places: Sequence[TruthPlace]) -> None:
        """Offer the changes among these places; the chosen one stays chosen if it is one of them."""
        before = self.choice.currentData()
        self.choice.clear()
        self.choice.addItem(f"All changes, {count_text(len(places))}", None)
        for (truth, model), count in transitions(places).items():
            change = change_text(truth, model)
            self.choice.addItem(f"{change}, {count_text(count)}", change)
        self.choice.setCurrentIndex(max(0, self.choice.findData(before)))
        scored = any(not isnan(place.confidence) for place in places)
        self.slider.setEnabled(scored)
        if not scored:
            self.slider.setValue(0)

    def chosen(self, places: Sequence[TruthPlace]) -> list[TruthPlace]:
        """Those of the places that are chosen."""
        wanted = self.choice.currentData()
        return [
            place
            for place in places
            if wanted in (None, change_text(place.truth, place.model))
            and (isnan(place.confidence) or place.confidence >= self.least)
        ]
