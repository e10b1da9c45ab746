"""Editors of single values: each has `value()`, `setValue()` and `valueChanged`, whatever widget it is made of.

They are all in this one file, so that `forms` finds an editor for any field, with the drawings that some of them show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from napari.utils.notifications import show_warning
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import QByteArray, Qt, Signal
from qtpy.QtGui import QPainter, QPixmap, QValidator
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

import napari_msunet
from napari_msunet.config import Output
from napari_msunet.config.training import BRANCH_LOSSES, BRANCH_WEIGHT
from napari_msunet.geometry import as_scale
from napari_msunet.typed_numbers import read_number, read_numbers

if TYPE_CHECKING:
    from qtpy.QtGui import QWheelEvent
_MOST_DECIMALS = 10
"""Digits after the decimal point that a typed number keeps."""
_NUMBERS = re.compile(r"[\d\s.,;+\-e'’]*")
"""The pattern of text that can only be meant as numbers."""
_NO_THOUSANDS = 1000
"""The pattern of separators between numbers; where one occurs, a comma in a number can only be a decimal mark."""


class Editor(Protocol):
    """The methods of all editors, which are also QWidgets; the type of the values depends on the editor."""

    valueChanged: Signal

    def value(self) -> Any: ...
    def setValue(self, value: Any) -> None: ...


class _Calm:
    """Lets the wheel scroll the dock instead of changing a value that the user has not clicked."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class _Typed(_Calm):
    """A spin box that reads typed or pasted text by `read_number`; a warning names text that it cannot read.

    Qt's own spin box drops the decimal mark of another language during typing: in a German system 0.25 became 25.
    """

    _unit = ""
    _whole = False
    _refused: str | None = None

    def _set_up(self, unit: str) -> None:
        self._unit = unit
        self.setSuffix(f" {unit}" if unit else "")
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.editingFinished.connect(self._say_refused)

    def _number(self, text: str) -> float:
        """The number in a text; `ValueError` with a sentence where it is no number that this field can have."""
        special = self.specialValueText()
        if special and text.removesuffix(self.suffix()).strip().lower() == special.lower():
            return float(self.minimum())
        point = self.locale().decimalPoint() if self.maximum() > _NO_THOUSANDS else ".,"
        number = read_number(text, self._unit, point, self._whole)
        low, high = self.minimum() + (1 if self._whole and special else 0), self.maximum()
        if not self.minimum() <= number <= high:
            unit = f" {self._unit}" if self._unit else ""
            raise ValueError(f'"{text.strip()}" is not possible here: it goes from {low:.12g} to {high:.12g}{unit}.')
        return number

    def validate(self, text: str, place: int) -> tuple[QValidator.State, str, int]:
        """Accept any text during typing; it is read when the typing is finished."""
        try:
            self._number(text)
        except ValueError:
            return QValidator.State.Intermediate, text, place
        return QValidator.State.Acceptable, text, place

    def fixup(self, text: str) -> str:
        """Called by Qt for finished text that cannot be read; the old value is then shown again."""
        self._refused = text.removesuffix(self.suffix())
        return text

    def _say_refused(self) -> None:
        text, self._refused = self._refused, None
        if text is not None:
            try:
                self._number(text)
            except ValueError as error:
                show_warning(f"{error} {self.text()} stays.")


class NumberField(_Typed, QDoubleSpinBox):
    """A number with a unit. A number that is set is shown with `decimals` digits, a typed one with all its digits."""

    def __init__(self, low: float, high: float, step: float, decimals: int = 2, unit: str = "") -> None:
        self._shown = decimals
        self._typed: float | None = None
        super().__init__()
        self.setDecimals(_MOST_DECIMALS)
        self.setRange(low, high)
        self.setSingleStep(step)
        self._set_up(unit)

    def textFromValue(self, value: float) -> str:
        most = _MOST_DECIMALS if value == self._typed else self._shown
        text = f"{value:.{most}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text.replace(".", self.locale().decimalPoint())

    def valueFromText(self, text: str) -> float:
        try:
            self._typed = round(self._number(text), _MOST_DECIMALS)
        except ValueError:
            return float(QDoubleSpinBox.value(self))
        return self._typed


