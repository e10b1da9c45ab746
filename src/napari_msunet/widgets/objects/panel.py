"""The panel with all objects in a table, linked with the view in both directions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QMenu, QPushButton, QSplitter, QVBoxLayout, QWidget

from napari_msunet.errors import MsunetError, OutputError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.objects.polygons import label_polygons
from napari_msunet.objects.table import object_at, object_mask, set_objects
from napari_msunet.widgets.dock import section
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.navigation import Outline, go_to
from napari_msunet.widgets.objects.histogram import Histogram
from napari_msunet.widgets.objects.measuring import Measuring
from napari_msunet.widgets.objects.table import Filter, FilterRow, ObjectModel, ObjectTableView, area_text, write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari._vispy.mouse_event import NapariMouseEvent
    from napari.utils.events import Event
    from napari.viewer import Viewer
    from shapely import Polygon

    from napari_msunet.objects.table import FoundObject, ObjectTable
    from napari_msunet.widgets.paint import PyramidLabels
_OUTLINE = (1.0, 0.85, 0.2)
_LEAST = 96
"""Fewest pixels of the store that are shown around a small object."""


class ObjectsPanel(QWidget):
    """The objects of the labels in a table, to filter, sort, find, delete, reclassify, plot and save.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    layer : PyramidLabels, optional
        The labels whose objects are shown.
    model : ObjectModel
    measuring : Measuring
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer = getattr(viewer, "__wrapped__", viewer)
        self.layer: PyramidLabels | None = None
        self.model = ObjectModel(self)
        self.measuring = Measuring(self)
        self.outline = Outline(viewer, _OUTLINE)
        self._background = Background("msunet-object-tools", self)
        self._linking = False
        self._widgets()
        self._lay_out()
        self.measuring.changed.connect(self._show)
        self.measuring.progressed.connect(self._progress)
        viewer.mouse_drag_callbacks.append(self._pressed)
        viewer.events.theme.connect(self._restyle)
        self._restyle()
        self._show()

    # --------------------------------------------------------------------------------------------------------- layout

    def _widgets(self) -> None:
        self.measure = QPushButton("Measure all")
        self.measure.setObjectName("primary")
        self.measure.setToolTip(
            "Measures every object of the labels, in the background; your strokes keep it up to date."
        )
        self.measure.clicked.connect(self._measure_clicked)
        self.filter = FilterRow()
        self.filter.changed.connect(self._filter)
        self.count = QLabel()
        self.count.setObjectName("note")
        self.under_mouse = QLabel()
        self.under_mouse.setAccessibleName("The object under the mouse")
        self.stale = QLabel()
        self.stale.setObjectName("problem")
        self.view = ObjectTableView(self.model)
        self.view.selectionModel().selectionChanged.connect(lambda *_: self._selected())
        self.view.doubleClicked.connect(lambda *_: self._double_clicked())
        self.histogram = Histogram(self.model, self.viewer.theme)
        self.classes = QMenu(self)
        self.change = QPushButton("Change class")
        self.change.setToolTip("Gives the selected objects another class, as one step of undo.")
        self.change.setMenu(self.classes)
        self.delete = QPushButton("Delete")
        self.delete.setToolTip("Makes the selected objects background, as one step of undo.")
        self.delete.clicked.connect(show_errors(lambda *_: self.set_selected(0)))
        self.save = QPushButton("Save CSV…")
        self.save.setToolTip("Writes the rows that are shown, in this order.")
        self.save.clicked.connect(show_errors(lambda *_: self._save_clicked()))

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(self.measure)
        top.addWidget(self.filter, 1)
        bottom = QHBoxLayout()
        bottom.addWidget(self.count)
        bottom.addWidget(self.stale)
        bottom.addWidget(self.under_mouse, 1)
        for button in (self.change, self.delete, self.save):
            bottom.addWidget(button)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.addWidget(self.view)
        splitter.addWidget(self.histogram)
        splitter.setStretchFactor(0, 3)
        splitter.setStretchFactor(1, 2)
        splitter.setSizes([560, 300])
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 4, 6, 4)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(splitter, 1)
        column.addLayout(bottom)

    def _restyle(self, event: object = None) -> None:
        self.setStyleSheet(section.stylesheet(self.viewer.theme))
        self.histogram.set_theme(self.viewer.theme)

    # -------------------------------------------------------------------------------------------------------- showing

    def set_layer(self, layer: PyramidLabels | None) -> None:
        """Show the objects of other labels; they are measured on request."""
        if layer is self.layer:
            return
        if self.layer is not None:
            self.layer.events.stroke.disconnect(self._stroked)
        self.layer = layer
        if layer is not None:
            layer.events.stroke.connect(self._stroked)
        self.outline.hide()
        self.measuring.set_store(None if layer is None else layer.store)
        self._show()

    def start(self) -> None:
        """Measure everything; returns at once."""
        if self.layer is None:
            raise MsunetError("There are no labels to measure: predict first, or select a label layer.")
        self.measuring.measure()

    def _measure_clicked(self) -> None:
        if self.measuring.busy:
            self.measuring.stop()
        else:
            show_errors(self.start)()

    def _stroked(self, event: Event) -> None:
        self.measuring.stroked(event.region)

    def _progress(self, done: float, total: float, left: float | None) -> None:
        rest = f", {left:.0f} s left" if left is not None else ""
        self.count.setText(f"Measuring: {done:.0f} of {total:.0f} windows{rest}")

    def _show(self) -> None:
        """Show the present table; selected objects stay selected."""
        measuring, layer = self.measuring, self.layer
        self.measure.setText("Stop" if measuring.busy else "Measure again" if measuring.measured else "Measure all")
        self.measure.setEnabled(layer is not None)
        self.stale.setText(measuring.stale)
        if layer is not None and measuring.table is not self.model.table:
            kept = self.selected_firsts()
            self._offer_classes(layer.store)
            self.model.show(measuring.table, layer.store)
            self._select(kept)
        elif layer is None:
            self.count.setText("No labels.")
        self.histogram.store = None if layer is None else layer.store
        self._after_filter()

    def _offer_classes(self, store: LabelStore) -> None:
        names = () if store.info.instances else store.classes
        if self.filter.offer(names):
            self.classes.clear()
            for value, name in enumerate(names, 1):
                self.classes.addAction(name, show_errors(partial(self.set_selected, value)))
        self.change.setVisible(bool(names))

    def _filter(self, wanted: Filter) -> None:
        kept = self.selected_firsts()
        self.model.set_filter(wanted)
        self._select(kept)
        self._after_filter()

    def _after_filter(self) -> None:
        self.histogram.redraw()
        self._say_count()
        self._enable()

    def _say_count(self) -> None:
        if self.measuring.busy or self.layer is None:
            return
        shown, all_of_them = len(self.model.order), len(self.model.table)
        if not self.measuring.measured:
            self.count.setText("Nothing is measured yet.")
            return
        total = area_text(float(self.model.column(1).sum()), self.layer.store.mpp is not None)
        rows = f"{shown:,} objects" if shown == all_of_them else f"{shown:,} of {all_of_them:,} objects"
        self.count.setText(f"{rows}, {total} together")

    def _enable(self) -> None:
        chosen = len(self.selected_rows()) > 0 and self.layer is not None and self.layer.can_be_painted()
        self.change.setEnabled(chosen)
        self.delete.setEnabled(chosen)
        self.save.setEnabled(len(self.model.order) > 0)

    # ------------------------------------------------------------------------------------------------- table and view

    def selected_rows(self) -> list[int]:
        """The selected objects, as rows of the table of all objects."""
        return self.view.selected_rows()

    def selected_firsts(self) -> list[tuple[int, int]]:
        """The names of the selected objects: their first pixels."""
        return self.view.selected_firsts()

    def _select(self, firsts: list[tuple[int, int]], scroll: bool = False) -> None:
        """Select objects without moving the view."""
        self._linking = True
        try:
            self.view.select(firsts, scroll)
        finally:
            self._linking = False

    def _selected(self) -> None:
        self._enable()
        if self._linking or self.layer is None:
            return
        rows = self.selected_rows()
        if len(rows) == 1:
            self._outline(self.model.table, rows[0])

    def _double_clicked(self) -> None:
        rows = self.selected_rows()
        if len(rows) == 1 and self.layer is not None:
            self.go_to(rows[0])

    def go_to(self, row: int) -> None:
        """Move the view to an object of the table, and outline it."""
        y, x, height, width = (int(v) for v in self.model.table.box[row])
        missing = max(0, _LEAST - max(height, width))
        go_to(self.viewer, self.layer, Window(y, x, height, width).padded(missing // 2), share=0.4)
        self._outline(self.model.table, row)

    def _outline(self, table: ObjectTable, row: int) -> None:
        def work() -> Polygon:
            box, mask = object_mask(self.layer.store, table, row)
            return label_polygons(mask.astype(np.uint8), (box.y, box.x))[0].polygon

        layer = self.layer
        self._background.run(
            work, lambda polygon: self.outline.show_polygon(layer, polygon), lambda _: self.outline.hide()
        )

    def _pressed(self, viewer: object, event: NapariMouseEvent) -> Iterator[None]:
        """Select the row of an object at a click in the view, without a drag and without a brush."""
        if not self.isVisible() or self.layer is None or event.button != 1 or not self._may_click():
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos) - start).max() <= 3:
            data = self.layer.world_to_data(event.position)
            self.choose_at(round(float(data[-2])), round(float(data[-1])))

    def _may_click(self) -> bool:
        active = self.viewer.layers.selection.active
        return active is None or str(getattr(active, "mode", "pan_zoom")) == "pan_zoom"

    def choose_at(self, y: int, x: int) -> None:
        """Outline the object at a pixel of the labels, and select its row."""
        layer = self.layer

        def show(found: FoundObject | None) -> None:
            if layer is not self.layer:
                return
            if found is None:
                self.outline.hide()
                self._select([])
                return
            self.outline.show_polygon(layer, found.polygon)
            first = found.first if found.exact else self.model.first_near(found)
            if first is not None:
                self._select([first], scroll=True)

        self._background.run(partial(object_at, layer.store, y, x), show)

    # ---------------------------------------------------------------------------------------------------------- tools

    def set_selected(self, value: int, *_: object) -> None:
        """Give the selected objects a class, or delete them (0): one step of undo; returns at once."""
        rows, layer, table = self.selected_rows(), self.layer, self.model.table
        if layer is None or not rows:
            raise MsunetError("No object is selected: click rows of the table, or an object in the view.")
        layer.end_stroke()
        boxes = table.box[rows]
        low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
        region = Region(*map(float, low), *map(float, high - low))

        def show(number: int) -> None:
            self.outline.hide()
            layer.refresh_window(region)
            layer.events.stroke(region=region, number=number)

        self._background.run(partial(set_objects, layer.store, table, rows, value), show)

    def _save_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the objects", "objects.csv", "CSV (*.csv)")
        if path:
            self.save_csv(Path(path))

    def save_csv(self, path: Path) -> None:
        """Write the rows that are shown; returns at once."""
        if path.suffix.lower() != ".csv":
            raise OutputError(f"{path} does not end in .csv; the table is written as CSV, so choose such a name.")
        headers = [self.model.headerData(n, Qt.Orientation.Horizontal) for n in range(6)]
        columns = [self.model.column(n) for n in range(6)]
        names = self.model.names(columns[0])
        self._background.run(
            partial(write_rows, path, headers, [names, *columns[1:]]),
            lambda _: show_info(f"Wrote {len(names):,} objects to {path}."),
        )

    def closing(self) -> None:
        """Release the viewer and threads."""
        self.set_layer(None)
        if self._pressed in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._pressed)
        self.viewer.events.theme.disconnect(self._restyle)
        self.outline.close()
        self.measuring.close()
        self._background.close()
