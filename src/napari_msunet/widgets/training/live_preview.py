"""The preview of a training: its best model so far labels what is in view, again and again while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_msunet.config import LiveRequest, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Answered, Event, Metric, Result
from napari_msunet.geometry import Region
from napari_msunet.widgets.answering.answer_layer import NAME as ANSWER
from napari_msunet.widgets.answering.answer_layer import AnswerLayer
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.napari_internals import camera
from napari_msunet.widgets.paint.class_colours import Legend, legend_of
from napari_msunet.widgets.placement import visible_region

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils.events import Event as NapariEvent

    from napari_msunet.labels.metadata import Colour
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
NAME = "Preview of the training"
TIP = (
    "While it trains, the best model so far labels what is in view, on a layer of its own, and again when you move the "
    "view. It takes at most a tenth of the time. Nothing is stored: Predict does that."
)

SHARE = 0.1
"""Largest share of a training's time that its preview may take."""

FIRST_SECONDS = 1.0
"""Time that the first preview is taken to need."""

MOVED_MS = 200
"""Time without another move of the view after which it is labelled."""

SAVED_MS = 700
"""Time after the numbers of an epoch in which its model is written."""

DRAW_MS = 25
"""Time in which tiles are gathered before they are drawn."""


class Allowance:
    """The time that a preview may take beside a training, which is a share of the training's time so far.

    Parameters
    ----------
    now : callable
        Gives the time in seconds.
    share : float
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, share: float = SHARE) -> None:
        self._now, self._share = now, share
        self._began = now()
        self._spent = 0.0
        self.cost = FIRST_SECONDS
        """What the last preview took, in seconds."""

    @property
    def left(self) -> float:
        """The seconds that can be spent now."""
        return self._share * (self._now() - self._began) - self._spent

    def spend(self, seconds: float, whole: bool) -> None:
        """Note what a preview took; `whole`: and that the next one will take about as long."""
        self._spent += seconds
        if whole:
            self.cost = seconds

    def wait(self, previews: int) -> float:
        """The seconds until so many previews can be paid; 0 where they can be now."""
        return max(0.0, (previews * self.cost - self.left) / self._share)


class LivePreview(QWidget):
    """The switch, what it says, and the layer.

    A new model is shown only where the time for a second preview is left, so that a move of the view is answered soon.

    Parameters
    ----------
    state : State
    jobs : Jobs
    layers : Layers
    """

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__()
        self.state, self.jobs, self.layers = state, jobs, layers
        self.preview = AnswerLayer(layers.viewer, NAME)
        self.model: Path | None = None
        """The model file of the training that runs, or that ran last."""
        self.allowance: Allowance | None = None
        """None where no training runs, so that nothing limits the preview."""
        self._classes: tuple[str, ...] = ()
        self._record: SlideRecord | None = None
        self._known = ""
        self._told_of: tuple[int | None, bool] = (None, True)
        self._stale = False
        self._seen: Region | None = None
        self._asked: Region | None = None
        self._handle: JobHandle | None = None
        self._hidden: Layer | None = None
        self._dropping = False
        self._timer = self._single(self._plan)
        self._drawing = self._single(self._draw)
        self._lay_out()
        self._camera = camera(layers.viewer).events
        for event in (self._camera.center, self._camera.zoom):
            event.connect(self._view_moved)
        state.changed.connect(self._changed)
        layers.viewer.layers.events.removed.connect(self._removed)

    def _single(self, work: Callable[[], object]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.timeout.connect(work)
        return timer

    def _lay_out(self) -> None:
        self.switch = QCheckBox("Show on the slide what it has learned so far")
        self.switch.setToolTip(TIP)
        self.switch.setChecked(True)
        self.switch.toggled.connect(self._switched)
        self.says = QLabel()
        self.says.setObjectName("note")
        self.says.setWordWrap(True)
        self.says.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.says.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.switch)
        column.addWidget(self.says)
        self.says.hide()

    def say(self, text: str) -> None:
        """Show a sentence below the switch."""
        self.says.setText(text)
        self.says.setVisible(self.model is not None)

    # ------------------------------------------------------------------------------------------ the training's course

    @property
    def on(self) -> bool:
        """Whether trainings are shown."""
        return self.switch.isChecked()

    def set_on(self, on: bool) -> None:
        """Turn the preview on or off."""
        self.switch.setChecked(on)

    def begin(self, job: TrainJob) -> None:
        """A training begins."""
        self.drop()
        self.model, self._classes = job.out / "model.safetensors", job.model.classes
        self.allowance, self._stale = Allowance(), False
        self.say("It comes with the first epoch." if self.on else "")

    def happened(self, event: Event) -> None:
        """Take an event of the training: after each epoch there may be a better model."""
        if isinstance(event, Metric) and not self._stale:
            self._stale = True
            self._start(SAVED_MS)

    def end(self, model: Path | None) -> None:
        """The training has ended with this model; None: with nothing that is kept."""
        if model is None:
            self.drop()
            return
        self.model, self.allowance, self._stale = model, None, True
        self._start(0)

    def drop(self) -> None:
        """Show nothing any more, until the next training."""
        self._timer.stop()
        self._drawing.stop()
        self._cancel()
        self._drop_layer()
        self.model = self.allowance = None
        self.say("")

    def _drop_layer(self) -> None:
        self._dropping = True
        self.preview.drop()
        self._dropping = False
        self._known, self._seen, self._record, self._stale = "", None, None, True
        if self._hidden is not None:
            self._hidden.visible = True
            self._hidden = None

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.happened.disconnect()
            self._handle.finished.disconnect()
            self._handle.cancel()
            self._handle = None

    # -------------------------------------------------------------------------------------------------- what may change

    def _switched(self, on: bool) -> None:
        if on:
            self._start(0)
        else:
            self._timer.stop()
            self._cancel()
            self._drop_layer()
            self.say("")

    def _removed(self, event: NapariEvent) -> None:
        """A person who deletes the layer does not want it back."""
        if event.value is self.preview.layer and not self._dropping and not self.layers.closed:
            self.set_on(False)

    def _changed(self, what: str) -> None:
        """Follow the dock: another slide, other classes; a prediction of the last model takes the place of its
        preview."""
        if self.layers.closed or self.model is None:
            return
        if what == "running" and "predict" in self.state.running and self.allowance is None:
            self.drop()
        elif what == "slides" and self.state.active is not self._record:
            self._cancel()
            self._drop_layer()
            self._start(MOVED_MS)
        elif what == "classes":
            self.preview.recolour(self._legend())

    def _view_moved(self, _: object = None) -> None:
        if self.model is not None:
            self._start(MOVED_MS)

    def _start(self, milliseconds: float) -> None:
        if self.on and self.model is not None:
            self._timer.start(round(milliseconds))

    # ---------------------------------------------------------------------------------------------------------- asking

    def _plan(self) -> None:
        """Ask for the labels in view where they are not those of the newest model, and there is time for it."""
        if not self.on or self.model is None or self._handle is not None or self.layers.closed:
            return
        record = self.state.active
        if record is None:
            self.say("Open a slide to see the training on it.")
            return
        try:
            view = visible_region(self.layers.viewer, self.layers.need_slide(record))
        except MsunetError:
            return  # nothing of the slide is in view
        moved = bool(self._known) and not _within(view, self._seen)
        if not moved and not self._stale:
            return
        allowance = self.allowance
        if allowance is not None and (wait := allowance.wait(1 if moved or not self._known else 2)) > 0:
            self._start(1000 * wait + 1)
            return
        self._ask(record, view, moved)

    def _ask(self, record: SlideRecord, view: Region, moved: bool) -> None:
        assert self.model is not None
        self._stale, self._record, self._asked = False, record, view
        asked = LiveRequest(
            model=self.model,
            slide=record.path,
            slide_mpp=record.job_mpp,
            view=(view.y, view.x, view.height, view.width),
            seconds=None if self.allowance is None else max(0.05, self.allowance.left),
            known="" if moved else self._known,
            device=self.state.predict_options.device,
            **record.job_numbers,
        )
        handle = self._handle = self.jobs.live(asked)
        handle.happened.connect(self._answered)
        handle.finished.connect(self._finished)

    def _answered(self, event: Event) -> None:
        if isinstance(event, Answered):
            self.preview.add(event)
            if not self._drawing.isActive():
                self._drawing.start(DRAW_MS)
        elif isinstance(event, Result):
            self._told(event.values)

    def _told(self, values: dict[str, Any]) -> None:
        whole = values.get("whole")
        if self.allowance is not None:
            self.allowance.spend(values["seconds"], whole is not None)
        if not values["model"]:  # the first is not written yet
            self._stale = True
            return
        if whole is not None:  # not the one that is shown already
            self._known, self._seen = values["model"], self._asked
            self._classes, self._told_of = tuple(values["classes"]), (values["epoch"], whole)
        self.say(self._words(*self._told_of))

    def _words(self, epoch: int | None, whole: bool) -> str:
        which = "the trained model"
        if self.allowance is not None:
            which = "the best model so far" + (f", of epoch {epoch}" if epoch else "")
        rest = "" if whole else " Only about the middle of the view: zoom in."
        return f"On the slide: {which}.{rest}"

    def _finished(self, outcome: str, text: str | None) -> None:
        self._handle = None
        if outcome in ("error", "lost"):
            self.say(text or "What is in view could not be labelled; move the view to try again.")
            return
        self._start(SAVED_MS)  # where something has changed meanwhile

    # --------------------------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        record = self._record
        slide = self.layers.slide(record)
        if record is None or slide is None or self.layers.closed:
            return
        own = [self.layers.annotation(record), self.layers.of_store(record.labels)]
        there = [layer for layer in own if layer is not None]
        if any(layer.in_stroke for layer in there):  # a stroke is never held up
            self._drawing.start(DRAW_MS)
            return
        new = not self.preview.there
        viewer = self.layers.viewer
        self.preview.draw(self._legend(), slide, min(there, key=viewer.layers.index, default=None))
        if new:
            self._hide_answer()

    def _hide_answer(self) -> None:
        """Hide the answer while one paints, which would be seen through the preview."""
        for layer in self.layers.viewer.layers:
            if layer.metadata.get(KEY, {}).get("map") == ANSWER and layer.visible:
                layer.visible, self._hidden = False, layer

    def _legend(self) -> Legend:
        """The model's classes in the colours of the annotations."""
        known: dict[str, Colour] = {}
        for record in self.state.slides:
            for layer in (self.layers.annotation(record), self.layers.of_store(record.labels)):
                if layer is not None:
                    known = dict(zip(layer.store.classes, layer.store.colours, strict=True)) | known
        return legend_of(self._classes, known)

    def closing(self) -> None:
        """Let go of the viewer; called when the dock closes."""
        for event in (self._camera.center, self._camera.zoom):
            event.disconnect(self._view_moved)
        self.state.changed.disconnect(self._changed)
        self.layers.viewer.layers.events.removed.disconnect(self._removed)
        self._timer.stop()
        self._drawing.stop()
        self._cancel()


def _within(view: Region, seen: Region | None) -> bool:
    """Whether all that is in view was seen before, to a pixel."""
    if seen is None:
        return False
    return (
        view.y >= seen.y - 1
        and view.x >= seen.x - 1
        and view.y + view.height <= seen.y + seen.height + 1
        and view.x + view.width <= seen.x + seen.width + 1
    )