class WholeField(_Typed, QSpinBox):
    """A whole number with a unit; with `none`, its lowest value means None and is shown as that text."""

    valueChanged = Signal(object)
    _whole = True

    def __init__(self, low: int, high: int, unit: str = "", none: str | None = None, step: int = 1) -> None:
        self._optional = none is not None
        super().__init__()
        self.setRange(low - self._optional, high)
        self.setSpecialValueText(none or "")
        self.setSingleStep(step)
        self._set_up(unit)
        self.textChanged.connect(lambda: self.valueChanged.emit(self.value()))

    def textFromValue(self, value: int) -> str:
        return str(value)

    def valueFromText(self, text: str) -> int:
        try:
            return int(self._number(text))
        except ValueError:
            return int(QSpinBox.value(self))

    def value(self) -> int | None:
        number = super().value()
        return None if self._optional and number == self.minimum() else number

    def setValue(self, value: int | None) -> None:
        super().setValue(self.minimum() if value is None else value)


class MinutesField(WholeField):
    """A time in whole minutes as seconds, or None."""

    def __init__(self, none: str) -> None:
        super().__init__(1, 100_000, "min", none)
        self._seconds: float | None = None

    def value(self) -> float | None:
        minutes = super().value()
        if minutes is None:
            return None
        exact = self._seconds is not None and max(1, round(self._seconds / 60)) == minutes
        return self._seconds if exact else minutes * 60.0

    def setValue(self, value: float | None) -> None:
        self._seconds = value
        super().setValue(None if value is None else max(1, round(value / 60)))


class ChoiceField(_Calm, QComboBox):
    """One of several values, each shown as some words."""

    valueChanged = Signal(object)

    def __init__(self, choices: Mapping[Any, str]) -> None:
        super().__init__()
        self.values = list(choices)
        self.addItems(list(choices.values()))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(10)
        self.currentIndexChanged.connect(lambda: self.valueChanged.emit(self.value()))

    def value(self) -> object:
        return self.values[self.currentIndex()]

    def setValue(self, value: object) -> None:
        if value not in self.values:  # a value that is not offered, such as a margin in pixels, is added as it is
            self.values.append(value)
            self.addItem(str(value))
        self.setCurrentIndex(self.values.index(value))


class CheckField(QCheckBox):
    """A tick box; `on` and `off` are its two values."""

    OWN_LABEL = True  # so a form adds no label of its own
    valueChanged = Signal(object)

    def __init__(self, text: str = "", on: object = True, off: object = False) -> None:
        super().__init__(text)
        self._on, self._off = on, off
        self.toggled.connect(lambda: self.valueChanged.emit(self.value()))

    def value(self) -> object:
        return self._on if self.isChecked() else self._off

    def setValue(self, value: object) -> None:
        self.setChecked(value == self._on)


class NumbersField(QLineEdit):
    """One number, or several with semicolons, spaces or commas between them; other text changes nothing."""

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._value: float | tuple[float, ...] = 0.0
        self.editingFinished.connect(self._read)

    def value(self) -> float | tuple[float, ...]:
        return self._value

    def setValue(self, value: float | tuple[float, ...]) -> None:
        changed, self._value = value != self._value, value
        self.setText(number_text(value))
        if changed:
            self.valueChanged.emit(value)

    def _read(self) -> None:
        if self.text() == number_text(self._value):
            return
        try:
            numbers = read_numbers(self.text())
        except ValueError as error:
            numbers = ()
            show_warning(f"{error} {number_text(self._value)} stays.")
        self.setValue(numbers[0] if len(numbers) == 1 else numbers or self._value)


def number_text(value: float | tuple[float, ...]) -> str:
    """One number or several as a line of text shows them."""
    return ", ".join(f"{v:.12g}" for v in (value if isinstance(value, tuple) else (value,)))


