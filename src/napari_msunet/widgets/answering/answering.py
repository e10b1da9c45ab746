"""The switch "Answer while I paint": what is in view is labelled again after each stroke, undo and move of the view."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import AnswerRequest, FitHeadJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Answered, Event, Message, Result, packed
from napari_msunet.geometry import Region
from napari_msunet.labels import LabelStore
from napari_msunet.labels.stroke_samples import AnnotatedPixels, StrokeSamples
from napari_msunet.widgets import resolve
from napari_msunet.widgets.answering.answer_layer import AnswerLayer
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.napari_internals import camera
from napari_msunet.widgets.paint.class_colours import legend
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.paint import PyramidLabels
    from napari_msunet.widgets.state import SlideRecord, State
TIP = (
    "After each stroke, what is in view is labelled by what you painted so far: a last layer is fitted anew in a "
    "moment. Nothing is stored until you press Keep."
)
FILTERS, MODEL = "Colour, edges and textures", "The features of the chosen model"
FEATURES_TIP = (
    "By what pixels are told apart. Colour, edges and textures need no model. The features of a model are better where "
    "it was trained for something similar on such slides."
)
NOTHING_TO_TRAIN = (
    "Colour, edges and textures learn nothing more: press Train in the Train step for a network of its own, or answer "
    "by the features of a model."
)
KEEP_TIP = "Makes a model file of the present answer, which then predicts whole slides like any other model."
TRAIN_TIP = "Keeps the answer as a model, and opens the Train step with a training that begins with its weights."
NO_MODEL = "Load a model in the Model step or train one, or answer by colour, edges and textures."
NOT_YET = "Press Start annotating first, then paint a stroke of each class and of background."

MOVED_MS = 200
"""Time without another move of the view after which it is answered."""

DRAW_MS = 25
"""Time in which tiles are gathered before they are drawn."""


class Answering(QWidget):
    """The switch, what it says, and the buttons that keep an answer.

    Parameters
    ----------
    state : State
    jobs : Jobs
    layers : Layers
    """

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__()
        self.state, self.jobs, self.layers = state, jobs, layers
        self.answer = AnswerLayer(layers.viewer)
        self.record: SlideRecord | None = None
        """The slide that is answered."""
        self._samples: StrokeSamples | None = None
        self._sampled: AnnotatedPixels | None = None
        self._marked = 0
        self._near: tuple[float, float] | None = None
        self._handle: JobHandle | None = None
        self._keeping: JobHandle | None = None
        self._background = Background("msunet-strokes", self)
        self._moved = self._timer(MOVED_MS, lambda: self.ask(None))
        self._drawing = self._timer(DRAW_MS, self._draw)
        self._lay_out()
        self._camera = camera(layers.viewer).events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._view_moved)
        state.painted.connect(self._painted)
        state.changed.connect(self._changed)

    def _timer(self, milliseconds: int, work: Callable[[], object]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.timeout.connect(work)
        return timer

    def _lay_out(self) -> None:
        self.switch = QCheckBox("Answer while I paint")
        self.switch.setToolTip(TIP)
        self.switch.toggled.connect(self._switched)
        self.features = QComboBox()
        self.features.addItems([FILTERS, MODEL])
        self.features.setToolTip(FEATURES_TIP)
        self.features.setAccessibleName("By what pixels are told apart")
        self.features.activated.connect(show_errors(lambda *_: self._begin()))
        self.keep = QPushButton("Keep")
        self.keep.setToolTip(KEEP_TIP)
        self.keep.clicked.connect(show_errors(lambda *_: self.keep_answer()))
        self.train = QPushButton("Train from here")
        self.train.setToolTip(TRAIN_TIP)
        self.train.clicked.connect(show_errors(lambda *_: self.keep_answer(train=True)))
        self.says = QLabel()
        self.says.setObjectName("note")
        self.says.setWordWrap(True)
        self.says.setMinimumHeight(2 * self.says.fontMetrics().lineSpacing())  # so that nothing below it moves
        self.buttons = QWidget()
        row = QHBoxLayout(self.buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.keep)
        row.addWidget(self.train)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for widget in (self.switch, self.features, self.says, self.buttons):
            column.addWidget(widget)
        for widget in (self.features, self.says, self.buttons):
            widget.hide()

    # ---------------------------------------------------------------------------------------------------- the switch

    @property
    def on(self) -> bool:
        """Whether the view is answered."""
        return self.switch.isChecked()

    def set_on(self, on: bool) -> None:
        """Turn the answer on or off."""
        self.switch.setChecked(on)

    @show_errors
    def _switched(self, on: bool) -> None:
        for widget in (self.features, self.says, self.buttons):
            widget.setVisible(on)
        if on:
            self._begin()
        else:
            self._end()
            self.jobs.answer(None)

    def _begin(self) -> None:
        """Answer the active slide: read its annotation, then ask."""
        self._end()
        self.say("Reading your strokes …")
        record = self.state.active
        layer = self.layers.annotation(record)
        if record is None or layer is None:
            self.say(NOT_YET if record is not None else resolve.NO_SLIDE)
            return
        try:
            self.model_path()
        except MsunetError as error:
            self.say(str(error))
            return
        self.record, self._samples = record, StrokeSamples(layer.store)
        self._marked = len(layer.store.fully_annotated)
        self._sample(None)

    def _end(self) -> None:
        """Stop answering, and remove the layer."""
        self._moved.stop()
        self._drawing.stop()
        self._cancel()
        self.answer.drop()
        self.record = self._samples = self._sampled = self._near = None
        self._refresh_buttons()

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.happened.disconnect()
            self._handle.finished.disconnect()
            self._handle.cancel()
            self._handle = None

    def use_model(self, on: bool) -> None:
        """Answer by the features of the chosen model, or by colour, edges and textures."""
        self.features.setCurrentText(MODEL if on else FILTERS)
        if self.on:
            self._begin()

    def model_path(self) -> Path | None:
        """The model whose features are used; None: fixed filters.

        Raises
        ------
        MsunetError
            If features of a model are wanted, and there is none.
        """
        if self.features.currentText() == FILTERS:
            return None
        chosen = self.state.model_path
        if chosen is None:
            raise MsunetError(NO_MODEL)
        if not chosen.is_file():
            raise MsunetError(f"The model {chosen} is no longer there: load another, or answer by colour and edges.")
        return chosen

    def say(self, text: str) -> None:
        """Show a sentence below the switch."""
        self.says.setText(text)

    # ------------------------------------------------------------------------------------------ strokes and the view

    def _painted(self, path: Path, region: Region) -> None:
        if self.record is not None and self.record.annotation == path:
            self._sample(region)

    def _sample(self, region: Region | None) -> None:
        """Read again what a stroke touched (None: everything), in a thread, and ask."""
        samples = self._samples
        if samples is None:
            return
        work = samples.scan if region is None else partial(samples.update, region)

        def sampled() -> AnnotatedPixels:
            work()
            return samples.of()

        def ready(found: AnnotatedPixels) -> None:
            if self._samples is samples:
                self._sampled = found
                self.ask(None if region is None else self._middle(samples.store, region))

        self._background.run(sampled, ready, lambda error: self.say(str(error)))

    def _middle(self, store: LabelStore, region: Region) -> tuple[float, float]:
        """The middle of a stroke in level-0 pixels of the slide."""
        (sy, sx) = store.pixel
        return (region.y + region.height / 2) * sy, (region.x + region.width / 2) * sx

    def _view_moved(self, _: object = None) -> None:
        if self.record is not None:
            self._moved.start()

    def _changed(self, what: str) -> None:
        """Follow the dock: another slide, another model, other classes."""
        if not self.on or self.layers.closed:
            return
        if what in ("slides", "annotations"):
            record = self.state.active
            layer = self.layers.annotation(record)
            store = None if self._samples is None else self._samples.store
            if record is not self.record or (layer.store if layer else None) is not store:
                self._begin()
        elif what == "results" and self.features.currentText() == MODEL:
            self._begin() if self.record is None else self.ask(self._near)
        elif what == "classes" and self._samples is not None:
            self.answer.recolour(legend(self._samples.store))
            self.ask(self._near)
        elif what == "counts" and self._samples is not None:
            marked = len(self._samples.store.fully_annotated)
            if marked != self._marked:
                self._marked = marked
                self._sample(None)

    # -------------------------------------------------------------------------------------------------------- answers

    def ask(self, near: tuple[float, float] | None) -> None:
        """Ask for the labels of what is in view, from `near` (level-0 pixels; None: the middle of the view)
        outwards."""
        record, samples = self.record, self._sampled
        if record is None or samples is None or self._samples is None or self.layers.closed:
            return
        self._near = near
        try:
            seen = visible_region(self.layers.viewer, self.layers.need_slide(record))
            model = self.model_path()
        except MsunetError as error:
            self.say(str(error))
            return
        asked = AnswerRequest(
            model=model,
            slide=record.path,
            slide_mpp=record.job_mpp,
            classes=self._samples.store.classes,
            places=packed(samples.places),
            values=packed(samples.values),
            view=(seen.y, seen.x, seen.height, seen.width),
            near=near,
            device=self.state.predict_options.device,
            **record.job_numbers,
        )
        self._cancel()
        handle = self._handle = self.jobs.answer(asked)
        handle.happened.connect(self._happened)
        handle.finished.connect(self._finished)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Answered):
            self.answer.add(event)
            if not self._drawing.isActive():
                self._drawing.start()
        elif isinstance(event, Message):
            self.say(event.text)
        elif isinstance(event, Result):
            self._told(event.values)

    def _told(self, values: dict[str, Any]) -> None:
        agreement = values.get("agreement")
        if agreement is None:
            self.answer.drop()  # what was painted before was taken back
        elif values.get("whole", True):
            self.say(f"Answered. {agreement:.0%} of your painted pixels are labelled as you painted them.")
        self._refresh_buttons()

    def _finished(self, outcome: str, text: str | None) -> None:
        self._handle = None
        if outcome in ("error", "lost"):
            self.say(text or "The answer failed; paint another stroke to try again.")

    def _draw(self) -> None:
        annotation = self._annotation()
        if self.record is None or annotation is None or self._samples is None:
            return
        if annotation.in_stroke:  # a stroke is never held up
            self._drawing.start()
            return
        slide = self.layers.slide(self.record)
        if slide is not None:
            self.answer.draw(legend(self._samples.store), slide, annotation)
            self._refresh_buttons()

    def _annotation(self) -> PyramidLabels | None:
        return self.layers.annotation(self.record)

    # ------------------------------------------------------------------------------------------------------- keeping

    def _refresh_buttons(self) -> None:
        there = self.answer.answers is not None and self._keeping is None
        why = "" if there else "There is no answer yet: paint a stroke of each class and of background."
        fixed = NOTHING_TO_TRAIN if self.features.currentText() == FILTERS else ""
        for button, tip in ((self.keep, why or KEEP_TIP), (self.train, fixed or why or TRAIN_TIP)):
            button.setEnabled(there and tip in (KEEP_TIP, TRAIN_TIP))
            button.setToolTip(tip)

    def job(self, out: Path) -> FitHeadJob:
        """The job that keeps the answer as a model file.

        Raises
        ------
        MsunetError
            If there is no annotated slide, or no model.
        """
        record = self.record or self.state.active
        if record is None or record.annotation is None:
            raise MsunetError(NOT_YET)
        return FitHeadJob(
            model=self.model_path(),
            slide=record.path,
            labels=record.annotation,
            out=out,
            slide_mpp=record.job_mpp,
            device=self.state.predict_options.device,
            **record.job_numbers,
        )

    def keep_answer(self, train: bool = False) -> JobHandle:
        """Make a model file of what is annotated now, and choose it; returns at once.

        Parameters
        ----------
        train : bool
            Whether a training that begins with it is prepared then.
        """
        name = f"answer {', '.join(self.state.classes)}"
        job = self.job(self.state.make_project().model_path(name))
        store = None if self._samples is None else self._samples.store
        handle = self._keeping = self.jobs.submit(job, priority=True, before=None if store is None else store.flush)
        handle.finished.connect(partial(self._kept, handle, train))
        self.say("Keeping the answer as a model …")
        self._refresh_buttons()
        return handle

    def _kept(self, handle: JobHandle, train: bool, outcome: str, text: str | None) -> None:
        self._keeping = None
        self._refresh_buttons()
        if outcome != "done":
            self.say(text or "The answer could not be kept; try again.")
            return
        path = handle.job.out
        self.state.use_model(path)
        self.say(f"Kept as {path.name} in the project's models; it predicts from now on.")
        if train:
            self.state.start_from_model()

    def closing(self) -> None:
        """Stop answering; called when the dock closes."""
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._view_moved)
        self.state.painted.disconnect(self._painted)
        self.state.changed.disconnect(self._changed)
        self._moved.stop()
        self._drawing.stop()
        self._cancel()
        self._background.close()
