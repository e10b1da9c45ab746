"""The Predict step: predicting the slide, a part of it or the view; labels fill in while it runs."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import PostprocessJob, PredictJob, PredictManyJob, PreviewJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import FirstLook, Message, Progress, RegionDone, Result
from napari_msunet.geometry import Region
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.fields import OutputsField
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.model_card import model_config
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import Fold, Form
from napari_msunet.widgets.layer_slides import slide_of
from napari_msunet.widgets.layers import hide_maps
from napari_msunet.widgets.placement import visible_region
from napari_msunet.widgets.prediction.channels import Channel, ChannelsRow
from napari_msunet.widgets.prediction.difference import DifferenceRow
from napari_msunet.widgets.prediction.explanation import WhyRow
from napari_msunet.widgets.prediction.likeness import LikenessRow
from napari_msunet.widgets.prediction.live import LiveMaps
from napari_msunet.widgets.prediction.many import ManySlides, slides_of
from napari_msunet.widgets.prediction.merging import Merging, prepare_store
from napari_msunet.widgets.prediction.models import EnsembleRow, model_name
from napari_msunet.widgets.prediction.plan import PlanLine, left_words, result_words, stamp_of
from napari_msunet.widgets.prediction.run_maps import add_instances
from napari_msunet.widgets.prediction.threshold import ThresholdPanel
from napari_msunet.widgets.prediction.unfinished import ResumePrediction
from napari_msunet.widgets.prediction.where import RegionDrawing, WhereRow
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_msunet.config import Job
    from napari_msunet.events import Event
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
NOT_MERGED = "is finished but not merged"
"""Part of the worker's message about a run that it does not merge, because this window does."""


