"""Positive and negative cells of the last measurement with DAB, by sliders; and its density map and hotspots in the
view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.annotation.measure_tables import read_columns
from napari_msunet.objects.stain import grades, h_score
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.placement import over

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_msunet.config import MeasureJob
    from napari_msunet.events import Result

GRADES = ("negative", "weak (1+)", "moderate (2+)", "strong (3+)")
COLOURS = ("#4d8fe0", "#f2d43d", "#f08a24", "#d7263d")
"""Colours of the grades in the view."""
MOST_SHOWN = 50_000
"""Most objects that are shown as points."""
STEPS = 100
"""Steps of a slider for an optical density of 1."""


class PositiveCells(QWidget):
    """Counts positive cells by thresholds that follow sliders; hidden until a measurement has DAB.

    Attributes
    ----------
    thresholds_changed : Signal(tuple)
        The three thresholds, once a slider rests.
    """

    thresholds_changed = Signal(tuple)

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.classes: npt.NDArray[Any] = np.zeros(0, object)
        self.density: npt.NDArray[np.float64] = np.zeros(0)
        self.places: npt.NDArray[np.float64] = np.zeros((0, 2))
        self.points: Layer | None = None
        self._over: Layer | None = None
        self._background = Background("msunet-positive-cells", self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(200)
        self._rest.timeout.connect(self._rested)
        self.title = QLabel("Positive cells")
        self.say = QLabel()
        self.say.setObjectName("note")
        self.say.setWordWrap(True)
        self.sliders = [self._slider(name) for name in GRADES[1:]]
        self.values = [QLabel() for _ in self.sliders]
        self.table = QTableWidget(0, 6)
        self.table.setHorizontalHeaderLabels(["Class", "Positive", "1+", "2+", "3+", "H-score"])
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.setAccessibleName("Positive cells of each class")
        self.show_points = QCheckBox("Show them in the view")
        self.show_points.setToolTip("A point for each object, in the colour of its grade.")
        self.show_points.toggled.connect(self._show_points)
        self._lay_out()
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.hide()

    def _slider(self, name: str) -> QSlider:
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(1, 2 * STEPS)
        slider.setAccessibleName(f"Threshold of {name}")
        slider.setToolTip(f"Mean optical density of DAB from which an object is {name}.")
        slider.valueChanged.connect(lambda value, mine=slider: self._moved(mine, value))
        return slider

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.title)
        grid = QGridLayout()
        for row, (name, slider, value) in enumerate(zip(GRADES[1:], self.sliders, self.values, strict=True)):
            grid.addWidget(QLabel(name.capitalize()), row, 0)
            grid.addWidget(slider, row, 1)
            grid.addWidget(value, row, 2)
        grid.setColumnStretch(1, 1)
        column.addLayout(grid)
        for widget in (self.table, self.show_points, self.say):
            column.addWidget(widget)

    @property
    def thresholds(self) -> tuple[float, float, float]:
        """The thresholds of the sliders."""
        first, second, third = (slider.value() / STEPS for slider in self.sliders)
        return first, second, third

    # --------------------------------------------------------------------------------------------------------- loading

    def load(self, job: MeasureJob, path: Path, layer: Layer) -> None:
        """Read the objects of a measurement, in the background, and show their counts.

        Parameters
        ----------
        job : MeasureJob
            What was measured.
        path : Path
            The table of objects.
        layer : Layer
            The layer of the slide, over which they are shown.
        """
        self.forget()
        self._over = layer
        stain = "ring_dab_od" if job.positive_by == "ring" else "dab_od"
        for slider, value in zip(self.sliders, job.thresholds, strict=True):
            slider.blockSignals(True)
            slider.setValue(round(value * STEPS))
            slider.blockSignals(False)
        names = ("class", stain, "centroid_y_px", "centroid_x_px")
        self._background.run(lambda: read_columns(path, names), self._loaded)

    def _loaded(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self.classes, self.density, *places = columns.values()
        self.places = np.stack(places, 1)
        self.show()
        self._show_counts()

    def forget(self) -> None:
        """Forget the objects, for labels of another slide."""
        self.show_points.setChecked(False)
        self.classes, self.density = np.zeros(0, object), np.zeros(0)
        self.places = np.zeros((0, 2))
        self._over = None
        self.hide()

    # --------------------------------------------------------------------------------------------------------- showing

    def _moved(self, mine: QSlider, value: int) -> None:
        """Keep the thresholds in order, and count again."""
        at = self.sliders.index(mine)
        for number, slider in enumerate(self.sliders):
            wanted = max(slider.value(), value) if number > at else min(slider.value(), value)
            if slider is not mine and slider.value() != wanted:
                slider.blockSignals(True)
                slider.setValue(wanted)
                slider.blockSignals(False)
        self._show_counts()
        self._rest.start()

    def _rested(self) -> None:
        self._show_points()
        self.thresholds_changed.emit(self.thresholds)

    def _show_counts(self) -> None:
        for label, threshold in zip(self.values, self.thresholds, strict=True):
            label.setText(f"{threshold:.2f}")
        grade = grades(self.density, self.thresholds)
        names = sorted(set(self.classes.tolist()))
        self.table.setRowCount(len(names))
        for row, name in enumerate(names):
            counts = np.bincount(grade[self.classes == name], minlength=len(GRADES)).tolist()
            total = max(1, sum(counts))
            score = h_score(counts)
            texts = [name, f"{sum(counts[1:]):,} ({100 * sum(counts[1:]) / total:.1f} %)"]
            texts += [f"{count:,}" for count in counts[1:]]
            texts.append("" if score is None else f"{score:.0f}")
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.table.setItem(row, column, item)
        shown = min(max(1, len(names)), 6)
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + 26 * shown + 4)
        for row in range(len(names)):
            self.table.setRowHeight(row, 26)

    def _show_points(self, *_: object) -> None:
        """Show, colour or remove the points."""
        here = self.points is not None and self.points in self.viewer.layers
        if not self.show_points.isChecked() or self._over is None:
            if here:
                self.viewer.layers.remove(self.points)
            self.points = None
            self.say.hide()
            return
        colours = np.array(COLOURS, object)[grades(self.density[:MOST_SHOWN], self.thresholds)]
        if here:
            self.points.face_color = colours.tolist()  # type: ignore[union-attr]
            return
        rest = len(self.places) - MOST_SHOWN
        self.say.setText(f"The first {MOST_SHOWN:,} of {len(self.places):,} are shown.")
        self.say.setVisible(rest > 0)
        self.points = self.viewer.add_points(
            self.places[:MOST_SHOWN] - 0.5,
            name="positive cells",
            face_color=colours.tolist(),
            border_width=0,
            size=12,
            **over(self._over),
        )
        self.points.editable = False

    def closing(self) -> None:
        """Remove the points and end the thread."""
        self._rest.stop()
        self._background.close()


def read_density(files: dict[str, str]) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
    """The density map `(classes, h, w)` and the hotspots of a measurement."""
    import tifffile

    image = tifffile.imread(files["density"])
    columns = read_columns(Path(files["hotspots"]), ("class", "centre_y_px", "centre_x_px", "objects"))
    return image.reshape(-1, *image.shape[-2:]), columns


def density_layers(
    viewer: napari.Viewer,
    layer: Layer,
    result: Result,
    found: tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]],
) -> None:
    """Show a density map and its hotspots over a slide.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : Layer
        The layer of the slide.
    result : Result
        Of the measurement.
    found : tuple
        From `read_density`.
    """
    image, columns = found
    height, width = result.values["density_pixel"]
    for plane, row in zip(image, result.values["classes"], strict=True):
        viewer.add_image(
            plane,
            name=f"density of {row['class']}",
            colormap="inferno",
            blending="translucent",  # adding to a bright slide would only show white
            opacity=0.5,
            contrast_limits=(0, max(float(plane.max()), 1e-9)),
            **over(layer, (height, width)),
        )
    if len(columns["class"]):
        spot = result.values["hotspots"][0]
        unit = "um" if "diameter_um" in spot else "px"
        diameter = spot[f"diameter_{unit}"] * spot["centre_y_px"] / spot[f"centre_y_{unit}"]
        viewer.add_points(
            np.stack([columns["centre_y_px"], columns["centre_x_px"]], 1) - 0.5,
            name="hotspots",
            symbol="disc",
            size=diameter,
            face_color="transparent",
            border_color="white",
            border_width=0.03,
            features={"objects": [f"{int(n):,}" for n in columns["objects"]]},
            text={"string": "{objects}", "color": "white", "size": 10, "anchor": "center"},
            **over(layer),
        )