class ScalesField(QWidget):
    """Scales as chips: a click on one removes it, "+" adds one."""

    valueChanged = Signal(object)
    OFFERED = (2, 1.5, 1, 0.75, 0.5, 1 / 3, 0.25, 0.125)

    def __init__(self) -> None:
        super().__init__()
        self._scales: tuple[float, ...] = ()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        self.chips = QHBoxLayout()
        self.chips.setSpacing(4)
        row.addLayout(self.chips)
        self.add = QToolButton()
        self.add.setObjectName("chip")
        self.add.setText("+")
        self.add.setToolTip("Adds a scale: one more network that sees the picture at another resolution.")
        self.add.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.menu = QMenu(self.add)
        self.add.setMenu(self.menu)
        self.menu.aboutToShow.connect(self._offer)
        row.addWidget(self.add)
        row.addStretch(1)

    def value(self) -> tuple[float, ...]:
        return self._scales

    def setValue(self, value: tuple[float, ...]) -> None:
        scales = tuple(float(as_scale(scale)) for scale in value)
        if scales == self._scales:
            return
        self._scales = scales
        while (item := self.chips.takeAt(0)) is not None:
            item.widget().deleteLater()
        for scale in scales:
            self.chips.addWidget(self._chip(scale))
        self.valueChanged.emit(scales)

    def _chip(self, scale: float) -> QToolButton:
        chip = QToolButton()
        only = len(self._scales) == 1
        chip.setText(f"{as_scale(scale)}" if only else f"{as_scale(scale)}  ×")
        chip.setObjectName("chip")
        chip.setToolTip(
            f"The network that works at {as_scale(scale)} of the model's resolution."
            + ("" if only else " Click to take it away.")
        )
        chip.setEnabled(not only)
        chip.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        chip.clicked.connect(lambda: self.setValue(tuple(s for s in self._scales if s != scale)))
        return chip

    def _offer(self) -> None:
        self.menu.clear()
        for scale in self.OFFERED:
            ratio = as_scale(scale)
            if float(ratio) not in self._scales:
                self.menu.addAction(_meaning(ratio), lambda r=ratio: self._insert(float(r)))

    def _insert(self, scale: float) -> None:
        self.setValue(tuple(sorted({*self._scales, scale}, reverse=True)))


def _meaning(ratio: Fraction) -> str:
    if ratio == 1:
        return "1 (the model's own resolution)"
    if ratio > 1:
        return f"{ratio} (finer detail, {float(ratio**2):.3g} times the pixels)"
    return f"{ratio} (coarser: {float(1 / ratio**2):.3g} times fewer pixels for the same area)"


class TextField(QLineEdit):
    """A line of text; empty means `none`."""

    valueChanged = Signal(object)

    def __init__(self, placeholder: str = "", none: str | None = None) -> None:
        super().__init__()
        self._none = none
        self.setPlaceholderText(placeholder)
        self.editingFinished.connect(lambda: self.valueChanged.emit(self.value()))

    def value(self) -> str | None:
        return self.text().strip() or self._none

    def setValue(self, value: str | None) -> None:
        self.setText(value or "")


class AnyField(QLineEdit):
    """A value of any type as text: numbers with commas, words, nothing for None; text that cannot be read is
    refused."""

    valueChanged = Signal(object)

    def __init__(self, field: FieldInfo, none: str = "none") -> None:
        super().__init__()
        annotation: object = field.annotation
        limited = Annotated[(annotation, *field.metadata)] if field.metadata else annotation
        self._type: TypeAdapter[object] = TypeAdapter(limited)
        self._value: object = None
        self._as_set = ""
        self.setPlaceholderText(none)
        self.editingFinished.connect(self._read)

    def value(self) -> object:
        return self._value

    def setValue(self, value: object) -> None:
        changed, self._value = value != self._value, value
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        self.setText(", ".join(map(_shown, values)))
        self._as_set = self.text()
        if changed:
            self.valueChanged.emit(value)

    def _read(self) -> None:
        if self.text() == self._as_set:
            return
        for candidate in _readings(self.text()):
            try:
                self.setValue(self._type.validate_python(candidate))
            except ValidationError:
                continue
            return
        shown = self.text()
        self.setValue(self._value)
        show_warning(f'"{shown}" cannot be used here; {self.text() or "nothing"} stays. Part numbers by semicolons.')


