"""Changing thresholds without the network: a slider per class and one for smoothing, with a preview of the view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QHBoxLayout, QLabel, QPushButton, QSlider, QWidget
from superqt import QElidingLabel

from napari_msunet.config import Postprocess, PostprocessJob
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import Fold, swatch
from napari_msunet.widgets.objects.table import area_text
from napari_msunet.widgets.placement import visible_region
from napari_msunet.widgets.prediction.threshold_layer import (
    PreviewLayer,
    RunWithProbabilities,
    find_run_with_probabilities,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_msunet.inference.postprocess.threshold import Areas
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.prediction.threshold_layer import Asked, Previewer, ThresholdPreview
    from napari_msunet.widgets.state import State
# ----------------------------------------------------------------------------------------------------------------------
# The sliders of thresholds and smoothing, and the area beside each class.

Mpp = tuple[float, float] | None

SMOOTHEST = 8.0
"""Largest standard deviation of the slider, in pixels of the labels."""

MIDDLE = 50


class ClassRow:
    """The slider of one class, its value as text, and the area beside it.

    Attributes
    ----------
    threshold : float
        NaN until the slider was moved, so that the likeliest class wins.
    """

    def __init__(self, name: str, colour: tuple[int, int, int], changed: Callable[[], None]) -> None:
        self.name = name
        self.colour = QLabel()
        self.colour.setPixmap(swatch(colour, 12))
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
        """The widgets of the row, from left to right."""
        return self.colour, self.label, self.slider, self.says, self.area

    def _moved(self, value: int) -> None:
        self.threshold = value / 100
        self.says.setText(f"{self.threshold:.2f}")
        self._changed()

    def put_back(self) -> None:
        """Reset the slider, so that the likeliest class wins again."""
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
        A slider was moved.
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
        """Make a row for each class, in its colour."""
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
        """Whether any slider was moved."""
        return self.smoothing.value() > 0 or any(not math.isnan(row.threshold) for row in self.rows)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each class; NaN where its slider was not moved."""
        return tuple(row.threshold for row in self.rows)

    @property
    def micrometres(self) -> float:
        """The smoothing in µm, or in pixels where the µm per pixel are not known."""
        sigma = self.smoothing.value() / self.smoothing.maximum() * SMOOTHEST
        return round(sigma * (1.0 if self._mpp is None else math.sqrt(self._mpp[0] * self._mpp[1])), 4)

    def _smoothed(self, value: int) -> None:
        unit = "px" if self._mpp is None else "µm"
        self.smooth_says.setText(f"{self.micrometres:.3g} {unit}" if value else "none")
        self.changed.emit()

    def say_areas(self, of: str, pixels: Sequence[float] | None) -> None:
        """Show the area of each class, with `of` as the heading; None: the areas are not known yet."""
        self.of.setText(of)
        pixel = 1.0 if self._mpp is None else self._mpp[0] * self._mpp[1]
        for number, row in enumerate(self.rows):
            text = "" if pixels is None else area_text(float(pixels[number]) * pixel, self._mpp is not None)
            row.area.setText(text)

    def put_back(self) -> None:
        """Reset all sliders."""
        for row in self.rows:
            row.put_back()
        self.smoothing.blockSignals(True)
        self.smoothing.setValue(0)
        self.smoothing.blockSignals(False)
        self.smooth_says.setText("none")
        self.of.setText("")


# ----------------------------------------------------------------------------------------------------------------------
# The panel of thresholds.

AFTER_MOVING = 120
"""Milliseconds for which the camera must rest before the new view is computed."""

READY = "Move a slider: what is in view changes at once, without the network."
NONE = 'For predictions that kept probabilities: tick "Probabilities" above and predict.'


