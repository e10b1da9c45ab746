"""The numbers of a slide's labels in the dock: area, share of the tissue and objects of each class, and a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.slide import open_slide
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.fields import NumberField
from napari_msunet.widgets.objects.histogram import Histogram
from napari_msunet.widgets.objects.measuring import Measuring
from napari_msunet.widgets.objects.table import SQUARE_MILLIMETRE, Filter, ObjectModel

if TYPE_CHECKING:
    from pathlib import Path

    from napari.utils.events import Event

    from napari_msunet.annotation.measure_sums import TissueArea
    from napari_msunet.labels import LabelStore
    from napari_msunet.objects.table import ObjectTable
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord


@dataclass(frozen=True)
class ClassNumbers:
    """The numbers of a class.

    Attributes
    ----------
    name : str
    area : float
        µm²; pixels where the µm per pixel are not known.
    share : float, optional
        The share of the tissue that it covers, 0..1; None where the tissue is not known.
    objects : int
    density : float, optional
        Objects per mm² of tissue.
    """

    name: str
    area: float
    share: float | None
    objects: int
    density: float | None


def class_numbers(
    table: ObjectTable, classes: tuple[str, ...], tissue: TissueArea | None, smallest: float = 0.0
) -> list[ClassNumbers]:
    """The numbers of each class, from its objects of at least `smallest`.

    Parameters
    ----------
    table : ObjectTable
        Of class labels.
    classes : tuple of str
    tissue : TissueArea, optional
        In µm².
    smallest : float
        µm² (pixels where the µm per pixel are not known); smaller objects count as dust, and so does their area.
    """
    found = []
    for value, name in enumerate(classes, 1):
        every = table.area[table.kind == value]
        areas = every[every >= smallest]
        area = float(areas.sum())
        share = density = None
        if tissue is not None and tissue.total:
            counted = area / float(every.sum()) if len(areas) else 0.0  # all but the dust
            share = tissue.by_value.get(value, 0.0) * counted / tissue.total
            density = len(areas) * SQUARE_MILLIMETRE / tissue.total
        found.append(ClassNumbers(name, area, share, len(areas), density))
    return found


def tissue_of_labels(store: LabelStore, slide: Path, options: dict[str, Any], tissue: Path | None) -> TissueArea | None:
    """The tissue of a slide, as it was corrected, else as it is found, and the labels on it, in µm²; None where no size
    is known."""
    from napari_msunet.annotation.measure_sums import slide_tissue, tissue_area, window_box

    with open_slide(slide, **options) as opened:
        if opened.mpp is None or store.mpp is None:
            return None
        return tissue_area(slide_tissue(opened, tissue), store, window_box(store.grid.whole))


class NumbersBox(QWidget):
    """Measures the labels of the active slide, and shows what was found.

    Parameters
    ----------
    theme : str
        The theme of napari.

    Attributes
    ----------
    table_wanted : Signal()
        "Table of objects…" was pressed.
    """

    table_wanted = Signal()

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.layer: PyramidLabels | None = None
        self.record: SlideRecord | None = None
        self.tissue: TissueArea | None = None
        self.measuring = Measuring(self)
        self.model = ObjectModel(self)
        self._background = Background("msunet-tissue-area", self)
        self._widgets(theme)
        self._lay_out()
        self.measuring.changed.connect(self._show)
        self.measuring.progressed.connect(self._progress)
        self._show()

    def _widgets(self, theme: str) -> None:
        self.measure = QPushButton("Measure")
        self.measure.setToolTip("Area and objects of each class, here in the dock; your strokes keep it up to date.")
        self.measure.clicked.connect(lambda *_: self.start())
        self.smallest = NumberField(0, 1e9, 10, 2, "µm²")
        self.smallest.setSpecialValueText("any")
        self.smallest.setAccessibleName("Smallest object")
        self.smallest.setToolTip("Smaller objects are dust: neither they nor their area count.")
        self.smallest.valueChanged.connect(lambda *_: self._show())
        self.say = QLabel()
        self.say.setObjectName("note")
        self.say.setWordWrap(True)
        self.table = QTableWidget(0, 5)
        self.table.setHorizontalHeaderLabels(["Class", "mm²", "Tissue", "Objects", "per mm²"])
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.setAccessibleName("Numbers of each class")
        self.table.setToolTip("Area, share of the tissue (glass apart), objects, and objects per mm² of tissue.")
        self.histogram = Histogram(self.model, theme)
        self.histogram.plot.setFixedHeight(110)
        self.objects = QPushButton("Table of objects…")
        self.objects.setToolTip("All objects with their areas, linked with the view; sort, filter, change class.")
        self.objects.clicked.connect(lambda *_: self.table_wanted.emit())

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.measure, 1)
        row.addWidget(QLabel("Smallest"))
        row.addWidget(self.smallest, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        for widget in (self.say, self.table, self.histogram, self.objects):
            column.addWidget(widget)

    def set_theme(self, theme: str) -> None:
        """Use the colours of a napari theme."""
        self.histogram.set_theme(theme)

    def set_labels(self, record: SlideRecord | None, layer: PyramidLabels | None) -> None:
        """Measure the labels of another slide from now on."""
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.stroke.disconnect(self._stroked)
        self.record, self.layer, self.tissue = record, layer, None
        if layer is not None:
            layer.events.stroke.connect(self._stroked)
        self.measuring.set_store(None if layer is None else layer.store)
        self._show()

    def start(self) -> None:
        """Measure everything, in the background; returns at once."""
        if self.measuring.busy:
            self.measuring.stop()
        elif self.layer is not None and self.record is not None:
            self.measuring.measure()
            record, store = self.record, self.layer.store
            work = partial(tissue_of_labels, store, record.path, record.open_options, record.tissue)
            self._background.run(work, partial(self._found_tissue, self.record), lambda _: None)

    def _found_tissue(self, record: SlideRecord, area: TissueArea | None) -> None:
        if record is self.record:
            self.tissue = area
            self._show()

    def _stroked(self, event: Event) -> None:
        self.measuring.stroked(event.region)

    def _progress(self, done: float, total: float, left: float | None) -> None:
        self.say.setText(f"Measuring: {done:.0f} of {total:.0f} windows.")

    def _show(self) -> None:
        """Show the present numbers."""
        layer, measured = self.layer, self.measuring.measured
        self.measure.setText("Stop" if self.measuring.busy else "Measure again" if measured else "Measure")
        self.measure.setEnabled(layer is not None)
        for widget in (self.table, self.histogram, self.objects):
            widget.setVisible(measured and layer is not None)
        if layer is None or not measured:
            self.say.setText("")
            self.say.hide()
            return
        known = layer.store.mpp is not None
        self.smallest.setSuffix(" µm²" if known else " px")
        numbers = class_numbers(self.measuring.table, layer.store.classes, self.tissue, self.smallest.value())
        self._fill(numbers, known)
        self.model.show(self.measuring.table, layer.store)
        self.model.set_filter(Filter(low=self.smallest.value()))
        self.histogram.store = layer.store
        self.histogram.redraw()
        tissue = "" if not self.tissue else f"{self.tissue.total / SQUARE_MILLIMETRE:,.3g} mm² of tissue. "
        self.say.setText(f"{tissue}{self.measuring.stale}")
        self.say.setVisible(bool(self.say.text()))

    def _fill(self, numbers: list[ClassNumbers], known: bool) -> None:
        self.table.setHorizontalHeaderItem(1, QTableWidgetItem("mm²" if known else "pixels"))
        self.table.setRowCount(len(numbers))
        for row, one in enumerate(numbers):
            area = f"{one.area / SQUARE_MILLIMETRE:,.4g}" if known else f"{one.area:,.0f}"
            share = "" if one.share is None else f"{100 * one.share:.1f} %"
            density = "" if one.density is None else f"{one.density:,.{0 if one.density >= 100 else 1}f}"
            for column, text in enumerate((one.name, area, share, f"{one.objects:,}", density)):
                item = QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(row, column, item)
        shown = min(max(1, len(numbers)), 6)
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + 26 * shown + 4)
        for row in range(len(numbers)):
            self.table.setRowHeight(row, 26)

    def closing(self) -> None:
        """Let go of the layer and end the threads."""
        self.set_labels(None, None)
        self.measuring.close()
        self._background.close()