class PredictStep(Step):
    """Predicts with the current model into labels that can be painted on."""

    name = "predict"
    title = "Predict"
    purpose = "The model labels the slide. What you corrected by hand stays as it is."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.last: PredictJob | None = None
        self._result: Result | None = None
        self._outcome = ""
        self._began = 0.0
        self._drawn_on: SlideRecord | None = None
        self._build()
        self._connect()
        self._lay_out()

    def _build(self) -> None:
        self.needed = self.note()
        self.model_line = QLabel()
        self.model_line.setWordWrap(True)
        self.channels = ChannelsRow()
        self.where = WhereRow(self.state, self.layers)
        self.outputs = OutputsField()
        self.form = Form(
            self.state.predict_options,
            {"outputs": self.outputs},
            left_out=("postprocess", "channels", "where"),
            folded="More: exactness, memory, device…",
        )
        self.ensemble = EnsembleRow(self.state)
        self.cleaning = Form(self.state.predict_options.postprocess)
        self.slide = self._button("", "Predicts it; the labels fill in while it runs, what is in view first.", "slide")
        self.slide.setObjectName("primary")
        self.view = self._button("What is in view", "Predicts the part of the slide that the window shows now.", "view")
        self.region = QPushButton("A rectangle…")
        self.region.setToolTip("Then draw a rectangle on the slide: it is predicted as soon as you let go.")
        self.region.clicked.connect(show_errors(lambda *_: self.draw_region()))
        self.many = ManySlides(self.state, self.layers, self)
        self.every = QPushButton("All slides")
        self.every.setToolTip(
            "Predicts all slides of the project, one after the other, into their labels; with a table of areas."
        )
        self.every.clicked.connect(show_errors(lambda *_: self.predict_all()))
        self.plan = PlanLine(self.state, self.jobs, self.layers)
        self.go_on = ResumePrediction(self.state)
        self.box = JobBox(self.state, self.jobs, "predict")
        self.warning = self.note()
        self.warning.setObjectName("problem")
        self.likeness = LikenessRow(self.state, self.jobs)
        self.thresholds = ThresholdPanel(self.state, self.layers)
        self.why = WhyRow(self.state, self.layers)
        self.why.wanted.connect(show_errors(self.show_maps))
        self.difference = DifferenceRow(self.state, self.layers)
        self.drawing = RegionDrawing(self.viewer)
        self.merging = Merging(self)
        self.live = LiveMaps(self.layers, self)

    def _connect(self) -> None:
        self.form.valueChanged.connect(self.state.set_predict_options)
        self.cleaning.valueChanged.connect(lambda value: self._set(postprocess=value))
        self.channels.changed.connect(lambda value: self._set(channels=value))
        self.where.changed.connect(self.refresh)
        self.go_on.wanted.connect(show_errors(lambda job: self.start(job)))
        self.box.happened.connect(self._happened)
        self.box.ended.connect(self._ended)
        self.thresholds.apply_wanted.connect(show_errors(lambda job: self.postprocess(self._whole(job))))
        self.drawing.drawn.connect(show_errors(lambda region: self.predict(region)))
        self.merging.idle.connect(self._merged)
        self.many.merged.connect(self._all_merged)
        self.state.changed.connect(self._changed)

    def _button(self, text: str, tip: str, where: str) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(show_errors(lambda *_: self.predict(where)))
        return button

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.view)
        row.addWidget(self.region)
        row.addWidget(self.every)
        together = QWidget()
        inside = QVBoxLayout(together)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addWidget(self.ensemble)
        self.form.more.addRow("Models together", together)
        cleaning = Fold("Small objects, holes, touching objects", "What becomes of the probabilities.")
        cleaning.inside.addWidget(self.cleaning)
        for widget in (self.needed, self.model_line, self.channels, self.where, self.form, cleaning, self.slide):
            self.body.addWidget(widget)
        self.body.addLayout(row)
        self.body.addWidget(self.plan)  # below the buttons, which it must not move when it comes
        for widget in (self.go_on, self.box, self.warning, self.difference, self.thresholds, self.why):
            self.body.addWidget(widget)
        self.body.addWidget(self.likeness)  # last, so that it moves nothing of this step
        self.warning.hide()

    # ----------------------------------------------------------------------------------------------------- what shows

    def _changed(self, what: str) -> None:
        """Update after a change of the state; another active slide ends the drawing of a rectangle."""
        if what == "slides" and self.drawing.active and self.state.active is not self._drawn_on:
            self.drawing.stop()

    def refresh(self) -> None:
        """Enable what is possible now."""
        options = self.state.predict_options
        for form, value in ((self.form, options), (self.cleaning, options.postprocess)):
            if form.value() != value:
                form.blockSignals(True)
                form.setValue(value)
                form.blockSignals(False)
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        self.model_line.setVisible(missing is None)
        self.where.refresh()
        self.ensemble.refresh()
        if missing is None:
            self.model_line.setText(self._model_text())
        else:
            self.channels.hide()
        ready = missing is None and resolve.blocked_by(self.state, "predict") is None
        for button in (self.view, self.region, self.slide, self.every):
            button.setEnabled(ready)
        self.every.setVisible(len(slides_of(self.state)) > 1)
        self.why.set_ready(ready)
        self.slide.setText(self.where.verb)
        self.region.setVisible(self.where.kind != "drawn")  # other buttons draw regions then
        self.region.setText("Draw it now…" if self.drawing.active else "A rectangle…")
        self.go_on.refresh(ready)
        self.difference.refresh()
        self._plan(ready)
        self.likeness.refresh(ready)
        self.thresholds.refresh()
        self.thresholds.look()

    def _model_text(self) -> str:
        path = self.state.model_path
        assert path is not None
        try:
            config = model_config(path)
        except MsunetError as error:
            return escape(str(error))
        self.outputs.set_scales(len(config.scales))
        self._fit_channels()
        others = len(self.state.ensemble)
        more = "" if not others else " and 1 other" if others == 1 else f" and {others} others"
        scales = ", ".join(str(r) for r in config.ratios)
        name, classes = escape(model_name(path, self.state.model_names)), escape(", ".join(config.classes))
        return f"Predicts with <b>{name}</b>{more} ({classes}; {config.resolution.short}; scales {scales})"

    def _plan(self, ready: bool) -> None:
        """Ask for the plan of the prediction that the main button would start."""
        if not ready:
            if resolve.blocked_by(self.state, "predict") is None:
                self.plan.want(None)
            return
        try:
            job = self.job("slide", draft=True)
        except MsunetError as error:
            self.plan.want(None)
            self.plan.say("" if str(error) == self.where.words.text() else str(error))
            return
        self.plan.want(job, stamp_of(job))
        self.plan.again()

    def summary(self) -> str:
        return self.box.bar.format() if self.box.running else ""

    # ------------------------------------------------------------------------------------------------------ predicting

    def predict(self, where: str | Region = "slide") -> JobHandle:
        """Predict the "view", the "slide" or a region (level-0 pixels) of the active slide; returns at once.

        Only the part of it that the field Where allows is predicted.
        """
        self.drawing.stop()
        return self.start(self.job(where))

    def resume(self) -> JobHandle:
        """Continue the stopped prediction of the active slide; returns at once."""
        return self.start(self.go_on.job())

    def postprocess(self, job: PostprocessJob | None = None) -> JobHandle:
        """Make labels from kept probabilities, as the sliders or a job describe them; returns at once."""
        job = job or self._whole(self.thresholds.job())
        layer = self.thresholds.labels_layer()
        self._began = time.monotonic()
        handle = self.send(
            job, "From probabilities to labels.", before=layer.store.hold, ready=lambda _: self.merging.start(layer)
        )
        handle.follow_up = lambda: self.merging.busy
        return handle

    def _whole(self, job: PostprocessJob) -> PostprocessJob:
        """The job with the sliders' values, and with those of the form for small objects, holes and touching
        objects."""
        slid = {name: getattr(job.postprocess, name) for name in ("thresholds", "smoothing")}
        return job.model_copy(update={"postprocess": self.state.predict_options.postprocess.model_copy(update=slid)})

    def draw_region(self) -> None:
        """Let the user draw a rectangle, which is then predicted; a second call cancels this."""
        if self.drawing.active:
            self.drawing.stop()
        else:
            self._need()
            self._drawn_on = self.state.active
            self.drawing.start(self.layers.need_slide(self.state.active))
        self.refresh()

    def show_maps(self, what: str) -> JobHandle:
        """Show each scale's own prediction ("scales") or the "weights" of the fusion for the view, as layers."""
        preview = self.why.preview(self.job("view", draft=True, everywhere=True), what)
        return self.send(preview, "Looking at each scale of what is in view.")

    def _set(self, **values: object) -> None:
        self.state.set_predict_options(self.state.predict_options.model_copy(update=values))

    def job(self, where: str | Region = "slide", draft: bool = False, everywhere: bool = False) -> PredictJob:
        """The prediction of the "view", the "slide" or a region (level-0 pixels) of the active slide.

        Parameters
        ----------
        where : str or Region
        draft : bool
            Whether the job will not be run as it is, so that nothing is made for it.
        everywhere : bool
            Whether to ignore the field Where.

        Raises
        ------
        MsunetError
            If something is missing, or nothing of the slide is in view.
        """
        self._need()
        record = self.state.active
        assert record is not None
        region = where if isinstance(where, Region) else None
        if where == "view":
            region = visible_region(self.viewer, self.layers.need_slide(record))
        elif region is None and where != "slide":
            raise MsunetError(f'{where!r} cannot be predicted; give "view", "slide" or a Region.')
        place = "all" if everywhere else self.where.value(record)
        channels = self._fit_channels()
        if (sentence := self.channels.missing) is not None:
            raise MsunetError(sentence)
        return resolve.predict_job(self.state, record, region, draft, where=place, channels=channels)

    def _need(self) -> None:
        """Raise an error about what is missing, if anything is."""
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)

    def _fit_channels(self) -> tuple[Channel, ...] | None:
        """The `channels` of a job; the user is asked where the channels of model and slide do not fit."""
        layer = self.layers.slide(self.state.active)
        slide = None if layer is None else slide_of(layer)
        if slide is None:
            return self.state.predict_options.channels
        config = model_config(self.state.model_path)
        return self.channels.show_for(config, tuple(slide.channels), self.state.predict_options.channels)

    def send(self, job: Job, text: str, **more: Callable[..., object]) -> JobHandle:
        """Give a job to the worker, and stop a plan that it would have to wait for."""
        self.plan.stop()
        self.likeness.stop()
        return self.box.start(job, text, **more)

    def start(self, job: PredictJob) -> JobHandle:
        """Start a prediction."""
        record = self.state.slide_at(job.slide)
        if record is None:
            raise MsunetError(f"{job.slide.name} is not open any more; open it in the Slide step.")
        config = model_config(job.models[0])
        free = self.state.make_project().labels_path(record.name)

        def ready(out: Path) -> PredictJob:
            # Another resolution needs labels of its own; the present ones stay.
            self.last = job.model_copy(update={"out": out})
            self._show_labels(out, record)
            return self.last

        self._began = time.monotonic()
        handle = self.send(job, "Preparing the labels.", before=lambda: prepare_store(job, config, free), ready=ready)
        handle.follow_up = lambda: self.merging.busy
        self._result = None
        self.where.rest()
        self.why.hide_bars()
        self.warning.hide()
        return handle

    def predict_all(self) -> JobHandle:
        """Predict all slides of the dock, one after the other; returns at once."""
        self._need()
        self.drawing.stop()
        where = self.where.kind
        job = self.many.job(where)
        config = model_config(job.settings.models[0])
        text = f"Preparing the labels of {len(job.slides)} slides."
        before = self.many.preparing(job, config)
        handle = self.send(job, text, before=before, ready=lambda outs: self.many.job(where, outs))
        handle.follow_up = lambda: self.many.busy
        self.warning.hide()
        return handle

    def _all_merged(self) -> None:
        """The labels of all slides are there; those of the active one are shown."""
        record = self.state.active
        if record is not None and record.labels is not None and record.labels.exists():
            self.layers.need_labels(record)
        self.box.say(f"{self.many.words}; choose one in the Slide step to see it.")
        self.state.emit("results")

    def _show_labels(self, out: Path, record: SlideRecord) -> None:
        """Show the layer of the labels, and merge into it from now on."""
        record.labels = out
        layer = self.layers.need_labels(record)
        layer.visible = True
        hide_maps(self.viewer)
        self.merging.start(layer)
        self.live.start(record)
        self.box.say("Predicting: the labels fill in as they come.")
        self.state.emit("results")  # saved now, so that the project knows these labels even if the prediction fails

    # --------------------------------------------------------------------------------------------------- while it runs

    def _happened(self, event: Event) -> None:
        job = self.box.job
        if isinstance(job, PredictManyJob) and not isinstance(event, Message):
            return
        if isinstance(event, RegionDone):
            self.merging.add(event)
            if isinstance(job, PredictJob):
                self.live.add(event)
                self.go_on.began(job, event.run)
        elif isinstance(event, FirstLook):
            self.live.look(event)
            self.box.say("A first look by the coarsest scale; the labels fill in over it.")
        elif isinstance(event, Progress) and isinstance(job, PredictJob):
            if words := left_words(event):
                self.box.say(words)
        elif isinstance(event, Message) and event.level != "info" and NOT_MERGED not in event.text:
            self.warning.setText(event.text)
            self.warning.show()
        elif isinstance(event, Result) and isinstance(job, PreviewJob):
            self.why.show_result(job, event)

    def _ended(self, outcome: str, result: Result | None) -> None:
        job = self.box.job
        if self.box.status.text() == self.plan.text():
            self.box.say("")  # the sentence is shown elsewhere already
        if isinstance(job, PredictManyJob):
            counts = result.values if result is not None else {}
            done = counts.get("done", 0) + counts.get("skipped", 0)
            self._all_words = (
                f"{done} of {len(job.slides)} slides are predicted; choose one in the Slide step to see it."
            )
            self.box.say("Merging.")
            self.many.merge(job)
        if isinstance(job, PredictJob | PostprocessJob) and self.merging.layer is not None:
            if outcome == "done":
                self.box.say("Merging the last tiles.")
            self._outcome, self._result = outcome, result
            self.merging.finish(result.values.get("run") if result else None)

    def _merged(self) -> None:
        """Show the result; called when all of the prediction is merged into the labels."""
        layer = self.merging.layer
        if layer is None:
            return
        self.state.predicted.add(self.merging.path)
        result = self._result
        if self._outcome == "done" and result is not None:
            self.thresholds.put_back()
            run = layer.store.run(result.values["run"])
            self.live.finish(run)
            if run.complete and "instances" in run.outputs:
                record = self.layers.record(layer) or self.state.active
                add_instances(self.viewer, run, self.layers.need_slide(record))
                if record is self.state.active:
                    self.viewer.layers.selection.active = layer  # the layer that can be corrected
            exact = self.last is None or self.last.margin == "exact"
            self.box.say(result_words(result, layer.name, time.monotonic() - self._began, exact))
        else:
            self.live.pause()
            if self._outcome == "cancelled":
                self.box.say("")  # the row of the stopped prediction has a sentence of its own
        self.go_on.look()
        self.state.emit("results")

    def as_python(self) -> str:
        """The prediction of the main button, or of the region that was predicted last, as Python."""
        return job_lines(self.last or self.job("slide"))

    def closing(self) -> None:
        self.state.changed.disconnect(self._changed)
        self.drawing.stop()
        self.plan.closing()
        self.likeness.closing()
        self.box.closing()
        self.merging.closing()
        self.many.closing()
        self.live.closing()
        self.go_on.closing()
        self.where.closing()
        self.thresholds.closing()
        self.why.closing()
        self.difference.closing()