class ThresholdPanel(Fold):
    """A folded part of the Predict step, for labels whose newest prediction kept its probabilities.

    Attributes
    ----------
    apply_wanted : Signal(object)
        "Apply" was pressed: the `PostprocessJob`.
    shown : Signal()
        A preview was shown.
    kept : RunWithProbabilities, optional
        The run whose probabilities are used.
    """

    apply_wanted = Signal(object)
    shown = Signal()

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__(
            "Thresholds and smoothing", "Changes how probabilities become labels, without running the network."
        )
        self.state, self.layers = state, layers
        self.viewer = layers.viewer
        self.kept: RunWithProbabilities | None = None
        self.preview = PreviewLayer(self.viewer)
        self._path: Path | None = None
        self._looked: list[tuple[int, str]] | None = None
        self._areas: Areas | None = None
        self._in_view: ThresholdPreview | None = None
        self._previewer: Previewer | None = None
        self._working = self._again = self._closed = False
        self._looking = Background("msunet-threshold-runs", self)
        self._drawing = Background("msunet-threshold-view", self)
        self._counting = Background("msunet-threshold-areas", self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(AFTER_MOVING)
        self._rest.timeout.connect(self._ask)
        self._build()
        self._camera = self.viewer.scene.camera.events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._camera_moved)

    def _build(self) -> None:
        self.why = QLabel()
        self.why.setObjectName("note")
        self.why.setWordWrap(True)
        self.sliders = Sliders()
        self.sliders.changed.connect(self._slid)
        self.parted = QCheckBox("Part objects that touch")
        self.parted.setToolTip("Makes instances, too: each object gets a number and is shown in a colour of its own.")
        self.parted.toggled.connect(lambda _: self.refresh())
        self.apply = QPushButton("Apply")
        self.apply.setToolTip("Makes these labels for the whole prediction. What you corrected by hand stays.")
        self.apply.clicked.connect(show_errors(lambda *_: self.apply_wanted.emit(self.job())))
        self.back = QPushButton("Put back")
        self.back.setToolTip("Shows the labels as they are again.")
        self.back.clicked.connect(lambda: self.put_back())
        row = QHBoxLayout()
        row.addWidget(self.apply)
        row.addWidget(self.back)
        self.inside.addWidget(self.why)
        self.inside.addWidget(self.sliders)
        self.inside.addWidget(self.parted)
        self.inside.addLayout(row)
        self.refresh()

    # --------------------------------------------------------------------------------------------- which probabilities

    def look(self) -> None:
        """Find out in a thread whether the labels of the active slide kept probabilities."""
        record = self.state.active
        path = None if record is None else record.labels
        if path != self._path:
            self._path, self._looked = path, None
            self._use(None)
        if path is not None and not self._looking.busy:
            before = self._looked
            self._looking.run(
                lambda: find_run_with_probabilities(path, before),
                lambda found: self._found(path, found),
                lambda _: None,
            )

    def _found(self, path: Path, answer: tuple[list[tuple[int, str]], RunWithProbabilities | None] | None) -> None:
        if path != self._path:
            self.look()
        elif answer is not None:  # None: nothing has changed since
            self._looked = answer[0]
            self._use(answer[1])

    def _use(self, kept: RunWithProbabilities | None) -> None:
        """Use the probabilities of this run from now on."""
        if kept is not None and self.kept is not None and kept.run is self.kept.run:
            return
        self.put_back()
        self.kept, self._areas, self._previewer, self._in_view = kept, None, None, None
        if kept is not None:
            names = kept.run.classes
            self.sliders.set_classes(names, kept.colours, kept.run.info.mpp)
        self.refresh()

    def refresh(self) -> None:
        """Enable what is possible now."""
        there = self.kept is not None
        self.why.setText(READY if there else NONE)
        self.sliders.setVisible(there)
        self.parted.setVisible(there)
        moved = there and self.sliders.moved
        wanted = moved or (there and self.parted.isChecked())
        self.apply.setEnabled(wanted and resolve.blocked_by(self.state, "predict") is None)
        self.back.setEnabled(moved)

    # --------------------------------------------------------------------------------------------------------- sliding

    def settings(self) -> Postprocess:
        """The post-processing that the sliders describe."""
        pairs = zip(() if self.kept is None else self.kept.run.classes, self.sliders.thresholds, strict=False)
        thresholds = {name: value for name, value in pairs if not math.isnan(value)}
        return Postprocess(thresholds=thresholds, smoothing=self.sliders.micrometres)

    def job(self) -> PostprocessJob:
        """The job that makes these labels for the whole run; `MsunetError` where there are no probabilities."""
        if self.kept is None:
            raise MsunetError("These labels kept no probabilities; predict with them, then change thresholds.")
        given = {"labels": self.kept.path, "run": self.kept.run.key, "instances": self.parted.isChecked()}
        return PostprocessJob(**given, postprocess=self.settings())

    def put_back(self) -> None:
        """Reset the sliders and remove the preview."""
        self.sliders.put_back()
        self.preview.drop()
        self.refresh()

    def _slid(self) -> None:
        """Ask for a preview; called when a slider was moved."""
        if self.sliders.moved:
            self._count()
            self._say_areas()
            self._ask()
        else:
            self.preview.drop()
        self.refresh()

    # ----------------------------------------------------------------------------------------------------------- areas

    def _count(self) -> None:
        """Read all probabilities once, to count areas."""
        if self.kept is None or self._areas is not None or self._counting.busy:
            return
        kept = self.kept

        def build() -> Areas | None:
            from napari_msunet.inference.postprocess.threshold import build_areas

            return build_areas(kept.run, self._check)

        def done(areas: Areas | None) -> None:
            if kept is self.kept:
                self._areas = areas
                self._say_areas()

        self._counting.run(build, done, lambda _: None)

    def _check(self) -> None:
        """Raise when the window is closing; called in the thread."""
        if self._closed:
            raise MsunetError("The window was closed.")

    def _say_areas(self) -> None:
        """Show the area of each class: in the whole prediction, or with smoothing only in the view."""
        if self.kept is None or not self.sliders.moved:
            return
        if self.sliders.smoothing.value():
            self.sliders.say_areas("Areas: in view, smoothed", None if self._in_view is None else self._in_view.areas)
        elif self._areas is None:
            self.sliders.say_areas("Areas: counting…" if self._counting.busy else "", None)
        else:
            of = "Areas: the whole prediction" + (", about" if self._areas.level else "")
            self.sliders.say_areas(of, self._areas(np.array(self.sliders.thresholds, np.float32)))

    # --------------------------------------------------------------------------------------------------------- preview

    def _camera_moved(self, _: object = None) -> None:
        if self.preview.there:
            self._rest.start()

    def _ask(self) -> None:
        """Compute a preview of the view in a thread; while one is computed, only the latest request is kept."""
        if self.kept is None or not self.sliders.moved:
            return
        if self._working:
            self._again = True
            return
        try:
            asked = self._asked(self.kept)
        except MsunetError:  # no part of the slide is in view
            return
        kept = self.kept

        def work() -> ThresholdPreview:
            from napari_msunet.widgets.prediction.threshold_layer import Previewer

            if self._previewer is None or self._previewer.run is not kept.run:
                self._previewer = Previewer(kept.store, kept.run)
            return self._previewer(asked)

        self._working = True
        self._drawing.run(work, lambda shown: self._drawn(kept, shown), self._failed)

    def _asked(self, kept: RunWithProbabilities) -> Asked:
        from napari_msunet.widgets.prediction.threshold_layer import Asked

        info = kept.run.info
        region = visible_region(self.viewer, self.layers.need_slide(self.state.active))
        low = int(region.y // info.pixel[0]), int(region.x // info.pixel[1])
        high = int(-(-region.stop[0] // info.pixel[0])), int(-(-region.stop[1] // info.pixel[1]))
        window = Window.between(low, high).intersection(Window(0, 0, *info.shape))
        smoothing, mpp = self.sliders.micrometres, info.spacing
        return Asked(window, self.sliders.thresholds, (smoothing / mpp[0], smoothing / mpp[1]))

    def _failed(self, error: BaseException) -> None:
        self._working = self._again = False
        self.why.setText(str(error))

    def _drawn(self, kept: RunWithProbabilities, shown: ThresholdPreview) -> None:
        self._working = False
        if kept is self.kept and self.sliders.moved:
            record = self.state.active
            labels_layer = self.layers.of_store(kept.path)
            self.preview.show(shown, kept.store, self.layers.need_slide(record), labels_layer)
            self._in_view = shown
            if self.sliders.smoothing.value():
                self._say_areas()
        if self._again:
            self._again = False
            self._ask()
        self.shown.emit()

    def labels_layer(self) -> PyramidLabels:
        """The layer of the labels, which "Apply" changes."""
        return self.layers.need_labels(self.state.active)

    def closing(self) -> None:
        """Release layers and threads."""
        self._closed = True
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._camera_moved)
        self._rest.stop()
        for background in (self._looking, self._drawing, self._counting):
            background.close()
