"""A histogram of a measurement, one curve per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_msunet.labels import LabelStore
from napari_msunet.widgets.objects.table import ObjectModel

if TYPE_CHECKING:
    import numpy.typing as npt
BINS = 40
MEASURES = {"Area": 1, "Perimeter": 2, "Roundness": 3}
"""The columns of `ObjectModel` that can be shown."""

_LOGARITHMIC = ("Area", "Perimeter")
_OBJECT = (90, 170, 255)


class Histogram(QWidget):
    """The distribution of a measurement over the rows of a table; area and perimeter have a logarithmic axis."""

    def __init__(self, model: ObjectModel, theme: str) -> None:
        super().__init__()
        self.model = model
        self.store: LabelStore | None = None
        self.curves: dict[int, pg.PlotDataItem] = {}
        self.measure = QComboBox()
        self.measure.addItems(list(MEASURES))
        self.measure.setAccessibleName("What the histogram shows")
        self.measure.setToolTip("Which measurement of the rows in the table is shown.")
        self.measure.currentIndexChanged.connect(lambda _: self.redraw())
        self.plot = pg.PlotWidget()
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.setMinimumHeight(56)
        item = self.plot.getPlotItem()
        item.getAxis("left").setWidth(38)
        item.getAxis("bottom").setHeight(20)
        self.plot.setToolTip("Objects (up) by the measurement (across), one colour per class.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.measure)
        column.addWidget(self.plot, 1)
        self.set_theme(theme)

    def set_theme(self, theme: str) -> None:
        """Use the colours of a napari theme."""
        colours = get_theme(theme)
        self.plot.setBackground(colours.background.as_hex())
        for side in ("left", "bottom"):
            axis = self.plot.getPlotItem().getAxis(side)
            axis.setPen(colours.text.as_hex())
            axis.setTextPen(colours.text.as_hex())

    def redraw(self) -> None:
        """Show the present rows of the model."""
        for curve in self.curves.values():
            self.plot.removeItem(curve)
        self.curves = {}
        name = self.measure.currentText()
        values, kinds = self.model.column(MEASURES[name]), self.model.column(0)
        logarithmic = name in _LOGARITHMIC
        self.plot.setLogMode(x=logarithmic, y=False)
        positive = values[values > 0] if logarithmic else values
        if not len(positive) or self.store is None:
            return
        edges = _edges(positive, logarithmic)
        instances = self.store.info.instances
        for kind in [0] if instances else np.unique(kinds).tolist():
            own = values if instances else values[kinds == kind]
            counts = np.histogram(own, edges)[0]
            colour = _OBJECT if instances else self.store.colours[kind - 1]
            self.curves[int(kind)] = self._curve(edges, counts, colour)
        self.plot.getPlotItem().getViewBox().autoRange(padding=0.04)

    def _curve(
        self, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int_], colour: tuple[int, int, int]
    ) -> pg.PlotDataItem:
        curve = pg.PlotDataItem(
            edges, counts, stepMode="center", fillLevel=0, brush=(*colour, 70), pen=pg.mkPen(colour, width=1.5)
        )
        curve.setLogMode(self.measure.currentText() in _LOGARITHMIC, False)
        self.plot.addItem(curve)
        return curve


def _edges(values: npt.NDArray[np.number], logarithmic: bool) -> npt.NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low * 0.9, high * 1.1 + 1e-6
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
