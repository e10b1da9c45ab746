"""The row that says whether a slide is unlike the training slides of the model, and offers to adapt the model to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QColor, QPainter, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import RecalibrateJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.widgets.dock.show_errors import show_errors

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.state import SlideRecord, State
AFTER_CHANGES = 1500
"""Milliseconds without a change after which the slide is compared."""

WIDTH, HEIGHT = 96, 40

Key = tuple[Path, int, Path]


class LikenessRow(QWidget):
    """Compares the active slide with what the model keeps of its training; shown where they are unlike, or where the
    model was adapted.

    Parameters
    ----------
    state : State
    jobs : Jobs
    """

    def __init__(self, state: State, jobs: Jobs) -> None:
        super().__init__()
        self.state, self.jobs = state, jobs
        self._key: Key | None = None
        self._handle: JobHandle | None = None
        self._adapted: tuple[Path, Path, Path] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(AFTER_CHANGES)
        self._timer.timeout.connect(self._ask)
        self.picture = QLabel()
        self.picture.setAccessibleName("Mean colour of the training slides, and of this slide")
        self.picture.setToolTip("Left: the mean colour of the training slides. Right: that of this slide's tissue.")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.adapt = QPushButton("Adapt the model to this slide")
        self.adapt.setToolTip(
            "Re-estimates the model's batch normalisation on this slide's tissue: takes seconds, and needs no labels. "
            "It makes a model of its own; the one you have stays."
        )
        self.adapt.clicked.connect(show_errors(lambda *_: self.adapt_model()))
        self.back = QPushButton("Take the model as it was")
        self.back.setToolTip("Predicts with the model that was not adapted.")
        self.back.clicked.connect(show_errors(lambda *_: self.take_back()))
        top = QHBoxLayout()
        top.addWidget(self.picture)
        top.addWidget(self.words, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(top)
        column.addWidget(self.adapt)
        column.addWidget(self.back)
        self.hide()

    def refresh(self, ready: bool) -> None:
        """Follow the chosen model and slide; `ready`: a prediction could begin."""
        record, model = self.state.active, self.state.model_path
        if not ready or record is None or model is None or not model.is_file():
            self.stop()
            self.setEnabled(False)
            return
        self.setEnabled(True)
        if self._adapted is not None and self._adapted[:2] == (model, record.path):
            return
        key = model, model.stat().st_mtime_ns, record.path
        if key != self._key:
            self.stop()
            self._key = key
            self.hide()
            self._timer.start()

    def stop(self) -> None:
        """Stop comparing, because another job goes first."""
        self._timer.stop()
        if self._handle is not None:
            self._handle.blockSignals(True)
            self._handle.cancel()
            self._handle = self._key = None

    def _job(self, record: SlideRecord, model: Path, out: Path | None = None) -> RecalibrateJob:
        return RecalibrateJob(model=model, slide=record.path, out=out, slide_mpp=record.job_mpp, **record.job_numbers)

    def _ask(self) -> None:
        record, model = self.state.active, self.state.model_path
        parent = self.parentWidget()
        if record is None or model is None or parent is None or not parent.isVisible():
            self._key = None  # asked when the step is open
            return
        self._handle = handle = self.jobs.submit(self._job(record, model))
        handle.result.connect(self._compared)
        handle.finished.connect(self._ended)

    def _ended(self, outcome: str, text: str | None) -> None:
        self._handle = None  # a slide that cannot be compared is no problem of its own: the plan says what is wrong

    def _compared(self, event: Result) -> None:
        self._show(event.values, str(event.values["words"]))
        self.setVisible(bool(event.values["unlike"]))

    def _show(self, values: dict[str, Any], words: str, adapted: bool = False) -> None:
        colours = values.get("trained"), values.get("here")
        self.picture.setVisible(all(colours))
        if all(colours):
            self.picture.setPixmap(two_colours(*colours))
        self.words.setText(words)
        self.adapt.setVisible(not adapted)
        self.back.setVisible(adapted)

    # ------------------------------------------------------------------------------------------------------- adapting

    def adapt_model(self) -> JobHandle:
        """Adapt the model to the active slide, and predict with it from now on; returns at once."""
        record, model = self.state.active, self.state.model_path
        if record is None or model is None:
            raise MsunetError("Choose a slide and a model first: the model is adapted to the slide.")
        out = self.state.make_project().model_path(f"adapted to {record.name}")
        self.stop()
        handle = self.jobs.submit(self._job(record, model, out), priority=True)
        self.adapt.setEnabled(False)

        def ended(outcome: str, text: str | None) -> None:
            self.adapt.setEnabled(True)
            if outcome != "done" or handle.value is None:
                self.words.setText(text or "The model could not be adapted; try again.")
                return
            self._adapted = out, record.path, model
            self._show(handle.value.values, f"The model is adapted to {record.path.name}.", adapted=True)
            self.show()
            self.state.use_model(out)

        handle.finished.connect(ended)
        return handle

    def take_back(self) -> None:
        """Predict with the model that was not adapted."""
        if self._adapted is None:
            raise MsunetError("The model was not adapted to a slide.")
        before, self._adapted, self._key = self._adapted[2], None, None
        self.hide()
        self.state.use_model(before)

    def closing(self) -> None:
        """Stop listening."""
        self.stop()


def two_colours(trained: tuple[float, ...], here: tuple[float, ...]) -> QPixmap:
    """The mean colour of the training slides beside that of this slide."""
    picture = QPixmap(WIDTH, HEIGHT)
    painter = QPainter(picture)
    for number, colour in enumerate((trained, here)):
        tint = QColor(*(round(255 * min(1.0, max(0.0, value))) for value in colour))
        painter.fillRect(number * WIDTH // 2, 0, WIDTH // 2, HEIGHT, tint)
    painter.end()
    return picture
