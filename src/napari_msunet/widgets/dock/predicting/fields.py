"""Editors of single values that only a prediction has."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QSizePolicy, QWidget

from napari_msunet.config import Output
from napari_msunet.widgets.dock.fields import CheckField, ChoiceField, WholeField

TICKS: dict[Output, tuple[str, str]] = {
    "probabilities": (
        "Probabilities",
        "Keeps each class's probability, so that thresholds can be changed later without the network. Takes about ten "
        "times the space of the labels.",
    ),
    "disagreement": (
        "Disagreement",
        "Where the scales see different things: the places worth looking at. An image from 0 to 1, over the slide.",
    ),
    "entropy": (
        "Uncertainty",
        "How undecided the model is between the classes (entropy). An image from 0 to 1, over the slide.",
    ),
    "instances": (
        "Objects",
        "Parts objects that touch, and gives each a number and a colour of its own (instances).",
    ),
}
ONE_SCALE = "This model has one scale, so its scales cannot disagree."


class OutputsField(QWidget):
    """What comes out beside the labels, as ticks."""

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(4)
        self.ticks: dict[str, CheckField] = {}
        for number, (name, (text, tip)) in enumerate(TICKS.items()):
            tick = CheckField(text)
            tick.setToolTip(tip)
            tick.valueChanged.connect(lambda *_: self.valueChanged.emit(self.value()))
            self.ticks[name] = tick
            grid.addWidget(tick, number // 2, number % 2)
        grid.setColumnStretch(1, 1)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)  # never pressed flat

    def value(self) -> tuple[Output, ...]:
        return ("labels", *(name for name, tick in self.ticks.items() if tick.isChecked()))  # type: ignore[arg-type]

    def setValue(self, value: tuple[Output, ...]) -> None:
        if set(value) | {"labels"} == set(self.value()):
            return
        for name, tick in self.ticks.items():
            tick.blockSignals(True)
            tick.setChecked(name in value)
            tick.blockSignals(False)
        self.valueChanged.emit(self.value())

    def set_scales(self, count: int) -> None:
        """How many scales the model has: one cannot disagree with itself."""
        tick = self.ticks["disagreement"]
        if count < 2 and tick.isChecked():
            tick.setChecked(False)
        tick.setEnabled(count > 1)
        tick.setToolTip(TICKS["disagreement"][1] if count > 1 else ONE_SCALE)


class MarginField(QWidget):
    """The exact margin, half of it, or a number of pixels."""

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.kind = ChoiceField({"exact": "exact", "fast": "half: faster", "pixels": "in pixels"})
        self.pixels = WholeField(0, 4096, "px", step=16)
        self.pixels.setAccessibleName("Pixels of the margin")
        row.addWidget(self.kind, 1)
        row.addWidget(self.pixels)
        self.pixels.blockSignals(True)
        self.pixels.setValue(32)
        self.pixels.blockSignals(False)
        self.kind.valueChanged.connect(self._changed)
        self.pixels.valueChanged.connect(self._changed)
        self.pixels.hide()

    def setToolTip(self, tip: str) -> None:
        super().setToolTip(tip)
        self.kind.setToolTip(tip)
        self.pixels.setToolTip("Pixels of the model around each tile, rounded up to what its networks need.")

    def value(self) -> Any:
        kind = self.kind.value()
        return self.pixels.value() if kind == "pixels" else kind

    def setValue(self, value: Any) -> None:
        before = self.value()
        for part, new in ((self.kind, "pixels" if isinstance(value, int) else value), (self.pixels, value)):
            if part is self.pixels and not isinstance(value, int):
                continue
            part.blockSignals(True)
            part.setValue(new)
            part.blockSignals(False)
        self.pixels.setVisible(self.kind.value() == "pixels")
        if value != before:
            self.valueChanged.emit(value)

    def _changed(self, *_: Any) -> None:
        self.pixels.setVisible(self.kind.value() == "pixels")
        self.valueChanged.emit(self.value())


class DeviceField(ChoiceField):
    """A device by name: one of those offered, or what somebody types, such as "cuda:1" or "cuda:0,cuda:1"."""

    def __init__(self, choices: dict[str, str]) -> None:
        super().__init__(choices)
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.lineEdit().editingFinished.connect(self._typed)

    def value(self) -> Any:
        number = self.findText(self.currentText())
        return self.values[number] if number >= 0 else self.values[self.currentIndex()]

    def _typed(self) -> None:
        text = self.currentText().strip()
        known = self.findText(text)
        if known >= 0:
            self.setCurrentIndex(known)
        elif text:
            self.setValue(text)
        else:
            self.setEditText(self.itemText(self.currentIndex()))