def _shown(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _readings(text: str) -> list[object]:
    """The values that a text may mean: nothing, one number, several, or words."""
    text = text.strip()
    if not text:
        return [None, (), ""]
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    if not any(sign.isdigit() for sign in text):
        return [text, tuple(parts)]
    try:
        numbers = read_numbers(text)
    except ValueError:
        return [] if _NUMBERS.fullmatch(text) else [text, tuple(parts)]
    return [*([numbers[0]] if len(numbers) == 1 else []), numbers, text]


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

    def value(self) -> int | str:
        kind = self.kind.value()
        return self.pixels.value() if kind == "pixels" else kind

    def setValue(self, value: int | str) -> None:
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

    def _changed(self, *_: object) -> None:
        self.pixels.setVisible(self.kind.value() == "pixels")
        self.valueChanged.emit(self.value())


class NamedField(ChoiceField):
    """A name: one of those offered, or one that is typed, such as the device "cuda:1"."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        super().__init__(choices)
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.lineEdit().editingFinished.connect(self._typed)

    def value(self) -> str:
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
    """The outputs beside the labels, as tick boxes."""

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
        # fixed height, so that a full dock cannot squeeze it flat
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

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
        """Set how many scales the model has; a single scale cannot disagree with itself."""
        tick = self.ticks["disagreement"]
        if count < 2 and tick.isChecked():
            tick.setChecked(False)
        tick.setEnabled(count > 1)
        tick.setToolTip(TICKS["disagreement"][1] if count > 1 else ONE_SCALE)


class ResolutionField(NumberField):
    """µm per pixel, or None: the images' own pixels."""

    def __init__(self) -> None:
        super().__init__(0, 1000, 0.05, 3, "µm/px")
        self.setSpecialValueText("image pixels")

    def value(self) -> float | None:
        return super().value() or None

    def setValue(self, value: float | None) -> None:
        super().setValue(value or 0)


# ----------------------------------------------------------------------------------------------------------------------
# An editor with a drawing.

DRAWINGS = Path(napari_msunet.__file__).parent / "widgets" / "drawings"


@cache
def drawing(name: str, ratio: float = 1.0) -> QPixmap:
    """One of the drawings in `widgets/drawings`, 264 pixels wide."""
    renderer = QSvgRenderer(QByteArray((DRAWINGS / f"{name}.svg").read_bytes()))
    size = renderer.defaultSize().scaled(int(264 * ratio), 10_000, Qt.AspectRatioMode.KeepAspectRatio)
    picture = QPixmap(size)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    renderer.render(painter)
    painter.end()
    picture.setDevicePixelRatio(ratio)
    return picture


class BranchLossField(QWidget):
    """Edits how the scales are trained: one of `BRANCH_LOSSES`, for "joint" with the weight of each scale's own loss.

    A sentence and a drawing below say where the losses are: each L is one.
    """

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.mode = ChoiceField({name: words for name, (words, _) in BRANCH_LOSSES.items()})
        self.weight = NumbersField()
        self.weight.setAccessibleName("Weight of each scale's own loss")
        self.weight.setValue(BRANCH_WEIGHT)
        self.meaning = QLabel()
        self.meaning.setObjectName("note")
        self.meaning.setWordWrap(True)
        self.picture = QLabel()
        self.picture.setAccessibleName("Where the losses are")
        for widget in (self.mode, self.weight, self.meaning, self.picture):
            column.addWidget(widget)
        self.mode.setValue("joint")
        self._explain()
        self.mode.valueChanged.connect(self._changed)
        self.weight.valueChanged.connect(self._changed)

    def setToolTip(self, tip: str) -> None:
        super().setToolTip(tip)
        self.mode.setToolTip(tip)
        self.weight.setToolTip("Weight of each scale's own loss: one number for all, or one for each scale.")

    def value(self) -> str | float | tuple[float, ...]:
        mode = self.mode.value()
        return self.weight.value() if mode == "joint" else str(mode)

    def setValue(self, value: str | float | tuple[float, ...]) -> None:
        before = self.value()
        parts = [(self.mode, value if isinstance(value, str) else "joint")]
        parts += [] if isinstance(value, str) else [(self.weight, value)]
        for part, new in parts:
            part.blockSignals(True)
            part.setValue(new)
            part.blockSignals(False)
        self._explain()
        if value != before:
            self.valueChanged.emit(value)

    def _changed(self, *_: object) -> None:
        self._explain()
        self.valueChanged.emit(self.value())

    def _explain(self) -> None:
        mode = str(self.mode.value())
        self.weight.setVisible(mode == "joint")
        self.meaning.setText(BRANCH_LOSSES[mode][1])
        self.picture.setPixmap(drawing(f"loss-{mode}", self.devicePixelRatioF()))
