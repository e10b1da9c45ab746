"""The sliders of thresholds and smoothing, and the area beside each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QSlider, QWidget
from superqt import QElidingLabel

from napari_msunet.widgets.objects.words import area_text

if TYPE_CHECKING:
    from collections.abc import Callable

Mpp = tuple[float, float] | None

SMOOTHEST = 8.0
"""Largest standard deviation of the slider, in pixels of the labels."""

MIDDLE = 50


class ClassRow:
    """The slider of one class, what it says, and the area beside it.

    Attributes
    ----------
    threshold : float
        NaN until the slider was moved: the likeliest class wins.
    """

    def __init__(self, name: str, colour: tuple[int, int, int], changed: Callable[[], None]) -> None:
        self.name = name
        swatch = QPixmap(12, 12)
        swatch.fill(QColor(*colour))
        self.colour = QLabel()
        self.colour.setPixmap(swatch)
        self.label = QElidingLabel(name)
        self.label.setToolTip(name)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, 99)
        self.slider.setValue(MIDDLE)
        self.slider.setAccessibleName(f"Threshold of {name}")
        self.slider.setToolTip(
            f"{name} is taken only where its probability reaches this. Until you move it, the likeliest class wins."
        )
        self.slider.valueChanged.connect(self._moved)
        self.says = QLabel("likeliest")
        self.area = QLabel()
        self.area.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.threshold = math.nan
        self._changed = changed

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        """From left to right."""
        return self.colour, self.label, self.slider, self.says, self.area

    def _moved(self, value: int) -> None:
        self.threshold = value / 100
        self.says.setText(f"{self.threshold:.2f}")
        self._changed()

    def put_back(self) -> None:
        """The likeliest class wins again."""
        self.slider.blockSignals(True)
        self.slider.setValue(MIDDLE)
        self.slider.blockSignals(False)
        self.threshold = math.nan
        self.says.setText("likeliest")
        self.area.setText("")


class Sliders(QWidget):
    """A slider per class and one for smoothing.

    Attributes
    ----------
    changed : Signal()
        One was moved.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[ClassRow] = []
        self._mpp: Mpp = None
        self.grid = QGridLayout(self)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setHorizontalSpacing(6)
        for column, (stretch, width) in enumerate(((0, 14), (2, 60), (3, 60), (0, 52), (0, 74))):
            self.grid.setColumnStretch(column, stretch)
            self.grid.setColumnMinimumWidth(column, width)
        self.of = QLabel()
        self.of.setObjectName("note")
        self.of.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.smooth_name = QLabel("Smoothing")
        self.smoothing = QSlider(Qt.Orientation.Horizontal)
        self.smoothing.setRange(0, 32)
        self.smoothing.setAccessibleName("Smoothing")
        self.smoothing.setToolTip("Standard deviation of a Gaussian over the probabilities, before the thresholds.")
        self.smoothing.valueChanged.connect(self._smoothed)
        self.smooth_says = QLabel("none")

    def set_classes(self, names: Sequence[str], colours: Sequence[tuple[int, int, int]], mpp: Mpp) -> None:
        """A row for each class, in its colour."""
        for row in self.rows:
            for widget in row.widgets:
                self.grid.removeWidget(widget)
                widget.deleteLater()
        self._mpp = mpp
        pairs = zip(names, colours, strict=True)
        self.rows = [ClassRow(name, colour, self.changed.emit) for name, colour in pairs]
        for number, row in enumerate(self.rows):
            for column, widget in enumerate(row.widgets):
                self.grid.addWidget(widget, number, column)
        last = len(self.rows)
        self.grid.addWidget(self.smooth_name, last, 0, 1, 2)
        self.grid.addWidget(self.smoothing, last, 2)
        self.grid.addWidget(self.smooth_says, last, 3, 1, 2)
        self.grid.addWidget(self.of, last + 1, 0, 1, 5)

    @property
    def moved(self) -> bool:
        """Whether anything is not as it began."""
        return self.smoothing.value() > 0 or any(not math.isnan(row.threshold) for row in self.rows)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each class; NaN where its slider was not moved."""
        return tuple(row.threshold for row in self.rows)

    @property
    def micrometres(self) -> float:
        """The smoothing in µm; in pixels where the µm per pixel are not known."""
        sigma = self.smoothing.value() / self.smoothing.maximum() * SMOOTHEST
        return round(sigma * (1.0 if self._mpp is None else math.sqrt(self._mpp[0] * self._mpp[1])), 4)

    def _smoothed(self, value: int) -> None:
        unit = "px" if self._mpp is None else "µm"
        self.smooth_says.setText(f"{self.micrometres:.3g} {unit}" if value else "none")
        self.changed.emit()

    def say_areas(self, of: str, pixels: Sequence[float] | None) -> None:
        """Show an area for each class, of what `of` says; None: not known yet."""
        self.of.setText(of)
        pixel = 1.0 if self._mpp is None else self._mpp[0] * self._mpp[1]
        for number, row in enumerate(self.rows):
            text = "" if pixels is None else area_text(float(pixels[number]) * pixel, self._mpp is not None)
            row.area.setText(text)

    def put_back(self) -> None:
        """All as it began."""
        for row in self.rows:
            row.put_back()
        self.smoothing.blockSignals(True)
        self.smoothing.setValue(0)
        self.smoothing.blockSignals(False)
        self.smooth_says.setText("none")
        self.of.setText("")
